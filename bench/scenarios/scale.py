"""Scaling: 0 to 500 live instances of one function, and as many restores at once as there is memory for, by phase, CPU time and memory.

Every invocation stays in its instance until all are there, so that each needs one of its own; handlers tell when they began, by the
clock that the client has too. Where the time went is what the engine saw of each instance: waiting for a sandbox, and its init or restore.
CPU time is that of all of the engine's processes, sandboxes included, so that it says the same on a busy machine as on a quiet one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import psutil

from bench.context import Context
from bench.engine import Engine, zipped
from bench.packages import with_requirements
from bench.rows import Latencies, Row, row
from bench.scenarios.restore import HEAVY, publish
from engine.client import AsyncClient

SUBJECT = "engine, binary"
SIZE, RESTORES = 500, 100
HOLD_S = 8.0
PLAIN = {
    "app.py": b"import time\n\n\ndef handler(event, context):\n    began = time.time()\n    time.sleep(max(0, event - began))\n    return began\n"
}
_INSTANCE_MIB = 12
_PRIVATE = re.compile(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", re.MULTILINE)


def run(context: Context) -> list[Row]:
    """Plain instances, then restored ones."""
    if context.endpoint is not None:
        return []
    rows = []
    size = 60 if context.quick else SIZE
    if psutil.virtual_memory().available < size * _INSTANCE_MIB << 20:
        context.say(f"{size} instances: skipped, too little memory is free")
    else:
        with context.engine(account_concurrency=size, max_instances=size + 50) as engine:
            engine.deploy("scaled", zipped(PLAIN))
            rows.append(_measure(context, engine, "scaled", None, size, f"0 to {size} live instances"))
    with context.engine(max_instances=RESTORES + 50) as engine:
        engine.runtime = "python3.12"
        source = HEAVY.replace(b"    N += 1\n    return N", b"    began = time.time()\n    time.sleep(max(0, event - began))\n    return began")
        publish(engine, "restored", with_requirements(source, ["numpy"], engine.runtime))
        size = 20 if context.quick else RESTORES
        rows.append(_measure(context, engine, "restored", "1", size, f"{size} restores at once: numpy, boto3 client, 1 s of init"))
    return rows


def _measure(context: Context, engine: Engine, name: str, qualifier: str | None, size: int, case: str) -> Row:
    context.say(case)
    engine.settle()
    before_s = engine.cpu_s()[1]
    started_s, began, used_s, instances, private = asyncio.run(_burst(engine, name, qualifier, size))
    used_s -= before_s
    latencies = Latencies(int((at_s - started_s) * 1e9) for at_s in began)
    live_s = max(began) - started_s
    return row(
        "scale",
        SUBJECT,
        case,
        generator="Python",
        latencies=latencies,
        seconds=live_s,
        in_flight=size,
        live=len(instances),
        cpu_ms_per_instance=round(used_s * 1000 / size, 3),
        per_cpu_second=round(size / used_s, 1) if used_s else 0.0,
        private_mb=round(sum(private) / max(1, len(private)) / 1e6, 2),
        phases={phase: _spread([i[phase] for i in instances if i[phase] is not None]) for phase in ("sandbox_ms", "init_ms")},
    )


async def _burst(
    engine: Engine, name: str, qualifier: str | None, size: int
) -> tuple[float, list[float], float, list[dict[str, Any]], list[int]]:
    """When it began, and when each handler did; CPU seconds, instances and their private bytes while they hold on."""
    client = AsyncClient(str(engine.binary))
    started_s = time.time()
    until = json.dumps(started_s + HOLD_S).encode()
    calls = [asyncio.ensure_future(client.invoke(name, until, qualifier=qualifier, timeout_s=60)) for _ in range(size)]
    try:
        instances, used_s = await asyncio.to_thread(_all_busy, engine, name, size)
        private = [_private(i["pid"]) for i in instances]
        results = await asyncio.gather(*calls)
    finally:
        await client.close()
    return started_s, [float(json.loads(r.payload)) for r in results], used_s, instances, private


def _all_busy(engine: Engine, name: str, size: int) -> tuple[list[dict[str, Any]], float]:
    """The instances at work once they are so many, or are about to end; and the CPU seconds used by then."""
    end_s = time.monotonic() + HOLD_S - 0.5
    while True:
        time.sleep(0.5)
        busy = [i for i in engine.state()["instances"] if i["function"] == name and i["state"] == "busy"]
        if len(busy) >= size or time.monotonic() > end_s:
            return busy, engine.cpu_s()[1]


def _private(pid: int) -> int:
    """Bytes of a process that no other shares."""
    with contextlib.suppress(OSError):
        return sum(map(int, _PRIVATE.findall(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")))) * 1024
    return 0


def _spread(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {"mean": round(sum(ordered) / len(ordered), 2), "p50": round(ordered[len(ordered) // 2], 2), "max": round(ordered[-1], 2)}
