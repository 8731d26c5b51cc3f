"""MemorySize although /tmp counts: telling a function's memory from its files.

/tmp is a tmpfs and the kernel charges its pages to the function's memory group, which AWS does not. So the group's hard limit is
MemorySize plus the size of /tmp, and this watch enforces MemorySize itself: the kernel reports when use passes a mark
(v1: thresholds on an eventfd; v2: ``memory.high``), and what is neither /tmp nor reclaimable cache is compared with the limit.
Over it, the function is killed and reported as out of memory; otherwise the mark moves up.

Once in a while it looks by itself (``check``).

Setting a mark on v1 waits for an RCU grace period, many milliseconds in which the broker would serve nobody: its ``marker``
makes that call with descriptors lent to it.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable

from engine.sandbox import kernel
from engine.sandbox.group import Group
from engine.sandbox.peers import Loop

_MARKS = 64
_STEP = 4 << 20
_LOWER_AFTER_S = 1.0
_CACHE = {1: (b"total_inactive_file", b"total_active_file"), 2: (b"inactive_file", b"active_file", b"slab_reclaimable")}
# Kernel memory a function may need for its processes; more than that is taken for names and inodes of files it has looked at (v1).
_KERNEL_SHARE = 8 << 20


class MemoryWatch:
    """Watches one specialised holder. ``on_exceeded`` is called from the loop."""

    def __init__(
        self,
        loop: Loop,
        group: Group,
        limits: tuple[int, int],
        tmp: str,
        lend: Callable[[int, list[int]], None],
        on_exceeded: Callable[[], None],
    ) -> None:
        """``limits``: MemorySize and the hard limit in bytes. ``tmp``: a path to the sandbox's /tmp. ``lend`` has a mark set.

        Raises OSError where it cannot be had.
        """
        limit, hard = limits
        self._loop = loop
        self._limit = limit
        self._step = max(_STEP, hard // _MARKS)
        self._tmp = tmp
        self._lend = lend
        self._on_exceeded = on_exceeded
        self._group = group
        self._version, self._directory = group.places["memory"]
        self._mark = limit
        # v1: the kernel has taken the mark.
        self._stands = False
        if self._version == 1:
            self._fd = group.take_mark(limit)
            self._stands = self._fd >= 0
            if not self._stands:
                self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._fd = os.open(f"{self._directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not self._stands:
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
            self._loop.forget(self._fd)
            if self._stands and self._mark == self._limit:
                self._group.leave_mark(self._limit, self._fd)
            else:
                os.close(self._fd)
            self._fd = -1

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

    def _passed(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8) if self._version == 1 else os.pread(self._fd, 4096, 0)
        self._judge()

    def check(self) -> None:
        """Look without having been told: it has happened that the kernel's word did not come, and MemorySize is not a matter of luck."""
        with contextlib.suppress(OSError):
            if self._usage() < self._limit:
                return
            usage, spared = self._measure()
            if usage - spared > self._limit:
                self.close()
                self._on_exceeded()

    def _judge(self) -> None:
        try:
            if self._usage() < min(self._mark, self._limit):
                return
            usage, spared = self._measure()
            if usage - spared > self._limit:
                self.close()
                self._on_exceeded()
            elif usage >= self._mark:
                self._mark = max(self._limit + spared, usage + self._step)
                self._set_mark()
                if self._version == 2:
                    self._loop.later(_LOWER_AFTER_S, self._lower)
        except OSError:
            # The sandbox is going away; the hard limit stands in any case.
            self.close()

    def _lower(self) -> None:
        """v2: bring a raised mark down again when files have been deleted (v1 keeps every mark it ever set)."""
        if self._fd < 0 or self._mark == self._limit:
            return
        with contextlib.suppress(OSError):
            usage, spared = self._measure()
            wanted = max(self._limit + spared, self._limit)
            if wanted < self._mark - self._step and usage < wanted:
                self._mark = wanted
                self._set_mark()
            self._loop.later(_LOWER_AFTER_S, self._lower)

    def _measure(self) -> tuple[int, int]:
        """(bytes charged, of which files in /tmp and cache that can be dropped: pages of files, names and inodes)."""
        usage = self._usage()
        wanted = _CACHE[self._version]
        spared = 0
        with open(f"{self._directory}/memory.stat", "rb") as f:
            for line in f:
                name, _, value = line.partition(b" ")
                if name in wanted:
                    spared += int(value)
        if self._version == 1:
            spared += max(0, self._kernel_memory() - _KERNEL_SHARE)
        files = os.statvfs(self._tmp)
        return usage, spared + (files.f_blocks - files.f_bfree) * files.f_frsize

    def _kernel_memory(self) -> int:
        """v1 does not tell names and inodes, which the kernel drops when it must, from the rest of its memory."""
        with contextlib.suppress(OSError, ValueError), open(f"{self._directory}/memory.kmem.usage_in_bytes", "rb") as f:
            return int(f.read())
        return 0

    def _usage(self) -> int:
        with open(f"{self._directory}/memory.{'usage_in_bytes' if self._version == 1 else 'current'}", "rb") as f:
            return int(f.read())
