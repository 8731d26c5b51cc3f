"""Provisioned concurrency and a full host with scripted workers and a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from engine.core.instance import State
from engine.supervisor.catalogue import parse_entry
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Answer, Rig, entry

Held = list[tuple[ScriptedWorker, messages.Invoke]]


def put(
    rig: Rig,
    provisioned: dict[str, int] | None = None,
    *,
    aliases: dict[str, Any] | None = None,
    revision: str = "r1",
    reserved: int | None = None,
    versions: tuple[str, ...] = ("1", "2"),
) -> None:
    """A function with published versions."""
    whole = entry(reserved=reserved)
    latest = whole["versions"]["$LATEST"]
    whole["versions"] |= {v: {**latest, "version": v, "generation": f"g{v}"} for v in versions}
    whole["aliases"] = aliases or {}
    whole["provisioned"] = {q: {"requested": n, "revision": revision} for q, n in (provisioned or {}).items()}
    rig.catalogue.put(parse_entry(whole))


def figures(rig: Rig, qualifier: str = "1") -> tuple[int, int, int, str]:
    found = next(f for f in rig.invoker.provisioner.figures() if f["qualifier"] == qualifier)
    return found["requested"], found["allocated"], found["available"], found["status"]


def kinds(rig: Rig) -> list[str]:
    return sorted(i.kind for i in rig.invoker.instances if i.state in (State.IDLE, State.BUSY))


async def ready(rig: Rig, qualifier: str = "1") -> None:
    await rig.until(lambda: figures(rig, qualifier)[3] == "READY")


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a scenario in a fresh rig."""

    def run(scenario: Callable[[Rig], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def whole() -> None:
            rig = Rig(tmp_path, **options)
            try:
                await scenario(rig)
                there = [i for i in rig.invoker.instances if i.state not in (State.RETIRING, State.GONE)]
                assert rig.invoker._room.instances == len(there), "the host's room is counted right"
            finally:
                rig.close()
                await asyncio.sleep(0)

        asyncio.run(whole())

    return run


def test_nothing_serves_until_everything_is_allocated(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        waiting: list[ScriptedWorker] = []
        rig.sandbox.on_init = waiting.append
        put(rig, {"1": 3})
        await rig.until(lambda: len(waiting) == 3)
        assert figures(rig) == (3, 0, 0, "IN_PROGRESS")
        assert rig.invoker.provisioner.pending() == ["provisioned concurrency of f:1 (0 of 3 allocated)"]
        for worker in waiting[:2]:
            worker.send(messages.pack(messages.NEXT))
        await rig.until(lambda: figures(rig) == (3, 2, 0, "IN_PROGRESS"))
        # What comes now is on demand.
        rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))
        await rig.finish(rig.invoke(qualifier="1"))
        assert kinds(rig) == ["on-demand", "provisioned-concurrency", "provisioned-concurrency"]
        waiting[2].send(messages.pack(messages.NEXT))
        await ready(rig)
        assert figures(rig) == (3, 3, 3, "READY")
        assert rig.invoker.provisioner.pending() == []
        assert [line for line in rig.lines() if line.startswith("INIT_REPORT")] != []

    play(scenario)


def test_spillover_is_counted_and_never_happens_below_capacity(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 2})
        await ready(rig)
        held: Held = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        answers = [rig.invoke(qualifier="1") for _ in range(4)]
        await rig.until(lambda: len(held) == 4)
        function = rig.catalogue.functions()[0][1]
        assert (function.quota.provisioned_in_flight, function.quota.in_flight) == (2, 2)
        assert sum(i.provisioned and i.state is State.BUSY for i in rig.invoker.instances) == 2
        for worker, event in held:
            worker.respond(event, b"1")
        for answer in answers:
            await rig.finish(answer)
        assert (function.stats.provisioned, function.stats.spillover) == (2, 2)
        assert function.quota.concurrent == 0
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"2")
        for _ in range(5):
            await rig.finish(rig.invoke(qualifier="1"))
        assert (function.stats.provisioned, function.stats.spillover) == (7, 2)

    play(scenario)


def test_a_freed_provisioned_instance_serves_the_line_without_an_on_demand_lease(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 1})
        await ready(rig)
        held: Held = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        rig.sandbox.on_init = lambda w: None
        first, second = rig.invoke(qualifier="1"), rig.invoke(qualifier="1")
        await rig.until(lambda: len(held) == 1)
        held[0][0].respond(held[0][1], b"1")
        await rig.until(lambda: len(held) == 2)
        quota = rig.catalogue.functions()[0][1].quota
        assert (quota.provisioned_in_flight, quota.in_flight) == (1, 0)
        held[1][0].respond(held[1][1], b"2")
        await rig.finish(first)
        await rig.finish(second)
        assert (quota.concurrent, quota.claim) == (0, 1)

    play(scenario)


