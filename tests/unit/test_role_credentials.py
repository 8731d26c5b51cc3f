"""Credentials of execution roles over the life of instances: a scripted control plane, a clock that the test turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from engine.core.instance import State
from engine.supervisor.role_credentials import RoleCredentials
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Rig, play

__all__ = ["play"]
ROLE = "arn:aws:iam::000000000000:role/r"


class Plane:
    """Answers as the control plane does; each session lasts an hour of the rig's clock."""

    def __init__(self, rig: Rig, tmp: Path) -> None:
        self.rig = rig
        self.path = tmp / "http.sock"
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.garbage = False
        self.open = asyncio.Event()
        self.open.set()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_unix_server(self._serve, self.path)
        loop = asyncio.get_running_loop()
        connect = lambda factory: loop.create_unix_connection(factory, str(self.path))  # noqa: E731
        self.rig.invoker.setting.roles = RoleCredentials(loop, self.rig.clock, connect, "token")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"POST /_lambda-engine/credentials HTTP/1.1\r\n")
        assert b"x-lambda-engine-token: token\r\n" in head
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
        self.asked.append(json.loads(await reader.readexactly(length)))
        number = len(self.asked)
        await self.open.wait()
        answer = {"credentials": [f"ASIA{number}", "s", "t"], "expires": self.rig.clock.epoch_ms() / 1000 + 3600, "message": "no"}
        body = b"garbage" if self.garbage else json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (self.status, len(body), body))
        await writer.drain()
        writer.close()

    def keys(self) -> list[str]:
        """The access keys instances were started with."""
        return [told["env"]["AWS_ACCESS_KEY_ID"] for told in self.rig.sandbox.told]


def test_instances_of_a_function_share_a_session_named_like_it(play: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        async with Plane(rig, tmp_path) as plane:
            rig.put(role=ROLE)
            held: list[tuple[ScriptedWorker, messages.Invoke]] = []
            rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
            answers = [rig.invoke() for _ in range(3)]
            await rig.until(lambda: len(held) == 3)
            for worker, event in held:
                worker.respond(event, b"1")
            for answer in answers:
                await rig.finish(answer)
            assert plane.asked == [{"account": "000000000000", "function": "f", "role": ROLE}]
            assert plane.keys() == ["ASIA1"] * 3

    play(scenario)


def test_a_session_is_renewed_for_later_instances_when_half_of_it_is_over(play: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        async with Plane(rig, tmp_path) as plane:
            rig.put(role=ROLE)
            await rig.finish(rig.invoke())
            rig.clock.advance(1801)
            held: list[tuple[ScriptedWorker, messages.Invoke]] = []
            rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
            answers = [rig.invoke(), rig.invoke()]
            await rig.until(lambda: len(held) == 2 and len(plane.asked) == 2)
            # The instance that had to start did not wait for the new session; the next one has it.
            assert plane.keys() == ["ASIA1", "ASIA1"]
            await rig.until(lambda: not rig.invoker.setting.roles._asking)
            answers.append(rig.invoke())
            await rig.until(lambda: len(held) == 3)
            assert plane.keys() == ["ASIA1", "ASIA1", "ASIA2"]
            for worker, event in held:
                worker.respond(event, b"1")
            for answer in answers:
                await rig.finish(answer)

    play(scenario)


def test_no_instance_outlives_its_credentials(play: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        async with Plane(rig, tmp_path) as plane:
            rig.put(role=ROLE)
            held: list[tuple[ScriptedWorker, messages.Invoke]] = []
            rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
            first, second = rig.invoke(), rig.invoke()
            await rig.until(lambda: len(held) == 2)
            held[0][0].respond(held[0][1], b"1")
            await rig.finish(first)
            rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"3")
            old = set(rig.invoker.instances)
            # Busy when it is overdue: it leaves after its answer, although somebody waits in line.
            (busy,) = [i for i in old if i.state is State.BUSY]
            busy.deadline_s = None
            rig.clock.advance(3600 - 60 - 3)
            rig.invoker.tick()
            assert busy.leaving
            held[1][0].respond(held[1][1], b"2")
            assert (await rig.finish(second)).payload == b"2"
            assert (await rig.finish(rig.invoke())).payload == b"3"
            assert not old & {i for i in rig.invoker.instances if i.state is State.IDLE}
            assert plane.keys()[-1] == "ASIA2"

    play(scenario)


def test_a_role_that_cannot_be_assumed_is_told_to_who_waits(play: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        async with Plane(rig, tmp_path) as plane:
            rig.put(role=ROLE)
            for status, garbage, code in ((403, False, "AccessDeniedException"), (500, False, "ServiceException"), (200, True, "ServiceException")):
                plane.status, plane.garbage = status, garbage
                answer = rig.invoke()
                async with asyncio.timeout(5):
                    await answer.done.wait()
                assert answer.error is not None
                assert answer.error.code == code
                await rig.until(lambda: not rig.invoker.instances or all(i.state is State.RETIRING for i in rig.invoker.instances))
            plane.status, plane.garbage = 200, False
            assert (await rig.finish(rig.invoke())).status.value == "success"

    play(scenario)
