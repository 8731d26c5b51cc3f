"""What the embedded SQS does differently, on its own backend."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from engine.aws import queues

models = pytest.importorskip("moto.sqs.models", reason="the extra `embedded` is not installed")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    for owner, name in (
        (models.SQSBackend, "is_message_valid_based_on_retention_period"),
        (models.Queue, "add_message"),
        (models.Queue, "delete_message"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    queues.install()
    return models.SQSBackend("us-east-1", "000000000000")


def test_messages_are_kept_as_long_as_the_queue_says(backend: Any) -> None:
    backend.create_queue("q", MessageRetentionPeriod="60")
    now_ms = time.time() * 1000
    kept = backend.is_message_valid_based_on_retention_period
    assert kept("q", SimpleNamespace(sent_timestamp=now_ms - 30_000))
    assert not kept("q", SimpleNamespace(sent_timestamp=now_ms - 61_000))


def test_a_message_costs_no_look_at_all_attributes(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.create_queue("q", VisibilityTimeout="30")
    for n in range(10):
        backend.send_message("q", str(n))
    monkeypatch.delattr(models.SQSBackend, "get_queue_attributes")
    assert len(backend.receive_message("q", 10, 0, 30)) == 10


def test_deletions_undo_neither_each_other_nor_what_is_sent_meanwhile(backend: Any) -> None:
    queue = backend.create_queue("q", VisibilityTimeout="300")
    for n in range(200):
        backend.send_message("q", str(n))
    handles: list[str] = []
    while len(handles) < 200:
        handles += [one.receipt_handle for one in backend.receive_message("q", 10, 0, 300)]

    def delete(part: list[str]) -> None:
        for handle in part:
            backend.delete_message("q", handle)

    def send() -> None:
        for n in range(100):
            backend.send_message("q", f"new {n}")

    threads = [threading.Thread(target=delete, args=(handles[n::4],)) for n in range(4)] + [threading.Thread(target=send)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert sorted(one.body for one in queue._messages) == sorted(f"new {n}" for n in range(100))