def test_a_reservation_that_is_all_provisioned_leaves_nothing_to_latest(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 2}, reserved=2)
        await ready(rig)
        refused = rig.invoke()
        assert refused.error is not None
        assert refused.error.body() == {
            "Reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
            "Type": "User",
            "message": "Rate Exceeded.",
        }
        await rig.finish(rig.invoke(qualifier="1"))

    play(scenario)


def test_a_dead_instance_is_replaced(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 2})
        await ready(rig)
        first = next(iter(rig.invoker.instances))
        rig.sandbox.lose(first.holder_id)
        await rig.until(lambda: first not in rig.invoker.instances)
        await rig.until(lambda: figures(rig)[2] == 2)
        assert kinds(rig) == ["provisioned-concurrency"] * 2

    play(scenario)


def test_init_that_fails_gives_up_and_says_why(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = lambda w: w.die()
        put(rig, {"1": 2})
        await rig.until(lambda: figures(rig) == (2, 0, 0, "FAILED"))
        assert rig.invoker.provisioner.figures()[0]["reason"] == "FUNCTION_ERROR_INIT_FAILURE"
        await rig.until(lambda: not rig.invoker.instances)
        assert rig.catalogue.account("000000000000").unreserved_limit == 10
        assert rig.invoker.provisioner.pending() == []
        rig.invoker.tick()
        await asyncio.sleep(0)
        assert not rig.invoker.instances, "given up means given up"
        rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))
        put(rig, {"1": 2}, revision="r2")
        await ready(rig)

    play(scenario)


def test_a_replacement_that_fails_is_tried_again_with_pauses(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 1})
        await ready(rig)
        rig.sandbox.on_init = lambda w: w.die()
        rig.sandbox.lose(next(iter(rig.invoker.instances)).holder_id)
        await rig.until(lambda: rig.sandbox.inits == 2 and not rig.invoker.instances)
        rig.invoker.tick()
        assert figures(rig) == (1, 0, 0, "IN_PROGRESS")
        assert rig.sandbox.inits == 2
        rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))
        rig.clock.advance(1.0)
        rig.invoker.tick()
        await ready(rig)

    play(scenario)


def test_more_fewer_and_none(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 1})
        await ready(rig)
        put(rig, {"1": 4}, revision="r2")
        await rig.until(lambda: figures(rig) == (4, 4, 4, "READY"))
        put(rig, {"1": 2}, revision="r3")
        await rig.until(lambda: len(rig.invoker.instances) == 2)
        assert figures(rig) == (2, 2, 2, "READY")
        put(rig)
        await rig.until(lambda: not rig.invoker.instances)
        assert rig.invoker.provisioner.figures() == []
        assert rig.catalogue.functions()[0][1].versions["1"].provisioned is None

    play(scenario)


def test_an_alias_that_moves_is_served_by_the_old_version_until_the_new_one_stands(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"live": 2}, aliases={"live": {"version": "1"}})
        await ready(rig, "live")
        waiting: list[ScriptedWorker] = []
        rig.sandbox.on_init = waiting.append
        put(rig, {"live": 2}, aliases={"live": {"version": "2"}})
        await rig.until(lambda: len(waiting) == 2)
        assert figures(rig, "live")[3] == "IN_PROGRESS"
        assert version_of(await done(rig, rig.invoke(qualifier="live"))) == "1"
        for worker in waiting:
            worker.send(messages.pack(messages.NEXT))
        await ready(rig, "live")
        answer = await done(rig, rig.invoke(qualifier="live"))
        assert version_of(answer) == "2"
        assert answer.request is not None
        assert answer.request.provisioned
        await rig.until(lambda: {i.version.config.version for i in rig.invoker.instances} == {"2"})

    play(scenario)


def test_an_alias_that_moves_to_a_broken_version_shows_it(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"live": 1}, aliases={"live": {"version": "1"}})
        await ready(rig, "live")
        rig.sandbox.on_init = lambda w: w.die()
        put(rig, {"live": 1}, aliases={"live": {"version": "2"}})
        await rig.until(lambda: figures(rig, "live")[3] == "FAILED")
        rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))
        assert version_of(await done(rig, rig.invoke(qualifier="live"))) == "2"

    play(scenario)


