"""Idle density: proportional memory (PSS) that one more idle instance of a small function costs the host.

Two ways: the growth of the whole process tree's PSS divided by the instances that were added (what the host pays, supervisor's share
included), and the mean PSS of the instances' own processes.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psutil

from bench import http1
from bench.context import Context
from bench.engine import COUNT, Engine, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Row, row
from bench.scenarios.cold import SUBJECT

_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def pss_bytes(pid: int) -> int:
    """Proportional set size; 0 when the process is gone or has no memory (a zombie)."""
    with contextlib.suppress(OSError):
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else 0
    return 0


def run(context: Context) -> list[Row]:
    """Measure before and after so many functions were invoked once."""
    n = 30 if context.quick else 100
    with context.engine() as engine:
        if engine.pid is None:
            raise RuntimeError("density needs an engine of its own: its processes are measured")
        names = [f"idle-{i}" for i in range(n)]
        engine.deploy_many(names, zipped(COUNT))
        engine.settle()
        before = _tree(engine)
        raw = [http1.request(engine.host, engine.path(name), b"{}") for name in names]
        outcome = Generator(Plan(engine.host, Http(), lambda i: (raw[i % n], None), connections=2, count=n, seconds=120)).run()
        engine.settle()
        after = _tree(engine)
        own = [_family(i["pid"]) for i in engine.state()["instances"]]
    context.say(f"{len(own)} idle instances")
    return [
        row(
            "density",
            SUBJECT,
            f"{len(own)} idle instances of a small function",
            generator="Python",
            latencies=outcome.latencies(),
            seconds=outcome.seconds,
            errors=outcome.errors,
            in_flight=2,
            payload=2,
            instances=len(own),
            pss_mib_per_instance=round((after - before) / max(1, len(own)) / 2**20, 2),
            instance_pss_mib=round(sum(own) / max(1, len(own)) / 2**20, 2),
            engine_pss_mib_before=round(before / 2**20, 1),
        )
    ]


def _tree(engine: Engine) -> int:
    return sum(pss_bytes(process.pid) for process in engine.processes())


def _family(pid: int) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return sum(pss_bytes(p.pid) for p in [process, *process.children(recursive=True)])
    return 0
