"""MemorySize although /tmp counts: telling a function's memory from its files.

/tmp is a tmpfs and the kernel charges its pages to the function's memory group, which AWS does not. So the group's hard limit is
MemorySize plus the size of /tmp, and this watch enforces MemorySize itself: the kernel reports when use passes a mark
(v1: thresholds on an eventfd; v2: ``memory.high``), and what is neither /tmp nor reclaimable cache is compared with the limit.
Over it, the function is killed and reported as out of memory; otherwise the mark moves up.

Once in a while it looks by itself (``check``): the kernel tells of no memory of its own that passes a mark.

Not all that looks reclaimable is. Pages that a program has given up (``MADV_FREE``) and written to again stay in the list of file pages until
the kernel wants them back, and on v1 nothing tells names and inodes from pipes, connections and page tables. Such memory is *doubtful*: only when
it decides, the kernel is asked to take back what it can, and what is left then is the function's.

Setting a mark on v1 waits for an RCU grace period, many milliseconds in which the broker would serve nobody, and taking memory back takes longer:
its ``marker`` makes both calls with descriptors lent to it.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from typing import NamedTuple

from engine.sandbox import kernel
from engine.sandbox.group import Group
from engine.sandbox.peers import Loop

# How far above what is used the next mark may be: MemorySize may be passed by as much before the kernel tells. So hardly anything while there are
# hardly any files, and a share of them later: v1 keeps every mark that it was ever given, and many files must not take too many.
_FINEST = 1 << 20
_SHARE = 8
_MARKS = 64
_COARSEST = 4 << 20
_LOWER_AFTER_S = 0.25
# Pages in the lists of file pages; pages of files, of which pages in memory only; and the kernel's own that it may give up.
_LISTED = {1: (b"total_inactive_file", b"total_active_file"), 2: (b"inactive_file", b"active_file")}
_FILES = {1: (b"total_cache", b"total_shmem"), 2: (b"file", b"shmem")}
_KERNEL = b"slab_reclaimable"
# Kernel memory a function may need for its processes; more than that may be names and inodes of files it has looked at (v1).
_KERNEL_SHARE = 8 << 20
# What of these may be left when the kernel has been asked: some are held by what others do with the same files.
_KERNEL_LEFT = 32 << 20
# Where the kernel is asked to take memory back. Several times in a row, for a function may give up and use memory meanwhile; then not for a while.
_TAKE_BACK = {1: "memory.force_empty", 2: "memory.reclaim"}
_ASKED = 3
_ASK_AGAIN_S = 1.0


class Use(NamedTuple):
    """Bytes charged to a group, and how many of them are the function's own: at least, and at most, which is known when the kernel has taken back
    what it can.
    """

    charged: int
    least: int
    most: int


class MemoryWatch:
    """Watches one specialised holder. ``on_exceeded`` is called from the loop."""

    __slots__ = (
        "_asked", "_asking", "_directory", "_fd", "_group", "_lend", "_limit", "_loop", "_lowering", "_mark", "_on_exceeded", "_resting", "_stands",
        "_step", "_tmp", "_version",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        group: Group,
        limits: tuple[int, int],
        tmp: str,
        lend: Callable[[int, list[int]], None],
        on_exceeded: Callable[[], None],
    ) -> None:
        """``limits``: MemorySize and the hard limit in bytes. ``tmp``: a path to the sandbox's /tmp. ``lend`` has a mark set, or, with a single
        descriptor, so many bytes taken back; ``marked`` and ``taken_back`` are to be called when that is done, ``unmarked`` and
        ``not_taken_back`` when whoever should have done it is gone.

        Raises OSError where it cannot be had.
        """
        limit, hard = limits
        self._loop = loop
        self._limit = limit
        self._step = max(_COARSEST, hard // _MARKS)
        self._tmp = tmp
        self._lend = lend
        self._on_exceeded = on_exceeded
        self._group = group
        self._version, self._directory = group.places["memory"]
        self._mark = limit
        # v1: the kernel has taken the mark.
        self._stands = False
        # v2: a raised mark is being looked after.
        self._lowering = False
        # How often the kernel has been asked in a row, and whether it is at it, or is left alone for a while.
        self._asked = 0
        self._asking = self._resting = False
        if self._version == 1:
            self._fd = group.take_mark(limit)
            self._stands = self._fd >= 0
            if not self._stands:
                self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._fd = os.open(f"{self._directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._stands:
                # Whatever came by it since the sandbox before this comes now, and means to look.
                self._loop.hand_over(self._fd, self._passed)
            else:
                self._set_mark()
                self._loop.watch(self._fd, self._passed, select.EPOLLIN if self._version == 1 else select.EPOLLPRI)
        except OSError:
            os.close(self._fd)
            raise
        if self._stands:
            self._judge()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            if self._stands and self._mark == self._limit:
                self._loop.hand_over(fd, lambda _mask: _drained(fd))
                self._group.leave_mark(self._limit, fd, self._loop.forget)
            else:
                self._loop.forget(fd)
                os.close(fd)

    def _set_mark(self) -> None:
        if self._version == 2:
            kernel.write_file(f"{self._directory}/memory.high", b"%d" % self._mark)
            os.pread(self._fd, 4096, 0)
            return
        lent = [self._fd, os.open(f"{self._directory}/memory.usage_in_bytes", os.O_RDONLY | os.O_CLOEXEC)]
        try:
            lent.append(os.open(f"{self._directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC))
            self._lend(self._mark, lent)
        finally:
            for fd in lent[1:]:
                os.close(fd)

    def marked(self) -> None:
        """The mark has been set: look whether it was passed meanwhile, for then the kernel stays silent."""
        if self._fd >= 0:
            self._stands = self._version == 1
            self._judge()

    def unmarked(self) -> None:
        """Nobody knows whether the mark was set: set it once more, in a while, for whatever ended the one who should may end the next one too."""
        self._loop.later(_ASK_AGAIN_S, self._mark_again)

    def _mark_again(self) -> None:
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                self._set_mark()

    def _passed(self, _mask: int) -> None:
        if self._version == 1:
            _drained(self._fd)
        else:
            os.pread(self._fd, 4096, 0)
        self._judge()

    def check(self) -> None:
        """Look without having been told: it has happened that the kernel's word did not come, and MemorySize is not a matter of luck."""
        with contextlib.suppress(OSError):
            if self._fd >= 0 and self._usage() >= self._limit:
                self._weigh()

    def _judge(self) -> None:
        try:
            if self._usage() < min(self._mark, self._limit):
                return
            use = self._weigh()
            if self._fd >= 0 and use.charged >= self._mark:
                step = min(self._step, max(_FINEST, (use.charged - self._limit) // _SHARE))
                self._mark = max(self._limit + use.charged - use.least, use.charged + step)
                self._set_mark()
                if self._version == 2 and not self._lowering:
                    self._lowering = True
                    self._loop.later(_LOWER_AFTER_S, self._lower)
        except OSError:
            # The sandbox is going away; the hard limit stands in any case.
            self.close()

    def _weigh(self) -> Use:
        """Measure, and tell of a function over its limit, or have it found out."""
        use = self._measure()
        if use.least > self._limit:
            self._exceed()
        elif use.most > self._limit and not (self._asking or self._resting):
            self._take_back(use)
        return use

    def _exceed(self) -> None:
        self.close()
        self._on_exceeded()

    def _take_back(self, use: Use) -> None:
        """Ask the kernel for what it may or may not be able to take back."""
        try:
            fd = os.open(f"{self._directory}/{_TAKE_BACK[self._version]}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return  # v2 before Linux 5.19, where the kernel looks by itself when the mark is passed
        try:
            self._lend(use.most - use.least, [fd])
            self._asking = True
        finally:
            os.close(fd)

    def taken_back(self) -> None:
        """The kernel has taken back what it could."""
        if self._fd < 0 or not self._asking:
            return
        self._asking = False
        self._asked += 1
        with contextlib.suppress(OSError):
            use = self._measure()
            if use.most <= self._limit:
                self._asked = 0
                self._resting = True
                self._loop.later(_ASK_AGAIN_S, self._look_again)
            elif self._asked < _ASKED:
                self._take_back(use)
            else:
                self._exceed()

    def not_taken_back(self) -> None:
        """Who was asked for it ended before it was done: ask again, in a while."""
        if self._fd >= 0 and self._asking:
            self._asking = False
            self._resting = True
            self._loop.later(_ASK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._resting = False
        self.check()

    def _lower(self) -> None:
        """v2: bring a raised mark down again when files have been deleted (v1 keeps every mark it ever set). The kernel says nothing of what is
        used below the mark meanwhile: so that is judged here too.
        """
        self._lowering = False
        if self._fd < 0 or self._mark == self._limit:
            return
        with contextlib.suppress(OSError):
            use = self._weigh()
            if self._fd < 0:
                return
            wanted = self._limit + use.charged - use.least
            if wanted < self._mark - self._step and use.charged < wanted:
                self._mark = wanted
                self._set_mark()
            self._lowering = True
            self._loop.later(_LOWER_AFTER_S, self._lower)

    def _measure(self) -> Use:
        # Before and after: a file that is deleted meanwhile is charged no more in one of two figures, and must not pass for memory.
        in_tmp = self._in_tmp()
        charged = self._usage()
        found: dict[bytes, int] = {}
        with open(f"{self._directory}/memory.stat", "rb") as f:
            for line in f:
                name, _, value = line.partition(b" ")
                found[name] = int(value)
        listed = sum(found.get(name, 0) for name in _LISTED[self._version])
        of_files, in_memory = (found.get(name, 0) for name in _FILES[self._version])
        cache = min(listed, max(0, of_files - in_memory))
        kernel = found.get(_KERNEL, 0) if self._version == 2 else max(0, self._kernel_memory() - _KERNEL_SHARE)
        certain = charged - cache - max(in_tmp, self._in_tmp())
        return Use(charged, certain - (listed - cache) - kernel, certain - min(kernel, _KERNEL_LEFT))

    def _in_tmp(self) -> int:
        files = os.statvfs(self._tmp)
        return (files.f_blocks - files.f_bfree) * files.f_frsize

    def _kernel_memory(self) -> int:
        """v1 does not tell names and inodes, which the kernel drops when it must, from the rest of its memory."""
        with contextlib.suppress(OSError, ValueError), open(f"{self._directory}/memory.kmem.usage_in_bytes", "rb") as f:
            return int(f.read())
        return 0

    def _usage(self) -> int:
        return self._group.memory_used()


def _drained(event: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(event, 8)