def test_weights_split_the_instances(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"live": 4}, aliases={"live": {"version": "1", "weights": {"2": 0.25}}})
        await ready(rig, "live")
        assert sorted(i.version.config.version for i in rig.invoker.instances) == ["1", "1", "1", "2"]

    play(scenario)


def test_a_provisioned_instance_outlives_idleness_and_eviction(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 1})
        await ready(rig)
        rig.clock.advance(3600.0)
        rig.invoker.tick()
        assert figures(rig)[2] == 1
        refused = rig.invoke()
        rig.clock.advance(10.1)
        rig.invoker.tick()
        assert refused.error is not None
        assert refused.error.fields["Reason"] == "HostCapacityExceeded"
        assert refused.error.message == "Rate Exceeded. This host is full: 1 instances, which is all it may hold."
        assert figures(rig)[2] == 1

    play(scenario, max_instances=1)


def test_a_host_without_room_fails_the_allocation_after_a_while(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 3})
        await rig.until(lambda: figures(rig)[1] == 2)
        rig.invoker.tick()
        assert figures(rig)[3] == "IN_PROGRESS"
        rig.clock.advance(10.1)
        rig.invoker.tick()
        await rig.until(lambda: figures(rig)[3] == "FAILED")
        await rig.until(lambda: not rig.invoker.instances)

    play(scenario, max_instances=2)


def test_a_memory_budget_evicts_the_idle_of_others_first(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        for name in ("a", "b", "c"):
            rig.put(name)
            await rig.finish(rig.invoke(name))
        assert {i.version.function.name for i in rig.invoker.instances if i.state is State.IDLE} == {"b", "c"}
        held: Held = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        rig.invoke("b")
        rig.invoke("c")
        refused = rig.invoke("a")
        rig.clock.advance(2.0)
        rig.invoker.tick()
        assert refused.error is None
        rig.clock.advance(8.1)
        rig.invoker.tick()
        assert refused.error is not None
        assert refused.error.fields["Reason"] == "HostCapacityExceeded"

    play(scenario, memory_budget_mib=300)


def test_a_deleted_function_takes_its_provisioned_instances_along(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 2})
        await ready(rig)
        rig.catalogue.delete("000000000000", "f")
        await rig.until(lambda: not rig.invoker.instances)
        assert rig.invoker.provisioner.figures() == []
        assert rig.catalogue.account("000000000000").unreserved_limit == 10

    play(scenario)


def test_a_lost_broker_brings_them_back(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 2})
        await ready(rig)
        rig.invoker.faults.broker_lost("killed")
        rig.holders.zygote_ready("python3.11", 1)
        rig.clock.advance(1.0)
        rig.invoker.tick()
        await ready(rig)
        assert kinds(rig) == ["provisioned-concurrency"] * 2

    play(scenario)


def test_requests_beyond_ten_a_second_spill_over(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 1})
        await ready(rig)
        for _ in range(12):
            await rig.finish(rig.invoke(qualifier="1"))
        stats = rig.catalogue.functions()[0][1].stats
        assert (stats.provisioned, stats.spillover) == (10, 2)

    play(scenario, request_rates=(10, None))


def test_the_function_is_told_how_it_was_initialised(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 1})
        await ready(rig)
        await rig.finish(rig.invoke())
        assert [s["init_type"] for s in rig.sandbox.told] == ["provisioned-concurrency", "on-demand"]
        assert [s["env"]["AWS_LAMBDA_INITIALIZATION_TYPE"] for s in rig.sandbox.told] == ["provisioned-concurrency", "on-demand"]

    play(scenario)


async def done(rig: Rig, answer: Answer) -> Answer:
    await rig.finish(answer)
    return answer


def version_of(answer: Answer) -> str:
    assert answer.request is not None
    return answer.request.version.config.version


def test_asynchronous_attempts_have_no_request_rate(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(reserved=1)
        for _ in range(10):
            await rig.finish(rig.invoke())
        refused = rig.invoke()
        assert refused.error is not None
        assert refused.error.fields["Reason"] == "ReservedFunctionInvocationRateLimitExceeded"
        answer = Answer()
        rig.api.call(messages.Call(1, "f", None, messages.FLAG_EVENT, None, None, None, b"{}"), "000000000000", answer)
        await rig.finish(answer)

    play(scenario, request_rates=(10, None))
