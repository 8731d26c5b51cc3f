"""What must be looked for, because nothing tells of it: kernel memory that no control group counts, and memory whose mark stayed silent.

Functions may have netlink sockets of the routing family, for that is how programs learn their network interfaces. What the kernel answers there
waits in memory that it charges to nobody, some 200 KiB a socket; with a thousand descriptors in each of a thousand processes a function of 128 MB
could hold all that the host has. So every second each sandbox's sockets are counted, by one read of an open file of the kernel's; only where
there are many, what waits in them is added up, and over the limit the function is out of memory. A fifth of the memory watches is asked with it, and
locks on files are looked for (``locks``); where no group counts memory, what a sandbox's processes use together is added up (``sums``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

from engine.sandbox import sums
from engine.sandbox.locks import LockWatch
from engine.sandbox.peers import Loop
from engine.sandbox.record import Holder

EVERY_S = 1.0
# A memory watch is asked by every fifth look only: it reads two files and is nearly always told in time.
_TURNS = 5
# So many cannot hold the limit.
MANY = 100
LIMIT = 32 << 20
_RECEIVED, _SENT = 4, 5


class QueueWatch:
    """Looks into all sandboxes while there are any. ``holders`` is the broker's table; ``on_exceeded`` is called each time one is over.

    ``networks``: each sandbox has its own. In the host's it cannot be told whose sockets they are, and nobody is held to account for another's.
    """

    def __init__(self, loop: Loop, holders: Mapping[int, Holder], on_exceeded: Callable[[Holder], None], *, networks: bool = True) -> None:
        self._loop = loop
        self._holders = holders
        self._on_exceeded = on_exceeded
        self._networks = networks
        self._locks = LockWatch()
        self._looking = False
        self._turn = 0

    def begin(self) -> None:
        """There is one that has a function."""
        if not self._looking:
            self._looking = True
            self._loop.later(EVERY_S, self._look)

    def _look(self) -> None:
        self._looking = False
        self._turn += 1
        for holder in list(self._holders.values()):
            if holder.memory == (0, 0) or not holder.init_pid or holder.dying:
                continue
            self.begin()
            in_turn = (holder.id + self._turn) % _TURNS == 0
            if holder.watch is not None and in_turn:
                holder.watch.check()
            if holder.data_limit and (in_turn or not holder.stopped):
                with contextlib.suppress(OSError):
                    if sums.over(holder.init_pid, holder.data_limit):
                        self._on_exceeded(holder)
            if not self._networks:
                continue
            with contextlib.suppress(OSError, ValueError):
                if _sockets(holder) > MANY and waiting(holder.init_pid) > LIMIT:
                    self._on_exceeded(holder)
        with contextlib.suppress(OSError):
            for holder in self._locks.over(h for h in self._holders.values() if h.init_pid and not h.dying):
                self._on_exceeded(holder)


def _sockets(holder: Holder) -> int:
    """How many there are in its network namespace, of any family. Raises OSError when it is gone."""
    if holder.net is not None:
        return int(os.pread(holder.net.sockets, 64, 0).split(None, 3)[2])
    if holder.sockets < 0:
        holder.sockets = os.open(f"/proc/{holder.init_pid}/net/sockstat", os.O_RDONLY | os.O_CLOEXEC)
    return int(os.pread(holder.sockets, 64, 0).split(None, 3)[2])


def waiting(pid: int) -> int:
    """Bytes in the netlink sockets of a process's network namespace. Raises OSError when it is gone."""
    total = 0
    with open(f"/proc/{pid}/net/netlink", "rb") as f:
        next(f, None)
        for line in f:
            columns = line.split()
            total += int(columns[_RECEIVED]) + int(columns[_SENT])
    return total
