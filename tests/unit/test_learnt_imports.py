"""Packages that are imported ahead, with scripted workers: what is learnt, when it is used, and when it is given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from engine.cli import cold_starts
from engine.core.instance import State
from engine.errors import WireError
from engine.supervisor import imports
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Rig
from tests.unit.test_provisioned import play

__all__ = ["play"]

LEARNT = {"took_us": 90_000, "packages": [["numpy", "package", 80_000], ["m", "own", 500]], "modules": ["numpy", "numpy.linalg"]}


def imported(worker: ScriptedWorker, document: Any) -> None:
    worker.send(messages.pack(messages.IMPORTS, json.dumps(document).encode()))


class Script:
    """A function whose first instance tells ``learnt``; its templates wait to be copied, or say ``refused``."""

    def __init__(self, rig: Rig, learnt: Any = LEARNT, refused: str = "") -> None:
        self.told: list[Any] = []
        self.refused = refused
        self.broken = False
        self._learnt = learnt
        rig.sandbox.on_init = self._init
        rig.sandbox.on_invoke = self._invoke
        rig.put()

    def _init(self, worker: ScriptedWorker) -> None:
        init = worker.sandbox.told[-1]
        self.told.append(init)
        if "preload" not in init:
            if self.broken:
                self.broken = False
                worker.die()
            else:
                worker.send(messages.pack(messages.NEXT))
        elif self.refused.startswith("print"):
            worker.log(b"hello")
        elif self.refused:
            imported(worker, {"refused": self.refused})
        else:
            worker.send(messages.pack(messages.RESTORE_NEXT))

    def _invoke(self, worker: ScriptedWorker, event: messages.Invoke) -> None:
        worker.respond(event, event.payload)
        if "imports" in self.told[-1].get("features", ()):
            imported(worker, self._learnt)


def report(rig: Rig) -> dict[str, Any]:
    version = rig.catalogue.functions()[0][1].versions["$LATEST"]
    return imports.figures("000000000000", version) or {}


async def again(rig: Rig) -> None:
    """One more cold start."""
    rig.clock.advance(61.0)
    rig.invoker.tick()
    await rig.until(lambda: not [i for i in rig.invoker.instances if i.state is State.IDLE and not i.template])
    await rig.finish(rig.invoke())


def test_the_second_cold_start_is_a_copy_that_runs_its_own_init(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        await rig.finish(rig.invoke())
        await rig.until(lambda: report(rig).get("preloading") == "ready")
        assert script.told[1]["preload"] == ["numpy", "numpy.linalg"]
        assert "restore" not in script.told[1]["features"]
        await again(rig)
        assert (rig.sandbox.inits, rig.sandbox.restores) == (3, 0)
        assert "preload" not in script.told[2]
        assert "imports" not in script.told[2]["features"]
        assert {i.kind for i in rig.invoker.instances} == {"on-demand"}
        lines = rig.lines()
        assert sum("\tInit Duration: " in line for line in lines) == 2
        assert not [line for line in lines if line.startswith(("INIT_REPORT", "RESTORE"))]
        assert report(rig)["preloaded_init_ms"] is not None

    play(scenario, learn_imports=True)


@pytest.mark.parametrize(("refused", "reason"), [("they open connections", "they open connections"), ("print", "print when they are imported")])
def test_packages_that_leave_traces_are_not_imported_ahead(play: Callable[..., None], refused: str, reason: str) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig, refused=refused)
        await rig.finish(rig.invoke())
        await rig.until(lambda: report(rig).get("preloading") == "plain")
        assert reason in report(rig)["reason"]
        await again(rig)
        assert len(script.told) == 3
        assert "hello" not in rig.lines()

    play(scenario, learn_imports=True)


def test_an_init_that_fails_in_a_copy_is_run_as_ever(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        script = Script(rig)
        await rig.finish(rig.invoke())
        await rig.until(lambda: report(rig).get("preloading") == "ready")
        script.broken = True
        rig.clock.advance(61.0)
        rig.invoker.tick()
        await rig.until(lambda: not [i for i in rig.invoker.instances if i.state is State.IDLE and not i.template])
        answer = rig.invoke()
        assert (await rig.finish(answer)).payload == b"{}"
        assert "an init failed" in report(rig)["reason"]

    play(scenario, learn_imports=True)


def test_little_is_not_worth_a_process_and_without_the_switch_there_is_only_a_report(play: Callable[..., None]) -> None:
    async def little(rig: Rig) -> None:
        Script(rig, {**LEARNT, "packages": [["small", "package", 900]]})
        await rig.finish(rig.invoke())
        await rig.until(lambda: report(rig).get("preloading") == "plain")
        assert report(rig)["reason"] == "nothing it imports would be worth importing ahead"

    async def off(rig: Rig) -> None:
        script = Script(rig)
        await rig.finish(rig.invoke())
        await rig.until(lambda: bool(report(rig)))
        assert (report(rig)["preloading"], report(rig)["spare_ms"], len(script.told)) == ("off", 80.0, 1)

    play(little, learn_imports=True)
    play(off)


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"took_us": -1}', b'{"packages": [["a", "b", 1]]}', b'{"modules": [1]}', b'{"modules": ["' + b"x" * 201 + b'"]}'],
)
def test_malformed_reports_are_violations(body: bytes) -> None:
    with pytest.raises(WireError):
        imports.parse([messages.IMPORTS, body])
    with pytest.raises(WireError):
        imports.parse([messages.IMPORTS, "text"])


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ({"preloading": "off"}, "f:1: importing numpy ahead would spare 80.0 of 90.0 ms in each cold start (LAMBDA_ENGINE_LEARN_IMPORTS=true)"),
        ({"preloading": "ready", "preloaded_init_ms": 2.0}, "f:1: numpy imported ahead; an init took 90.0 ms and takes 2.0 ms"),
        ({"preloading": "building"}, "f:1: its next instances start with numpy imported (80.0 of 90.0 ms)"),
        ({"preloading": "plain", "reason": "they print"}, "f:1: nothing is imported ahead: they print"),
        ({"preloading": "off", "packages": []}, "f:1: imports no package that could be imported ahead; its init took 90.0 ms"),
    ],
)
def test_what_the_command_says(shown: dict[str, Any], text: str) -> None:
    packages = [{"name": "numpy", "kind": "package", "ms": 80.0}, {"name": "m", "kind": "own", "ms": 1.0}]
    whole = {"name": "f", "version": "1", "init_ms": 90.0, "spare_ms": 80.0, "preloaded_init_ms": None, "reason": None, "packages": packages}
    assert cold_starts._sentence({**whole, **shown}) == text


