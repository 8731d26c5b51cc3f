"""How long instances live: by setting, by tag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.control.instance_policy import MAX_CONCURRENCY, check, of_tags
from engine.core.instance import State
from engine.errors import InvalidParameterValue
from engine.supervisor.catalogue import parse_entry
from tests.unit.test_invoker import Rig, entry
from tests.unit.test_provisioned import play

__all__ = ["play"]


def idle(rig: Rig) -> int:
    return sum(i.state is State.IDLE for i in rig.invoker.instances)


def test_tags_are_seconds() -> None:
    assert of_tags({"team": "a"}) == {"keep_alive_s": None, "max_age_s": None, "max_concurrency": None}
    tags = {"lambda-engine:keep-alive-s": "30", "lambda-engine:max-age-s": "0", "lambda-engine:max-concurrency": "1600"}
    assert of_tags(tags) == {"keep_alive_s": 30.0, "max_age_s": 0.0, "max_concurrency": 1600}


@pytest.mark.parametrize(
    "tags",
    [
        {"lambda-engine:keep-alive-s": "0"},
        {"lambda-engine:keep-alive-s": "soon"},
        {"lambda-engine:keep-alive-s": "nan"},
        {"lambda-engine:max-age-s": "-1"},
        {"lambda-engine:max-age": "1"},
    ],
)
def test_what_could_not_be_obeyed_is_refused(tags: dict[str, str]) -> None:
    with pytest.raises(InvalidParameterValue, match="lambda-engine:"):
        of_tags(tags)


@pytest.mark.parametrize(
    ("runtime", "snap_start", "text"),
    [
        ("nodejs22.x", "None", "instances of nodejs22.x run one invocation at a time"),
        ("python3.12", "PublishedVersions", "instances of python3.12 with SnapStart run one invocation at a time"),
    ],
)
def test_what_cannot_run_several_at_once_is_told_so(runtime: str, snap_start: str, text: str) -> None:
    config = {"Runtime": runtime, "SnapStart": {"ApplyOn": snap_start}}
    check({MAX_CONCURRENCY: "1"}, config)
    check({}, config)
    with pytest.raises(InvalidParameterValue, match=text):
        check({MAX_CONCURRENCY: "2"}, config)
    for able in ("python3.9", "java21", "provided.al2023"):
        check({MAX_CONCURRENCY: "2"}, {"Runtime": able, "SnapStart": {"ApplyOn": "None"}})
    check({MAX_CONCURRENCY: "2"}, {"SnapStart": {"ApplyOn": "None"}})


def test_a_function_may_keep_its_instances_longer_or_shorter(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        for name, keep_alive_s in (("short", 5.0), ("usual", None)):
            rig.catalogue.put(parse_entry({**entry(name), "keep_alive_s": keep_alive_s}))
            await rig.finish(rig.invoke(name))
        rig.clock.advance(6.0)
        rig.invoker.tick()
        assert idle(rig) == 1
        rig.clock.advance(55.0)
        rig.invoker.tick()
        assert idle(rig) == 0

    play(scenario)


def test_an_old_instance_goes_when_it_is_idle(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put("f")
        rig.catalogue.put(parse_entry({**entry("ageless"), "max_age_s": 0}))
        await rig.finish(rig.invoke("ageless"))
        for _ in range(3):
            await rig.finish(rig.invoke())
            rig.clock.advance(7.0)
            rig.invoker.tick()
        assert rig.sandbox.inits == 3
        assert {i.version.function.name for i in rig.invoker.instances if i.state is State.IDLE} == {"f", "ageless"}

    play(scenario, max_age_s=10.0)


def test_the_newest_idle_instance_is_used_first(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        held: list[Any] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        answers = [rig.invoke() for _ in range(2)]
        await rig.until(lambda: len(held) == 2)
        for worker, event in held:
            worker.respond(event, b"1")
            await rig.until(lambda: any(a.times for a in answers))
        for answer in answers:
            await rig.finish(answer)
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        await rig.finish(rig.invoke())
        assert sorted(i.invocations for i in rig.invoker.instances) == [1, 2]
        await rig.finish(rig.invoke())
        assert sorted(i.invocations for i in rig.invoker.instances) == [1, 3]

    play(scenario)
