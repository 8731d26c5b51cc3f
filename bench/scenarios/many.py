"""Many functions: 1,000 registered, 200 live, invoked at random; beside it one hot function among the same thousand."""

from __future__ import annotations

import random
import time

from bench import http1
from bench.context import Context
from bench.engine import COUNT, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Row, row
from bench.scenarios.cold import SUBJECT

REGISTERED, LIVE, IN_FLIGHT = 1000, 200, 8


def run(context: Context) -> list[Row]:
    """Register, bring to life, invoke."""
    registered, live = (200, 50) if context.quick else (REGISTERED, LIVE)
    with context.engine() as engine:
        names = [f"many-{i}" for i in range(registered)]
        context.say(f"registering {registered} functions")
        began = time.monotonic()
        engine.deploy_many(names, zipped(COUNT))
        registered_s = time.monotonic() - began
        raw = [http1.request(engine.host, engine.path(name), b"{}") for name in names[:live]]
        context.say(f"starting {live}")
        first = Generator(Plan(engine.host, Http(), lambda n: (raw[n % live], None), connections=4, count=live, seconds=60)).run()
        if first.errors:
            raise RuntimeError(f"{first.errors} of {live} first invocations failed: {first.first_error}")
        engine.settle()
        order = random.Random(1).choices(range(live), k=4096)
        rows = []
        for case, pick in ((f"{live} live of {registered}, at random", order), (f"one hot of {registered}", [0])):
            context.say(case)
            plan = Plan(
                engine.host,
                Http(),
                lambda n, pick=pick: (raw[pick[n % len(pick)]], None),  # type: ignore[misc]
                connections=IN_FLIGHT,
                seconds=context.seconds,
            )
            outcome = Generator(plan).run()
            processes = engine.processes()
            rows.append(
                row(
                    "many",
                    SUBJECT,
                    case,
                    generator="Python",
                    latencies=outcome.latencies(),
                    seconds=outcome.seconds,
                    errors=outcome.errors,
                    in_flight=IN_FLIGHT,
                    payload=2,
                    registered_s=round(registered_s, 2),
                    supervisor_rss_mib=round(processes[0].memory_info().rss / 2**20, 1) if processes else None,
                )
            )
    return rows
