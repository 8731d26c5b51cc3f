"""The control plane: a thousand functions created, listed, changed, published and deleted; warm calls beside that; the start with ten thousand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from bench import http1
from bench.beside import beside
from bench.context import Context
from bench.engine import ECHO, ROLE, Engine, started, zipped
from bench.loadgen import Generator, Http, Outcome, Plan
from bench.rows import Latencies, Row, row
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore

SUBJECT = "engine, HTTP"
CONNECTIONS = 8
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
    """Warm calls at a fixed rate, alone and beside half as many control-plane operations of another process, in turns."""
    rate, turns, seconds = 400, 3 if context.quick else 7, 1.5 if context.quick else 3.0
    alone, among = f"warm calls alone, {rate}/s", f"warm calls beside operations, {rate}/s"
    outcomes: dict[str, list[Outcome]] = {alone: [], among: []}
    operations = 0
    with context.engine() as engine:
        engine.deploy("hot", zipped(ECHO))
        engine.settle()
        hot = http1.request(engine.host, engine.path("hot"), b"{}")
        work = [request for case, request in _operations(engine, 1) if case in ("create, one package for all", "list, pages of 50", "delete")]
        # Enough connections that neither a call nor an operation ever waits for one.
        warm = Plan(engine.host, Http(), lambda _n: (hot, None), connections=64, seconds=seconds, rate=rate)
        # An operation may overtake the one that makes its function; what it costs is what is measured.
        others = Plan(
            engine.host, Http(), lambda n: (work[n % 3](n // 3), None), connections=64, seconds=seconds, rate=rate / 2, check=lambda *_: "operation"
        )
        Generator(replace(warm, seconds=1.0)).run()
        for turn in range(1, turns + 1):
            context.say(f"warm calls alone and beside operations, turn {turn} of {turns}")
            outcomes[alone].append(Generator(warm).run())
            with beside(others) as counts:
                outcomes[among].append(Generator(warm).run())
            operations += counts()["operation"]
    ratios = [b.latencies().us(99) / a.latencies().us(99) for a, b in zip(outcomes[alone], outcomes[among], strict=True)]
    extra = {alone: {}, among: {"operations": operations, "p99_ratio": round(statistics.median(ratios), 3), "p99_ratios": [round(r, 2) for r in ratios]}}
    return [
        row(
            "control", SUBJECT, case, generator="Python, open loop", latencies=Latencies(ns for one in found for ns in one.kinds["ok"]),
            seconds=sum(one.seconds for one in found), errors=sum(one.errors for one in found), in_flight=64, payload=2, **extra[case],
        )
        for case, found in outcomes.items()
    ]  # fmt: skip


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
