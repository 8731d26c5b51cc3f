"""The data directory's lock: whoever writes there holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from engine.errors import ConfigurationError


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
