"""Mixed load with sudden deaths, and a ledger that knows what became of every request."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import psutil

from engine.client import AsyncClient
from tests.framework.engine import Engine

# request id, HTTP status, X-Amz-Function-Error, payload
Answer = tuple[str, int, str | None, bytes]
Send = Callable[[str, bytes], Awaitable[Answer]]

CODE = """\
import os, sys, time

def f(event, context):
    kind = event['kind']
    if kind == 'sleep':
        time.sleep(event['s'])
    elif kind == 'raise':
        raise ValueError(event['id'])
    elif kind == 'exit':
        sys.exit(3)
    elif kind == 'big':
        return {'id': event['id'], 'text': 'x' * event['size']}
    elif kind == 'print':
        print(event['id'])
        os.system('echo raw output')
    return {'id': event['id'], 'size': len(event.get('text', ''))}
"""
FUNCTIONS = {"soak": 30, "soak-late": 1}
KILLED = "Runtime exited with error: signal: killed"
# kind: weight
MIX = {"echo": 60, "sleep": 12, "text": 12, "big": 5, "raise": 5, "print": 3, "exit": 1, "too large": 1, "late": 1}


class Soak:
    """Runs load on ``engine`` for a time. ``outcomes`` counts what came back; ``wrong`` says what should not have."""

    def __init__(self, engine: Engine, *, workers: int, seed: int, kill_every_s: float | None) -> None:
        self._engine = engine
        self._random = random.Random(seed)
        self._workers = workers
        self._kill_every_s = kill_every_s
        self._until_s = 0.0
        self._numbers = iter(range(1 << 62))
        self.outcomes: Counter[str] = Counter()
        self.requests: list[str] = []
        self.wrong: list[str] = []
        self.kills = 0
        self.churned = 0

    def deploy(self) -> None:
        for name, timeout_s in FUNCTIONS.items():
            self._engine.deploy(name, {"m.py": CODE}, Timeout=timeout_s)

    def delete(self) -> None:
        for name in FUNCTIONS:
            self._engine.client().delete_function(FunctionName=name)

    def run(self, duration_s: float) -> None:
        asyncio.run(self._run(duration_s))

    async def _run(self, duration_s: float) -> None:
        self._until_s = time.monotonic() + duration_s
        async with AsyncClient(self._engine.run_dir() / "engine.sock", connect_timeout_s=30) as client:
            tasks = [self._load(client if n % 4 else None) for n in range(self._workers)]
            tasks.append(self._repeat(1.0, self._churn))
            if self._kill_every_s is not None:
                tasks.append(self._repeat(self._kill_every_s, self._kill))
            await asyncio.gather(*tasks)

    async def _load(self, client: AsyncClient | None) -> None:
        """Requests one after another: through ``client``, or over HTTP."""
        if client is not None:
            while time.monotonic() < self._until_s:
                await self._one(partial(_by_client, client))
            return
        connection = http.client.HTTPConnection(self._engine.url.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            while time.monotonic() < self._until_s:
                await self._one(partial(_by_http, connection))

    async def _one(self, send: Send) -> None:
        kind = self._random.choices(list(MIX), list(MIX.values()))[0]
        number = next(self._numbers)
        event: dict[str, Any] = {"kind": kind, "id": number}
        if kind == "sleep":
            event["s"] = self._random.random() / 5
        elif kind == "late":
            event |= {"kind": "sleep", "s": 20}
        elif kind == "text":
            event["text"] = "t" * int(10 ** self._random.uniform(0, 5.5))
        elif kind == "big":
            event["size"] = int(10 ** self._random.uniform(0, 6))
        elif kind == "too large":
            event |= {"kind": "big", "size": 7_000_000}
        request_id, status, function_error, payload = await send("soak-late" if kind == "late" else "soak", json.dumps(event).encode())
        self.requests.append(request_id)
        self._judge(kind, event, status, function_error, payload)

    def _judge(self, kind: str, event: dict[str, Any], status: int, function_error: str | None, payload: bytes) -> None:
        answer = json.loads(payload)
        if status != 200:
            self._bad(kind, event, f"status {status}: {payload[:300]!r}")
        elif function_error is None:
            right = answer.get("id") == event["id"] and kind not in ("raise", "exit", "late", "too large")
            right = right and len(answer.get("text", "")) == event.get("size", 0) if kind == "big" else right
            right = right and answer["size"] == len(event.get("text", "")) if kind != "big" and right else right
            self._count("success") if right else self._bad(kind, event, f"answer {payload[:300]!r}")
        elif answer["errorMessage"].endswith(KILLED):
            self._count("killed")
        else:
            expected = {
                "raise": ("ValueError", str(event["id"])),
                "exit": ("Runtime.ExitError", "exit status 3"),
                "late": ("Sandbox.Timedout", "timed out after 1.00 seconds"),
                "too large": ("Function.ResponseSizeTooLarge", "(6291556 bytes)."),
            }.get(kind)
            if expected and answer["errorType"] == expected[0] and answer["errorMessage"].endswith(expected[1]):
                self._count(kind)
            else:
                self._bad(kind, event, f"error {payload[:300]!r}")

    def _count(self, what: str) -> None:
        self.outcomes[what] += 1

    def _bad(self, kind: str, event: dict[str, Any], what: str) -> None:
        self.outcomes["wrong"] += 1
        self.wrong.append(f"{kind} {event['id']}: {what}")

    async def _repeat(self, every_s: float, action: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self._until_s:
            await action()
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * every_s)

    async def _kill(self) -> None:
        """End a worker of this engine, busy or not."""
        state = await asyncio.to_thread(self._engine.state)
        pids = [i["pid"] for i in state["instances"] if i["pid"]]
        if pids and _kill_ours(self._random.choice(pids), self._engine):
            self.kills += 1

    async def _churn(self) -> None:
        """A function that lives for one invocation, and a new generation of the one under load."""
        await asyncio.to_thread(self._live_and_die, f"soak-brief-{self.churned}")
        self.churned += 1

    def _live_and_die(self, name: str) -> None:
        client = self._engine.client()
        self._engine.deploy(name, {"m.py": CODE})
        answer = client.invoke(FunctionName=name, Payload=json.dumps({"kind": "echo", "id": 1}))
        payload = json.loads(answer["Payload"].read())
        if payload != {"id": 1, "size": 0} and not str(payload.get("errorMessage", "")).endswith(KILLED):
            self.wrong.append(f"{name}: {payload}")
        client.delete_function(FunctionName=name)
        client.update_function_configuration(FunctionName="soak", Environment={"Variables": {"ROUND": str(self.churned)}})


async def _by_client(client: AsyncClient, function: str, payload: bytes) -> Answer:
    result = await client.invoke(function, payload, timeout_s=60)
    return result.request_id, result.status, result.function_error, result.payload


async def _by_http(connection: http.client.HTTPConnection, function: str, payload: bytes) -> Answer:
    return await asyncio.to_thread(_post, connection, function, payload)


def _post(connection: http.client.HTTPConnection, function: str, payload: bytes) -> Answer:
    connection.request("POST", f"/2015-03-31/functions/{function}/invocations", payload)
    with connection.getresponse() as answer:
        return answer.headers["x-amzn-RequestId"], answer.status, answer.headers["X-Amz-Function-Error"], answer.read()


def _kill_ours(pid: int, engine: Engine) -> bool:
    """SIGKILL, through a descriptor, so that it cannot hit another process that got the number."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if engine.process is None or all(p.pid != engine.process.pid for p in psutil.Process(pid).parents()):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
    finally:
        os.close(pidfd)
    return True
