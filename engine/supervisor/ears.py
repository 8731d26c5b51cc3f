"""Descriptors that seldom have anything to say: one poll of our own for all of them, which the loop watches as one.

The loop's own watching of a descriptor costs six system calls and three objects; an instance has three descriptors, two of which most
functions never use, and most cold instances are used once. Here it is one system call, and none for what is closed anyway; hearing
costs one more each time.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

# Heard in one turn of the loop, so that others get theirs.
_MOST = 16


class Ears:
    """``loop`` is where what is heard often belongs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], object]] = {}
        loop.add_reader(self._epoll.fileno(), self._hear)

    def add(self, fd: int, call: Callable[[], object]) -> None:
        """Call whenever there is something to read, until the descriptor is removed. It may be called without anything to read."""
        self._epoll.register(fd, select.EPOLLIN)
        self._calls[fd] = call

    def remove(self, fd: int) -> None:
        """Hear it no more. Idempotent."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """As ``remove``, for one that is closed next and that nobody else has: the kernel removes it then."""
        self._calls.pop(fd, None)

    def _hear(self) -> None:
        calls = self._calls
        for fd, _ in self._epoll.poll(0, _MOST):
            # One before it may have closed it.
            call = calls.get(fd)
            if call is not None:
                call()
