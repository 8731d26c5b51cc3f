"""The open database: its schema brought up to date, its one writer, its readers."""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import Connection, insert, select

from engine.errors import ConfigurationError
from engine.store import schema
from engine.store.engines import open_engines
from engine.store.migrations import migrate
from engine.store.writer import Writer


class Database:
    """An open database. ``close`` it. Raises ConfigurationError when it cannot be opened or is newer than this engine."""

    def __init__(self, where: Path | str) -> None:
        """``where``: a file of SQLite, or the URL of a PostgreSQL database."""
        self._writing, self.reading, self.name = open_engines(where)
        try:
            with self._writing.begin() as connection:
                migrate(connection, self.name)
        except Exception as e:
            self._dispose()
            if isinstance(e, ConfigurationError):
                raise
            raise ConfigurationError(f"cannot open the database {self.name}: {e}") from e
        self.writer = Writer(self._writing)
        # How often layer versions came or went: what was summed up before is not true any more.
        self.layer_changes = 0

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
