"""Several events at once in one process: in threads, or, for a handler that is a coroutine function, on one event loop.

Theory of operation. The supervisor sends no more events than there are places. Whatever a line is printed or logged in tells whose it
is: a context variable holds the request id, which is each thread's and each task's own, and unfinished lines are kept apart by it. There is
one environment for all, so ``_X_AMZN_TRACE_ID`` is not set. A handler that exits takes the process, and everything in it, along.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
from typing import Any, Callable, Coroutine, Optional

from runtime_bootstrap.python import logs, streams
from runtime_bootstrap.python.channel import SHUTDOWN, Channel, Closed, Frame, message_of

_request: "contextvars.ContextVar[Optional[str]]" = contextvars.ContextVar("request", default=None)
_tenant: "contextvars.ContextVar[Optional[str]]" = contextvars.ContextVar("tenant", default=None)


class _SharedChannel(Channel):
    @property
    def request_id(self) -> Optional[str]:
        return _request.get()

    @request_id.setter
    def request_id(self, value: Optional[str]) -> None:
        _request.set(value)


class _SharedSink(logs.Sink):
    @property
    def request_id(self) -> str:
        return _request.get() or ""

    @request_id.setter
    def request_id(self, value: str) -> None:
        _request.set(value or None)

    @property
    def tenant_id(self) -> Optional[str]:
        return _tenant.get()

    @tenant_id.setter
    def tenant_id(self, value: Optional[str]) -> None:
        _tenant.set(value)


class _SharedLines(streams.Lines):
    """Holds an unfinished line for each invocation."""

    parts: "dict[Optional[str], list[bytes]]"

    def write(self, data: Any) -> int:
        key = _request.get()
        with self._lock:
            self._take(key)
            try:
                return super().write(data)
            finally:
                self._leave(key)

    def settle(self) -> None:
        key = _request.get()
        with self._lock:
            self._take(key)
            super().settle()
            self._leave(key)

    @property
    def unfinished(self) -> bool:
        return bool(self._held) or _request.get() in self.parts

    def _take(self, key: Optional[str]) -> None:
        # Nested in itself when a line grows too long: what is held is this invocation's already then.
        if not self._held:
            self._held = self.parts.pop(key, [])
            self._held_size = sum(map(len, self._held))

    def _leave(self, key: Optional[str]) -> None:
        held, self._held, self._held_size = self._held, [], 0
        if held:
            self.parts[key] = held


class NoTrace:
    """Stands in for ``environment.TraceVariable``."""

    def set(self, value: Optional[str]) -> None:
        """One environment cannot hold several."""


def share(channel: Channel, sink: logs.Sink, lines: "tuple[streams.Lines, streams.Lines]") -> None:
    """Make what was one invocation's at a time each invocation's own."""
    for shared, kind in ((channel, _SharedChannel), (sink, _SharedSink)):
        for name in ("request_id", "tenant_id"):
            shared.__dict__.pop(name, None)
        shared.__class__ = kind
    for stream in lines:
        stream.__class__ = _SharedLines
        stream.parts = {}  # type: ignore[attr-defined]


def is_coroutine(handler: Any) -> bool:
    """Whether calling it makes a coroutine; of an object, whether its ``__call__`` does."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _shut_down(frame: Frame) -> bool:
    # 99: an array of nine, so an INVOKE.
    return frame[4] != 0x99 and bool(message_of(frame)[0] == SHUTDOWN)


class Threads:
    """``invoke`` serves one event; ``end`` ends the process with what a handler raised past it. Threads are started as they are needed."""

    def __init__(
        self, channel: Channel, invoke: "Callable[[Frame], None]", end: "Callable[[BaseException], None]", places: int
    ) -> None:
        self._receive = channel.receive
        self._invoke = invoke
        self._end = end
        self._places = places
        self._more = threading.Condition()
        self._frames: "list[Frame]" = []
        self._idle = 0
        self._threads = 0

    def run(self) -> None:
        """Take events until SHUTDOWN. Raises Closed."""
        while True:
            frame = self._receive()
            if _shut_down(frame):
                return
            with self._more:
                self._frames.append(frame)
                if len(self._frames) <= self._idle or self._threads >= self._places:
                    self._more.notify()
                    continue
                self._threads += 1
            threading.Thread(target=self._work, name="invocation-%d" % self._threads, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._more:
                self._idle += 1
                while not self._frames:
                    self._more.wait()
                self._idle -= 1
                frame = self._frames.pop(0)
            try:
                self._invoke(frame)
            except BaseException as e:
                self._end(e)
            del frame


class Loop:
    """``invoke`` serves one event as a coroutine."""

    def __init__(self, channel: Channel, invoke: "Callable[[Frame], Coroutine[Any, Any, None]]", fd: int) -> None:
        self._channel = channel
        self._invoke = invoke
        self._fd = fd
        self._tasks: "set[Any]" = set()

    def run(self) -> None:
        """Take events until SHUTDOWN. Raises Closed, and what a handler raises that is no Exception."""
        import asyncio

        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._fd, self._readable)
        self._loop.run_forever()

    def _readable(self) -> None:
        while True:
            try:
                frame = self._channel.receive()
            except Closed:
                self._loop.stop()
                return
            if _shut_down(frame):
                self._loop.stop()
                return
            # Kept: the loop itself refers to tasks weakly.
            task = self._loop.create_task(self._invoke(frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if not self._channel.buffered:
                return
