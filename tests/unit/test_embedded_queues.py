"""What the embedded SQS does differently, on its own backend."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.aws import queue_lane, queues
from engine.eventing.sources import direct_queue
from engine.eventing.sources.direct_queue import DirectQueues

models = pytest.importorskip("moto.sqs.models", reason="the extra `embedded` is not installed")


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(models.Queue, "_messages", None, raising=False)
    for owner, name in (
        (models.Queue, "add_message"),
        (models.Queue, "delete_message"),
        (models.Queue, "approximate_number_of_messages"),
        (models.Queue, "approximate_number_of_messages_delayed"),
        (models.Queue, "approximate_number_of_messages_not_visible"),
        (models.SQSBackend, "receive_message"),
        (models.SQSBackend, "send_message"),
        (models.SQSBackend, "change_message_visibility"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    queues.install()
    return models.sqs_backends["000000000000"]["eu-west-3"]


@pytest.fixture
def queue(backend: Any) -> Iterator[Any]:
    yield backend.create_queue("q", VisibilityTimeout="30")
    backend.reset()


def bodies(backend: Any, count: int = 10, visibility_s: int = 30, name: str = "q") -> list[str]:
    return [one.body for one in backend.receive_message(name, count, 0, visibility_s)]


def sent(backend: Any, *texts: str, name: str = "q", **members: Any) -> None:
    for text in texts:
        backend.send_message(name, text, **members)


def counts(queue: Any) -> tuple[int, int, int]:
    """(visible, not visible, delayed)."""
    found = queue.attributes
    return tuple(found[f"ApproximateNumberOfMessages{kind}"] for kind in ("", "NotVisible", "Delayed"))


def test_messages_are_given_once_in_order_and_counted(backend: Any, queue: Any) -> None:
    sent(backend, *"abc")
    sent(backend, "d", delay_seconds=60)
    assert counts(queue) == (3, 0, 1)
    assert bodies(backend, 2) == ["a", "b"]
    assert counts(queue) == (1, 2, 1)
    assert bodies(backend) == ["c"]
    assert bodies(backend) == []


def test_what_becomes_visible_is_given_again(backend: Any, queue: Any) -> None:
    sent(backend, *"ab")
    (first, _) = backend.receive_message("q", 10, 0, 30)
    backend.change_message_visibility("q", first.receipt_handle, 0)
    (again,) = backend.receive_message("q", 10, 0, 30)
    assert (again.body, again.approximate_receive_count) == ("a", 2)
    # Both handles are good, and good again after the deletion.
    for handle in (first.receipt_handle, again.receipt_handle, first.receipt_handle):
        queue.delete_message(handle)
    assert counts(queue) == (0, 1, 0)
    with pytest.raises(Exception, match=r"(?i)handle"):
        queue.delete_message("never given")
    with pytest.raises(Exception, match=r"(?i)handle"):
        backend.change_message_visibility("q", again.receipt_handle, 0)


def test_a_message_that_was_received_too_often_goes_to_the_other_queue(backend: Any, queue: Any) -> None:
    dead = backend.create_queue("dead", VisibilityTimeout="30")
    policy = json.dumps({"deadLetterTargetArn": dead.queue_arn, "maxReceiveCount": "2"})
    backend.set_queue_attributes("q", {"RedrivePolicy": policy})
    sent(backend, "a")
    assert [bodies(backend, visibility_s=0) for _ in range(3)] == [["a"], ["a"], []]
    assert counts(queue) == (0, 0, 0)
    assert bodies(backend, name="dead") == ["a"]


def test_messages_are_kept_as_long_as_the_queue_says(backend: Any, queue: Any) -> None:
    backend.set_queue_attributes("q", {"MessageRetentionPeriod": "60"})
    sent(backend, "old", "new")
    next(iter(queue._messages)).sent_timestamp -= 61_000
    assert bodies(backend) == ["new"]
    assert len(queue._messages) == 1


def test_a_duplicate_is_known_for_five_minutes_and_numbers_grow(backend: Any, queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = backend.create_queue("q.fifo", FifoQueue="true", VisibilityTimeout="30", ContentBasedDeduplication="true")
    first = backend.send_message("q.fifo", "a", group_id="g", deduplication_id="1")
    (given,) = backend.receive_message("q.fifo", 10, 0, 30)
    fifo.delete_message(given.receipt_handle)
    again = backend.send_message("q.fifo", "b", group_id="h", deduplication_id="1")
    assert (again.id, again.sequence_number, counts(fifo)) == (first.id, first.sequence_number, (0, 0, 0))
    numbers = [backend.send_message("q.fifo", text, group_id="g").sequence_number for text in "cdc"]
    assert [len(n) for n in numbers] == [20, 20, 20]
    assert int(first.sequence_number) < int(numbers[0]) < int(numbers[1])
    assert numbers[2] == numbers[0]
    fifo.deduplication_scope = "messageGroup"
    backend.send_message("q.fifo", "e", group_id="h", deduplication_id="2")
    backend.send_message("q.fifo", "f", group_id="i", deduplication_id="2")
    assert counts(fifo) == (4, 0, 0)
    monkeypatch.setattr(queues, "DEDUPLICATION_S", 0.0)
    backend.send_message("q.fifo", "c", group_id="g")
    assert counts(fifo) == (5, 0, 0)


def test_a_dead_letter_says_where_it_came_from(backend: Any, queue: Any) -> None:
    dead = backend.create_queue("dead.fifo", FifoQueue="true", VisibilityTimeout="30")
    source = backend.create_queue("s.fifo", FifoQueue="true", VisibilityTimeout="30")
    backend.set_queue_attributes("s.fifo", {"RedrivePolicy": json.dumps({"deadLetterTargetArn": dead.queue_arn, "maxReceiveCount": 1})})
    backend.send_message("s.fifo", "a", group_id="g", deduplication_id="1")
    assert [bodies(backend, visibility_s=0, name="s.fifo") for _ in range(2)] == [["a"], []]
    (letter,) = queues.receive(dead, 10, 0, 30)
    assert queue_lane.described(letter)["Attributes"]["DeadLetterQueueSourceArn"] == source.queue_arn


def test_purged_it_is_empty(backend: Any, queue: Any) -> None:
    sent(backend, *"abc")
    backend.purge_queue("q")
    assert (bodies(backend), counts(queue)) == ([], (0, 0, 0))


def test_who_waits_gets_what_comes(backend: Any, queue: Any) -> None:
    got: list[str] = []
    waiting = threading.Thread(target=lambda: got.extend(one.body for one in backend.receive_message("q", 10, 20, 30)))
    waiting.start()
    sent(backend, "a")
    waiting.join(20)
    assert got == ["a"]


def test_groups_are_given_in_order_and_wait_for_what_is_out(backend: Any) -> None:
    fifo = backend.create_queue("q.fifo", FifoQueue="true", VisibilityTimeout="30")
    try:
        for n in range(3):
            for group in "xy":
                sent(backend, f"{group}{n}", name="q.fifo", group_id=group, deduplication_id=f"{group}{n}")
        first = backend.receive_message("q.fifo", 1, 0, 30)
        assert [one.body for one in first] == ["x0"]
        assert bodies(backend, name="q.fifo") == ["y0", "y1", "y2"]
        assert bodies(backend, name="q.fifo") == []
        fifo.delete_message(first[0].receipt_handle)
        assert bodies(backend, name="q.fifo") == ["x1", "x2"]
    finally:
        backend.reset()


def test_many_receivers_get_no_message_twice(backend: Any, queue: Any) -> None:
    sent(backend, *map(str, range(300)))
    got: list[str] = []

    def take() -> None:
        while found := bodies(backend):
            got.extend(found)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert sorted(map(int, got)) == list(range(300))


class Behind:
    """The boto3 client that is asked when there is no direct way."""

    meta = "meta"

    def receive_message(self, **asked: Any) -> dict[str, Any]:
        return {"Messages": [{"Body": "by HTTP"}]}

    def delete_message_batch(self, **asked: Any) -> dict[str, Any]:
        return {"Failed": [], "by": "HTTP"}


def test_the_direct_way_gives_what_boto3_would(backend: Any, queue: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "lane")
    direct = DirectQueues(path, "eu-west-3", Behind())
    asked = {"QueueUrl": "http://aws/000000000000/q", "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}
    assert direct.receive_message(**asked)["Messages"] == [{"Body": "by HTTP"}]
    assert direct.delete_message_batch(QueueUrl=asked["QueueUrl"], Entries=[])["by"] == "HTTP"
    queue_lane.serve(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert direct.meta == "meta"
    traced = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}}
    attributes = {"b": {"DataType": "Binary", "BinaryValue": b"\x00"}}
    sent(backend, "é", message_attributes=attributes, system_attributes=traced)
    (message,) = direct.receive_message(**asked)["Messages"]
    assert message["Attributes"]["AWSTraceHeader"] == "Root=1"
    assert (message["Body"], message["MessageAttributes"], message["Attributes"]["ApproximateReceiveCount"]) == ("é", attributes, "1")
    assert message["MD5OfBody"] == hashlib.md5("é".encode()).hexdigest()
    entries = [{"Id": "x", "ReceiptHandle": "never given"}, {"Id": "y", "ReceiptHandle": message["ReceiptHandle"]}]
    assert [one["Id"] for one in direct.delete_message_batch(QueueUrl=asked["QueueUrl"], Entries=entries)["Failed"]] == ["x"]
    assert len(queue._messages) == 0
    assert direct.receive_message(**asked) == {"Messages": []}
    with pytest.raises(RuntimeError, match="QueueDoesNotExist"):
        direct.receive_message(**{**asked, "QueueUrl": "http://aws/000000000000/other"})
    direct.close()


def test_a_connection_that_was_lost_is_made_anew(backend: Any, queue: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "lane")
    queue_lane.serve(path)
    direct = DirectQueues(path, "eu-west-3", Behind())
    asked = {"QueueUrl": "http://aws/000000000000/q", "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}
    assert direct.receive_message(**asked) == {"Messages": []}
    # What is no frame ends the connection on the other side.
    write = socket.socket.sendall
    write(direct_queue._here.streams[path], b"\xff\xff\xff\xff")
    assert direct.receive_message(**asked) == {"Messages": []}
    direct.close()


def test_deletions_undo_neither_each_other_nor_what_is_sent_meanwhile(backend: Any, queue: Any) -> None:
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
