"""A backlog of events is on the disk, not in memory. ``LAMBDA_ENGINE_BACKLOG=1`` makes it a million."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from engine.store.api import Event
from engine.store.database import Database
from engine.store.queue import SqlEventQueue

EVENTS = 1_000_000 if os.environ.get("LAMBDA_ENGINE_BACKLOG") else 50_000
AT_ONCE = 500
PAYLOAD = b'{"text": "' + b"x" * 200 + b'"}'
# What an event takes in memory, were it kept there, is five times as much.
GROWTH_PER_EVENT = 100
SLACK = 16 * 1024 * 1024
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


async def _fill(queue: SqlEventQueue, start: int, count: int) -> None:
    for first in range(start, start + count, AT_ONCE):
        ids = range(first, min(first + AT_ONCE, start + count))
        await asyncio.gather(*(queue.enqueue(Event(f"{n:036d}", "0" * 12, "f", None, PAYLOAD, n, n)) for n in ids))


def test_a_backlog_does_not_grow_the_process(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, float, int]:
        database = Database(tmp_path / "engine.db")
        try:
            queue = SqlEventQueue(database)
            await _fill(queue, 0, 5_000)
            before = psutil.Process().memory_info().rss
            start_s, commits = time.process_time(), database.writer.commits
            await _fill(queue, 5_000, EVENTS)
            cpu_s = time.process_time() - start_s
            taken = await queue.claim(EVENTS * 2, EVENTS * 3, 128, frozenset())
            assert [e.request_id for e in taken] == [f"{n:036d}" for n in range(128)], "the oldest come first, however many there are"
            assert queue.backlog().depth == EVENTS + 5_000
            print(f"{EVENTS} events, {1e6 * cpu_s / EVENTS:.0f} us of CPU time each, {database.writer.commits - commits} commits")
            return psutil.Process().memory_info().rss - before, cpu_s, database.writer.commits - commits
        finally:
            database.close()

    growth, _, commits = asyncio.run(scenario())
    assert growth < EVENTS * GROWTH_PER_EVENT + SLACK
    assert commits < EVENTS / 10, "many share a commit"
