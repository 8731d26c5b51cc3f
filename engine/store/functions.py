"""Functions and versions in the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, select, tuple_, update

from engine.store.api import Function, Listed, Position, Version
from engine.store.database import Database
from engine.store.schema import code, functions, versions


class SqlFunctionStore:
    """``FunctionStore`` on a ``Database``."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writer = database.writer

    def get(self, account: str, name: str) -> Function | None:
        with self._reading.connect() as connection:
            row = connection.execute(
                select(functions).where(functions.c.account == account, functions.c.name == name)
            ).one_or_none()
            return None if row is None else _function(connection, row)

    def everything(self) -> Iterator[Function]:
        with self._reading.connect() as connection:
            for row in connection.execute(select(functions).order_by(functions.c.account, functions.c.name)).all():
                yield _function(connection, row)

    def page(
        self, account: str, *, name: str | None, latest_only: bool, after: Position | None, limit: int
    ) -> list[Listed]:
        query = select(versions).where(versions.c.account == account)
        if name is not None:
            query = query.where(versions.c.name == name)
        if latest_only:
            query = query.where(versions.c.ordinal == 0)
        if after is not None:
            query = query.where(tuple_(versions.c.name, versions.c.ordinal) > tuple_(after.name, after.ordinal))
        with self._reading.connect() as connection:
            rows = connection.execute(query.order_by(versions.c.name, versions.c.ordinal).limit(limit)).all()
        return [Listed(row.name, _version(row)) for row in rows]

    def stored_bytes(self, account: str) -> int:
        with self._reading.connect() as connection:
            total = connection.execute(
                select(func.coalesce(func.sum(versions.c.code_size), 0)).where(versions.c.account == account)
            ).scalar_one()
        return int(total)

    async def save(self, before: Function | None, after: Function | None, now_ms: int) -> None:
        await self._writer.write(lambda connection: _save(connection, before, after, now_ms))


def _function(connection: Connection, row: Row[Any]) -> Function:
    found = connection.execute(
        select(versions)
        .where(versions.c.account == row.account, versions.c.name == row.name)
        .order_by(versions.c.ordinal)
    ).all()
    return Function(
        account=row.account,
        name=row.name,
        created_ms=row.created_ms,
        next_version=row.next_version,
        tags=row.tags,
        versions={v.version: _version(v) for v in found},
    )


def _version(row: Row[Any]) -> Version:
    return Version(
        version=row.version,
        config=row.config,
        code_sha256=row.code_sha256,
        code_size=row.code_size,
        revision_id=row.revision_id,
        last_modified_ms=row.last_modified_ms,
        generation=row.generation,
        fingerprint=row.fingerprint,
        preload=tuple(row.preload),
    )


def _save(connection: Connection, before: Function | None, after: Function | None, now_ms: int) -> None:
    """One change, inside the writer's transaction."""
    function = after or before
    if function is None:
        raise ValueError("save: neither a former nor a new state was given")
    mine = and_(functions.c.account == function.account, functions.c.name == function.name)
    old = before.versions if before is not None else {}
    new = after.versions if after is not None else {}
    if before is None and after is not None:
        connection.execute(insert(functions).values(**_function_row(after)))
    elif after is not None:
        connection.execute(update(functions).where(mine).values(**_function_row(after)))
    dropped = [v.ordinal for key, v in old.items() if new.get(key) != v]
    if dropped:
        connection.execute(
            delete(versions).where(
                versions.c.account == function.account, versions.c.name == function.name, versions.c.ordinal.in_(dropped)
            )
        )
    for version in (v for key, v in new.items() if old.get(key) != v):
        _refer_to(connection, version)
        connection.execute(insert(versions).values(**_version_row(function, version)))
    if after is None:
        connection.execute(delete(functions).where(mine))
    _release(connection, {v.code_sha256 for v in old.values()}, now_ms)


def _function_row(function: Function) -> dict[str, Any]:
    return {
        "account": function.account,
        "name": function.name,
        "created_ms": function.created_ms,
        "next_version": function.next_version,
        "tags": dict(function.tags),
    }


def _version_row(function: Function, version: Version) -> dict[str, Any]:
    return {
        "account": function.account,
        "name": function.name,
        "ordinal": version.ordinal,
        "version": version.version,
        "config": dict(version.config),
        "code_sha256": version.code_sha256,
        "code_size": version.code_size,
        "revision_id": version.revision_id,
        "last_modified_ms": version.last_modified_ms,
        "generation": version.generation,
        "fingerprint": version.fingerprint,
        "preload": list(version.preload),
    }


def _refer_to(connection: Connection, version: Version) -> None:
    """The package has a user: a row exists and says so."""
    known = connection.execute(
        update(code).where(code.c.sha256 == version.code_sha256).values(released_ms=None)
    ).rowcount
    if not known:
        connection.execute(insert(code).values(sha256=version.code_sha256, size=version.code_size, released_ms=None))


def _release(connection: Connection, hashes: set[str], now_ms: int) -> None:
    """Note since when packages have no user. Which version used them does not matter: the rows are the reference count."""
    if hashes:
        connection.execute(
            update(code)
            .where(
                code.c.sha256.in_(hashes),
                code.c.released_ms.is_(None),
                ~exists().where(versions.c.code_sha256 == code.c.sha256),
            )
            .values(released_ms=now_ms)
        )
