"""Bursts: 1, 100 and 500 first invocations at the same moment, of one new function and of as many new functions."""

from __future__ import annotations

import psutil

from bench import http1
from bench.context import Context
from bench.engine import COUNT, Engine, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Row, row
from bench.scenarios.cold import SUBJECT, only_cold

SIZES = (1, 100, 500)
# What an instance may cost while it starts; a burst that does not fit in memory measures swapping.
_INSTANCE_MIB = 12


def run(context: Context) -> list[Row]:
    """One engine per burst, so that each meets a full pool and no instance."""
    rows = []
    for size in SIZES[:2] if context.quick else SIZES:
        if psutil.virtual_memory().available < size * _INSTANCE_MIB << 20:
            context.say(f"{size}: skipped, too little memory is free")
            continue
        for distinct in (False, True):
            with context.engine() as engine:
                rows += [_burst(context, engine, size, distinct=distinct, turn=turn) for turn in range(1 if context.quick else 3)]
    return rows


def _burst(context: Context, engine: Engine, size: int, *, distinct: bool, turn: int) -> Row:
    kind = "of as many functions" if distinct else "of one function"
    context.say(f"{size} {kind}, turn {turn + 1}")
    names = [f"burst-{turn}-{i}" for i in range(size if distinct else 1)]
    engine.deploy_many(names, zipped(COUNT))
    engine.settle()
    raw = [http1.request(engine.host, engine.path(name), b"{}") for name in names]
    plan = Plan(
        engine.host, Http(), lambda n: (raw[n % len(raw)], None), connections=size, count=size, seconds=60, check=only_cold
    )
    outcome = Generator(plan).run()
    latencies = outcome.latencies("cold")
    for ns in outcome.kinds.get("warm", ()):
        latencies.add(ns)
    return row(
        "burst",
        SUBJECT,
        f"{size} at once, {kind}, turn {turn + 1}",
        generator="Python",
        latencies=latencies,
        seconds=outcome.seconds,
        errors=outcome.errors,
        in_flight=size,
        payload=2,
        all_answered_s=round(outcome.seconds, 4),
        cold=len(outcome.kinds.get("cold", ())),
        reused=len(outcome.kinds.get("warm", ())),
        first_error=outcome.first_error,
    )
