"""Layer versions in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, select, update

from engine.store.api import LayerVersion
from engine.store.database import Database
from engine.store.references import refer, release
from engine.store.schema import layer_versions, layers


class SqlLayerStore:
    """``LayerStore`` on a ``Database``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reading = database.reading
        self._writer = database.writer

    def get(self, account: str, name: str, version: int) -> LayerVersion | None:
        with self._reading.connect() as connection:
            return _read(connection, account, name, version)

    def everything(self, account: str, name: str | None = None) -> Iterator[LayerVersion]:
        query = select(layer_versions).where(layer_versions.c.account == account)
        if name is not None:
            query = query.where(layer_versions.c.name == name)
        with self._reading.connect() as connection:
            rows = connection.execute(query.order_by(layer_versions.c.name, layer_versions.c.version.desc())).all()
        return map(_layer, rows)

    async def publish(self, layer: LayerVersion) -> LayerVersion:
        try:
            return await self._writer.write(lambda connection: _publish(connection, layer))
        finally:
            self._database.layer_changes += 1

    async def amend(
        self, account: str, name: str, version: int, change: Callable[[LayerVersion | None], LayerVersion]
    ) -> LayerVersion:
        def job(connection: Connection) -> LayerVersion:
            after = change(_read(connection, account, name, version))
            connection.execute(
                update(layer_versions)
                .where(_is(account, name, version))
                .values(policy=list(after.policy), revision_id=after.revision_id)
            )
            return after

        return await self._writer.write(job)

    async def delete(self, account: str, name: str, version: int, now_ms: int) -> None:
        def job(connection: Connection) -> None:
            layer = _read(connection, account, name, version)
            if layer is not None:
                connection.execute(delete(layer_versions).where(_is(account, name, version)))
                release(connection, {layer.code_sha256}, now_ms)

        try:
            await self._writer.write(job)
        finally:
            self._database.layer_changes += 1


def _is(account: str, name: str, version: int) -> ColumnElement[bool]:
    table = layer_versions.c
    return and_(table.account == account, table.name == name, table.version == version)


def _read(connection: Connection, account: str, name: str, version: int) -> LayerVersion | None:
    row = connection.execute(select(layer_versions).where(_is(account, name, version))).one_or_none()
    return None if row is None else _layer(row)


def _publish(connection: Connection, layer: LayerVersion) -> LayerVersion:
    mine = and_(layers.c.account == layer.account, layers.c.name == layer.name)
    found = connection.execute(select(layers.c.next_version).where(mine)).scalar_one_or_none()
    number = found or 1
    if found is None:
        connection.execute(insert(layers).values(account=layer.account, name=layer.name, next_version=2))
    else:
        connection.execute(update(layers).where(mine).values(next_version=number + 1))
    made = replace(layer, version=number)
    refer(connection, made.code_sha256, made.code_size)
    connection.execute(insert(layer_versions).values(**_row(made)))
    return made


def _row(layer: LayerVersion) -> dict[str, Any]:
    # Column names are field names; lists are JSON, and an absent list is JSON null.
    row = {name: getattr(layer, name) for name in LayerVersion.__slots__}
    row["policy"] = list(layer.policy)
    return row


def _layer(row: Row[Any]) -> LayerVersion:
    members = {name: row._mapping[name] for name in LayerVersion.__slots__}
    for name in ("runtimes", "architectures", "policy"):
        if members[name] is not None:
            members[name] = tuple(members[name])
    return LayerVersion(**members)
