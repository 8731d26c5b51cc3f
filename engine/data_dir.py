"""The data directory: its lock, held by whoever writes there, and what its disk says when it is full."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from engine.errors import ConfigurationError

FULL = "No space is left on the disk of the engine's data directory."
# SQLite's words for it.
_FULL_DATABASE = "database or disk is full"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether this error, or one that it came of, is a full disk's."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if (isinstance(cause, OSError) and cause.errno in _FULL) or _FULL_DATABASE in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def make(data_dir: Path) -> None:
    """Create the directory, for its owner alone. Idempotent. Raises ConfigurationError when it cannot be made."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise ConfigurationError(f"data_dir {data_dir} cannot be used: {e.strerror}. Set --data-dir.") from e


@contextlib.contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Create the directory and hold its lock: two engines must not share one. Raises ConfigurationError when another holds it
    or when it cannot be made or written.
    """
    lock = data_dir / "engine.lock"
    make(data_dir)
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise ConfigurationError(f"data_dir {data_dir} cannot be used: {e.strerror}. Set --data-dir.") from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ConfigurationError(f"{data_dir} is in use by another engine (lock {lock})") from None
    try:
        yield
    finally:
        os.close(fd)
