"""Provisioned concurrency under whatever may happen to it, in any order: counts stay true, nobody is lost, and in the end all of it stands."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.core import provisioning
from engine.core.instance import State
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Answer, Rig
from tests.unit.test_provisioned import put

STEPS = 60
LIVE = (State.IDLE, State.BUSY)


class Storm:
    """One random history of a function with three versions and two aliases."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        self.inits: list[ScriptedWorker] = []
        self.answers: list[Answer] = []
        self.wanted: dict[str, int] = {}
        self.aliases: dict[str, dict[str, object]] = {"a": {"version": "1"}, "b": {"version": "2"}}
        self.revision = 0
        rig.sandbox.on_invoke = lambda w, e: self.held.append((w, e))
        rig.sandbox.on_init = self.inits.append

    def put(self) -> None:
        put(self.rig, self.wanted, aliases=self.aliases, revision=f"r{self.revision}", versions=("1", "2", "3"))

    async def step(self) -> None:
        """Something happens."""
        often = (self.invoke, self.settle, self.init)
        self.random.choice((self.ask, self.move, self.kill, self.wait, *often, *often, self.invoke))()
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        self.check()

    def ask(self) -> None:
        qualifier = self.random.choice(("a", "b", "3"))
        number = self.random.randrange(5)
        self.revision += 1
        self.wanted.pop(qualifier, None)
        if number:
            self.wanted[qualifier] = number
        self.put()

    def move(self) -> None:
        name, other = self.random.choice((("a", "b"), ("b", "a")))
        free = [v for v in ("1", "2") if v != self.aliases[other]["version"]]
        alias: dict[str, object] = {"version": free[0]}
        if self.random.random() < 0.3 and name not in self.wanted:
            alias["weights"] = {"3": 0.5}
        self.aliases = {**self.aliases, name: alias}
        self.put()

    def invoke(self) -> None:
        self.answers.append(self.rig.invoke(qualifier=self.random.choice(("a", "b", "1", "2", "3"))))

    def settle(self) -> None:
        if self.held:
            worker, event = self.held.pop(self.random.randrange(len(self.held)))
            if worker.sock.fileno() >= 0:
                worker.respond(event, b"1")

    def init(self) -> None:
        if self.inits:
            worker = self.inits.pop(self.random.randrange(len(self.inits)))
            if worker.sock.fileno() >= 0:
                worker.send(messages.pack(messages.NEXT))

    def kill(self) -> None:
        there = [i for i in self.rig.invoker.instances if i.state in LIVE and i.holder_id in self.rig.sandbox.workers]
        if there:
            self.rig.sandbox.lose(self.random.choice(sorted(there, key=lambda i: i.holder_id)).holder_id)

    def wait(self) -> None:
        self.rig.clock.advance(self.random.choice((0.1, 1.1)))
        self.rig.invoker.tick()

    def check(self) -> None:
        """What must hold at every moment."""
        rig = self.rig
        function = rig.catalogue.functions()[0][1]
        quota = function.quota
        busy = [i for i in rig.invoker.instances if i.state is State.BUSY and i.current is not None]
        waiting = sum(len(v.pool.waiting) for v in function.versions.values())
        assert quota.provisioned_in_flight == sum(i.provisioned for i in busy)
        assert quota.in_flight == sum(not i.provisioned for i in busy) + waiting
        shown = rig.invoker.provisioner.figures()
        assert {f["qualifier"]: f["requested"] for f in shown} == self.wanted
        assert quota.claim == sum(f["requested"] for f in shown if f["status"] != "FAILED")
        for figures in shown:
            assert 0 <= figures["available"] <= figures["allocated"] <= figures["requested"]
            assert (figures["status"] == "READY") == (figures["available"] == figures["requested"])
        assert all(a.times <= 1 for a in self.answers)
        there = [i for i in rig.invoker.instances if i.state not in (State.RETIRING, State.GONE)]
        assert rig.invoker._room.instances == len(there)

    async def calm(self) -> None:
        """Everything is let go on: each invocation is answered once, and there is what was asked for and no more."""
        rig = self.rig
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))

        def over() -> bool:
            while self.inits:
                self.init()
            while self.held:
                self.settle()
            rig.clock.advance(1.1)
            rig.invoker.tick()
            return all(f["status"] == "READY" for f in rig.invoker.provisioner.figures()) and all(a.times for a in self.answers)

        await rig.until(over)
        expected: Counter[str] = Counter()
        for qualifier, number in self.wanted.items():
            alias: Any = self.aliases.get(qualifier, {"version": qualifier})
            expected.update(provisioning.spread(number, alias["version"], list(alias.get("weights", {}).items())))
        rig.clock.advance(61.0)
        rig.invoker.tick()
        await rig.until(lambda: Counter(i.version.config.version for i in rig.invoker.instances) == expected)
        assert all(i.provisioned for i in rig.invoker.instances)
        function = rig.catalogue.functions()[0][1]
        assert (function.quota.in_flight, function.quota.provisioned_in_flight) == (0, 0)
        assert {n: a.version for n, a in function.aliases.items()} == {n: a["version"] for n, a in self.aliases.items()}
        self.check()


@pytest.mark.parametrize("seed", range(16))
def test_counts_are_true_and_what_was_asked_for_stands_in_the_end(seed: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        rig = Rig(tmp_path, account_limit=100)
        storm = Storm(rig, seed)
        try:
            storm.put()
            for _ in range(STEPS):
                await storm.step()
            await storm.calm()
        finally:
            rig.close()
            await asyncio.sleep(0)

    asyncio.run(scenario())
