"""What only the blocking client promises: connections kept, threads sharing them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.client import Client, ClientError, ConnectionLost
from tests.framework.frame_server import FrameServer, until


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "e.sock")


@pytest.fixture
def server(path: str) -> Iterator[FrameServer]:
    with FrameServer(path) as running:
        yield running


def test_a_kept_connection_is_used_again_and_replaced_when_the_server_restarted(path: str) -> None:
    with Client(path) as client:
        with FrameServer(path) as first:
            for _ in range(3):
                client.invoke("echo")
            assert first.connections == 1
        with FrameServer(path) as second:
            assert client.invoke("echo", b"2").payload == b"2"
            assert len(second.calls) == 1


def test_threads_share_a_client(server: FrameServer, path: str) -> None:
    answers: dict[int, bytes] = {}
    with Client(path, keep=2) as client:

        def work(n: int) -> None:
            answers[n] = client.invoke("batch-8", b"%d" % n).payload

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert answers == {n: b"%d" % n for n in range(8)}
        until(lambda: len(server.open) == 2)
    with pytest.raises(ConnectionLost, match="is closed"):
        client.invoke("echo")


def test_an_answer_given_twice_is_not_taken_for_the_next_calls(server: FrameServer, path: str) -> None:
    with Client(path) as client:
        with contextlib.suppress(ClientError):
            client.invoke("twice")
        assert client.invoke("echo", b"mine").payload == b"mine"
