"""One thread's event loop: readiness callbacks and timers on epoll, nothing else.

asyncio would cost 40 ms at import and several calls per event; this is on the path of every invocation of a custom runtime.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from typing import Any, Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Timer:
    """A call at a time; ``cancel`` forgets it."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: "Callable[[], Any]") -> None:
        self.when = when
        self.call: "Callable[[], Any] | None" = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """``run`` returns never; whoever ends the process does so in a callback."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: "dict[int, Callable[[int], Any]]" = {}
        self._timers: "list[tuple[float, int, Timer]]" = []
        self._numbers = itertools.count()
        self.now = time.monotonic
        # Called before each turn that ``run`` makes.
        self.before: "Callable[[], Any] | None" = None

    def watch(self, fd: int, call: "Callable[[int], Any]", mask: int = READ) -> None:
        """Call ``call(mask)`` whenever the descriptor is ready."""
        self._callbacks[fd] = call
        self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        """Wait for other events from now on; 0 for none."""
        if fd in self._callbacks:
            self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Stop watching. Call it before closing the descriptor. Idempotent."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def fileno(self) -> int:
        """Of the epoll that everything watched is in."""
        return self._epoll.fileno()

    @property
    def timed(self) -> bool:
        """Whether a timer is set."""
        return bool(self._timers)

    def later(self, delay_s: float, call: "Callable[[], Any]") -> Timer:
        timer = Timer(self.now() + delay_s, call)
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return timer

    def turn(self) -> None:
        """Wait for the next events or timers and make their calls."""
        timers = self._timers
        if timers:
            wait_s = max(0.0, timers[0][0] - self.now())
            events = self._epoll.poll(wait_s)
        else:
            events = self._epoll.poll()
        callbacks = self._callbacks
        for fd, mask in events:
            call = callbacks.get(fd)
            if call is not None:
                call(mask)
        while timers and timers[0][0] <= self.now():
            timer = heapq.heappop(timers)[2]
            if timer.call is not None:
                timer.call()

    def drain(self, rounds: int = 64) -> None:
        """Handle what is ready now, without waiting."""
        for _ in range(rounds):
            events = self._epoll.poll(0)
            if not events:
                return
            for fd, mask in events:
                call = self._callbacks.get(fd)
                if call is not None:
                    call(mask)

    def run(self) -> None:
        """For ever."""
        while True:
            if self.before is not None:
                self.before()
            self.turn()
