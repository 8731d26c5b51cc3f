"""Landlock as the worker's second fence around its files: read and execute anywhere, write only where told.

The rule for reading stands on ``/``, not on ``/var/task`` or ``/opt``: code is mounted there after the worker has locked itself
down, and Landlock does not look at a directory hidden under a mount. What is visible at all is decided by the mount namespace.
Python 3.9, standard library.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from engine.sandbox import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
# Rights the kernel handles, by ABI version (1: 13 of them, 2: rename across directories, 3: truncate, 5: device ioctls).
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
# ABI 6: abstract Unix sockets and signals stay inside.
_SCOPED = 3


def version() -> int:
    """ABI version of this kernel. Raises OSError where Landlock is absent or disabled."""
    return kernel.landlock_create(b"", 1)


def restrict(writable: Sequence[str], devices: Sequence[str]) -> None:
    """Confine this process: all of ``/`` to read, ``writable`` directories and files to do anything, ``devices`` to read and write.

    Paths that do not exist are skipped. Needs no_new_privs. Raises OSError.
    """
    abi = version()
    handled = _HANDLED[max(v for v in _HANDLED if v <= abi)]
    attributes = struct.pack("QQQ", handled, 0, _SCOPED if abi >= 6 else 0)
    ruleset = kernel.landlock_create(attributes if abi >= 6 else attributes[: 16 if abi >= 4 else 8])
    try:
        _allow(ruleset, "/", _READ)
        for path in writable:
            _allow(ruleset, path, handled if os.path.isdir(path) else handled & _OF_FILES)
        for path in devices:
            _allow(ruleset, path, handled & _OF_FILES)
        kernel.landlock_restrict(ruleset)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        kernel.landlock_allow(ruleset, access, fd)
    finally:
        os.close(fd)
