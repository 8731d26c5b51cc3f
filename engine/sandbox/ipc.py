"""What System V leaves behind: shared memory, queues and semaphores belong to an ipc namespace and outlive every process in it.

A sandbox whose worker has ended keeps its namespaces for the next one, and with them a crashed function's memory, charged to it for ever.
Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import ctypes as C
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_REMOVE = 0
_libc = C.CDLL(None, use_errno=True)
# What /proc/sysvipc calls them, and how one is removed. The identifier is the second column.
_KINDS: tuple[tuple[str, Callable[[int], Any]], ...] = (
    ("shm", lambda number: _libc.shmctl(number, _REMOVE, None)),
    ("msg", lambda number: _libc.msgctl(number, _REMOVE, None)),
    ("sem", lambda number: _libc.semctl(number, 0, _REMOVE)),
)


def clear() -> None:
    """Remove all of them from this process's namespace, whose root it has to be. Where the kernel has none there is nothing to do."""
    for name, remove in _KINDS:
        with contextlib.suppress(OSError), open(f"/proc/sysvipc/{name}", "rb") as f:
            next(f, None)
            for number in [int(line.split(None, 2)[1]) for line in f]:
                remove(number)
