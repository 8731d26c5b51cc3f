"""Connections to another server that are kept between requests: opening one costs more than passing a small request.

Theory of operation. Whoever has had a whole answer gives its connection back; the next request takes the one given back last. A connection
keeps one protocol as long as it lives, which hands on what happens to whoever has it: to give a transport another protocol costs uvloop
four system calls. While nobody has it, its end, or bytes nobody asked for, throw it away. A server that was killed a moment ago has
closed its connections already though the loop has not been told, so a connection is looked at once more before it is used again.
Connections are kept for bursts only: an engine at rest holds none, and none grows so old that the server ends it under a request.
"""

from __future__ import annotations

import asyncio
import select

KEPT_S = 1.0
MAX_KEPT = 64


class Upstream(asyncio.Protocol):
    """One connection. ``user`` is told what happens to it; None while it is idle, since ``since_s``."""

    def __init__(self, upstreams: Upstreams, user: asyncio.Protocol) -> None:
        self.user: asyncio.Protocol | None = user
        self.since_s = 0.0
        self.transport: asyncio.Transport
        self._upstreams = upstreams
        self._poll = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        if self.user is not None:
            self.user.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.user is not None:
            self.user.data_received(data)
        else:
            self._upstreams.forget(self)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        user, self.user = self.user, None
        if user is not None:
            user.connection_lost(exc)
        else:
            self._upstreams.forget(self)

    def pause_writing(self) -> None:
        if self.user is not None:
            self.user.pause_writing()

    def resume_writing(self) -> None:
        if self.user is not None:
            self.user.resume_writing()

    def readable(self) -> bool:
        """Whether it has ended, or has bytes nobody asked for."""
        return bool(self._poll.poll(0))


class Upstreams:
    """Idle connections to one server. For one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kept_s: float = KEPT_S) -> None:
        self._loop = loop
        self._kept_s = kept_s
        # The one that has waited longest is first.
        self._idle: list[Upstream] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many are idle."""
        return len(self._idle)

    def take(self, user: asyncio.Protocol) -> Upstream | None:
        """An open connection on which nothing is under way, if there is one; ``user`` has it now."""
        while self._idle:
            upstream = self._idle.pop()
            if not upstream.transport.is_closing() and not upstream.readable():
                upstream.user = user
                return upstream
            upstream.transport.abort()
        return None

    def give(self, upstream: Upstream) -> None:
        """Keep a connection whose last request is answered in full."""
        upstream.user = None
        if upstream.transport.is_closing():
            return
        if len(self._idle) >= MAX_KEPT:
            self._idle.pop(0).transport.close()
        upstream.since_s = self._loop.time()
        self._idle.append(upstream)
        if self._timer is None:
            self._timer = self._loop.call_later(self._kept_s, self._expire)

    def close(self) -> None:
        """Close what is idle. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._idle.pop().transport.close()

    def _expire(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        while self._idle and self._idle[0].since_s + self._kept_s <= now_s:
            self._idle.pop(0).transport.close()
        if self._idle:
            self._timer = self._loop.call_later(self._idle[0].since_s + self._kept_s - now_s, self._expire)

    def forget(self, upstream: Upstream) -> None:
        """It has ended or misbehaved."""
        if upstream in self._idle:
            self._idle.remove(upstream)
