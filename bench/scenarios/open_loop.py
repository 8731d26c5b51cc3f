"""Open loop over HTTP: a fixed rate, latency counted from the moment each request was due (no coordinated omission)."""

from __future__ import annotations

from bench import http1
from bench.context import Context
from bench.engine import ECHO, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Latencies, Row, row
from bench.scenarios.limit import text
from bench.scenarios.warm import HTTP

RATES = (500, 2000, 5000)
CONNECTIONS = 64


def run(context: Context) -> list[Row]:
    """Each rate for a while on 64 connections."""
    rows = []
    body = text(100)
    with context.engine() as engine:
        engine.deploy("echo", zipped(ECHO))
        raw = http1.request(engine.host, engine.path("echo"), body)
        Generator(Plan(engine.host, Http(), lambda _n: (raw, None), connections=16, seconds=0.5)).run()
        for rate in RATES[:2] if context.quick else RATES:
            context.say(f"{rate}/s")
            plan = Plan(
                engine.host, Http(), lambda _n: (raw, None), connections=CONNECTIONS, seconds=context.seconds, rate=float(rate)
            )
            outcome = Generator(plan).run()
            lag = Latencies(outcome.lag)
            rows.append(
                row(
                    "open",
                    HTTP,
                    f"{rate}/s offered, 100 B",
                    generator="Python, open loop",
                    latencies=outcome.latencies(),
                    seconds=outcome.seconds,
                    errors=outcome.errors,
                    in_flight=CONNECTIONS,
                    payload=len(body),
                    offered=rate,
                    generator_late_p50_us=round(lag.us(50), 1),
                    generator_late_p99_us=round(lag.us(99), 1),
                )
            )
    return rows
