"""The durable queue of asynchronous invocations."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, or_, select, tuple_, update

from engine.store.api import Backlog, Event
from engine.store.database import Database
from engine.store.schema import events

_Full = frozenset[tuple[str, str]]


class SqlEventQueue:
    """``EventQueue`` on a ``Database``."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writer = database.writer

    async def enqueue(self, event: Event) -> None:
        row = {name: getattr(event, name) for name in Event.__slots__}
        await self._writer.write(lambda connection: connection.execute(insert(events).values(**row)).close())

    async def claim(self, now_ms: int, lease_until_ms: int, limit: int, full: _Full) -> list[Event]:
        return await self._writer.write(lambda connection: _claim(connection, now_ms, lease_until_ms, limit, full))

    async def settle(self, request_id: str) -> None:
        await self._writer.write(
            lambda connection: connection.execute(delete(events).where(events.c.request_id == request_id)).close()
        )

    async def postpone(self, event: Event) -> None:
        change = (
            update(events)
            .where(events.c.request_id == event.request_id)
            .values(due_ms=event.due_ms, failures=event.failures, refusals=event.refusals, lease_ms=None)
        )
        await self._writer.write(lambda connection: connection.execute(change).close())

    async def release(self, now_ms: int) -> int:
        change = update(events).where(events.c.lease_ms.is_not(None)).values(lease_ms=None)
        early = update(events).where(events.c.first_ms > now_ms).values(due_ms=events.c.due_ms - events.c.first_ms + now_ms, first_ms=now_ms)

        def run(connection: Connection) -> int:
            connection.execute(early)
            return connection.execute(change).rowcount

        return await self._writer.write(run)

    def next_due_ms(self, full: _Full) -> int | None:
        query = select(events.c.due_ms).where(events.c.lease_ms.is_(None)).order_by(events.c.due_ms).limit(1)
        if full:
            query = query.where(_not_in(full))
        with self._reading.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    def backlog(self) -> Backlog:
        with self._reading.connect() as connection:
            depth, oldest = connection.execute(select(func.count(), func.min(events.c.first_ms)).select_from(events)).one()
        return Backlog(depth, oldest)


def _not_in(full: _Full) -> ColumnElement[bool]:
    return tuple_(events.c.account, events.c.function).not_in(sorted(full))


def _claim(connection: Connection, now_ms: int, lease_until_ms: int, limit: int, full: _Full) -> list[Event]:
    query = select(events).where(
        events.c.due_ms <= now_ms, or_(events.c.lease_ms.is_(None), events.c.lease_ms <= now_ms)
    )
    if full:
        query = query.where(_not_in(full))
    found = [_event(row) for row in connection.execute(query.order_by(events.c.due_ms).limit(limit)).all()]
    if found:
        taken = [event.request_id for event in found]
        connection.execute(update(events).where(events.c.request_id.in_(taken)).values(lease_ms=lease_until_ms))
    return found


def _event(row: Row[Any]) -> Event:
    return Event(**{name: row._mapping[name] for name in Event.__slots__})
