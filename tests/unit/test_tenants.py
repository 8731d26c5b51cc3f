"""Instances of functions that keep their tenants apart, with scripted workers and a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.core import tenancy
from engine.errors import InvalidParameterValue, TooManyRequests, ValidationError
from engine.supervisor.catalogue import Version
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import ACCOUNT, Answer, Rig
from tests.unit.test_invoker import play as play


def ask(rig: Rig, tenant: str | None) -> Answer:
    answer = Answer()
    rig.api.call(messages.Call(1, "f", None, 0, None, None, None, b"{}", tenant), ACCOUNT, answer)
    return answer


def latest(rig: Rig) -> Version:
    ((_, function),) = rig.catalogue.functions()
    return function.versions["$LATEST"]


def whose(rig: Rig) -> list[str | None]:
    return sorted(str(i.version.tenant) for i in rig.invoker.instances)


def test_an_idle_instance_serves_its_own_tenant_only(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(tenants_apart=True)
        seen: dict[ScriptedWorker, set[str | None]] = {}

        def work(worker: ScriptedWorker, event: messages.Invoke) -> None:
            seen.setdefault(worker, set()).add(event.tenant_id)
            worker.respond(event, b"1")

        rig.sandbox.on_invoke = work
        for tenant in ("blue", "green", "blue", "x" * 256, "green"):
            await rig.finish(ask(rig, tenant))
        assert sorted(map(sorted, seen.values())) == [["blue"], ["green"], ["x" * 256]]
        assert rig.sandbox.inits == 3

    play(scenario)


def test_tenants_wait_and_crash_on_their_own(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(tenants_apart=True)
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        blue, green = ask(rig, "blue"), ask(rig, "green")
        await rig.until(lambda: len(held) == 2)
        next_green = ask(rig, "green")
        # Blue's is free first, and takes nothing of green's line.
        worker, event = next(pair for pair in held if pair[1].tenant_id == "blue")
        worker.respond(event, b"1")
        await rig.finish(blue)
        await rig.until(lambda: len(held) == 3)
        assert held[2][1].tenant_id == "green"
        assert held[2][0] is not worker
        next(pair for pair in held if pair[1].tenant_id == "green")[0].die()
        assert (await rig.finish(green)).platform
        held[2][0].respond(held[2][1], b"2")
        assert (await rig.finish(next_green)).payload == b"2"
        # Both of green's are its own still: the one that was reset, too.
        assert whose(rig) == ["blue", "green", "green"]

    play(scenario)


def test_a_full_host_gives_up_another_tenants_instance_not_its_memory(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(tenants_apart=True)
        for tenant in ("blue", "green"):
            await rig.finish(ask(rig, tenant))
        await rig.until(lambda: whose(rig) == ["green"])
        assert rig.sandbox.inits == 2
        # Nothing is kept of a tenant without instances.
        assert set(latest(rig).tenants) == {"green"}

    play(scenario, max_instances=1)


def test_concurrency_bounds_the_instances_of_all_tenants(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(tenants_apart=True, reserved=1)
        for tenant in ("blue", "green"):
            await rig.finish(ask(rig, tenant))
        for n in range(3):
            refused = ask(rig, f"tenant {n}")
            assert isinstance(refused.error, TooManyRequests)
            assert refused.error.fields["Reason"] == "FunctionInvocationRateLimitExceeded"
        assert set(latest(rig).tenants) == {"blue", "green"}, "nobody who was refused is remembered"
        await rig.finish(ask(rig, "green"))
        rig.clock.advance(61.0)
        rig.invoker.tick()
        await rig.until(lambda: not rig.invoker.instances)
        assert latest(rig).tenants == {}
        await rig.finish(ask(rig, "tenant 1"))
        assert whose(rig) == ["tenant 1"]

    play(scenario)


def test_concurrency_is_counted_over_all_tenants(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(tenants_apart=True, reserved=2)
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        running = [ask(rig, tenant) for tenant in ("blue", "green")]
        await rig.until(lambda: len(held) == 2)
        third = ask(rig, "red")
        assert third.error is not None
        assert third.error.fields["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        for worker, event in held:
            worker.respond(event, b"1")
        for answer in running:
            await rig.finish(answer)

    play(scenario)


def test_every_tenants_instances_go_with_their_generation(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(tenants_apart=True)
        for tenant in ("blue", "green"):
            await rig.finish(ask(rig, tenant))
        former = latest(rig)
        rig.put(tenants_apart=True, timeout_s=9)
        assert latest(rig) is former
        assert {v.config.timeout_s for v in (former, *former.tenants.values())} == {9}
        rig.put(tenants_apart=True, generation="g2")
        await rig.until(lambda: not rig.invoker.instances)
        await rig.finish(ask(rig, "blue"))
        assert (whose(rig), set(latest(rig).tenants), former.tenants) == (["blue"], {"blue"}, {})
        assert latest(rig).function.tenant_instances == 1
        rig.catalogue.delete(ACCOUNT, "f")
        await rig.until(lambda: not rig.invoker.instances)

    play(scenario)


@pytest.mark.parametrize(("apart", "tenant", "text"), [(True, None, tenancy.MISSING), (False, "t", tenancy.UNWANTED)])
def test_a_tenant_is_named_just_where_one_must_be(play: Callable[..., None], apart: bool, tenant: str | None, text: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(tenants_apart=apart)
        for flags in (0, messages.FLAG_DRY_RUN):
            with pytest.raises(InvalidParameterValue) as raised:
                rig.api.call(messages.Call(1, "f", None, flags, None, None, None, b"{}", tenant), ACCOUNT, Answer())
            assert raised.value.message == text

    play(scenario)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (b"", ["length greater than or equal to 1", "regular expression pattern"]),
        (b"x" * 257, ["length less than or equal to 256"]),
        (b"a#b", ["regular expression pattern"]),
        ("é".encode(), ["regular expression pattern"]),
    ],
)
def test_what_is_no_tenant_is_named_with_every_constraint_it_breaks(value: bytes, texts: list[str]) -> None:
    assert tenancy.plain(value) == ""
    with pytest.raises(ValidationError) as raised:
        tenancy.read(value)
    message = raised.value.message or ""
    assert message.startswith(f"{len(texts)} validation error{'s' if len(texts) > 1 else ''} detected: ")
    for text in texts:
        assert text in message
