"""The control plane: a thousand functions created, listed, changed, published and deleted; warm calls beside that; the start with ten thousand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from bench import alternating, http1
from bench.alternating import Side
from bench.beside import Companion, stand_in
from bench.context import Context
from bench.engine import ECHO, ROLE, Engine, started, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Latencies, Row, row
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore

SUBJECT = "engine, HTTP"
CONNECTIONS = 8
# Calls a second, and half as many operations: a quarter each of creating, listing, updating and deleting.
RATE, OPERATIONS = 400, 200
ALONE, BESIDE, CLIENT = f"warm calls alone, {RATE}/s", f"warm calls beside operations, {RATE}/s", f"warm calls beside the operations' client only, {RATE}/s"
# A page, so that every listing is a full one; how many creations later a function is changed, and deleted; connections that nobody ever waits for.
STOCK, LATER, ENOUGH = 50, 25, 64
# Bytes of such an operation's answer, on average: most of it is in the listings.
_ANSWER = 10_000
FUNCTIONS = "/2015-03-31/functions"
Request = Callable[[int], bytes]


def run(context: Context) -> list[Row]:
    """Every case. With an endpoint given, only the operations."""
    count = 200 if context.quick else 1000
    rows = []
    with context.engine() as engine:
        engine.deploy("control-first", zipped(ECHO))
        for case, request in _operations(engine, count):
            context.say(f"{case}, {count} functions")
            rows.append(_case(engine, case, request, count))
    if context.endpoint is None:
        rows += _beside(context)
        rows += _start(context, 1000 if context.quick else 10_000)
    return rows


def _operations(engine: Engine, count: int) -> list[tuple[str, Request]]:
    same = zipped(ECHO)

    def ask(method: str, path: str, document: object = None) -> bytes:
        return http1.request(engine.host, f"{FUNCTIONS}{path}", b"" if document is None else json.dumps(document).encode(), method=method)

    def create(name: str, package: bytes) -> bytes:
        return ask("POST", "", _function(engine, name, package))

    own = [zipped({"app.py": b"N = %d\n" % n + ECHO["app.py"]}) for n in range(count)]
    return [
        ("create, one package for all", lambda n: create(f"control-{n}", same)),
        ("create, a package each", lambda n: create(f"control-own-{n}", own[n])),
        ("get", lambda n: ask("GET", f"/control-{n}")),
        ("list, pages of 50", lambda _n: ask("GET", "")),
        ("update configuration", lambda n: ask("PUT", f"/control-{n}/configuration", {"Timeout": 5})),
        ("publish", lambda n: ask("POST", f"/control-{n}/versions", {})),
        ("create alias", lambda n: ask("POST", f"/control-{n}/aliases", {"Name": "live", "FunctionVersion": "1"})),
        ("delete", lambda n: ask("DELETE", f"/control-{n}")),
        ("delete, a package each", lambda n: ask("DELETE", f"/control-own-{n}")),
    ]


def _function(engine: Engine, name: str, package: bytes) -> dict[str, object]:
    code = {"ZipFile": base64.b64encode(package).decode()}
    return {"FunctionName": name, "Role": ROLE, "Runtime": engine.runtime, "Handler": "app.handler", "Code": code}


def _case(engine: Engine, case: str, request: Request, count: int) -> Row:
    before = engine.cpu_s()
    outcome = Generator(
        Plan(
            engine.host,
            Http(),
            lambda n: (request(n), None),
            connections=CONNECTIONS,
            count=count,
            seconds=300,
            check=lambda _tag, status, _body: "ok" if status < 300 else None,
        )
    ).run()
    if outcome.errors:
        raise RuntimeError(f"{case}: {outcome.errors} of {count} failed: {outcome.first_error}")
    own, total = (after - then for after, then in zip(engine.cpu_s(), before, strict=True))
    return row(
        "control",
        SUBJECT,
        case,
        generator="Python",
        latencies=outcome.latencies(),
        seconds=outcome.seconds,
        in_flight=CONNECTIONS,
        supervisor_cpu_ms_per_operation=round(own / count * 1000, 3),
        cpu_ms_per_operation=round(total / count * 1000, 3),
    )


def _beside(context: Context) -> list[Row]:
    """Warm calls alone, beside operations of another process, and beside that process alone, whose operations a server answers that does nothing."""
    rounds, seconds = (14, 0.9) if context.quick else (40, 1.1)
    with contextlib.ExitStack() as ends, context.engine() as engine:
        engine.deploy("hot", zipped(ECHO))
        engine.deploy_many([f"stock-{n}" for n in range(STOCK)], zipped(ECHO))
        engine.settle()
        hot = http1.request(engine.host, engine.path("hot"), b"{}")
        warm = Plan(engine.host, Http(), lambda _n: (hot, None), connections=ENOUGH, seconds=seconds, rate=RATE, lead_s=0.1)
        mixed = _mixed(dict(_operations(engine, 1)))
        load = Plan(
            engine.host, Http(), lambda _n: (next(mixed), None), connections=ENOUGH, rate=OPERATIONS,
            check=lambda _tag, status, _body: "operation" if status < 300 else None,
        )  # fmt: skip
        operations, client = Companion(load), Companion(replace(load, address=ends.enter_context(stand_in(_ANSWER))))
        ends.callback(operations.close)
        ends.callback(client.close)
        pids = engine.state()["processes"]
        named = {"supervisor": [pids["supervisor"]], "control plane": [pids["control"]], "the operations' client": [operations.pid, client.pid]}

        def groups() -> dict[str, Sequence[int]]:
            others = [p.pid for p in engine.processes() if p.pid not in (pids["supervisor"], pids["control"])]
            return {**named, "workers and what makes them": others}

        # Instances enough for calls that overlap: none of those that are measured is a cold start.
        Generator(replace(warm, rate=None, connections=16, seconds=0.5)).run()
        Generator(replace(warm, seconds=1.0)).run()
        found = alternating.alternate(warm, {ALONE: None, BESIDE: operations, CLIENT: client}, rounds, groups, context.say)
        done = operations.counts
    extra = {ALONE: {}, BESIDE: {"operations": done["operation"], "failed_operations": done["error"], **_compared(found[BESIDE], found[ALONE])}}
    extra[CLIENT] = _compared(found[CLIENT], found[ALONE])
    return [
        row(
            "control", SUBJECT, case, generator="Python, open loop", latencies=side.latencies(), seconds=side.seconds, errors=side.errors,
            in_flight=ENOUGH, payload=2, **extra[case], **dict(alternating.told(side)),
        )
        for case, side in found.items()
    ]  # fmt: skip


def _compared(side: Side, alone: Side) -> dict[str, object]:
    """The ratio of p99s with what chance may make of it, and the rounds in which it was above 1.2."""
    found = alternating.ratio(side.turns, alone.turns)
    return {
        "p99_ratio": [round(n, 3) for n in found],
        "rounds_above_1.2": f"{alternating.worse(side.turns, alone.turns, 1.2)} of {len(side.turns)}",
    }


def _mixed(ask: dict[str, Request]) -> Iterator[bytes]:
    """Requests without an end: functions made, some of them listed, each changed and deleted when those before it surely are."""
    create, listing = ask["create, one package for all"], ask["list, pages of 50"]
    for n in itertools.count():
        yield create(n)
        yield listing(n)
        yield ask["update configuration"](n - LATER) if n >= LATER else listing(n)
        yield ask["delete"](n - 2 * LATER) if n >= 2 * LATER else listing(n)


def _start(context: Context, count: int) -> list[Row]:
    """From the start of the process to readiness, with one function in the store and with many."""
    data_dir = context.work / "many-functions"
    rows = []
    with started(context.work, data_dir=data_dir) as engine:
        engine.deploy("start-0", zipped(ECHO))
    for functions in (1, count):
        context.say(f"start with {functions} functions")
        if functions > 1:
            asyncio.run(_fill(data_dir, functions))
        began = time.monotonic()
        with started(context.work, data_dir=data_dir) as engine:
            took = time.monotonic() - began
            rows.append(
                row(
                    "control",
                    SUBJECT,
                    f"start with {functions} functions in the store",
                    generator="-",
                    latencies=_one(took),
                    seconds=took,
                    cpu_s=round(engine.cpu_s()[1], 2),
                    rss_mib=round(sum(_rss(p) for p in engine.processes()) / 2**20),
                )
            )
    shutil.rmtree(data_dir, ignore_errors=True)
    return rows


def _one(seconds: float) -> Latencies:
    return Latencies([round(seconds * 1e9)])


def _rss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


async def _fill(data_dir: Path, count: int) -> None:
    """Copies of the only function there is, until there are ``count``."""
    with contextlib.closing(Database(data_dir / "engine.db")) as database:
        store = SqlFunctionStore(database)
        (function,) = store.everything()
        for first in range(1, count, 500):
            batch = [replace(function, name=f"start-{n}") for n in range(first, min(first + 500, count))]
            await asyncio.gather(*(store.save(None, copy, 0) for copy in batch))
