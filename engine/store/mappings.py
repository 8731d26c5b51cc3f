"""Event source mappings in the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from engine.store.api import EventSourceMapping
from engine.store.database import Database
from engine.store.schema import event_source_checkpoints as checkpoints
from engine.store.schema import event_source_mappings as table


class SqlMappingStore:
    """``MappingStore`` on a ``Database``."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writer = database.writer

    def get(self, mapping: str) -> EventSourceMapping | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(table).where(table.c.mapping == mapping)).one_or_none()
        return None if row is None else _mapping(row)

    def everything(self) -> list[EventSourceMapping]:
        with self._reading.connect() as connection:
            return [_mapping(row) for row in connection.execute(select(table).order_by(table.c.mapping))]

    async def put(self, mapping: EventSourceMapping) -> None:
        def job(connection: Connection) -> None:
            connection.execute(delete(table).where(table.c.mapping == mapping.mapping))
            connection.execute(insert(table).values(**mapping._asdict()))

        await self._writer.write(job)

    async def delete(self, mapping: str) -> None:
        def job(connection: Connection) -> None:
            connection.execute(delete(checkpoints).where(checkpoints.c.mapping == mapping))
            connection.execute(delete(table).where(table.c.mapping == mapping))

        await self._writer.write(job)

    def checkpoints(self, mapping: str) -> dict[str, Mapping[str, Any]]:
        with self._reading.connect() as connection:
            rows = connection.execute(select(checkpoints).where(checkpoints.c.mapping == mapping))
            return {row.shard: row.document for row in rows}

    async def remember(self, changes: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> None:
        def job(connection: Connection) -> None:
            for mapping, shards in changes.items():
                if connection.execute(select(table.c.mapping).where(table.c.mapping == mapping)).first() is None:
                    continue
                connection.execute(delete(checkpoints).where(checkpoints.c.mapping == mapping, checkpoints.c.shard.in_(list(shards))))
                rows = [{"mapping": mapping, "shard": k, "document": v} for k, v in shards.items() if v is not None]
                if rows:
                    connection.execute(insert(checkpoints), rows)

        await self._writer.write(job)


def _mapping(row: Row[Any]) -> EventSourceMapping:
    return EventSourceMapping(row.mapping, row.account, row.revision, row.document, row.tags)
