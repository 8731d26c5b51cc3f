"""Idle density: memory (PSS) of one more idle instance, what thawing costs, and whether a crowd of idle ones slows a busy one.

Memory in two ways: the growth of the whole process tree's PSS divided by the instances that were added (what the host pays, supervisor's
share included), and the mean PSS of the instances' own processes, init and worker. A frozen instance's first invocation is compared with its
second, which finds it thawed; a busy function's latency with none, a quarter and all of the idle ones around it, beside the CPU time that
the whole engine uses while nobody asks for anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import re
import time
from pathlib import Path
from typing import Any

import psutil

from bench import http1
from bench.context import Context
from bench.engine import COUNT, SLEEP, Engine, zipped
from bench.loadgen import Generator, Http, Outcome, Plan
from bench.rows import Latencies, Row, row
from bench.scenarios.cold import SUBJECT

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_PER_FUNCTION = 25
# Long enough that all of them are in flight at once, and less than a generator waits for an answer.
_SLEEP = b"25"
_FREEZE_S = 0.1
_FROZEN_S = 20.0
# Requests a second of the busy function when it is not in a hurry.
_PACE = 100.0
_KCMP = 272 if platform.machine() == "aarch64" else 312
_KCMP_VM = 1


def pss_bytes(pid: int) -> int:
    """Proportional set size; 0 when the process is gone or has no memory (a zombie)."""
    with contextlib.suppress(OSError):
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else 0
    return 0


def shares_memory(pid: int, other: int) -> bool:
    """Whether two processes have one address space, as a sandbox's init and its zygote do: its pages are counted with the latter."""
    result = ctypes.CDLL(None).syscall(ctypes.c_long(_KCMP), ctypes.c_long(pid), ctypes.c_long(other), ctypes.c_long(_KCMP_VM), 0, 0)
    return bool(result == 0)


def run(context: Context) -> list[Row]:
    """A busy function alone, then with a quarter of the crowd around it, then with all of it; the crowd's memory and thawing."""
    n = 60 if context.quick else 1000
    settings = {"max_instances": n + 50, "keep_alive_s": 3600, "account_concurrency": n + 50, "freeze_after_s": _FREEZE_S}
    with context.engine(**settings) as engine:
        if engine.pid is None:
            raise RuntimeError("density needs an engine of its own: its processes are measured")
        engine.deploy("busy", zipped(COUNT))
        names = [f"idle-{i}" for i in range(n // _PER_FUNCTION)]
        engine.deploy_many(names, zipped(SLEEP))
        rows = _warm(context, engine, 0)
        engine.settle()
        before = _tree(engine)
        for size in (n // 4, n):
            context.say(f"{size} instances at once")
            started = _start(engine, names, size)
            rows += _warm(context, engine, len(_idle(engine)))
        after = _tree(engine)
        idle = _idle(engine)
        long_lived = set(engine.state()["processes"].values())
        own = [_family(i["pid"], long_lived) for i in idle]
        context.say(f"{len(idle)} idle instances, {sum(bool(i.get('frozen')) for i in idle)} of them frozen")
        rows.append(_density(started, before, after, own, idle))
        rows += _thaw(engine, names, 5 if context.quick else 10)
    return rows


def _start(engine: Engine, names: list[str], size: int) -> Outcome:
    """Have so many instances: as many invocations at once that each take long."""
    raw = [http1.request(engine.host, engine.path(name), _SLEEP) for name in names]
    plan = Plan(engine.host, Http(), lambda i: (raw[i % len(raw)], None), connections=size, count=size, seconds=110)
    outcome = Generator(plan).run()
    engine.settle()
    end = time.monotonic() + _FROZEN_S
    while not all(i.get("frozen") for i in _idle(engine)) and time.monotonic() < end:
        time.sleep(_FREEZE_S)
    return outcome


def _idle(engine: Engine) -> list[dict[str, Any]]:
    return [i for i in engine.state()["instances"] if i["function"] != "busy"]


def _warm(context: Context, engine: Engine, idle: int) -> list[Row]:
    """One in flight as fast as it goes, and at a modest rate, which leaves the caches time to get cold; what doing nothing costs."""
    data = http1.request(engine.host, engine.path("busy"), b"{}")
    around = f"{idle} idle around it" if idle else "nothing around it"
    rows = []
    for case, rate in (("busy", None), ("paced", _PACE)):
        before = engine.cpu_s()[0]
        plan = Plan(engine.host, Http(), lambda _n: (data, None), connections=1, seconds=context.seconds, rate=rate)
        outcome = Generator(plan).run()
        used_us = (engine.cpu_s()[0] - before) * 1e6
        latencies = outcome.latencies()
        rows.append(
            row(
                "density",
                SUBJECT,
                f"{case}, {around}",
                generator="Python",
                latencies=latencies,
                seconds=outcome.seconds,
                errors=outcome.errors,
                payload=2,
                idle=idle,
                supervisor_us_per_request=round(used_us / max(1, len(latencies)), 1),
            )
        )
    before = engine.cpu_s()[1]
    time.sleep(context.seconds)
    rows[0].extra["cpu_ms_per_idle_second"] = round((engine.cpu_s()[1] - before) * 1e3 / context.seconds, 1)
    return rows


def _density(outcome: Outcome, before: int, after: int, own: list[int], idle: list[dict[str, Any]]) -> Row:
    return row(
        "density",
        SUBJECT,
        f"{len(own)} idle instances of small functions",
        generator="Python",
        latencies=outcome.latencies(),
        seconds=outcome.seconds,
        errors=outcome.errors,
        in_flight=len(own),
        payload=2,
        instances=len(own),
        frozen=sum(bool(i.get("frozen")) for i in idle),
        pss_mib_per_instance=round((after - before) / max(1, len(own)) / 2**20, 2),
        instance_pss_mib=round(sum(own) / max(1, len(own)) / 2**20, 2),
        engine_pss_mib_before=round(before / 2**20, 1),
    )


def _thaw(engine: Engine, names: list[str], rounds: int) -> list[Row]:
    """One invocation of each function after it has been idle, and one right after that, on the same instance."""
    frozen, hot = Latencies(), Latencies()
    began = time.monotonic()
    for _ in range(rounds):
        time.sleep(3 * _FREEZE_S)
        for name in names:
            data = http1.request(engine.host, engine.path(name), b"0")
            plan = Plan(engine.host, Http(), lambda _n, data=data: (data, None), connections=1, count=2, seconds=20)  # type: ignore[misc]
            first, second = Generator(plan).run().kinds["ok"]
            frozen.add(first)
            hot.add(second)
    seconds = time.monotonic() - began
    return [
        row("density", SUBJECT, case, generator="Python", latencies=latencies, seconds=seconds, payload=1)
        for case, latencies in (("first invocation of a frozen instance", frozen), ("second, thawed", hot))
    ]


def _tree(engine: Engine) -> int:
    total = 0
    for process in engine.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if not shares_memory(process.pid, process.ppid()):
                total += pss_bytes(process.pid)
    return total


def _family(pid: int, long_lived: set[int]) -> int:
    """The worker, what it started, and an init above it that has memory of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        init = process.parent()
        own = [process, *process.children(recursive=True)]
        if init is not None and init.pid not in long_lived and not shares_memory(init.pid, init.ppid()):
            own.append(init)
        return sum(pss_bytes(p.pid) for p in own)
    return 0
