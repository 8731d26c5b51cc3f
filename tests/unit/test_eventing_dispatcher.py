"""The dispatcher with the real queue on disk, the real client over a real socket, and a clock the test turns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.arn import function_arn
from engine.client import AsyncClient
from engine.clock import ManualClock
from engine.eventing import dispatcher as module
from engine.eventing.dispatcher import Dispatcher
from engine.store.api import Backlog, Event
from engine.store.database import Database
from engine.store.queue import SqlEventQueue
from engine.wire import messages as m
from tests.framework.frame_server import FrameServer, result

A = "000000000000"
REGION = "us-east-1"


class Engine(FrameServer):
    """Answers calls by ``answers``: for each function a list of (status, function_error), then success; ``hold`` keeps calls waiting."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.answers: dict[str, list[tuple[int, str | None]]] = {}
        self.hold = False
        self.waiting: list[tuple[Any, m.Call]] = []

    def handle(self, peer: Any, call: m.Call) -> None:
        self.calls.append(call)
        if self.hold:
            self.waiting.append((peer, call))
        else:
            self.answer(peer, call)

    def answer(self, peer: Any, call: m.Call) -> None:
        queue = self.answers.get(call.function.rpartition(":")[2], [])
        status, failed = queue.pop(0) if queue else (200, None)
        if status == 0:
            peer.transport.abort()
        elif status == 200:
            peer.send(result(call, b'{"errorType":"Boom"}' if failed else b"null", failed=failed))
        else:
            rid = call.request_id or ""
            peer.send(m.encode_result(m.Result(call.call_id, status, "SomeException", None, None, rid, None, b'{"message":"no"}')))

    def release(self) -> None:
        """Answer what waits."""
        self.hold = False
        waiting, self.waiting = self.waiting, []
        for peer, call in waiting:
            self._loop.call_soon_threadsafe(self.answer, peer, call)


class Bench:
    """The parts under test, and waiting for what they do."""

    def __init__(self, engine: Engine, queue: SqlEventQueue, client: AsyncClient) -> None:
        self.engine = engine
        self.queue = queue
        self.client = client
        self.clock = ManualClock()
        self.dispatcher = self.make()

    def make(self, **options: Any) -> Dispatcher:
        return Dispatcher(self.queue, self.client, self.clock, region=REGION, retry_base_s=60.0, **options)

    def event(self, name: str, function: str = "f", **more: Any) -> Event:
        now = self.clock.epoch_ms()
        return Event(name, A, function, more.pop("qualifier", None), more.pop("payload", b"{}"), now, now, **more)

    async def put(self, *events: Event) -> None:
        for event in events:
            await self.queue.enqueue(event)
        self.dispatcher.wake()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.dispatcher.wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    async def postponed(self, calls: int) -> None:
        """Wait until this many calls were made and the last one's outcome is in the queue."""
        await self.until(lambda: len(self.engine.calls) == calls and (self.queue.next_due_ms(frozenset()) or 0) > self.clock.epoch_ms())

    async def empty(self) -> None:
        await self.until(lambda: self.queue.backlog().depth == 0)


def run(tmp_path: Path, scenario: Callable[[Bench], Awaitable[None]], *, start: bool = True) -> Bench:
    database = Database(tmp_path / "engine.db")
    path = str(tmp_path / "engine.sock")

    async def main(engine: Engine) -> Bench:
        async with AsyncClient(path, connect_timeout_s=0.2) as client:
            bench = Bench(engine, SqlEventQueue(database), client)
            if start:
                bench.dispatcher.start()
            try:
                await scenario(bench)
            finally:
                await bench.dispatcher.close()
                await bench.dispatcher.close()
            return bench

    try:
        with Engine(path) as engine:
            return asyncio.run(main(engine))
    finally:
        database.close()


