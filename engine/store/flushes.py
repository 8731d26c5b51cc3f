"""Writing a file system's data to its disk, once for all who wait for it: it is most of what a deployment waits for."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path


class Flushes:
    """Flushes of one file system, shared: whoever comes while one is under way needs the next, and so do all who come until that begins."""

    def __init__(self, flush: Callable[[Path], None] | None = None) -> None:
        """``flush`` is ``flush_file_system``."""
        self._flush = flush or flush_file_system
        self._turn = threading.Condition()
        self._begun = 0
        self._done = 0

    def flush(self, path: Path) -> None:
        """Everything written so far to the file system of ``path`` reaches the disk. Blocks."""
        with self._turn:
            wanted = self._begun + 1
            self._turn.wait_for(lambda: self._done >= wanted or self._done == self._begun)
            if self._done >= wanted:
                return
            self._begun += 1
        done = False
        try:
            self._flush(path)
            done = True
        finally:
            with self._turn:
                if done:
                    self._done += 1
                else:
                    # It was none: whoever waits for it does it over.
                    self._begun -= 1
                self._turn.notify_all()


def flush_file_system(path: Path) -> None:
    """Everything written below ``path`` reaches the disk before the rename that makes it visible."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        os.sync()
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc.syncfs(fd)
    finally:
        os.close(fd)
