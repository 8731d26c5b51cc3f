"""The durable queue of asynchronous invocations.

Theory of operation. Events that come, are done or are postponed are collected, and one write at a time carries all that has collected while the former was
committed: each of many pays for a row, not for a transaction. Who put an event in, or took one out, goes on when it is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, or_, select, text, tuple_, update

from engine.store.api import Backlog, Event, Queued
from engine.store.database import Database
from engine.store.schema import events

_Full = frozenset[tuple[str, str]]
_MEMBERS = Event.__slots__
# An event whose id is here already is here already: whoever was not answered may put it once more.
_INSERT = text(
    f"INSERT INTO events ({', '.join(_MEMBERS)}) VALUES ({', '.join(f':{name}' for name in _MEMBERS)}) ON CONFLICT DO NOTHING"  # noqa: S608 - names of ours
)
_DELETE = delete(events).where(events.c.request_id == bindparam("id"))
_POSTPONE = (
    update(events)
    .where(events.c.request_id == bindparam("id"))
    .values(due_ms=bindparam("due"), failures=bindparam("failed"), refusals=bindparam("refused"), lease_ms=None)
)


class _Work:
    """What one write does, and who waits for it."""

    __slots__ = ("added", "done", "later", "waiting")

    def __init__(self) -> None:
        self.added: list[dict[str, Any]] = []
        self.done: list[dict[str, Any]] = []
        self.later: list[dict[str, Any]] = []
        self.waiting: list[asyncio.Future[None]] = []

    def run(self, connection: Connection) -> None:
        if self.added:
            connection.execute(_INSERT, self.added)
        if self.done:
            connection.execute(_DELETE, self.done)
        if self.later:
            connection.execute(_POSTPONE, self.later)


class SqlEventQueue:
    """``EventQueue`` on a ``Database``; for one event loop."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writer = database.writer
        self._next = _Work()
        self._running: _Work | None = None

    async def enqueue(self, event: Event) -> None:
        self._next.added.append({name: getattr(event, name) for name in _MEMBERS})
        await self._written()

    async def claim(self, now_ms: int, lease_until_ms: int, limit: int, full: _Full) -> list[Event]:
        return await self._writer.write(lambda connection: _claim(connection, now_ms, lease_until_ms, limit, full))

    async def settle(self, request_id: str) -> None:
        self._next.done.append({"id": request_id})
        await self._written()

    async def postpone(self, event: Event) -> None:
        self._next.later.append({"id": event.request_id, "due": event.due_ms, "failed": event.failures, "refused": event.refusals})
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


def _queued(row: Row[Any]) -> Queued:
    return Queued(_event(row), row._mapping["lease_ms"] is not None)


def _event(row: Row[Any]) -> Event:
    return Event(**{name: row._mapping[name] for name in Event.__slots__})
