"""Connections to another server that are kept between requests: opening one costs more than passing a small request.

Theory of operation. Whoever has had a whole answer gives its connection back; the next request takes the one given back last. While a
connection is idle, ``_Idle`` watches it: its end, or bytes nobody asked for, throw it away. A server that was killed a moment ago has
closed its connections already though the loop has not been told, so a connection is looked at once more before it is used again.
Connections are kept for bursts only: an engine at rest holds none, and none grows so old that the server ends it under a request.
"""

from __future__ import annotations

import asyncio
import select

KEPT_S = 1.0
MAX_KEPT = 64


class Upstreams:
    """Idle connections to one server. For one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, kept_s: float = KEPT_S) -> None:
        self._loop = loop
        self._kept_s = kept_s
        # The one that has waited longest is first.
        self._idle: list[_Idle] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many are idle."""
        return len(self._idle)

    def take(self) -> asyncio.Transport | None:
        """An open connection on which nothing is under way, if there is one. The caller sets its own protocol."""
        while self._idle:
            transport = self._idle.pop().transport
            if not _readable(transport):
                return transport
            transport.abort()
        return None

    def give(self, transport: asyncio.Transport) -> None:
        """Keep a connection whose last request is answered in full."""
        if transport.is_closing():
            return
        if len(self._idle) >= MAX_KEPT:
            self._idle.pop(0).transport.close()
        idle = _Idle(self, transport, self._loop.time())
        transport.set_protocol(idle)
        self._idle.append(idle)
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

    def forget(self, idle: _Idle) -> None:
        """It has ended or misbehaved."""
        if idle in self._idle:
            self._idle.remove(idle)


class _Idle(asyncio.Protocol):
    """Watches a connection between requests."""

    def __init__(self, upstreams: Upstreams, transport: asyncio.Transport, since_s: float) -> None:
        self.transport = transport
        self.since_s = since_s
        self._upstreams = upstreams

    def data_received(self, _data: bytes) -> None:
        self._upstreams.forget(self)
        self.transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._upstreams.forget(self)


def _readable(transport: asyncio.Transport) -> bool:
    """Whether an idle connection has ended, or has bytes nobody asked for."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
