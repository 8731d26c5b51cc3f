"""Functions in the database: versions, aliases and attached documents are rows of their own, read and written with their function."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, Table, and_, bindparam, func, select, tuple_

from engine.store.api import Alias, Attachment, Function, Listed, Position, Version
from engine.store.database import Database
from engine.store.saving import save
from engine.store.schema import aliases, attachments, functions, layer_versions, versions

_Key = tuple[str, str]


def _sum(table: Table) -> Select[Any]:
    return select(func.coalesce(func.sum(table.c.code_size), 0)).where(table.c.account == bindparam("of_account"))


_IN_ORDER = select(versions).order_by(versions.c.account, versions.c.name, versions.c.ordinal)
_VERSION_BYTES, _LAYER_BYTES = _sum(versions), _sum(layer_versions)


class SqlFunctionStore:
    """``FunctionStore`` on a ``Database``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reading = database.reading
        self._writer = database.writer
        # As of a number of changes, by account.
        self._layer_bytes: tuple[int, dict[str, int]] = (0, {})

    def get(self, account: str, name: str) -> Function | None:
        with self._reading.connect() as connection:

            def mine(table: Table) -> Select[Any]:
                return select(table).where(table.c.account == account, table.c.name == name)

            row = connection.execute(mine(functions)).one_or_none()
            if row is None:
                return None
            parts = _Parts(*(connection.execute(mine(table)).all() for table in (versions, aliases, attachments)))
            return _function(row, parts)

    def everything(self) -> Iterator[Function]:
        with self._reading.connect() as connection:
            found = connection.execute(select(functions).order_by(functions.c.account, functions.c.name)).all()
            # Four statements, however many functions there are, and rows by position: the start waits for this.
            of_all: defaultdict[_Key, dict[str, Version]] = defaultdict(dict)
            row: Any
            for row in connection.execute(_IN_ORDER):
                account, name, _, version, config, sha256, size, revision, modified_ms, generation, fingerprint, preload, layers = row
                of_all[account, name][version] = Version(
                    version, config, sha256, size, revision, modified_ms, generation, fingerprint, tuple(preload), tuple(layers)
                )
            parts = [_by_function(connection, table) for table in (aliases, attachments)]
        for row in found:
            key = row.account, row.name
            yield _whole(row, of_all[key], *(part.get(key, ()) for part in parts))

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
        return self._bytes(_VERSION_BYTES, account) + self.layer_bytes(account)

    def layer_bytes(self, account: str) -> int:
        changes = self._database.layer_changes
        found = self.known_layer_bytes(account)
        if found is None:
            found = self._bytes(_LAYER_BYTES, account)
            as_of, sums = self._layer_bytes
            self._layer_bytes = (changes, {**(sums if as_of == changes else {}), account: found})
        return found

    def known_layer_bytes(self, account: str) -> int | None:
        as_of, sums = self._layer_bytes
        return sums.get(account) if as_of == self._database.layer_changes else None

    def _bytes(self, query: Select[Any], account: str) -> int:
        with self._reading.connect() as connection:
            return int(connection.execute(query, {"of_account": account}).scalar_one())

    def count(self, account: str) -> int:
        with self._reading.connect() as connection:
            query = select(func.count()).select_from(functions).where(functions.c.account == account)
            return int(connection.execute(query).scalar_one())

    def attached(self, account: str, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
        query = select(attachments).where(and_(attachments.c.kind == kind, attachments.c.account == account))
        with self._reading.connect() as connection:
            rows = connection.execute(query.order_by(attachments.c.name, attachments.c.qualifier)).all()
        return {(row.name, row.qualifier): row.document for row in rows}

    async def save(self, before: Function | None, after: Function | None, now_ms: int) -> None:
        await self._writer.write(lambda connection: save(connection, before, after, now_ms))


class _Parts(NamedTuple):
    """Rows of one function."""

    versions: Iterable[Row[Any]]
    aliases: Iterable[Row[Any]]
    attachments: Iterable[Row[Any]]


def _by_function(connection: Connection, table: Table) -> dict[_Key, list[Row[Any]]]:
    found: defaultdict[_Key, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(select(table)):
        found[row.account, row.name].append(row)
    return found


def _function(row: Row[Any], parts: _Parts) -> Function:
    found = {v.version: _version(v) for v in sorted(parts.versions, key=lambda v: v.ordinal)}
    return _whole(row, found, parts.aliases, parts.attachments)


def _whole(row: Any, of_it: dict[str, Version], its_aliases: Iterable[Row[Any]], attached: Iterable[Row[Any]]) -> Function:
    account, name, created_ms, next_version, tags = row
    return Function(
        account,
        name,
        created_ms,
        next_version,
        tags,
        of_it,
        {a.alias: Alias(a.alias, a.version, a.description, a.revision_id, a.weights) for a in its_aliases},
        {Attachment(a.kind, a.qualifier): a.document for a in attached},
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
        layers=tuple(row.layers),
    )
