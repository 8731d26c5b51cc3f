"""The warm invocation of a runtime behind the agent, compiled where a C compiler was at hand when the engine was installed.

Theory of operation. When a runtime's client waits for its next event on a connection on which it has polled and answered before, the next round
will be the same but for ids, lengths and payloads: an event to the open poll, an answer, the next poll. ``_warm.c`` does such rounds by itself,
on the loop's own epoll, and returns before it has answered anything that is not of this kind; the state in which it stopped is then put back
into the objects that would have it if Python had done the rounds. So there is one truth while Python runs, and every rule is in Python; in C are
the plain cases only. With extensions, several invocations at once, JSON logs or a timer to wait for, it is not entered.

Without the library nothing changes but the time: about a third of what an invocation costs on one processor.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Any, Optional

from runtime_bootstrap.agent import link as frames
from runtime_bootstrap.agent.http import ACCEPTED
from runtime_bootstrap.agent.runtime import INVOCATION, MODE, Runtime

if TYPE_CHECKING:
    from runtime_bootstrap.agent.agent import Agent
    from runtime_bootstrap.agent.http import Connection, Heads

READY, RUNNING, ANSWERED = 0, 1, 2
LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_warm.so")
_ROOM, _HEADS = 96 * 1024, 4 * 1024
_POLL = INVOCATION + b"next"


class _Text(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t))

    def bytes(self) -> bytes:
        return ctypes.string_at(self.at, self.size) if self.size else b""


class _Warm(ctypes.Structure):
    """As ``struct warm``."""

    _fields_ = (
        ("epoll", ctypes.c_int), ("link", ctypes.c_int), ("connection", ctypes.c_int), ("timeout_ms", ctypes.c_int),
        ("poll", _Text), ("first", _Text), ("second", _Text), ("third", _Text), ("kind", _Text), ("accepted", _Text),
        ("state", ctypes.c_int), ("frame_size", ctypes.c_size_t), ("asked_size", ctypes.c_size_t),
        ("link_rest", _Text), ("connection_rest", _Text), ("invocations", ctypes.c_uint64),
        ("frame", ctypes.c_ubyte * _ROOM), ("asked", ctypes.c_ubyte * _ROOM), ("out", ctypes.c_ubyte * (_ROOM + _HEADS)),
    )  # fmt: skip


def load(path: str = LIBRARY) -> "Optional[Any]":
    """The compiled function, None where it was not built. Called in the zygote: a sandbox may not map new programs."""
    try:
        library = ctypes.CDLL(path)
        library.warm_size.restype = ctypes.c_size_t
        if library.warm_size() != ctypes.sizeof(_Warm):
            return None
        function = library.warm_run
    except (OSError, AttributeError):
        return None
    function.restype = None
    return function


class Warm:
    """``run`` is for before each turn of the loop."""

    def __init__(self, agent: "Agent", runtime: Runtime, function: Any) -> None:
        self._agent = agent
        self._runtime = runtime
        self._function = function
        self._heads: "Optional[Heads]" = None
        self._kept: "list[bytes]" = []
        self._state: "Optional[_Warm]" = None

    @property
    def invocations(self) -> int:
        """How many were done here from their event to the next poll."""
        return 0 if self._state is None else int(self._state.invocations)

    def run(self) -> None:
        """Do what can be done without Python; nothing when that is nothing."""
        agent, runtime = self._agent, self._runtime
        if runtime.state != "Ready" or runtime.invoke is not None or agent.extensions.all or agent.link.busy or not agent.quiet:
            return
        polls = runtime.polls
        if len(polls) != 1:
            return
        exchange = polls[0]
        heads = exchange.connection.repeats(exchange)
        if heads is None:
            return
        if heads is not self._heads and not self._learn(heads):
            return
        state = self._state
        assert state is not None
        state.connection = exchange.connection.fileno()
        self._function(ctypes.byref(state))
        self._go_on(state, exchange.connection)

    def _learn(self, heads: "Heads") -> bool:
        """Look for these requests from now on."""
        poll, poll_path, first, second, third, headers = heads
        if poll_path != _POLL or first != b"POST " + INVOCATION or not second.startswith(b"/response ") or headers.value(MODE) is not None or headers.value(b"trailer") is not None:
            return False
        state = self._state
        if state is None:
            state = self._state = _Warm.from_buffer(mmap.mmap(-1, ctypes.sizeof(_Warm)))
            state.epoll, state.link, state.timeout_ms = self._agent.loop.fileno(), self._agent.link.fileno(), -1
        kind = frames.kind_of((headers.value(b"content-type") or b"").decode("latin-1"))
        self._kept = [poll, first, second, third, kind, ACCEPTED]
        for text, data in zip((state.poll, state.first, state.second, state.third, state.kind, state.accepted), self._kept):
            text.at = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
            text.size = len(data)
        self._heads = heads
        return True

    def _go_on(self, state: _Warm, connection: "Connection") -> None:
        """Put the state in which it stopped where Python has it."""
        frame = ctypes.string_at(ctypes.addressof(state) + _Warm.frame.offset, state.frame_size)
        asked = ctypes.string_at(ctypes.addressof(state) + _Warm.asked.offset, state.asked_size)
        self._agent.link.hold(state.link_rest.bytes())
        if state.state == READY:
            self._agent.link.feed(frame)
            return
        self._runtime.resume(self._agent.opened(frame[4:]), answered=state.state == ANSWERED)
        connection.resume_after(state.connection_rest.bytes(), asked)