def test_an_event_runs_once_with_everything_it_was_given(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.put(bench.event("8f507cfc-4697-455f-9f0e-2d1a1b0c7a55", payload=b'{"a":1}', qualifier="3", trace_id="Root=1"))
        await bench.empty()
        (call,) = bench.engine.calls
        assert call.function == function_arn(REGION, A, "f")
        assert (call.qualifier, call.payload, call.trace_id) == ("3", b'{"a":1}', "Root=1")
        assert call.request_id == "8f507cfc-4697-455f-9f0e-2d1a1b0c7a55"
        assert call.client_context is None

    run(tmp_path, scenario)


def test_a_function_that_fails_runs_three_times_under_one_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.answers["f"] = [(200, "Unhandled")] * 3
        await bench.put(bench.event("id-1"))
        await bench.postponed(1)
        bench.advance(59.999)
        await bench.put(bench.event("marker", "g"))
        await bench.until(lambda: len(bench.engine.calls) == 2)
        bench.advance(0.001)
        await bench.postponed(3)
        bench.advance(119.999)
        await bench.put(bench.event("marker-2", "g"))
        await bench.until(lambda: len(bench.engine.calls) == 4)
        bench.advance(0.001)
        await bench.empty()
        assert [c.request_id for c in bench.engine.calls] == ["id-1", "marker", "id-1", "marker-2", "id-1"]

    with caplog.at_level(logging.WARNING):
        run(tmp_path, scenario)
    assert "event id-1 for function f of account 000000000000 is given up after 3 runs: RetriesExhausted" in caplog.text
    assert "Boom" in caplog.text


@pytest.mark.parametrize("status", [429, 500, 502, 503, 409, 0])
def test_throttles_faults_and_lost_connections_are_tried_again(tmp_path: Path, status: int) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.answers["f"] = [(status, None)] * 2
        await bench.put(bench.event("id-1"))
        await bench.postponed(1)
        assert bench.queue.next_due_ms(frozenset()) == bench.clock.epoch_ms() + 1000
        bench.advance(1)
        await bench.postponed(2)
        assert bench.queue.next_due_ms(frozenset()) == bench.clock.epoch_ms() + 2000
        bench.advance(2)
        await bench.empty()
        assert len(bench.engine.calls) == 3

    run(tmp_path, scenario)


@pytest.mark.parametrize("status", [400, 403, 404, 413])
def test_what_will_never_run_is_dropped_with_a_word(tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.answers["f"] = [(status, None)]
        await bench.put(bench.event("id-1"))
        await bench.empty()
        assert len(bench.engine.calls) == 1

    with caplog.at_level(logging.WARNING):
        run(tmp_path, scenario)
    assert f"Impossible; last: SomeException ({status}): no" in caplog.text


def test_a_throttled_event_is_given_up_after_six_hours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.answers["f"] = [(429, None)] * 9
        await bench.put(bench.event("id-1"))
        await bench.postponed(1)
        bench.advance(6 * 3600 - 1)
        await bench.empty()

    with caplog.at_level(logging.WARNING):
        run(tmp_path, scenario)
    assert "EventAgeExceeded" in caplog.text


def test_an_absent_supervisor_costs_time_only(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        missing = AsyncClient(tmp_path / "nobody.sock", connect_timeout_s=0.05)
        alone = Dispatcher(bench.queue, missing, bench.clock, region=REGION, retry_base_s=60.0)
        alone.start()
        await bench.queue.enqueue(bench.event("id-1"))
        alone.wake()
        await bench.until(lambda: (bench.queue.next_due_ms(frozenset()) or 0) == bench.clock.epoch_ms() + 1000)
        await alone.close()
        await missing.close()
        assert bench.queue.backlog() == Backlog(1, bench.clock.epoch_ms())

    run(tmp_path, scenario, start=False)


def test_what_a_dead_control_plane_held_is_run_by_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.queue.enqueue(bench.event("id-1"))
        now = bench.clock.epoch_ms()
        assert len(await bench.queue.claim(now, now + module.LEASE_MS, 10, frozenset())) == 1
        bench.dispatcher.start()
        await bench.empty()
        assert [c.request_id for c in bench.engine.calls] == ["id-1"]

    with caplog.at_level(logging.INFO):
        run(tmp_path, scenario, start=False)
    assert "1 events were being run" in caplog.text


def test_closing_waits_for_attempts_about_to_end(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.hold = True
        await bench.put(bench.event("id-1"))
        await bench.until(lambda: len(bench.engine.waiting) == 1)
        closing = asyncio.ensure_future(bench.dispatcher.close())
        await asyncio.sleep(0)
        bench.engine.release()
        await closing
        assert bench.queue.backlog().depth == 0

    run(tmp_path, scenario)


def test_an_attempt_that_does_not_end_is_left_for_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_GRACE_S", 0.05)

    async def scenario(bench: Bench) -> None:
        bench.engine.hold = True
        await bench.put(bench.event("id-1"))
        await bench.until(lambda: len(bench.engine.waiting) == 1)
        await bench.dispatcher.close()
        assert bench.queue.backlog().depth == 1
        assert await bench.queue.release(bench.clock.epoch_ms()) == 1

    run(tmp_path, scenario)


def test_one_function_cannot_take_all_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 1)

    async def scenario(bench: Bench) -> None:
        bench.dispatcher = bench.make(max_in_flight=5, max_per_function=3)
        bench.engine.hold = True
        bench.dispatcher.start()
        await bench.put(*(bench.event(f"f-{n}") for n in range(8)))
        await bench.until(lambda: len(bench.engine.waiting) == 3)
        await bench.put(*(bench.event(f"g-{n}", "g") for n in range(3)))
        await bench.until(lambda: len(bench.engine.waiting) == 5)
        assert sorted(c.request_id or "" for _, c in bench.engine.waiting) == ["f-0", "f-1", "f-2", "g-0", "g-1"]
        bench.engine.release()
        await bench.empty()
        assert len(bench.engine.calls) == 11

    run(tmp_path, scenario, start=False)


def test_big_payloads_in_flight_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES_IN_FLIGHT", 1000)
    monkeypatch.setattr(module, "BATCH", 1)

    async def scenario(bench: Bench) -> None:
        bench.engine.hold = True
        await bench.put(*(bench.event(f"id-{n}", payload=b'"' + b"x" * 600 + b'"') for n in range(4)))
        await bench.until(lambda: len(bench.engine.waiting) == 2)
        bench.dispatcher.wake()
        await bench.until(lambda: not bench.dispatcher._wake.is_set())
        assert len(bench.dispatcher._attempts) == 2
        bench.engine.release()
        await bench.empty()

    run(tmp_path, scenario)


def test_a_queue_that_cannot_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_AFTER_ERROR_S", 0.01)

    async def scenario(bench: Bench) -> None:
        claim, release = bench.queue.claim, bench.queue.release
        troubles = [OSError("disk full"), OSError("disk full")]

        async def failing(*args: Any) -> Any:
            if troubles:
                raise troubles.pop()
            return await claim(*args)

        async def failing_release(now_ms: int) -> int:
            if len(troubles) == 2:
                raise troubles.pop()
            return await release(now_ms)

        monkeypatch.setattr(bench.queue, "claim", failing)
        monkeypatch.setattr(bench.queue, "release", failing_release)
        bench.dispatcher.start()
        await bench.put(bench.event("id-1"))
        await bench.empty()

    run(tmp_path, scenario, start=False)
    assert caplog.text.count("the event queue cannot be read") == 2


def test_an_outcome_that_cannot_be_kept_leaves_the_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        async def failing(_request_id: str) -> None:
            raise OSError("disk full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench.queue, "settle", failing)
            await bench.put(bench.event("id-1"))
            await bench.until(lambda: "the outcome of event id-1 could not be kept" in caplog.text)
        bench.advance(module.LEASE_MS / 1000)
        await bench.empty()
        assert len(bench.engine.calls) == 2

    run(tmp_path, scenario)
