"""Control files that stay open: opening one costs several times what reading or writing it does, and most are used several times in each sandbox's life.

A group that goes on to the next sandbox takes its open files along. Only so many groups have any; the one that has had them for longest closes its own for
another's, and opens them again when it needs them.
"""

from __future__ import annotations

import os
import resource

_MOST = 512
# Of all descriptors that the process may have, one in so many is a group's with open files, of which there are a dozen.
_SHARE = 64


class Shelf:
    """Whose files are open, first come first."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most or min(_MOST, max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE))
        self._opened: dict[Files, None] = {}

    def begin(self, files: Files) -> None:
        """These are open from now on."""
        self._opened[files] = None
        if len(self._opened) > self._most:
            next(iter(self._opened)).close()

    def end(self, files: Files) -> None:
        """These are closed."""
        self._opened.pop(files, None)


class Files:
    """Those of one group, by path. Each path has one way of being opened."""

    __slots__ = ("_fds", "_shelf")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._fds: dict[str, int] = {}

    def descriptor(self, path: str, flags: int) -> int:
        """Stays this object's, and open until its group is removed or another one's files are opened. Raises OSError."""
        fd = self._fds.get(path)
        if fd is None:
            if not self._fds:
                self._shelf.begin(self)
            fd = self._fds[path] = os.open(path, flags | os.O_CLOEXEC)
        return fd

    def write(self, path: str, data: bytes, flags: int = os.O_WRONLY) -> None:
        """Write once, from the beginning. Raises OSError."""
        fd = self._fds.get(path)
        os.pwrite(self.descriptor(path, flags) if fd is None else fd, data, 0)

    def read(self, path: str, most: int = 512, flags: int = os.O_RDONLY) -> bytes:
        """The first bytes as they are now. Raises OSError."""
        fd = self._fds.get(path)
        return os.pread(self.descriptor(path, flags) if fd is None else fd, most, 0)

    def close(self) -> None:
        """Close all; what is needed again is opened again."""
        self._shelf.end(self)
        while self._fds:
            os.close(self._fds.popitem()[1])
