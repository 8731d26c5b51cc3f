"""The agent's end of the channel: what waits for the last words of an invocation."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from engine.wire import messages as m
from engine.wire.frames import FrameDecoder
from runtime_bootstrap.agent.link import Link
from runtime_bootstrap.agent.loop import Loop

ID = "11111111-2222-4333-8444-555555555555"


class Rig:
    """A link on a loop whose clock stands, and the supervisor's end of it."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.now_s = 0.0
        self.loop = Loop()
        self.loop.now = lambda: self.now_s
        self.link = Link(self.loop, ours, lambda _parts, _body: None)
        self._theirs = theirs
        self._decoder = FrameDecoder()

    def sent(self) -> list[int]:
        """The kinds of the frames that have come by now."""
        try:
            data = self._theirs.recv(1 << 16)
        except BlockingIOError:
            return []
        return [m.kind(frame) for frame in self._decoder.feed(data)]


@pytest.fixture
def rig() -> Iterator[Rig]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        yield Rig(ours, theirs)


def test_an_error_comes_after_what_is_logged_of_it(rig: Rig) -> None:
    rig.link.error(ID, "Function.X", b"{}", logged=False)
    assert rig.sent() == []
    rig.link.log(ID, 0, b"what the client says of it")
    assert rig.sent() == [m.LOG]
    rig.link.release()
    rig.link.next()
    assert rig.sent() == [m.ERROR, m.NEXT]
    rig.link.release()
    assert rig.sent() == []


def test_an_error_of_which_nothing_is_logged_does_not_wait_for_long(rig: Rig) -> None:
    rig.link.error(ID, "Function.X", b"{}", logged=False)
    rig.now_s += 1.0
    rig.loop.turn()
    assert rig.sent() == [m.ERROR]


def test_the_end_of_the_process_sends_it(rig: Rig) -> None:
    rig.link.error(ID, "Function.X", b"{}", logged=False)
    rig.link.settle()
    assert rig.sent() == [m.ERROR]
