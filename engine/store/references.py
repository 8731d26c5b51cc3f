"""Who refers to a package: the rows are the reference count.

A package is kept while a version of a function has it as its code or as one of its layers, or a layer version holds it.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, and_, exists, insert, update

from engine.store.schema import code, layer_uses, layer_versions, versions


def unused() -> ColumnElement[bool]:
    """Condition on a row of ``code``: nobody refers to the package."""
    return and_(
        ~exists().where(versions.c.code_sha256 == code.c.sha256),
        ~exists().where(layer_versions.c.code_sha256 == code.c.sha256),
        ~exists().where(layer_uses.c.sha256 == code.c.sha256),
    )


def refer(connection: Connection, sha256: str, size: int) -> None:
    """The package has a user: a row exists and says so."""
    known = connection.execute(update(code).where(code.c.sha256 == sha256).values(released_ms=None)).rowcount
    if not known:
        connection.execute(insert(code).values(sha256=sha256, size=size, released_ms=None))


def release(connection: Connection, hashes: Collection[str], now_ms: int) -> None:
    """Note since when packages have no user, for those that have none."""
    if hashes:
        connection.execute(
            update(code).where(code.c.sha256.in_(hashes), code.c.released_ms.is_(None), unused()).values(released_ms=now_ms)
        )
