"""How SQLite and PostgreSQL are opened: one connection that writes, a few that read. Everything above speaks SQLAlchemy Core to either.

SQLite: WAL lets readers and the writer go on side by side, ``synchronous=FULL`` makes a commit mean that the data is on disk.
PostgreSQL: the writing connection holds an advisory lock for as long as it lives, so that two engines cannot share a schema; readers
see one snapshot per transaction, as in WAL.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from engine.errors import ConfigurationError

READERS = 8
BUSY_S = 5.0
# A burst of big events must not leave a big log file behind for ever.
WAL_LIMIT = 64 * 1024 * 1024
_DRIVER = "postgresql+psycopg"
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('lambda-engine ' || current_schema(), 0))"


class Engines(NamedTuple):
    """``name`` is for messages and holds no password."""

    writing: Engine
    reading: Engine
    name: str


def open_engines(where: Path | str) -> Engines:
    """Engines for a file of SQLite or, given as text, a PostgreSQL URL. Nothing but the file is touched yet.

    Raises ConfigurationError for a URL that cannot be one, a driver that is not installed, a file that cannot be made.
    """
    if isinstance(where, Path):
        _create_private(where)
        return Engines(_sqlite(where, writes=True, pool_size=1), _sqlite(where, writes=False, pool_size=READERS), str(where))
    url = _postgres_url(where)
    try:
        writing = create_engine(url, pool_size=1, max_overflow=0, pool_pre_ping=True)
        reading = create_engine(url, pool_size=READERS, max_overflow=0, pool_pre_ping=True, isolation_level="REPEATABLE READ")
    except ModuleNotFoundError as e:
        raise ConfigurationError("database_url names PostgreSQL, which needs the extra: pip install 'lambda-engine[postgres]'") from e
    event.listen(writing, "connect", _lock)
    event.listen(reading, "connect", _only_read)
    return Engines(writing, reading, url.render_as_string(hide_password=True))


def _postgres_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError("database_url is not a URL, e.g. postgresql://user:password@host:5432/database") from None
    if url.drivername not in ("postgresql", "postgres", _DRIVER):
        raise ConfigurationError(f"database_url begins with {url.drivername}://; only postgresql:// is supported beside SQLite's own file")
    return url.set(drivername=_DRIVER)


def _lock(connection: Any, _record: Any) -> None:
    """Raises ConfigurationError while another engine writes here; one that was killed may hold the lock for a moment more."""
    deadline_s = time.monotonic() + BUSY_S
    while True:
        got = connection.execute(_LOCK).fetchone()[0]
        connection.commit()
        if got:
            return
        if time.monotonic() > deadline_s:
            raise ConfigurationError("another engine uses this PostgreSQL schema; give each engine a database or a schema of its own")
        time.sleep(0.05)


def _only_read(connection: Any, _record: Any) -> None:
    connection.read_only = True


def _create_private(path: Path) -> None:
    """SQLite gives its side files the mode of the database, so that is set before anything is in it."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as e:
        raise ConfigurationError(f"cannot open the database {path}: {e.strerror}") from e


def _sqlite(path: Path, *, writes: bool, pool_size: int) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": BUSY_S},
        pool_size=pool_size,
        max_overflow=0,
        # Several times as fast as the standard library's, and most of what reading ten thousand functions costs.
        json_deserializer=msgspec.json.decode,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver's own idea of when a transaction begins would break savepoints.
        connection.isolation_level = None
        # Temporary files, which statements inside savepoints need, would be outside of the directories the control plane may write to.
        pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY", f"journal_size_limit={WAL_LIMIT}")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        if not writes:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
