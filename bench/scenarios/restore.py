"""SnapStart: first answers of copies of a template, client to reply over HTTP, beside warm calls of the same functions.

The function imports numpy and boto3, makes a client and works for a second in its init: what a plain cold start would pay. Several functions
take turns, so that the instance of the last turn has expired; an answer other than 1 is no sample.
"""

from __future__ import annotations

import time

from bench import http1
from bench.context import Context
from bench.engine import Engine
from bench.loadgen import Generator, Http, Plan
from bench.packages import with_requirements
from bench.rows import Row, row
from bench.scenarios.cold import only_cold

SUBJECT = "engine, HTTP"
HEAVY = b"""import time

import boto3
import numpy

S3 = boto3.client("s3", region_name="us-east-1")
WEIGHTS = numpy.ones(1 << 18)
time.sleep(1)
N = 0


def handler(event, context):
    global N
    N += 1
    return N
"""
KEEP_ALIVE_S = 0.5
FUNCTIONS = 4
RATE = 1.5
READY_S = 120.0


def run(context: Context) -> list[Row]:
    """Restores, then warm calls."""
    if context.endpoint is not None:
        return []
    with context.engine(keep_alive_s=KEEP_ALIVE_S) as engine:
        engine.runtime = "python3.12"
        package = with_requirements(HEAVY, ["numpy"], engine.runtime)
        names = [f"restored-{n}" for n in range(FUNCTIONS)]
        for name in names:
            context.say(f"making the snapshot of {name}")
            publish(engine, name, package)
        raw = [http1.request(engine.host, f"{engine.path(name)}?Qualifier=1", b"{}") for name in names]
        samples = 20 if context.quick else 100
        return [_measure(engine, "restored", raw, samples, RATE), _measure(engine, "warm", raw[:1], samples, 50.0)]


def publish(engine: Engine, name: str, package: bytes) -> None:
    """A function whose version 1 starts from a snapshot, once that is there. Raises RuntimeError when it is not."""
    engine.deploy(name, package, SnapStart={"ApplyOn": "PublishedVersions"})
    client = engine.client()
    client.publish_version(FunctionName=name)
    until_s = time.monotonic() + READY_S
    while (state := client.get_function_configuration(FunctionName=name, Qualifier="1")["State"]) == "Pending":
        if time.monotonic() > until_s:
            raise RuntimeError(f"the snapshot of {name} is not there after {READY_S:g} s")
        time.sleep(0.1)
    if state != "Active":
        raise RuntimeError(f"{name} is {state}")


def _measure(engine: Engine, case: str, raw: list[bytes], samples: int, rate: float) -> Row:
    plan = Plan(
        engine.host,
        Http(),
        lambda n: (raw[n % len(raw)], None),
        connections=4,
        count=samples,
        seconds=samples / rate + 60,
        rate=rate,
        check=only_cold,
    )
    outcome = Generator(plan).run()
    kind = "cold" if case == "restored" else "warm"
    return row(
        "restore",
        SUBJECT,
        f"{case}: numpy, boto3 client, 1 s of init",
        generator="Python, open loop",
        latencies=outcome.latencies(kind),
        seconds=outcome.seconds,
        errors=outcome.errors,
        in_flight=1,
        payload=2,
        others=len(outcome.kinds.get("warm" if kind == "cold" else "cold", ())),
        first_error=outcome.first_error,
    )
