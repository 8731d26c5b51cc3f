"""Landlock as the worker's second fence around its files: write only where told.

Reading and executing are not its matter: what is visible at all is decided by the mount namespace, and the root itself may become another,
a container image's, after the worker has locked itself down. What may be written keeps its place in the rules wherever it is mounted.
Python 3.9, standard library.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING

from engine.sandbox import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
# Rights the kernel handles, by ABI version (1: 13 of them, 2: rename across directories, 3: truncate, 5: device ioctls).
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
# ABI 6: abstract Unix sockets and signals stay inside.
_SCOPED = 3
_HIGH = 64


def version() -> int:
    """ABI version of this kernel. Raises OSError where Landlock is absent or disabled."""
    return kernel.landlock_create(b"", 1)


class Ruleset:
    """``writable`` directories and files to do anything with, ``devices`` to write to, or directories of such. Paths that do not exist are skipped.

    ``writable`` are looked up by the process that is confined, where something of its own is mounted there; the others
    here, and their descriptors must still be open then. Raises OSError.
    """

    def __init__(self, writable: Sequence[str], devices: Sequence[str]) -> None:
        abi = version()
        handled = _HANDLED[max(v for v in _HANDLED if v <= abi)] & ~_READ
        packed = struct.pack("QQQ", handled, 0, _SCOPED if abi >= 6 else 0)
        self.attributes = packed if abi >= 6 else packed[: 16 if abi >= 4 else 8]
        self.writable = [(path, handled if os.path.isdir(path) else handled & _OF_FILES) for path in writable]
        self.opened = [(_out_of_the_way(fd), handled & _OF_FILES) for path in devices if (fd := _open(path)) >= 0]

    def restrict(self) -> None:
        """Confine this process. Needs no_new_privs. Raises OSError."""
        ruleset = kernel.landlock_create(self.attributes)
        try:
            for fd, access in self.opened:
                kernel.landlock_allow(ruleset, access, fd)
            for path, access in self.writable:
                fd = _open(path)
                if fd >= 0:
                    kernel.landlock_allow(ruleset, access, fd)
                    os.close(fd)
            kernel.landlock_restrict(ruleset)
        finally:
            os.close(ruleset)

    def close(self) -> None:
        """Give the descriptors back."""
        for fd, _ in self.opened:
            os.close(fd)


def prepare(writable: Sequence[str], devices: Sequence[str]) -> Callable[[], None]:
    """A function that confines its process, for forks of this one."""
    return Ruleset(writable, devices).restrict


def restrict(writable: Sequence[str], devices: Sequence[str]) -> None:
    """Confine this process."""
    ruleset = Ruleset(writable, devices)
    ruleset.restrict()
    ruleset.close()


def _open(path: str) -> int:
    """-1 when it is not there."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _out_of_the_way(fd: int) -> int:
    """The same under a number that no worker uses for something else."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    finally:
        os.close(fd)
