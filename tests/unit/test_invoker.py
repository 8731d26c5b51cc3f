"""The invoker's rules with scripted workers and a clock that the test turns."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from engine.arn import parse_function_name
from engine.clock import ManualClock
from engine.core.instance import State
from engine.core.invocation import Outcome, Status
from engine.errors import AwsError
from engine.sandbox.api import Cause, ExitCause, HolderFds, SandboxListener, ZygoteSpec
from engine.supervisor.api import InvokeApi
from engine.supervisor.catalogue import Catalogue, parse_entry
from engine.supervisor.environment import Home
from engine.supervisor.holders import Holder, HolderPool
from engine.supervisor.invoker import Invoker
from engine.supervisor.logs import LogStore
from engine.supervisor.request import Request
from engine.wire import messages
from tests.framework import wait
from tests.framework.scripted_sandbox import ScriptedSandbox, ScriptedWorker

ACCOUNT = "000000000000"
_LIMITS = ("account_limit", "request_rates", "scaling")


def entry(name: str = "f", *, generation: str = "g1", reserved: int | None = None, **version: Any) -> dict[str, Any]:
    latest = {
        "version": "$LATEST", "generation": generation, "state": "Active", "runtime": "python3.11", "handler": "m.f", "timeout_s": 3,
        "memory_mb": 128, "tmp_mb": 512, "code_dir": "/nonexistent", **version,
    }  # fmt: skip
    return {"account": ACCOUNT, "name": name, "reserved": reserved, "versions": {"$LATEST": latest}, "aliases": {}}


class Answer:
    """Whoever asked: remembers the one answer."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.outcome: Outcome | None = None
        self.error: AwsError | None = None
        self.request: Request | None = None
        self.times = 0

    def answered(self, request: Request, outcome: Outcome) -> None:
        self.times += 1
        self.request, self.outcome = request, outcome
        self.done.set()

    def failed(self, request: Request, error: AwsError) -> None:
        self.times += 1
        self.request, self.error = request, error
        self.done.set()

    def dry_run(self, request_id: str) -> None:
        raise AssertionError("not asked for")


