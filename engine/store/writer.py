"""One thread writes, and commits what has queued up together.

Theory of operation. Jobs are functions of a connection. The thread takes the first waiting job and whatever else waits, up to
``MAX_BATCH``, runs each inside a savepoint of one transaction, and commits: one disk flush serves all of them. A job that
raises takes only its own savepoint back. Futures are answered after the commit; if that fails, all of the batch fail and
nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event

from engine.errors import EngineError
from engine.turns import GivingWay

MAX_BATCH = 256
T = TypeVar("T")


class WriterClosed(EngineError):
    """A write came after ``close``; it was not done."""


class _Job:
    __slots__ = ("future", "run")

    def __init__(self, run: Callable[[Connection], Any]) -> None:
        self.run = run
        self.future: Future[Any] = Future()


class Writer:
    """The only way to change the database. Safe to call from any thread."""

    def __init__(self, engine: Engine, max_batch: int = MAX_BATCH) -> None:
        self._engine = engine
        self._give_way = GivingWay()
        event.listen(engine, "after_cursor_execute", lambda *_: self._give_way())
        self._max_batch = max_batch
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self.commits = 0
        self._thread = threading.Thread(target=self._loop, name="writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[Connection], T]) -> Future[T]:
        """Queue a write. The future has its result once it is on disk, or the error that undid it."""
        job = _Job(run)
        with self._closing:
            if self._closed:
                job.future.set_exception(WriterClosed("the database is closed"))
            else:
                self._jobs.put(job)
        return job.future

    async def write(self, run: Callable[[Connection], T]) -> T:
        """``submit`` for the event loop. A caller that is cancelled may or may not have been in time."""
        return await asyncio.wrap_future(self.submit(run))

    def close(self) -> None:
        """Do what is queued, then stop. Idempotent."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while True:
            batch, more = self._take()
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if batch:
                self._commit(batch)
            if not more:
                return

    def _take(self) -> tuple[list[_Job], bool]:
        """What waits now, and whether to go on after it."""
        first = self._jobs.get()
        if first is None:
            return [], False
        batch = [first]
        while len(batch) < self._max_batch:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                return batch, False
            batch.append(job)
        return batch, True

    def _commit(self, batch: list[_Job]) -> None:
        outcomes: list[tuple[_Job, Any, Exception | None]] = []
        self._give_way()
        try:
            with self._engine.begin() as connection:
                if len(batch) == 1:
                    # Alone, it needs no savepoint: what it undoes is the transaction.
                    outcomes.append((batch[0], batch[0].run(connection), None))
                else:
                    outcomes.extend((job, *_attempt(connection, job)) for job in batch)
        except Exception as e:  # noqa: BLE001 - it is handed to everybody who asked for a write
            outcomes = [(job, None, e) for job in batch]
        else:
            self.commits += 1
        self._give_way()
        for job, result, error in outcomes:
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)


def _attempt(connection: Connection, job: _Job) -> tuple[Any, Exception | None]:
    try:
        with connection.begin_nested():
            return job.run(connection), None
    except Exception as e:  # noqa: BLE001 - it is handed to whoever asked for the write
        return None, e
