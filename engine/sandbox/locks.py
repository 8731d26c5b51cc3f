"""Locks on parts of files (``fcntl``): the kernel has no limit of them, and no control group counts the 192 bytes of each.

A function of 128 MB that took one lock after another held gigabytes of the host's. How many there are in all, the kernel's allocator tells in one
read of an open file. Whose they are is in /proc/locks, which is slow where there are many and which nobody can take a lock during: it is read only when
so many have come since it last was that one sandbox could have too many, and only until it is known which. Locks are their processes': seccomp
refuses those of open files, and descriptors in common with anything but threads, by which locks could outlive whoever took them.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator

from engine.sandbox.record import Holder

COUNT = "/sys/kernel/slab/file_lock_cache/objects"
_TABLE = "/proc/locks"
# What programs take, databases in files first of all, are a few.
MOST = 30_000
_LINES = 20 * MOST
_PIECE = 1 << 16


class LockWatch:
    """Finds sandboxes with more locks than ``MOST``. Only root is told how many there are; without that, nobody looks."""

    def __init__(self, count: str = COUNT, table: str = _TABLE) -> None:
        self._table = table
        self._next = MOST
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(count, os.O_RDONLY | os.O_CLOEXEC)

    def over(self, holders: Iterable[Holder]) -> list[Holder]:
        """At most one at a time. To be asked every second or so; nearly always that is one short read."""
        there_are = self._count()
        after = max(MOST, there_are + MOST // 2)
        if there_are < self._next:
            self._next = min(self._next, after)
            return []
        self._next = after
        return self._culprit({inode: holder for holder in holders if (inode := _space(holder.init_pid))})

    def _count(self) -> int:
        """In all; also of other things of the same size, which the allocator may keep together."""
        if self._fd < 0:
            return 0
        try:
            return int(os.pread(self._fd, 64, 0).split(None, 1)[0])
        except (OSError, ValueError, IndexError):
            return 0

    def _culprit(self, spaces: dict[int, Holder]) -> list[Holder]:
        """``spaces``: sandboxes by their namespaces of process numbers."""
        of: dict[int, int] = {}
        locks: Counter[int] = Counter()
        for pid in _pids(self._table):
            if pid not in of:
                of[pid] = _space(pid)
            space = of[pid]
            locks[space] += 1
            if space in spaces and locks[space] > MOST:
                return [spaces[space]]
        return []

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _space(pid: int) -> int:
    """The namespace of process numbers that a process is in; 0 when it has ended."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino if pid > 0 else 0
    except OSError:
        return 0


def _pids(table: str) -> Iterator[int]:
    """Who has, or waits for, each lock: ``1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF``, with ``->`` before those that wait."""
    rest, lines = b"", 0
    fd = os.open(table, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while lines < _LINES and (piece := os.read(fd, _PIECE)):
            *whole, rest = (rest + piece).split(b"\n")
            lines += len(whole)
            for line in whole:
                fields = line.split(None, 6)
                with contextlib.suppress(ValueError, IndexError):
                    yield int(fields[5] if fields[1] == b"->" else fields[4])
    finally:
        os.close(fd)
