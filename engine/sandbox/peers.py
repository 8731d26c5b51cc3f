"""The broker's event loop: packet sockets that never block it, and timers.

Sending queues when the other side is slow; a peer that goes away is reported once, through its ``lost`` callback.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from engine.sandbox import packets

_RETRY_S = 0.005
# How late a timer may be where nothing else happens: it waits so long for something that wakes the loop anyway.
_SLACK_S = 0.01
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class Loop:
    """epoll and a timer heap. Callbacks run one at a time; what they raise ends the loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0
        self.stopped = False

    def watch(self, fd: int, callback: Callable[[int], object], events: int = select.EPOLLIN) -> None:
        """Call back with the event mask whenever ``fd`` is ready."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self._epoll.modify(fd, events)

    def hand_over(self, fd: int, callback: Callable[[int], object]) -> None:
        """Have another one called back from now on."""
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Stop watching; call before closing."""
        if self._callbacks.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                return

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call once, after a delay, or a little later."""
        self._counter += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._counter, callback))

    def run(self) -> None:
        """Until ``stopped``."""
        while not self.stopped:
            self.turn()

    def turn(self, limit_s: float | None = None) -> None:
        """One round: wait for something, at most ``limit_s``, and handle what is there."""
        wait = limit_s
        if self._timers:
            until = max(0.0, self._timers[0][0] + _SLACK_S - time.monotonic())
            wait = until if wait is None else min(wait, until)
        for fd, mask in self._epoll.poll(wait):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(mask)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()


class Peer:
    """One end of a packet socket on a Loop. Owns the socket and the descriptors waiting to be sent."""

    __slots__ = ("_loop", "_on_cut", "_on_lost", "_on_packet", "_queue", "_sock", "closed")

    def __init__(
        self,
        loop: Loop,
        sock: socket.SocketType,
        on_packet: Callable[[packets.Packet], None],
        on_lost: Callable[[str], None],
        on_cut: Callable[[packets.Packet], None] | None = None,
    ) -> None:
        """``on_cut`` gets what arrives without its descriptors where this process may have no more; without it, that is the end."""
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._on_packet = on_packet
        self._on_lost = on_lost
        self._on_cut = on_cut
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False
        loop.watch(sock.fileno(), self._ready)

    def send(self, message: Sequence[object], fds: Sequence[int] = ()) -> None:
        """Send now or soon. ``fds`` stay the caller's: copies are kept when it has to wait. Nothing when closed. Raises OSError when there can be no
        copies: it is not sent, then.
        """
        self.send_raw(packets.encode(message), fds)

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """``send`` for what is encoded already."""
        if self.closed:
            return
        if not self._queue:
            try:
                packets.send_raw(self._sock, data, fds)
            except OSError as e:
                if self._done_with(e):
                    return
            else:
                return
        self._queue.append((data, _copies(fds)))

    def _try(self, data: bytes, fds: Sequence[int]) -> bool:
        """Whether this packet is done with. When not, a later ``_flush`` has been arranged."""
        try:
            packets.send_raw(self._sock, data, fds)
        except OSError as e:
            return self._done_with(e)
        return True

    def _done_with(self, e: OSError) -> bool:
        """``_try`` for one that could not be sent."""
        if isinstance(e, BlockingIOError):
            self._loop.change(self._sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
            return False
        if e.errno in (errno.ETOOMANYREFS, errno.ENOBUFS):
            # Too many descriptors in flight: the socket stays writable, so come back by timer.
            self._loop.change(self._sock.fileno(), select.EPOLLIN)
            self._loop.later(_RETRY_S, self._flush)
            return False
        if e.errno not in (errno.EPIPE, errno.ECONNRESET):
            self._lose(e.strerror or str(e))
        # Otherwise the other side has gone, but its last words may still be unread: reading comes to its end by itself.
        return True

    def _flush(self) -> None:
        while self._queue and not self.closed:
            data, fds = self._queue[0]
            if not self._try(data, fds):
                return
            if not self.closed:
                self._queue.popleft()
                for fd in fds:
                    os.close(fd)
        if not self.closed:
            self._loop.change(self._sock.fileno(), select.EPOLLIN)

    def _ready(self, mask: int = _IN) -> bool:
        """Handle one packet, if there is one. One at a time: level-triggered epoll says when there is more, an empty read would cost an exception."""
        if mask != _IN:
            if mask & _OUT:
                self._flush()
            if not mask & ~_OUT or self.closed:
                return False
        try:
            packet = packets.receive(self._sock)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # It went without reading ours; what it said before that is still there.
            return True
        except (OSError, packets.PacketError) as e:
            if isinstance(e, packets.Cut) and self._on_cut is not None:
                self._on_cut(e.packet)
                return True
            self._lose(str(e))
            return False
        if packet is None:
            self._lose("closed")
            return False
        try:
            self._on_packet(packet)
        finally:
            if packet.fds:
                packet.close()
        return True

    def drain(self) -> None:
        """Handle what has already arrived, without waiting."""
        while not self.closed and self._ready():
            pass

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._on_lost(reason)

    def close(self) -> None:
        """Close without a callback. Idempotent."""
        if not self.closed:
            self.closed = True
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            for _, fds in self._queue:
                for fd in fds:
                    os.close(fd)
            self._queue.clear()


def _copies(fds: Sequence[int]) -> list[int]:
    """Of all or none. Raises OSError."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        for fd in copies:
            os.close(fd)
        raise
    return copies
