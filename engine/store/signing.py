"""Code signing configurations in the database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, select

from engine.store.api import CodeSigningConfig
from engine.store.database import Database
from engine.store.schema import code_signing_configs as table


class SqlSigningStore:
    """``SigningStore`` on a ``Database``."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writer = database.writer

    def get(self, account: str, config_id: str) -> CodeSigningConfig | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(table).where(_is(account, config_id))).one_or_none()
        return None if row is None else _config(row)

    def everything(self, account: str) -> list[CodeSigningConfig]:
        with self._reading.connect() as connection:
            rows = connection.execute(select(table).where(table.c.account == account).order_by(table.c.config_id)).all()
        return [_config(row) for row in rows]

    async def put(self, config: CodeSigningConfig) -> None:
        def job(connection: Connection) -> None:
            connection.execute(delete(table).where(_is(config.account, config.config_id)))
            connection.execute(insert(table).values(**config._asdict()))

        await self._writer.write(job)

    async def delete(self, account: str, config_id: str) -> None:
        await self._writer.write(lambda connection: connection.execute(delete(table).where(_is(account, config_id))).close())


def _is(account: str, config_id: str) -> ColumnElement[bool]:
    return and_(table.c.account == account, table.c.config_id == config_id)


def _config(row: Row[Any]) -> CodeSigningConfig:
    return CodeSigningConfig(row.account, row.config_id, row.document, row.tags)
