"""Templates with scripted workers: when they are built, what waits for them, how they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.core.instance import State
from engine.errors import AwsError
from engine.supervisor.catalogue import parse_entry
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Rig, entry
from tests.unit.test_provisioned import play

__all__ = ["play"]


def put(rig: Rig, *, snap_start: bool = True) -> None:
    whole = entry()
    whole["versions"]["1"] = {**whole["versions"]["$LATEST"], "version": "1", "generation": "g1v", "snap_start": snap_start}
    rig.catalogue.put(parse_entry(whole))


def init(worker: ScriptedWorker) -> None:
    """As the bootstrap: RESTORE_NEXT where it is asked for."""
    restorable = "restore" in (worker.sandbox.told[-1].get("features") or ())
    worker.send(messages.pack(messages.RESTORE_NEXT if restorable else messages.NEXT))


def stage(rig: Rig) -> str:
    return str(rig.invoker.standing.templates.figures()[0]["stage"])


async def ready(rig: Rig) -> None:
    await rig.until(lambda: stage(rig) == "ready")


def of(rig: Rig, *states: State) -> list[str]:
    return sorted(i.version.function.name for i in rig.invoker.instances if i.state in states and not i.template)


def test_init_runs_once_and_every_instance_is_a_copy(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        with pytest.raises(AwsError) as caught:
            rig.invoke(qualifier="1")
        assert (caught.value.status, caught.value.code) == (409, "SnapStartNotReadyException")
        await ready(rig)
        held: list[Any] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        answers = [rig.invoke(qualifier="1") for _ in range(3)]
        await rig.until(lambda: len(held) == 3)
        assert (rig.sandbox.inits, rig.sandbox.restores) == (1, 3)
        assert {i.kind for i in rig.invoker.instances} == {"snap-start"}
        for worker, event in held:
            worker.respond(event, b"1")
        for answer in answers:
            await rig.finish(answer)
        lines = rig.lines()
        assert sum(line.startswith("RESTORE_REPORT Restore Duration: ") for line in lines) == 3
        assert sum("\tBilled Restore Duration: " in line for line in lines) == 3
        assert sum(line.startswith("INIT_REPORT") for line in lines) == 1

    play(scenario)


def test_a_template_makes_room_for_others_and_is_built_again(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        held: list[Any] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        first = rig.invoke(qualifier="1")
        await rig.until(lambda: len(held) == 1)
        rig.put("other")
        second = rig.invoke("other")
        await rig.until(lambda: len(held) == 2)
        assert (stage(rig), len(rig.sandbox.dropped)) == ("absent", 1)
        assert of(rig, State.BUSY) == ["f", "other"], "copies outlive their template"
        for worker, event in held:
            worker.respond(event, b"1")
        await rig.finish(first)
        await rig.finish(second)
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"2")
        rig.clock.advance(61.0)
        rig.invoker.tick()
        await rig.until(lambda: not of(rig, State.IDLE))
        assert (await rig.finish(rig.invoke(qualifier="1"))).payload == b"2"
        assert (stage(rig), rig.sandbox.inits, rig.sandbox.restores) == ("ready", 3, 2)

    play(scenario, max_instances=2)


def test_a_template_that_dies_is_built_again_for_whoever_waits(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        key = next(iter(rig.sandbox.templates))
        rig.zygote_failed(key, "killed")
        assert stage(rig) == "absent"
        await rig.finish(rig.invoke(qualifier="1"))
        assert (stage(rig), rig.sandbox.inits) == ("ready", 2)

    play(scenario)


def test_a_lost_broker_takes_templates_along(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        rig.invoker.faults.broker_lost("killed")
        assert stage(rig) == "absent"
        rig.holders.zygote_ready("python3.11", 1)
        await rig.finish(rig.invoke(qualifier="1"))
        assert stage(rig) == "ready"

    play(scenario)


def test_a_restore_that_takes_too_long_is_told_and_another_serves_the_next(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        rig.sandbox.on_restore = lambda w: None
        late = rig.invoke(qualifier="1")
        await rig.until(lambda: rig.sandbox.restores == 1)
        rig.clock.advance(10.0)
        await rig.until(lambda: late.error is not None)
        assert late.error is not None
        assert (late.error.status, late.error.code) == (408, "SnapStartTimeoutException")
        rig.sandbox.on_restore = lambda w: w.send(messages.pack(messages.NEXT))
        await rig.finish(rig.invoke(qualifier="1"))
        assert rig.catalogue.functions()[0][1].quota.in_flight == 0

    play(scenario)


def test_init_of_a_template_has_all_the_time_lambda_allows(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = lambda w: None
        put(rig)
        await rig.until(lambda: rig.sandbox.inits == 1)
        rig.clock.advance(129.0)
        rig.invoker._sweep()
        assert stage(rig) == "building"
        rig.clock.advance(2.0)
        rig.invoker._sweep()
        assert stage(rig) == "failed"
        await rig.until(lambda: not rig.invoker.instances)
        with pytest.raises(AwsError) as caught:
            rig.invoke(qualifier="1")
        assert caught.value.code == "ResourceConflictException"

    play(scenario)


def test_a_deleted_function_takes_its_template_along(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        await rig.finish(rig.invoke(qualifier="1"))
        rig.catalogue.delete("000000000000", "f")
        assert rig.invoker.standing.templates.figures() == []
        assert len(rig.sandbox.dropped) == 1
        await rig.until(lambda: all(i.template for i in rig.invoker.instances))

    play(scenario)


def test_with_the_switch_any_version_is_copied_from_its_second_cold_start_on(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        rig.put(runtime="python3.11")
        await rig.finish(rig.invoke())
        assert [i.kind for i in rig.invoker.instances if not i.template] == ["on-demand"]
        await ready(rig)
        held: list[Any] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        answers = [rig.invoke() for _ in range(2)]
        await rig.until(lambda: len(held) == 2)
        assert sorted(i.kind for i in rig.invoker.instances if i.state is State.BUSY) == ["on-demand", "snap-start"]
        assert (rig.sandbox.inits, rig.sandbox.restores) == (2, 1)
        for worker, event in held:
            worker.respond(event, b"1")
        for answer in answers:
            await rig.finish(answer)

    play(scenario, snapshots=True)


def test_open_sockets_are_a_warning_on_the_version(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        def warned(worker: ScriptedWorker) -> None:
            text = b"SNAPSTART_WARNING 2 open sockets at the time of the snapshot: they are at their end in every restored instance"
            worker.send(messages.pack(messages.LOG, None, 1, 4, text))
            init(worker)

        rig.sandbox.on_init = warned
        put(rig)
        await ready(rig)
        assert rig.invoker.standing.templates.figures()[0]["warning"] == (
            "2 open sockets at the time of the snapshot: they are at their end in every restored instance"
        )

    play(scenario)


def test_memory_that_runs_short_takes_idle_copies_first_and_then_templates(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        await rig.finish(rig.invoke(qualifier="1"))
        assert len(of(rig, State.IDLE)) == 1
        rig.put("other", memory_mb=256)
        # 128 for the template, 128 for its copy: the copy is not enough to make way.
        await rig.finish(rig.invoke("other"))
        assert (of(rig, State.IDLE), stage(rig)) == (["other"], "absent")
        rig.clock.advance(61.0)
        rig.invoker.tick()
        await rig.until(lambda: not of(rig, State.IDLE))
        await rig.finish(rig.invoke(qualifier="1"))
        assert (stage(rig), of(rig, State.IDLE)) == ("ready", ["f"])

    play(scenario, memory_budget_mib=256)
