"""One function's change as statements: only the rows that differ are written.

The statements are built once: building and hashing one costs SQLAlchemy several times what SQLite needs to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, Delete, Table, bindparam, delete, insert, update

from engine.store.api import Alias, Attachment, Function, Version
from engine.store.references import refer, release
from engine.store.schema import aliases, attachments, functions, layer_uses, versions

K = TypeVar("K")
V = TypeVar("V")
# Parameters of conditions; SQLAlchemy wants other names than those of the columns that are written.
_ACCOUNT, _NAME, _ORDINAL = "of_account", "of_name", "of_ordinal"


def _of(table: Table) -> Any:
    return (table.c.account == bindparam(_ACCOUNT)) & (table.c.name == bindparam(_NAME))


_INSERT = {table: insert(table) for table in (functions, versions, layer_uses, aliases, attachments)}
_UPDATE_FUNCTION = update(functions).where(_of(functions))
_UPDATE_VERSION = update(versions).where(_of(versions), versions.c.ordinal == bindparam(_ORDINAL))
_DELETE_FUNCTION = delete(functions).where(_of(functions))
_DELETE_VERSION = delete(versions).where(_of(versions), versions.c.ordinal == bindparam(_ORDINAL))
_DELETE_LAYER_USES = delete(layer_uses).where(_of(layer_uses), layer_uses.c.ordinal == bindparam(_ORDINAL))
_DELETE_ALIAS = delete(aliases).where(_of(aliases), aliases.c.alias == bindparam("of_alias"))
_DELETE_ATTACHMENT = delete(attachments).where(
    _of(attachments), attachments.c.kind == bindparam("of_kind"), attachments.c.qualifier == bindparam("of_qualifier")
)


def save(connection: Connection, before: Function | None, after: Function | None, now_ms: int) -> None:
    """One change, inside the writer's transaction. Raises ValueError when neither state is given."""
    function = after or before
    if function is None:
        raise ValueError("save: neither a former nor a new state was given")
    mine = {_ACCOUNT: function.account, _NAME: function.name}
    if before is None and after is not None:
        connection.execute(_INSERT[functions], _function_row(after))
    elif before is not None and after is not None and _function_row(before) != (row := _function_row(after)):
        connection.execute(_UPDATE_FUNCTION, {**mine, **row})
    old, new = before.versions if before is not None else {}, after.versions if after is not None else {}
    _save_versions(connection, function, old, new)
    _replace(
        connection, function, aliases, _DELETE_ALIAS, lambda key: {"of_alias": key}, _alias_row,
        before.aliases if before is not None else {}, after.aliases if after is not None else {},
    )  # fmt: skip
    _replace(
        connection, function, attachments, _DELETE_ATTACHMENT,
        lambda key: {"of_kind": key.kind, "of_qualifier": key.qualifier}, _attachment_row,
        before.attached if before is not None else {}, after.attached if after is not None else {},
    )  # fmt: skip
    if after is None:
        connection.execute(_DELETE_FUNCTION, mine)
    release(connection, _packages(old) - _packages(new), now_ms)


def _packages(of: Mapping[str, Version]) -> set[str]:
    return {sha256 for v in of.values() for sha256 in (v.code_sha256, *v.layers)}


def _save_versions(connection: Connection, function: Function, old: Mapping[str, Version], new: Mapping[str, Version]) -> None:
    for key, version in old.items():
        if key not in new:
            at = {_ACCOUNT: function.account, _NAME: function.name, _ORDINAL: version.ordinal}
            connection.execute(_DELETE_LAYER_USES, at)
            connection.execute(_DELETE_VERSION, at)
    for key, version in new.items():
        former = old.get(key)
        if former == version:
            continue
        row = version_row(function, version)
        # What has no bytes is a container image, which is not kept among the packages.
        if version.code_size and (former is None or former.code_sha256 != version.code_sha256):
            refer(connection, version.code_sha256, version.code_size)
        if former is None:
            connection.execute(_INSERT[versions], row)
        else:
            at = {_ACCOUNT: function.account, _NAME: function.name, _ORDINAL: version.ordinal}
            connection.execute(_UPDATE_VERSION, {**at, **row})
            if former.layers != version.layers:
                connection.execute(_DELETE_LAYER_USES, at)
        if version.layers and (former is None or former.layers != version.layers):
            _use_layers(connection, function, version)


def _use_layers(connection: Connection, function: Function, version: Version) -> None:
    sizes = dict(zip(version.layers, (layer["CodeSize"] for layer in version.config.get("Layers", ())), strict=True))
    for sha256, size in sizes.items():
        refer(connection, sha256, size)
        row = {"account": function.account, "name": function.name, "ordinal": version.ordinal, "sha256": sha256}
        connection.execute(_INSERT[layer_uses], row)


def _replace(
    connection: Connection,
    function: Function,
    table: Table,
    removal: Delete,
    where: Callable[[K], dict[str, Any]],
    row: Callable[[K, V], dict[str, Any]],
    old: Mapping[K, V],
    new: Mapping[K, V],
) -> None:
    for key, value in old.items():
        if new.get(key) != value:
            connection.execute(removal, {_ACCOUNT: function.account, _NAME: function.name, **where(key)})
    for key, value in new.items():
        if old.get(key) != value:
            connection.execute(_INSERT[table], {"account": function.account, "name": function.name, **row(key, value)})


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
