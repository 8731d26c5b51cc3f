"""The VPCs that functions and attached servers are in, as they were last known: EC2's answers must not be needed to start again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select

from engine.store.database import Database
from engine.store.schema import vpcs


class SqlVpcStore:
    """Documents by VPC id."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writer = database.writer

    def everything(self) -> dict[str, dict[str, Any]]:
        """All of them. Blocks for a moment."""
        with self._reading.connect() as connection:
            return {row.vpc: dict(row.document) for row in connection.execute(select(vpcs)).all()}

    async def save(self, vpc: str, document: dict[str, Any] | None) -> None:
        """Replace a document, or forget it."""

        def job(connection: Connection) -> None:
            connection.execute(delete(vpcs).where(vpcs.c.vpc == vpc))
            if document is not None:
                connection.execute(insert(vpcs).values(vpc=vpc, document=document))

        await self._writer.write(job)
