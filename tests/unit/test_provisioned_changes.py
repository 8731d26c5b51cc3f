"""Provisioned concurrency while it is being allocated: pace, reasons for failure, and changes of mind. The clock is the test's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.core import provisioning
from engine.core.instance import State
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Rig
from tests.unit.test_provisioned import done, figures, kinds, play, put, ready, version_of

__all__ = ["play"]


def stall(rig: Rig) -> list[ScriptedWorker]:
    """Workers whose init goes on until they are told."""
    waiting: list[ScriptedWorker] = []
    rig.sandbox.on_init = waiting.append
    return waiting


def go_on(rig: Rig, waiting: list[ScriptedWorker]) -> None:
    """All of them are initialised, and those that come."""
    rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))
    for worker in waiting:
        worker.send(messages.pack(messages.NEXT))
    waiting.clear()


def claim(rig: Rig) -> int:
    return rig.catalogue.functions()[0][1].quota.claim


def reason(rig: Rig) -> str:
    return str(rig.invoker.provisioner.figures()[0]["reason"])


def test_eight_are_initialised_at_a_time(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        waiting = stall(rig)
        put(rig, {"1": 10})
        await rig.until(lambda: len(waiting) == 8)
        rig.invoker.tick()
        assert rig.invoker.provisioner.figures()[0]["allocated"] == 0
        assert len(rig.invoker.instances) == 8
        go_on(rig, waiting)
        await ready(rig)
        assert figures(rig) == (10, 10, 10, "READY")

    play(scenario, account_limit=100)


def test_a_minute_brings_as_many_as_lambda_ramps(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "RAMP_PER_MINUTE", 2)

    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 3})
        await rig.until(lambda: figures(rig) == (3, 2, 0, "IN_PROGRESS"))
        rig.clock.advance(29.0)
        rig.invoker.tick()
        assert len(rig.invoker.instances) == 2
        rig.clock.advance(1.1)
        rig.invoker.tick()
        await ready(rig)

    play(scenario)
    assert provisioning.RAMP_PER_MINUTE == 2


def test_an_init_may_take_longer_than_on_demand_and_not_for_ever(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        waiting = stall(rig)
        put(rig, {"1": 1})
        await rig.until(lambda: len(waiting) == 1)
        rig.clock.advance(129.0)
        rig.invoker._sweep()
        assert figures(rig) == (1, 0, 0, "IN_PROGRESS")
        rig.clock.advance(2.0)
        rig.invoker._sweep()
        await rig.until(lambda: figures(rig) == (1, 0, 0, "FAILED"))
        assert reason(rig) == "FUNCTION_ERROR_INIT_FAILURE"

    play(scenario)


def test_a_sandbox_that_cannot_be_had_is_named(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.refuse = "no more processes"
        put(rig, {"1": 1})
        await rig.until(lambda: figures(rig) == (1, 0, 0, "FAILED"))
        assert reason(rig).startswith("PLATFORM_ERROR: ")
        assert "no more processes" in reason(rig)
        assert claim(rig) == 0

    play(scenario)


def test_a_host_without_room_is_named(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 2})
        await rig.until(lambda: figures(rig)[1] == 1)
        rig.invoker.tick()
        rig.clock.advance(10.1)
        rig.invoker.tick()
        await rig.until(lambda: figures(rig)[3] == "FAILED")
        assert reason(rig) == "HOST_CAPACITY_EXCEEDED: this host has no room for more instances"

    play(scenario, max_instances=1)


def test_what_is_deleted_while_it_is_allocated_leaves_nothing(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        waiting = stall(rig)
        put(rig, {"1": 3})
        await rig.until(lambda: len(waiting) == 3)
        waiting.pop().send(messages.pack(messages.NEXT))
        await rig.until(lambda: figures(rig) == (3, 1, 0, "IN_PROGRESS"))
        assert claim(rig) == 3, "set aside before anything stands"
        put(rig)
        await rig.until(lambda: not rig.invoker.instances)
        assert (rig.invoker.provisioner.figures(), claim(rig)) == ([], 0)
        go_on(rig, [])
        await rig.finish(rig.invoke(qualifier="1"))
        assert kinds(rig) == ["on-demand"]

    play(scenario)


def test_an_alias_that_moves_while_it_is_allocated_goes_on_where_it_points(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        waiting = stall(rig)
        put(rig, {"live": 2}, aliases={"live": {"version": "1"}})
        await rig.until(lambda: len(waiting) == 2)
        first = list(waiting)
        waiting.clear()
        put(rig, {"live": 2}, aliases={"live": {"version": "2"}})
        await rig.until(lambda: len(waiting) == 2)
        assert figures(rig, "live") == (2, 0, 0, "IN_PROGRESS")
        go_on(rig, waiting)
        await ready(rig, "live")
        # The others were for nobody; those that get ready after all are let go.
        await rig.until(lambda: {i.version.config.version for i in rig.invoker.instances if i.state is State.IDLE} == {"2"})
        await rig.until(lambda: len(rig.invoker.instances) == 2)
        answer = await done(rig, rig.invoke(qualifier="live"))
        assert version_of(answer) == "2"
        assert answer.request is not None
        assert answer.request.provisioned
        assert all(w.sock.fileno() < 0 for w in first)
        assert claim(rig) == 2

    play(scenario)


def test_an_alias_that_moves_under_load_loses_nothing_and_never_goes_cold(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"live": 2}, aliases={"live": {"version": "1"}})
        await ready(rig, "live")
        for target in ("2", "1", "2"):
            waiting = stall(rig)
            put(rig, {"live": 2}, aliases={"live": {"version": target}})
            await rig.until(lambda waiting=waiting: len(waiting) == 2)  # type: ignore[misc]
            former = "1" if target == "2" else "2"
            for _ in range(5):
                answer = await done(rig, rig.invoke(qualifier="live"))
                assert version_of(answer) == former
            go_on(rig, waiting)
            await ready(rig, "live")
            for _ in range(5):
                answer = await done(rig, rig.invoke(qualifier="live"))
                assert version_of(answer) == target
        assert rig.catalogue.functions()[0][1].stats.provisioned == 30
        assert rig.catalogue.functions()[0][1].stats.spillover == 0

    play(scenario)


def test_more_of_them_serve_while_others_are_allocated(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"1": 1})
        await ready(rig)
        waiting = stall(rig)
        put(rig, {"1": 3}, revision="r2")
        await rig.until(lambda: len(waiting) == 2)
        assert figures(rig) == (3, 1, 1, "IN_PROGRESS")
        answer = await done(rig, rig.invoke(qualifier="1"))
        assert answer.request is not None
        assert answer.request.provisioned
        put(rig, {"1": 1}, revision="r3")
        await rig.until(lambda: figures(rig) == (1, 1, 1, "READY") and len(rig.invoker.instances) == 1)

    play(scenario)


def test_weights_that_change_move_instances_and_serve_meanwhile(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        put(rig, {"live": 4}, aliases={"live": {"version": "1"}})
        await ready(rig, "live")
        put(rig, {"live": 4}, aliases={"live": {"version": "1", "weights": {"2": 0.5}}})
        await ready(rig, "live")
        await rig.until(lambda: sorted(i.version.config.version for i in rig.invoker.instances) == ["1", "1", "2", "2"])
        put(rig, {"live": 4}, aliases={"live": {"version": "2"}})
        await ready(rig, "live")
        await rig.until(lambda: [i.version.config.version for i in rig.invoker.instances] == ["2"] * 4)

    play(scenario)
