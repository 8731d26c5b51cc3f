"""Instances that run several invocations at once: the planner, and the invoker with scripted workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.core.instance import State
from engine.core.pool import Plan
from engine.core.shared_pool import SharedPool
from engine.sandbox.api import Cause
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Rig
from tests.unit.test_provisioned import play

__all__ = ["play"]


def test_instances_at_work_are_filled_first_then_the_newest_idle_one() -> None:
    pool: SharedPool[str, int] = SharedPool(2)
    for instance in ("old", "new"):
        pool.started(instance)
        assert pool.ready(instance, 1.0) is None
    assert [pool.reuse() for _ in range(4)] == ["new", "new", "old", "old"]
    assert (pool.reuse(), pool.idle_count, pool.busy) == (None, 0, {"old", "new"})
    assert pool.ready("new", 2.0) is None
    assert (pool.load("new"), pool.idle_count) == (1, 0)
    assert pool.reuse() == "new"
    for _ in range(2):
        assert pool.ready("old", 3.0) is None
    assert pool.idle == ["old"]
    assert pool.expired(100.0, 10.0) == ["old"]


def test_a_starting_instance_counts_for_its_places_and_takes_as_many() -> None:
    pool: SharedPool[str, int] = SharedPool(3)
    plans = []
    for n in range(7):
        plans.append(pool.enqueue(n))
        if plans[-1] is Plan.SPAWN:
            pool.started(f"i{n}")
    assert [n for n, plan in enumerate(plans) if plan is Plan.SPAWN] == [0, 3, 6]
    assert pool.deficit() == 0
    assert pool.ready("i0", 1.0) == 0
    assert (pool.join("i0"), pool.join("i0"), pool.join("i0")) == (1, 2, None)
    pool.lost("i3")
    assert pool.deficit() == 1
    assert pool.ready("i0", 1.0) == 3
    pool.shut("i0")
    assert pool.join("i0") is None


@given(st.integers(1, 4), st.lists(st.sampled_from(["arrive", "start", "done", "lose"]), max_size=60))
def test_no_place_is_taken_twice_and_nobody_waits_beside_a_free_one(capacity: int, events: list[str]) -> None:
    pool: SharedPool[int, int] = SharedPool(capacity)
    serving: dict[int, list[int]] = {}
    born = arrived = 0
    for event in events:
        if event == "arrive":
            arrived += 1
            instance = pool.reuse()
            if instance is not None:
                serving[instance].append(arrived)
            elif pool.enqueue(arrived) is Plan.SPAWN:
                born += 1
                pool.started(born)
        elif event == "start" and pool.starting:
            instance = min(pool.starting)
            serving[instance] = [r for r in [pool.ready(instance, 0.0)] if r is not None]
            while (request := pool.join(instance)) is not None:
                serving[instance].append(request)
        elif event == "done" and (busy := [i for i, rs in serving.items() if rs]):
            serving[busy[0]].pop()
            request = pool.ready(busy[0], 0.0)
            if request is not None:
                serving[busy[0]].append(request)
        elif event == "lose" and serving:
            instance = next(iter(serving))
            del serving[instance]
            pool.lost(instance)
            for _ in range(pool.deficit()):
                born += 1
                pool.started(born)
        assert all(len(requests) <= capacity and pool.load(i) == len(requests) for i, requests in serving.items())
        assert pool.busy == {i for i, requests in serving.items() if requests}
        assert set(pool.idle) == {i for i, requests in serving.items() if not requests}
        assert not pool.waiting or all(len(requests) == capacity for requests in serving.values())
        assert len(pool.starting) * capacity >= len(pool.waiting)


class Script:
    """A function whose instances run two at once; events are held until the test answers them."""

    def __init__(self, rig: Rig, places: int = 2, **version: Any) -> None:
        self.rig = rig
        self.held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: self.held.append((w, e))
        rig.put(max_concurrency=places, log_format="JSON", **version)

    async def started(self, number: int) -> None:
        await self.rig.until(lambda: len(self.held) == number)

    def answer(self, n: int) -> None:
        worker, event = self.held[n]
        worker.respond(event, event.payload)


def lines(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rig.lines() if line.startswith("{")]


def test_two_run_in_one_instance_and_a_third_starts_another(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        answers = [rig.invoke(payload=b"%d" % n, tail=n == 1) for n in range(3)]
        await script.started(3)
        assert len({w.holder_id for w, _ in script.held}) == 2
        assert {i.kind for i in rig.invoker.instances} == {"lambda-managed-instances"}
        assert rig.sandbox.told[0]["max_concurrency"] == 2
        assert rig.sandbox.told[0]["env"]["AWS_LAMBDA_MAX_CONCURRENCY"] == "2"
        assert rig.sandbox.told[0]["env"]["AWS_LAMBDA_INITIALIZATION_TYPE"] == "lambda-managed-instances"
        worker, event = script.held[1]
        worker.send(messages.pack(messages.LOG, event.request_id, 1, 0, b"mine"))
        for n in (1, 0, 2):
            script.answer(n)
        outcomes = [await rig.finish(a) for a in answers]
        assert [o.payload for o in outcomes] == [b"0", b"1", b"2"]
        request = answers[1].request
        assert request is not None
        assert "mine" in (request.tail or [])
        function = rig.catalogue.functions()[0][1]
        assert (function.quota.concurrent, function.stats.success, function.stats.cold_starts) == (
            0, 3, {"lambda-managed-instances": 2},
        )  # fmt: skip
        reports = [line for line in lines(rig) if line["type"] == "platform.report"]
        assert {r["record"]["requestId"] for r in reports} == {e.request_id for _, e in script.held}
        assert all(list(r["record"]["metrics"]) == ["durationMs"] for r in reports)
        rig.invoker.freeze_idle(0.0)
        assert rig.sandbox.freezes == []

    play(scenario)


def test_concurrency_is_requests_and_room_is_instances(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig, places=10)
        answers = [rig.invoke() for _ in range(12)]
        refused = [a for a in answers if a.error is not None]
        assert [a.error.fields["Reason"] for a in refused if a.error] == ["ConcurrentInvocationLimitExceeded"] * 2
        await script.started(10)
        assert len([i for i in rig.invoker.instances if i.crew]) == 1
        for n in range(10):
            script.answer(n)
        for answer in answers[:10]:
            await rig.finish(answer)

    play(scenario, max_instances=1)


def test_a_timeout_keeps_its_seat_until_the_late_answer_which_nobody_hears(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        slow = rig.invoke(payload=b'"slow"')
        await script.started(1)
        rig.clock.advance(2.0)
        quick = rig.invoke(payload=b'"quick"')
        await script.started(2)
        rig.clock.advance(1.1)
        assert b"Task timed out after 3.00 seconds" in (await rig.finish(slow)).payload
        assert [i.state for i in rig.invoker.instances] == [State.BUSY]
        script.answer(1)
        assert (await rig.finish(quick)).payload == b'"quick"'
        third, fourth = rig.invoke(), rig.invoke()
        await script.started(4)
        assert script.held[2][0] is script.held[0][0], "one seat was left"
        assert script.held[3][0] is not script.held[0][0]
        for n in (0, 2, 3):
            script.answer(n)
        await rig.finish(third)
        await rig.finish(fourth)
        await rig.until(lambda: all(i.state is State.IDLE for i in rig.invoker.instances))
        assert (slow.times, rig.invoker.in_flight) == (1, 0)

    play(scenario)


def test_an_instance_all_of_whose_seats_are_late_is_replaced(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        answers = [rig.invoke(), rig.invoke()]
        await script.started(2)
        rig.clock.advance(3.1)
        for answer in answers:
            assert b"Sandbox.Timedout" in (await rig.finish(answer)).payload
        await rig.until(lambda: not rig.invoker.instances)
        again = rig.invoke()
        await script.started(3)
        script.answer(2)
        await rig.finish(again)

    play(scenario)


def test_a_crash_takes_everybody_along_and_who_waits_gets_another(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        answers = [rig.invoke() for _ in range(2)]
        await script.started(2)
        waiting = rig.invoke()
        script.held[0][0].die(Cause.SIGNALLED, 9)
        for answer in answers:
            assert b"Runtime exited with error: signal: killed" in (await rig.finish(answer)).payload
        await script.started(3)
        script.answer(2)
        await rig.finish(waiting)
        assert rig.sandbox.resets == []

    play(scenario, max_instances=1)


def test_a_failed_init_is_told_to_as_many_as_it_would_have_served(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        good = rig.sandbox.on_init

        def bad(worker: ScriptedWorker) -> None:
            rig.sandbox.on_init = good
            worker.send(messages.pack(messages.INIT_ERROR, "Runtime.ImportModuleError", b'{"errorType":"E"}'))
            worker.die()

        rig.sandbox.on_init = bad
        answers = [rig.invoke() for _ in range(3)]
        assert (await rig.finish(answers[0])).payload == b'{"errorType":"E"}'
        await rig.finish(answers[1])
        await script.started(1)
        script.answer(0)
        assert (await rig.finish(answers[2])).payload == b"{}"

    play(scenario, max_instances=1)


def test_what_it_must_not_say_ends_it(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        answer = rig.invoke()
        await script.started(1)
        worker, event = script.held[0]
        worker.send(messages.encode_reply(messages.RESPONSE, event.request_id.replace("-", "_"), b"1"))
        assert b"broke the invocation protocol" in (await rig.finish(answer)).payload

    play(scenario)


def test_a_lost_broker_and_a_new_version_lose_nobody(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        answers = [rig.invoke() for _ in range(2)]
        await script.started(2)
        rig.put(generation="g2", max_concurrency=2, log_format="JSON")
        script.answer(0)
        await rig.finish(answers[0])
        assert [i.state for i in rig.invoker.instances] == [State.BUSY]
        script.answer(1)
        await rig.finish(answers[1])
        await rig.until(lambda: not rig.invoker.instances)
        held = rig.invoke()
        await script.started(3)
        rig.invoker.faults.broker_lost("killed")
        assert b"Sandbox.Failure" in (await rig.finish(held)).payload

    play(scenario)
