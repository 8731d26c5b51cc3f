"""Who refers to a package: the rows are the reference count.

A package is kept while a version of a function has it as its code or as one of its layers, or a layer version holds it.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, and_, bindparam, exists, insert, update

from engine.store.schema import code, layer_uses, layer_versions, versions


def unused() -> ColumnElement[bool]:
    """Condition on a row of ``code``: nobody refers to the package."""
    return and_(
        ~exists().where(versions.c.code_sha256 == code.c.sha256),
        ~exists().where(layer_versions.c.code_sha256 == code.c.sha256),
        ~exists().where(layer_uses.c.sha256 == code.c.sha256),
    )


# Built once, as in ``saving``.
_TAKE = update(code).where(code.c.sha256 == bindparam("of_sha256")).values(released_ms=None)
_ADD = insert(code)
_RELEASE = update(code).where(code.c.sha256 == bindparam("of_sha256"), code.c.released_ms.is_(None), unused())


def refer(connection: Connection, sha256: str, size: int) -> None:
    """The package has a user: a row exists and says so."""
    known = connection.execute(_TAKE, {"of_sha256": sha256}).rowcount
    if not known:
        connection.execute(_ADD, {"sha256": sha256, "size": size, "released_ms": None})


def release(connection: Connection, hashes: Collection[str], now_ms: int) -> None:
    """Note since when packages have no user, for those that have none."""
    for sha256 in hashes:
        connection.execute(_RELEASE, {"of_sha256": sha256, "released_ms": now_ms})
