"""One function's change as statements: only the rows that differ are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, insert, update

from engine.store.api import Alias, Attachment, Function, Version
from engine.store.references import refer, release
from engine.store.schema import aliases, attachments, functions, layer_uses, versions

K = TypeVar("K")
V = TypeVar("V")


def save(connection: Connection, before: Function | None, after: Function | None, now_ms: int) -> None:
    """One change, inside the writer's transaction. Raises ValueError when neither state is given."""
    function = after or before
    if function is None:
        raise ValueError("save: neither a former nor a new state was given")
    mine = _of(functions, function)
    if before is None and after is not None:
        connection.execute(insert(functions).values(**_function_row(after)))
    elif after is not None:
        connection.execute(update(functions).where(mine).values(**_function_row(after)))
    old = before.versions if before is not None else {}
    _save_versions(connection, function, old, after.versions if after is not None else {})
    _replace(
        connection, function, aliases, lambda key: aliases.c.alias == key, _alias_row,
        before.aliases if before is not None else {}, after.aliases if after is not None else {},
    )  # fmt: skip
    _replace(
        connection, function, attachments,
        lambda key: and_(attachments.c.kind == key.kind, attachments.c.qualifier == key.qualifier), _attachment_row,
        before.attached if before is not None else {}, after.attached if after is not None else {},
    )  # fmt: skip
    if after is None:
        connection.execute(delete(functions).where(mine))
    release(connection, {sha256 for v in old.values() for sha256 in (v.code_sha256, *v.layers)}, now_ms)


def _of(table: Table, function: Function) -> ColumnElement[bool]:
    return and_(table.c.account == function.account, table.c.name == function.name)


def _save_versions(connection: Connection, function: Function, old: Mapping[str, Version], new: Mapping[str, Version]) -> None:
    dropped = [v.ordinal for key, v in old.items() if new.get(key) != v]
    if dropped:
        for table in (layer_uses, versions):
            connection.execute(delete(table).where(_of(table, function), table.c.ordinal.in_(dropped)))
    for version in (v for key, v in new.items() if old.get(key) != v):
        refer(connection, version.code_sha256, version.code_size)
        connection.execute(insert(versions).values(**version_row(function, version)))
        _use_layers(connection, function, version)


def _use_layers(connection: Connection, function: Function, version: Version) -> None:
    sizes = dict(zip(version.layers, (layer["CodeSize"] for layer in version.config.get("Layers", ())), strict=True))
    for sha256, size in sizes.items():
        refer(connection, sha256, size)
        connection.execute(
            insert(layer_uses).values(account=function.account, name=function.name, ordinal=version.ordinal, sha256=sha256)
        )


def _replace(
    connection: Connection,
    function: Function,
    table: Table,
    where: Callable[[K], ColumnElement[bool]],
    row: Callable[[K, V], dict[str, Any]],
    old: Mapping[K, V],
    new: Mapping[K, V],
) -> None:
    for key, value in old.items():
        if new.get(key) != value:
            connection.execute(delete(table).where(_of(table, function), where(key)))
    for key, value in new.items():
        if old.get(key) != value:
            connection.execute(insert(table).values(account=function.account, name=function.name, **row(key, value)))


def _function_row(function: Function) -> dict[str, Any]:
    return {
        "account": function.account,
        "name": function.name,
        "created_ms": function.created_ms,
        "next_version": function.next_version,
        "tags": dict(function.tags),
    }


def version_row(function: Function, version: Version) -> dict[str, Any]:
    """The row of a version of ``function``."""
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
        "layers": list(version.layers),
    }


def _alias_row(name: str, alias: Alias) -> dict[str, Any]:
    return {
        "alias": name,
        "version": alias.version,
        "description": alias.description,
        "weights": dict(alias.weights),
        "revision_id": alias.revision_id,
    }


def _attachment_row(key: Attachment, document: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": key.kind, "qualifier": key.qualifier, "document": dict(document)}
