"""How many descriptors this process may still have.

Who runs out of them in the middle of something can do next to nothing well: a packet arrives without what it brings, files that tell a sandbox's
memory cannot be read. So whoever makes what keeps descriptors asks before, and some are kept for what is there already.

The kernel gives the lowest number that is free. As long as one near the limit is not in use there is no need to count, which reads a directory.
"""

from __future__ import annotations

import fcntl
import os
import resource

# Kept free; fewer where there are few.
_KEPT = 64
_SHARE = 6


def shortage(more: int = 0) -> str:
    """Why no more should be taken that keep descriptors, or nothing. ``more``: how many those being made will still take."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    mark = limit - more - min(_KEPT, limit // _SHARE)
    try:
        fcntl.fcntl(max(mark, 0), fcntl.F_GETFD)
    except OSError:
        return ""
    try:
        # One of them lists them.
        used = len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        used = limit
    return f"{used} of {limit} file descriptors are in use (ulimit -n)" if used > mark else ""


def raise_limit() -> None:
    """As many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