class Rig(SandboxListener):
    """Invoker, catalogue and pool over a scripted sandbox."""

    def __init__(self, tmp: Path, **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = ManualClock()
        self.sandbox = ScriptedSandbox(self.loop)
        self.sandbox.listener = self
        limits: dict[str, Any] = {"account_limit": 10, "request_rates": (0, None)} | {k: options.pop(k) for k in _LIMITS if k in options}
        home = Home("us-east-1", "http://127.0.0.1:4566", "http://127.0.0.1:4566", ("k", "s", "t"))
        self.invoker = Invoker(
            self.loop, self.clock, keep_alive_s=60.0, init_timeout_s=10.0, home=home, isolated_paths=True,
            max_instances=options.pop("max_instances", 100), **options,
        )  # fmt: skip
        self.holders = HolderPool(self.loop, self.sandbox, 1, lambda key: ZygoteSpec(key, key, "/bin/true"))
        self.invoker.wire(self.sandbox, self.holders)
        self.logs = LogStore(tmp, 1024 * 1024)
        self.catalogue = Catalogue(
            region="us-east-1", logs=self.logs, on_drain=self.invoker.drain, on_new=self.invoker.prepare,
            on_change=self.invoker.provisioner.configure, on_delete=self.invoker.provisioner.forget, **limits,
        )  # fmt: skip
        self.invoker.standing.on_rerouted = self.catalogue.rerouted
        self.api = InvokeApi(self.catalogue, self.invoker, self.clock, region="us-east-1", account_id=ACCOUNT)

    def put(self, *args: Any, **kwargs: Any) -> None:
        self.catalogue.put(parse_entry(entry(*args, **kwargs)))

    def invoke(self, name: str = "f", payload: bytes = b"{}", *, tail: bool = False, qualifier: str | None = None) -> Answer:
        answer = Answer()
        flags = messages.FLAG_TAIL if tail else 0
        self.api.call(messages.Call(1, name, qualifier, flags, None, None, None, payload), ACCOUNT, answer)
        return answer

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until ``condition`` holds; fails after five real seconds."""
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)

    async def finish(self, answer: Answer) -> Outcome:
        async with asyncio.timeout(5):
            await answer.done.wait()
        assert answer.outcome is not None, answer.error
        return answer.outcome

    def lines(self, name: str = "f") -> list[str]:
        self.logs.flush()
        text = (self.logs.root / ACCOUNT / f"{name}.log").read_text()
        return [line.split("\t", 2)[2] for line in text.splitlines()]

    def close(self) -> None:
        self.invoker.stop()
        self.holders.close()
        self.sandbox.close()

    # SandboxListener
    def zygote_ready(self, key: str, pid: int) -> None:
        self.holders.zygote_ready(key, pid)
        self.invoker.standing.templates.ready(key)

    def zygote_failed(self, key: str, reason: str) -> None:
        if key.startswith("template:"):
            self.invoker.standing.templates.lost(key)
        else:
            self.holders.zygote_failed(key, reason)

    def holder_ready(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        holder = Holder(holder_id, "", fds, pid)
        if not self.holders.holder_ready(holder):
            holder.fds.close()

    def holder_failed(self, holder_id: int, step: str, reason: str) -> None:
        self.holders.holder_failed(holder_id, f"{step}: {reason}")
        self.invoker.faults.holder_failed(holder_id, f"{step}: {reason}")

    def worker_exited(self, holder_id: int, cause: ExitCause) -> None:
        self.invoker.faults.worker_exited(holder_id, cause)

    def worker_reset(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        self.invoker.faults.worker_reset(holder_id, fds, pid)

    def holder_gone(self, holder_id: int) -> None:
        self.invoker.faults.gone(holder_id)

    def broker_lost(self, reason: str) -> None:
        self.invoker.faults.broker_lost(reason)


Scenario = Callable[[Rig], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Run a scenario in a fresh rig; afterwards no descriptor may be left."""

    def run(scenario: Callable[[Rig], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def whole() -> None:
            rig = Rig(tmp_path, **options)
            try:
                await scenario(rig)
            finally:
                rig.close()
                await asyncio.sleep(0)

        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        asyncio.run(whole())
        gc.collect()
        # Others' threads may open and close some meanwhile; what has leaked stays.
        wait.until(lambda: len(os.listdir("/proc/self/fd")) <= before, "no descriptor has leaked")

    return run


def test_cold_then_warm_on_one_instance(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        first = await rig.finish(rig.invoke(payload=b'{"n":1}'))
        assert (first.status, first.payload) == (Status.SUCCESS, b'{"n":1}')
        second = await rig.finish(rig.invoke(payload=b'{"n":2}'))
        assert second.payload == b'{"n":2}'
        assert rig.sandbox.inits == 1
        assert len(rig.invoker.instances) == 1
        lines = rig.lines()
        assert [line.split()[0] for line in lines] == ["START", "END", "REPORT"] * 2
        assert "Init Duration" in lines[2]
        assert "Init Duration" not in lines[5]

    play(scenario)


def test_concurrent_requests_get_an_instance_each(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        answers = [rig.invoke() for _ in range(5)]
        await rig.until(lambda: len(held) == 5)
        assert len({w.holder_id for w, _ in held}) == 5
        for worker, event in held:
            worker.respond(event, b"1")
        for answer in answers:
            await rig.finish(answer)

    play(scenario)


def test_a_freed_instance_serves_the_line_before_its_new_one(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        first = rig.invoke()
        await rig.until(lambda: len(held) == 1)
        rig.sandbox.on_init = lambda w: None
        second = rig.invoke()
        held[0][0].respond(held[0][1], b"1")
        await rig.finish(first)
        await rig.until(lambda: len(held) == 2)
        assert held[1][0] is held[0][0]
        held[1][0].respond(held[1][1], b"2")
        assert (await rig.finish(second)).payload == b"2"

    play(scenario)


def test_deadlines_hold_after_a_sweep_that_came_to_grief(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        troubles: list[dict[str, Any]] = []
        rig.loop.set_exception_handler(lambda _loop, context: troubles.append(context))
        sweep = rig.invoker.sharing.sweep

        def once(now_s: float) -> None:
            rig.invoker.sharing.sweep = sweep  # type: ignore[method-assign]
            raise RuntimeError("one of many")

        rig.invoker.sharing.sweep = once  # type: ignore[method-assign]
        started = asyncio.Event()
        rig.sandbox.on_invoke = lambda w, e: started.set()
        answer = rig.invoke()
        await started.wait()
        await rig.until(lambda: bool(troubles))
        rig.clock.advance(3.0)
        assert (await rig.finish(answer)).status is Status.TIMEOUT
        assert [str(t["exception"]) for t in troubles] == ["one of many"]

    play(scenario)


def test_timeout_kills_and_the_next_invocation_repeats_init_in_the_same_sandbox(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        started = asyncio.Event()
        rig.sandbox.on_invoke = lambda w, e: started.set()
        answer = rig.invoke(tail=True)
        await started.wait()
        rig.clock.advance(3.0)
        outcome = await rig.finish(answer)
        assert outcome.status is Status.TIMEOUT
        assert json.loads(outcome.payload)["errorMessage"].endswith("Error: Task timed out after 3.00 seconds")
        assert answer.request is not None
        tail = answer.request.log_tail()
        assert tail is not None
        assert b"Duration: 3000.00 ms\tBilled Duration: 300" in tail
        assert tail.endswith(b"Status: timeout\n")
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"2")
        assert (await rig.finish(rig.invoke())).payload == b"2"
        assert rig.sandbox.inits == 2
        assert len(rig.sandbox.resets) == 1
        assert len(rig.sandbox.specialised) == 1, "the sandbox was kept"

    play(scenario)


def test_a_reply_that_races_the_deadline_still_counts(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()

        def late(worker: ScriptedWorker, event: messages.Invoke) -> None:
            rig.clock.advance(5.0)
            worker.respond(event, b'"in the socket"')

        rig.sandbox.on_invoke = late
        assert (await rig.finish(rig.invoke())).payload == b'"in the socket"'

    play(scenario)


@pytest.mark.parametrize(
    ("cause", "status", "text"),
    [
        (Cause.EXITED, 0, "Runtime exited without providing a reason"),
        (Cause.EXITED, 7, "Runtime exited with error: exit status 7"),
        (Cause.SIGNALLED, 11, "Runtime exited with error: signal: segmentation fault"),
        (Cause.OOM_KILLED, 9, "Runtime exited with error: signal: killed"),
    ],
)
def test_a_crash_fails_only_its_invocation(play: Callable[..., None], cause: Cause, status: int, text: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.sandbox.on_invoke = lambda w, e: w.die(cause, status)
        outcome = await rig.finish(rig.invoke())
        assert json.loads(outcome.payload)["errorMessage"].endswith(text)
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        assert (await rig.finish(rig.invoke())).payload == b"1"

    play(scenario)


def test_who_has_ended_with_extensions_within_is_not_waited_for(play: Callable[..., None]) -> None:
    """The next invocation came two seconds later, which are the extensions' to end in."""

    async def scenario(rig: Rig) -> None:
        rig.put(runtime="provided.al2023", api="extends")
        rig.sandbox.on_invoke = lambda w, e: w.die(Cause.EXITED, 3)
        assert json.loads((await rig.finish(rig.invoke())).payload)["errorType"] == "Runtime.ExitError"
        assert (len(rig.sandbox.resets), rig.invoker.farewell.pending) == (1, 0)
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        assert (await rig.finish(rig.invoke())).payload == b"1"
        for worker in list(rig.sandbox.workers.values()):
            worker.die()
        await rig.until(lambda: not rig.invoker.instances)

    play(scenario)


def test_a_reply_just_before_the_exit_is_kept(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()

        def reply_and_die(worker: ScriptedWorker, event: messages.Invoke) -> None:
            worker.respond(event, b'"last words"')
            worker.close()
            rig.worker_exited(worker.holder_id, ExitCause(Cause.EXITED, 0))

        rig.sandbox.on_invoke = reply_and_die
        assert (await rig.finish(rig.invoke())).payload == b'"last words"'
        await rig.until(lambda: not rig.invoker.instances)

    play(scenario)


def test_failed_init_is_repeated_inside_the_invocation_and_its_document_answers(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        document = b'{"errorMessage":"boom","errorType":"ValueError","requestId":"","stackTrace":[]}'

        def fail(worker: ScriptedWorker) -> None:
            worker.send(messages.pack(messages.INIT_ERROR, "ValueError", document))
            worker.die(Cause.EXITED, 1)

        rig.sandbox.on_init = fail
        outcome = await rig.finish(rig.invoke())
        assert outcome.payload == document
        assert outcome.function_error == "Unhandled"
        assert rig.sandbox.inits == 2
        kinds = [line.split("\t")[0].split(":")[0] for line in rig.lines()]
        assert kinds == ["INIT_REPORT Init Duration", "START RequestId", "INIT_REPORT Init Duration", "END RequestId", "REPORT RequestId"]

    play(scenario)


def test_init_over_its_limit_is_repeated_under_the_function_timeout(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(timeout_s=5)
        rig.sandbox.on_init = lambda w: None
        answer = rig.invoke()
        await rig.until(lambda: rig.sandbox.inits == 1)
        rig.clock.advance(10.0)
        await rig.until(lambda: rig.sandbox.inits == 2)
        rig.clock.advance(5.0)
        outcome = await rig.finish(answer)
        assert outcome.status is Status.TIMEOUT
        assert b"5.00 seconds" in outcome.payload

    play(scenario)


def test_suppressed_init_that_works_goes_on_to_the_handler(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()

        def once(worker: ScriptedWorker) -> None:
            if rig.sandbox.inits == 1:
                worker.die(Cause.EXITED, 3)
            else:
                worker.send(messages.pack(messages.NEXT))

        rig.sandbox.on_init = once
        assert (await rig.finish(rig.invoke(payload=b"5"))).payload == b"5"

    play(scenario)


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x00",
        messages.pack(messages.NEXT),
        messages.encode_reply(messages.RESPONSE, "0" * 36, b"forged"),
        messages.pack(messages.INIT_ERROR, "X", b"{}"),
        messages.pack(messages.HELLO, messages.VERSION, {}),
        messages.pack(messages.RESPONSE, 1, 2),
        messages.pack(messages.CATALOGUE, 1, "delete", {}),
    ],
)
def test_hostile_frames_end_the_sandbox_not_the_engine(play: Callable[..., None], bytes_sent: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.sandbox.on_invoke = lambda w, e: w.send(bytes_sent)
        outcome = await rig.finish(rig.invoke())
        assert json.loads(outcome.payload)["errorType"] == "Runtime.Unknown"
        assert len(rig.sandbox.killed) == 1
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        assert (await rig.finish(rig.invoke())).payload == b"1"

    play(scenario)


def test_a_second_reply_ends_the_sandbox_and_reaches_nobody(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()

        def twice(worker: ScriptedWorker, event: messages.Invoke) -> None:
            worker.respond(event, b"1")
            worker.respond(event, b"2")

        rig.sandbox.on_invoke = twice
        answer = rig.invoke()
        assert (await rig.finish(answer)).payload == b"1"
        await rig.until(lambda: len(rig.sandbox.killed) == 1)
        assert answer.times == 1

    play(scenario)


def test_a_frame_over_the_cap_is_an_oversized_response(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.sandbox.on_invoke = lambda w, e: w.send((200 * 1024 * 1024).to_bytes(4, "big") + b"\x95\x05")
        outcome = await rig.finish(rig.invoke())
        assert json.loads(outcome.payload)["errorType"] == "Function.ResponseSizeTooLarge"

    play(scenario)


@pytest.mark.parametrize("garbage", [b"\x00\x00\x00\x00", b"\x00\x00\x00\x01\xc1", (1 << 30).to_bytes(4, "big") + b"\x95\x05"])
def test_hostile_frames_during_init_answer_whoever_waits(play: Callable[..., None], garbage: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.sandbox.on_init = lambda w: w.send(garbage)
        answer = rig.invoke()
        async with asyncio.timeout(5):
            await answer.done.wait()
        assert answer.error is not None
        assert "No execution environment can be started" in str(answer.error)
        await rig.until(lambda: not rig.invoker.instances)
        assert rig.invoker.in_flight == 0
        rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))
        assert (await rig.finish(rig.invoke(payload=b"1"))).payload == b"1"

    play(scenario)


def test_an_oversized_frame_that_is_no_response_is_a_violation(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.sandbox.on_invoke = lambda w, e: w.send((1 << 30).to_bytes(4, "big") + b"\x95\x08")
        outcome = await rig.finish(rig.invoke())
        assert json.loads(outcome.payload)["errorType"] == "Runtime.Unknown"

    play(scenario)


def test_routes_of_deleted_functions_are_forgotten(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        for n in range(20):
            rig.put(f"short-lived-{n}")
            await rig.finish(rig.invoke(f"short-lived-{n}"))
            rig.catalogue.delete(ACCOUNT, f"short-lived-{n}")
        rig.put()
        await rig.finish(rig.invoke())
        assert len(rig.api._routes) <= 2

    play(scenario)


def test_the_account_limit_throttles_and_recovers(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        answers = [rig.invoke() for _ in range(11)]
        assert answers[10].error is not None
        assert answers[10].error.body() == {
            "Reason": "ConcurrentInvocationLimitExceeded", "Type": "User", "message": "Rate Exceeded.",
        }  # fmt: skip
        await rig.until(lambda: len(held) == 10)
        for worker, event in held:
            worker.respond(event, b"1")
        for answer in answers[:10]:
            await rig.finish(answer)
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        await rig.finish(rig.invoke())

    play(scenario)


def test_a_full_host_evicts_idle_instances_then_waits_then_refuses(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put("a")
        rig.put("b")
        await rig.finish(rig.invoke("a"))
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        rig.invoke("b")
        await rig.until(lambda: len(held) == 1)
        assert {i.version.function.name for i in rig.invoker.instances if i.state is State.BUSY} == {"b"}
        waits = rig.invoke("a")
        rig.clock.advance(10.1)
        rig.invoker.tick()
        assert waits.error is not None
        assert waits.error.status == 429

    play(scenario, max_instances=1)


def test_room_on_a_full_host_goes_to_those_who_wait(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put("a")
        rig.put("b")
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        first = rig.invoke("a")
        await rig.until(lambda: len(held) == 1)
        second = rig.invoke("b")
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"2")
        held[0][0].respond(held[0][1], b"1")
        await rig.finish(first)
        assert (await rig.finish(second)).payload == b"2"

    play(scenario, max_instances=1)


def test_the_idle_are_frozen_oldest_first_and_thawed_after_their_event_was_sent(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        seen: list[str] = []
        rig.sandbox.freezes = seen
        held: list[Any] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        both = [rig.invoke(), rig.invoke()]
        await rig.until(lambda: len(held) == 2)
        rig.invoker.freeze_idle(0.1)
        assert seen == [], "busy instances are not frozen"
        for worker, event in held:
            worker.respond(event, b"1")
            await rig.finish(both.pop(0))
            rig.clock.advance(0.06)
        older, newer = (w.holder_id for w, _ in held)
        rig.clock.advance(0.01)
        rig.invoker.freeze_idle(0.1)
        assert seen == [f"freeze {older}"]
        rig.clock.advance(0.1)
        for _ in range(2):
            rig.invoker.freeze_idle(0.1)
        assert seen == [f"freeze {older}", f"freeze {newer}"]
        del seen[:]

        def answer(worker: ScriptedWorker, event: messages.Invoke) -> None:
            seen.append("event")
            worker.respond(event, b"2")

        rig.sandbox.on_invoke = answer
        sent: list[int] = []
        rig.sandbox.on_thaw = lambda worker: sent.append(worker.pending())
        assert (await rig.finish(rig.invoke())).payload == b"2"
        assert seen == [f"thaw {newer}", "event"]
        assert sent[0] > 0, "the event was there before the thaw"
        assert sorted(i.frozen for i in rig.invoker.instances) == [False, True]
        rig.clock.advance(0.2)
        for _ in range(2):
            rig.invoker.freeze_idle(0.1)
        assert seen[2:] == [f"freeze {newer}"]

    play(scenario)


@pytest.mark.parametrize("of_a_reset", [False, True])
def test_what_a_worker_said_before_it_is_listened_to_is_heard_and_may_end_it(of_a_reset: bool, play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        make, nonsense = rig.sandbox._fds, messages.encode_reply(messages.RESPONSE, "0" * 36, b"1")

        def forward(holder_id: int) -> HolderFds:
            fds = make(holder_id)
            if (holder_id in rig.sandbox.resets) is of_a_reset:
                rig.sandbox.workers[holder_id].send(nonsense)
            return fds

        rig.sandbox._fds = forward  # type: ignore[method-assign]
        rig.put()
        rig.sandbox.on_invoke = lambda w, _e: w.die()
        answer = rig.invoke()
        await answer.done.wait()
        if of_a_reset:
            assert answer.outcome is not None
            assert answer.outcome.error_type == "Runtime.ExitError"
        else:
            assert "broke the protocol" in str(answer.error)
        await rig.until(lambda: rig.sandbox.killed != [])
        await rig.until(lambda: not rig.invoker.instances)
        assert any("[engine] worker ended" in line for line in rig.lines())

    play(scenario)


def test_the_cpu_quota_holds_from_the_end_of_init(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(memory_mb=443)
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, str(list(rig.sandbox.capped)).encode())
        assert rig.sandbox.capped == []
        await rig.finish(rig.invoke())
        await rig.finish(rig.invoke())
        (holder_id,) = rig.sandbox.specialised
        await rig.until(lambda: bool(rig.sandbox.capped))
        await rig.finish(rig.invoke())
        assert rig.sandbox.capped == [holder_id], "once"
        assert rig.sandbox.specialised[holder_id].cpu_quota_us == 5008

    play(scenario)


def test_without_quotas_nobody_is_told(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        await rig.finish(rig.invoke())
        assert rig.sandbox.capped == []
        assert [s.cpu_quota_us for s in rig.sandbox.specialised.values()] == [0]

    play(scenario, cpu_quota=False)


def test_a_report_shows_its_own_sandboxs_memory_when_another_has_the_control_groups(tmp_path: Path, play: Callable[..., None]) -> None:
    peak = tmp_path / "peak"

    async def scenario(rig: Rig) -> None:
        rig.put()
        await rig.finish(rig.invoke())
        (instance,) = rig.invoker.instances
        instance.memory_peak_file = str(peak)
        peak.write_text(f"{100 << 20}\n")
        rig.clock.advance(61)
        rig.invoker.tick()
        await rig.until(lambda: not rig.invoker.instances)
        peak.write_text("0\n")
        assert "Max Memory Used: 100 MB" in rig.lines()[-1]

    play(scenario)


def test_idle_instances_expire(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        await rig.finish(rig.invoke())
        rig.clock.advance(59.9)
        rig.invoker.tick()
        assert len(rig.invoker.instances) == 1
        rig.clock.advance(0.2)
        rig.invoker.tick()
        await rig.until(lambda: not rig.invoker.instances)
        assert len(rig.sandbox.killed) == 1

    play(scenario)


def test_idle_instances_expire_between_ticks_too_each_in_its_time(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        await rig.finish(rig.invoke())
        for used in (True, False):
            rig.invoker.expire()
            rig.clock.advance(59.9)
            rig.invoker.expire()
            assert len(rig.invoker.instances) == 1
            if used:
                await rig.finish(rig.invoke())
        rig.clock.advance(0.05)
        rig.invoker.expire()
        assert rig.sandbox.killed == []
        rig.clock.advance(0.1)
        rig.invoker.expire()
        await rig.until(lambda: not rig.invoker.instances)

    play(scenario)


def test_an_update_drains_the_old_generation_without_losing_its_invocation(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        old = rig.invoke()
        await rig.until(lambda: len(held) == 1)
        rig.put(generation="g2")
        new = rig.invoke()
        await rig.until(lambda: len(held) == 2)
        assert held[0][0] is not held[1][0]
        held[0][0].respond(held[0][1], b'"old"')
        held[1][0].respond(held[1][1], b'"new"')
        assert (await rig.finish(old)).payload == b'"old"'
        assert (await rig.finish(new)).payload == b'"new"'
        await rig.until(lambda: len(rig.invoker.instances) == 1)

    play(scenario)


def test_a_lost_sandbox_fails_its_invocation_and_serves_the_line_anew(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        answer = rig.invoke()
        await rig.until(lambda: len(held) == 1)
        rig.sandbox.lose(held[0][0].holder_id)
        outcome = await rig.finish(answer)
        assert json.loads(outcome.payload)["errorType"] == "Sandbox.Failure"
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        await rig.finish(rig.invoke())

    play(scenario)


def test_a_lost_broker_fails_what_ran_and_serves_what_waited(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        held: list[tuple[ScriptedWorker, messages.Invoke]] = []
        rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
        running = rig.invoke()
        await rig.until(lambda: len(held) == 1)
        rig.sandbox.on_init = lambda w: None
        waiting = rig.invoke()
        await rig.until(lambda: rig.sandbox.inits == 2)
        rig.sandbox.close()
        rig.sandbox.workers.clear()
        rig.sandbox.on_init = lambda w: w.send(messages.pack(messages.NEXT))
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        rig.broker_lost("killed by the test")
        rig.zygote_ready("python3.11", 2)
        assert json.loads((await rig.finish(running)).payload)["errorType"] == "Sandbox.Failure"
        assert (await rig.finish(waiting)).payload == b"1"

    play(scenario)


def test_when_no_sandbox_can_be_made_the_caller_is_told_why(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.refuse = "EPERM"
        rig.put()
        answer = rig.invoke()
        async with asyncio.timeout(5):
            await answer.done.wait()
        assert answer.error is not None
        assert (answer.error.status, answer.error.code) == (500, "ServiceException")
        assert "EPERM" in str(answer.error)
        assert not rig.invoker.instances

    play(scenario)


def test_a_full_subnet_is_awss_own_error(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.refuse = "subnet subnet-1 has no free address"
        rig.put()
        answer = rig.invoke()
        async with asyncio.timeout(5):
            await answer.done.wait()
        assert answer.error is not None
        assert (answer.error.status, answer.error.code) == (502, "SubnetIPAddressLimitReachedException")

    play(scenario)


def test_a_sandbox_that_cannot_take_the_code_fails_its_caller_once_and_is_not_tried_for_ever(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.sandbox.on_init = lambda w: None

        def refuse(holder_id: int) -> None:
            rig.holder_failed(holder_id, "open the code", "ENOENT")
            rig.sandbox.lose(holder_id)

        first = rig.invoke()
        second = rig.invoke()
        await rig.until(lambda: len(rig.sandbox.specialised) == 2)
        made = len(rig.sandbox.made)
        for holder_id in list(rig.sandbox.specialised):
            refuse(holder_id)
        async with asyncio.timeout(5):
            await asyncio.gather(first.done.wait(), second.done.wait())
        assert "open the code: ENOENT" in str(first.error)
        assert "open the code: ENOENT" in str(second.error)
        await rig.until(lambda: not rig.invoker.instances)
        assert len(rig.sandbox.made) <= made + 2, "only the stock is refilled"

    play(scenario)


def test_when_the_zygote_fails_the_caller_is_told_why(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.zygote_fails = "the interpreter does not start"
        rig.put()
        answer = rig.invoke()
        async with asyncio.timeout(5):
            await answer.done.wait()
        assert "the interpreter does not start" in str(answer.error)

    play(scenario)


def test_an_idle_worker_that_dies_is_replaced_silently(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        await rig.finish(rig.invoke())
        next(iter(rig.sandbox.workers.values())).die(Cause.EXITED, 1)
        await rig.until(lambda: not rig.invoker.instances)
        await rig.finish(rig.invoke())

    play(scenario)


def test_printed_lines_and_raw_output_reach_log_and_tail(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()

        def talk(worker: ScriptedWorker, event: messages.Invoke) -> None:
            worker.log(b"framed\nin two lines")
            os.write(worker.output, b"raw line\nhalf")
            worker.respond(event, b"1")

        rig.sandbox.on_invoke = talk
        answer = rig.invoke(tail=True)
        await rig.finish(answer)
        assert answer.request is not None
        tail = answer.request.log_tail()
        assert tail is not None
        text = tail.decode().split("\n")
        assert text[1:4] == ["framed", "in two lines", "raw line"]
        assert text[-2].startswith("REPORT RequestId")
        rig.logs.flush()
        with (rig.logs.root / ACCOUNT / "f.log").open(newline="\n") as file:
            assert "\tframed\rin two lines\n" in file.read()

    play(scenario)


def test_raw_output_is_its_invocations_whichever_is_heard_first(play: Callable[..., None]) -> None:
    """Answer and output come by two ways, and the loop may hear of the answer first."""

    async def scenario(rig: Rig) -> None:
        rig.put()
        await rig.finish(rig.invoke())
        (instance,) = rig.invoker.instances

        def talk(worker: ScriptedWorker, event: messages.Invoke) -> None:
            os.write(worker.output, b"raw line\n")
            worker.respond(event, b"1")
            assert instance.channel is not None
            instance.channel.read_once()

        rig.sandbox.on_invoke = talk
        answer = rig.invoke(tail=True)
        await rig.finish(answer)
        assert answer.request is not None
        tail = answer.request.log_tail()
        assert tail is not None
        assert [line.split(" ")[0] for line in tail.decode().splitlines()] == ["START", "raw", "END", "REPORT"]

    play(scenario)


def test_json_system_logs(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(log_format="JSON")
        await rig.finish(rig.invoke())
        assert [json.loads(line)["type"] for line in rig.lines()] == ["platform.start", "platform.report"]
        rig.put("loud", log_format="JSON", system_log_level="DEBUG")
        await rig.finish(rig.invoke("loud", b'"12345"'))
        told = [json.loads(line) for line in rig.lines("loud")]
        assert [event["type"].removeprefix("platform.") for event in told] == ["initRuntimeDone", "initReport", "start", "runtimeDone", "report"]
        assert told[0]["record"] == {"initializationType": "on-demand", "phase": "init", "status": "success"}
        done = told[3]["record"]
        assert (done["status"], done["metrics"]["producedBytes"], [span["name"] for span in done["spans"]]) == (
            "success", len(b'"12345"'), ["responseLatency", "responseDuration"],
        )  # fmt: skip
        rig.put("quiet", log_format="JSON", system_log_level="WARN")
        await rig.finish(rig.invoke("quiet"))
        rig.logs.flush()
        assert not (rig.logs.root / ACCOUNT / "quiet.log").exists()

    play(scenario)


def test_names_that_do_not_exist_and_states_that_do_not_run(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(state="Pending")
        with pytest.raises(AwsError, match="Function not found: arn:aws:lambda:us-east-1:000000000000:function:nope:\\$LATEST"):
            rig.invoke("nope")
        with pytest.raises(AwsError, match="currently in the following state: Pending"):
            rig.invoke("f")
        with pytest.raises(AwsError, match="Could not parse request body into json"):
            rig.put()
            rig.invoke("f", b"{not json")
        parse_function_name("f", account=ACCOUNT, region="us-east-1")

    play(scenario)
