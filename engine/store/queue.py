"""The durable queue of asynchronous invocations.

Theory of operation. What waits is found by function: the events of one are not looked through for those of another, however many there are. Which
functions have any, and from when on, is known in memory, no later than it is true; a claim looks at those that may be due, and learns what comes next.
Events that come, are done or are postponed are collected, and one write at a time carries all that has collected while the former was
committed: each of many pays for a row, not for a transaction. Who put an event in, or took one out, goes on when it is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, select, update

from engine.store.api import Backlog, Event, Queued
from engine.store.database import Database
from engine.store.schema import events

Key = tuple[str, str]
_Full = frozenset[Key]
_NEVER = 1 << 62
_MEMBERS = Event.__slots__
# An event whose id is here already is here already: whoever was not answered may put it once more.
_INSERT = f"INSERT INTO events ({', '.join(_MEMBERS)}) VALUES ({', '.join('?' * len(_MEMBERS))}) ON CONFLICT DO NOTHING"  # noqa: S608 - names of ours
_DELETE = "DELETE FROM events WHERE request_id = ?"
_POSTPONE = "UPDATE events SET due_ms = ?, failures = ?, refusals = ?, lease_ms = NULL WHERE request_id = ?"
_LEASE = "UPDATE events SET lease_ms = ? WHERE request_id = ?"
_DUE = (
    f"SELECT {', '.join(_MEMBERS)} FROM events WHERE account = ? AND function = ? AND lease_ms IS NULL AND due_ms <= ? ORDER BY due_ms LIMIT ?"  # noqa: S608
)
_FIRST = "SELECT MIN(due_ms) FROM events WHERE account = ? AND function = ? AND lease_ms IS NULL"
_ALL_FIRST = "SELECT account, function, MIN(due_ms) FROM events WHERE lease_ms IS NULL GROUP BY account, function"
_OVERDUE = "UPDATE events SET lease_ms = NULL WHERE lease_ms <= ?"
_NEXT_LEASE = "SELECT MIN(lease_ms) FROM events WHERE lease_ms IS NOT NULL"
_row = attrgetter(*_MEMBERS)
_DUE_MS = _MEMBERS.index("due_ms")


class _Work:
    """What one write does, and who waits for it."""

    __slots__ = ("added", "done", "later", "postponed", "waiting")

    def __init__(self) -> None:
        self.added: list[tuple[Any, ...]] = []
        self.done: list[tuple[Any, ...]] = []
        self.later: list[tuple[Any, ...]] = []
        self.postponed: list[tuple[Key, int]] = []
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
        # No later than the first waiting event of a function is due; None: the disk knows.
        self._firsts: dict[Key, int] | None = None
        # The same of what was written since the claim under way began, and may not be seen by it.
        self._since: dict[Key, int] = {}
        # No later than the first lease ends.
        self._lease_ms = 0

    async def enqueue(self, event: Event) -> None:
        await self.enqueue_all((event,))

    def enqueue_all(self, accepted: Sequence[Event]) -> asyncio.Future[None]:
        self._next.added.extend(map(_row, accepted))
        return self._written()

    async def claim(self, now_ms: int, lease_until_ms: int, limit: int, full: _Full) -> list[Event]:
        firsts, sweep = self._firsts, self._lease_ms <= now_ms
        keys = None
        if firsts is not None:
            keys = [key for due_ms, key in sorted((due_ms, key) for key, due_ms in firsts.items() if due_ms <= now_ms and key not in full)]
            if not keys and not sweep:
                return []
        self._since = {}
        self._lease_ms = min(self._lease_ms, lease_until_ms) if not sweep else lease_until_ms
        try:
            claimed = await self._writer.write(lambda connection: _claim(connection, keys, now_ms, lease_until_ms, limit, full, sweep))
        except BaseException:
            self._firsts, self._lease_ms = None, 0
            raise
        self._lease_ms = min(self._lease_ms, claimed.lease_ms)
        if self._firsts is firsts:
            self._learn(claimed)
        return claimed.events

    def _learn(self, claimed: _Claimed) -> None:
        if claimed.whole or self._firsts is None:
            self._firsts = {}
        for key, due_ms in claimed.firsts.items():
            if due_ms is None:
                self._firsts.pop(key, None)
            else:
                self._firsts[key] = due_ms
        for key, due_ms in self._since.items():
            self._firsts[key] = min(due_ms, self._firsts.get(key, due_ms))

    async def settle(self, request_id: str) -> None:
        self._next.done.append((request_id,))
        await self._written()

    async def postpone(self, event: Event) -> None:
        self._next.postponed.append(((event.account, event.function), event.due_ms))
        self._next.later.append((event.due_ms, event.failures, event.refusals, event.request_id))
        await self._written()

    async def release(self, now_ms: int) -> int:
        change = update(events).where(events.c.lease_ms.is_not(None)).values(lease_ms=None)
        early = update(events).where(events.c.first_ms > now_ms).values(due_ms=events.c.due_ms - events.c.first_ms + now_ms, first_ms=now_ms)

        def run(connection: Connection) -> int:
            connection.execute(early)
            return connection.execute(change).rowcount

        count = await self._writer.write(run)
        self._forget()
        return count

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
        count = await self._writer.write(lambda connection: connection.execute(change).rowcount)
        self._forget()
        return count

    def _forget(self) -> None:
        """Times have changed: the next claim reads them."""
        self._firsts = None

    async def drop(self, request_ids: Sequence[str]) -> int:
        change = delete(events).where(events.c.request_id.in_(request_ids))
        return await self._writer.write(lambda connection: connection.execute(change).rowcount)

    def next_due_ms(self, full: _Full) -> int | None:
        firsts = self._firsts
        if firsts is None:
            with self._reading.connect() as connection:
                firsts = _all_firsts(connection)
        return min((due_ms for key, due_ms in firsts.items() if key not in full), default=None)

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
        if work is not None and error is None:
            self._note(work)
        for future in () if work is None else work.waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._write(loop)

    def _note(self, work: _Work) -> None:
        """What waits now, from when on."""
        written = [((row[1], row[2]), row[_DUE_MS]) for row in work.added]
        for known in (self._since, self._firsts):
            if known is not None:
                for key, due_ms in (*written, *work.postponed):
                    if due_ms < known.get(key, _NEVER):
                        known[key] = due_ms


class _Claimed(NamedTuple):
    """``firsts``: when the next event is due of the functions that were looked at, None where there is none; ``whole``: of all functions."""

    events: list[Event]
    firsts: dict[Key, int | None]
    whole: bool
    lease_ms: int


def _claim(
    connection: Connection, keys: list[Key] | None, now_ms: int, lease_until_ms: int, limit: int, full: _Full, sweep: bool
) -> _Claimed:
    """``keys``: the functions that may have something due, those that have waited longest first; ``sweep``: leases may have ended."""
    next_lease_ms = _NEVER
    if sweep and _one(connection, _OVERDUE, now_ms).rowcount:
        keys = None
    firsts: dict[Key, int | None] = {}
    whole = keys is None
    if keys is None:
        firsts.update(_all_firsts(connection))
        keys = [key for due_ms, key in sorted((due_ms or 0, key) for key, due_ms in firsts.items()) if key not in full and due_ms <= now_ms]
    found: list[Event] = []
    looked_at: list[Key] = []
    for key in keys:
        if len(found) >= limit:
            break
        looked_at.append(key)
        found += [Event(*row) for row in _one(connection, _DUE, *key, now_ms, limit - len(found))]
    if found:
        _many(connection, _LEASE, [(lease_until_ms, event.request_id) for event in found])
    for key in looked_at:
        (firsts[key],) = _one(connection, _FIRST, *key).one()
    if sweep:
        next_lease_ms = _one(connection, _NEXT_LEASE).one()[0] or _NEVER
    return _Claimed(found, firsts, whole, next_lease_ms)


def _all_firsts(connection: Connection) -> dict[Key, int]:
    return {(account, function): due_ms for account, function, due_ms in _one(connection, _ALL_FIRST)}


def _one(connection: Connection, statement: str, *values: Any) -> Any:
    qmark = connection.dialect.paramstyle == "qmark"
    return connection.exec_driver_sql(statement if qmark else statement.replace("?", "%s"), values)


def _many(connection: Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    """A statement for many rows at once, as the driver takes it: what SQLAlchemy does per row would cost more than the row."""
    qmark = connection.dialect.paramstyle == "qmark"
    connection.exec_driver_sql(statement if qmark else statement.replace("?", "%s"), rows)


def _queued(row: Row[Any]) -> Queued:
    return Queued(_event(row), row._mapping["lease_ms"] is not None)


def _event(row: Row[Any]) -> Event:
    return Event(**{name: row._mapping[name] for name in Event.__slots__})
