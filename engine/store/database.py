"""The SQLite database: one connection that writes, a few that read, and how they are set up.

WAL lets readers and the writer go on side by side; ``synchronous=FULL`` makes a commit mean that the data is on disk.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select

from engine.errors import ConfigurationError
from engine.store import schema
from engine.store.migrations import migrate
from engine.store.writer import Writer

READERS = 8
BUSY_MS = 5_000
# A burst of big events must not leave a big log file behind for ever.
WAL_LIMIT = 64 * 1024 * 1024


class Database:
    """An open database. ``close`` it. Raises ConfigurationError when it cannot be opened or is newer than this engine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _create_private(path)
        self._writing = _engine(path, writes=True, pool_size=1)
        self.reading = _engine(path, writes=False, pool_size=READERS)
        try:
            with self._writing.begin() as connection:
                migrate(connection, str(path))
        except Exception as e:
            self._dispose()
            if isinstance(e, ConfigurationError):
                raise
            raise ConfigurationError(f"cannot open the database {path}: {e}") from e
        self.writer = Writer(self._writing)

    def close(self) -> None:
        """Finish queued writes and close every connection. Idempotent."""
        self.writer.close()
        self._dispose()

    def secret(self, name: str) -> bytes:
        """32 random bytes kept under ``name``, made at the first call. Blocks."""

        def job(connection: Connection) -> str:
            key = f"secret:{name}"
            found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == key)).scalar_one_or_none()
            if found is None:
                found = secrets.token_hex(32)
                connection.execute(insert(schema.meta).values(key=key, value=found))
            return str(found)

        return bytes.fromhex(self.writer.submit(job).result())

    def _dispose(self) -> None:
        self.reading.dispose()
        self._writing.dispose()


def _create_private(path: Path) -> None:
    """SQLite gives its side files the mode of the database, so that is set before anything is in it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as e:
        raise ConfigurationError(f"cannot open the database {path}: {e.strerror}") from e


def _engine(path: Path, *, writes: bool, pool_size: int) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
        pool_size=pool_size,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver's own idea of when a transaction begins would break savepoints.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"journal_size_limit={WAL_LIMIT}"):
            connection.execute(f"PRAGMA {pragma}")
        if not writes:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
