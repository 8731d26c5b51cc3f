"""The durable queue of asynchronous invocations.

Theory of operation. Events that come, are done or are postponed are collected, and one write at a time carries all that has collected while the former was
committed: each of many pays for a row, not for a transaction. Who put an event in, or took one out, goes on when it is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, or_, select, tuple_, update

from engine.store.api import Backlog, Event, Queued
from engine.store.database import Database
from engine.store.schema import events

_Full = frozenset[tuple[str, str]]
_MEMBERS = Event.__slots__
# An event whose id is here already is here already: whoever was not answered may put it once more.
_INSERT = f"INSERT INTO events ({', '.join(_MEMBERS)}) VALUES ({', '.join('?' * len(_MEMBERS))}) ON CONFLICT DO NOTHING"  # noqa: S608 - names of ours
_DELETE = "DELETE FROM events WHERE request_id = ?"
_POSTPONE = "UPDATE events SET due_ms = ?, failures = ?, refusals = ?, lease_ms = NULL WHERE request_id = ?"
_LEASE = "UPDATE events SET lease_ms = ? WHERE request_id = ?"
_row = attrgetter(*_MEMBERS)
_columns = [events.c[name] for name in _MEMBERS]


class _Work:
    """What one write does, and who waits for it."""

    __slots__ = ("added", "done", "later", "waiting")

    def __init__(self) -> None:
        self.added: list[tuple[Any, ...]] = []
        self.done: list[tuple[Any, ...]] = []
        self.later: list[tuple[Any, ...]] = []
        self.waiting: list[asyncio.Future[None]] = []

    def run(self, connection: Connection) -> None:
        for statement, rows in ((_INSERT, self.added), (_DELETE, self.done), (_POSTPONE, self.later)):
            if rows:
                _many(connection, statement, rows)


class SqlEventQueue:
    """``EventQueue`` on a ``Database``; for one event loop."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writer = database.writer
        self._next = _Work()
        self._running: _Work | None = None

    async def enqueue(self, event: Event) -> None:
        await self.enqueue_all((event,))

    def enqueue_all(self, accepted: Sequence[Event]) -> asyncio.Future[None]:
        self._next.added.extend(map(_row, accepted))
        return self._written()

    async def claim(self, now_ms: int, lease_until_ms: int, limit: int, full: _Full) -> list[Event]:
        return await self._writer.write(lambda connection: _claim(connection, now_ms, lease_until_ms, limit, full))

    async def settle(self, request_id: str) -> None:
        self._next.done.append((request_id,))
        await self._written()

    async def postpone(self, event: Event) -> None:
        self._next.later.append((event.due_ms, event.failures, event.refusals, event.request_id))
        await self._written()

    async def release(self, now_ms: int) -> int:
        change = update(events).where(events.c.lease_ms.is_not(None)).values(lease_ms=None)
        early = update(events).where(events.c.first_ms > now_ms).values(due_ms=events.c.due_ms - events.c.first_ms + now_ms, first_ms=now_ms)

        def run(connection: Connection) -> int:
            connection.execute(early)
            return connection.execute(change).rowcount

        return await self._writer.write(run)

    def listed(self, account: str | None, function: str | None, limit: int) -> list[Queued]:
        query = select(events).order_by(events.c.first_ms, events.c.request_id).limit(limit)
        for column, wanted in ((events.c.account, account), (events.c.function, function)):
            if wanted is not None:
                query = query.where(column == wanted)
        with self._reading.connect() as connection:
            return [_queued(row) for row in connection.execute(query).all()]

    def find(self, request_id: str) -> Queued | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(events).where(events.c.request_id == request_id)).one_or_none()
        return None if row is None else _queued(row)

    async def hasten(self, request_ids: Sequence[str], now_ms: int) -> int:
        change = update(events).where(events.c.request_id.in_(request_ids), events.c.lease_ms.is_(None)).values(due_ms=now_ms)
        return await self._writer.write(lambda connection: connection.execute(change).rowcount)

    async def drop(self, request_ids: Sequence[str]) -> int:
        change = delete(events).where(events.c.request_id.in_(request_ids))
        return await self._writer.write(lambda connection: connection.execute(change).rowcount)

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

    def _written(self) -> asyncio.Future[None]:
        """Done when what was just added to the next write is on the disk."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._next.waiting.append(future)
        if self._running is None and len(self._next.waiting) == 1:
            # Whatever else comes in this turn of the loop goes with it.
            loop.call_soon(self._write, loop)
        return future

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        work = self._next
        if self._running is not None or not work.waiting:
            return
        self._next, self._running = _Work(), work
        self._writer.submit(work.run).add_done_callback(lambda done: self._back(loop, done))

    def _back(self, loop: asyncio.AbstractEventLoop, done: Future[None]) -> None:
        """In the writer's thread."""
        try:
            loop.call_soon_threadsafe(self._answer, loop, done)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return

    def _answer(self, loop: asyncio.AbstractEventLoop, done: Future[None]) -> None:
        work, self._running = self._running, None
        error = done.exception()
        for future in () if work is None else work.waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._write(loop)


def _not_in(full: _Full) -> ColumnElement[bool]:
    return tuple_(events.c.account, events.c.function).not_in(sorted(full))


def _claim(connection: Connection, now_ms: int, lease_until_ms: int, limit: int, full: _Full) -> list[Event]:
    query = select(*_columns).where(
        events.c.due_ms <= now_ms, or_(events.c.lease_ms.is_(None), events.c.lease_ms <= now_ms)
    )
    if full:
        query = query.where(_not_in(full))
    found = [Event(*row) for row in connection.execute(query.order_by(events.c.due_ms).limit(limit))]
    if found:
        _many(connection, _LEASE, [(lease_until_ms, event.request_id) for event in found])
    return found


def _many(connection: Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    """A statement for many rows at once, as the driver takes it: what SQLAlchemy does per row would cost more than the row."""
    qmark = connection.dialect.paramstyle == "qmark"
    connection.exec_driver_sql(statement if qmark else statement.replace("?", "%s"), rows)


def _queued(row: Row[Any]) -> Queued:
    return Queued(_event(row), row._mapping["lease_ms"] is not None)


def _event(row: Row[Any]) -> Event:
    return Event(**{name: row._mapping[name] for name in Event.__slots__})
