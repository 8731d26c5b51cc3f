"""Cold starts over HTTP, client to reply; every sample is proved to come from an instance that had never run before.

A function answers how often its instance has been called; answers other than 1 are not samples. Fresh instances come from rotating
through functions whose instances have expired in the meantime (``keep_alive_s`` is short). They are paced: the pool has time to refill, as in sporadic
traffic; ``sustained`` has those that are not.
"""

from __future__ import annotations

import socket
import time

from bench import http1
from bench.context import Context
from bench.engine import COUNT, ECHO, Engine, zipped
from bench.loadgen import Generator, Http, Outcome, Plan, Tag
from bench.packages import with_requirements
from bench.rows import Latencies, Row, row

SUBJECT = "engine, HTTP"
_BOTO3 = b"""import boto3

S3 = boto3.client("s3", region_name="us-east-1")
N = 0


def handler(event, context):
    global N
    N += 1
    return N
"""
_NUMPY = b"""import numpy

N = 0


def handler(event, context):
    global N
    N += int(numpy.ones(1)[0])
    return N
"""
KEEP_ALIVE_S = 0.5
# Instances are looked over several times a second; their ends take a while.
GONE_AFTER_S = KEEP_ALIVE_S + 1.0
_PACED = {True: 120, False: 300}
_PACE = 25.0
ENGINES_PART = "engine's part of a small function's start"
_OK = 200


def only_cold(_tag: Tag, status: int, body: bytes) -> str | None:
    """Sorts answers of a counting function."""
    if status != 200 or not body.isdigit():
        return None
    return "cold" if body == b"1" else "warm"


def run(context: Context) -> list[Row]:
    """Small, boto3, numpy; then warm calls with cold starts among them."""
    rows = []
    with context.engine(keep_alive_s=KEEP_ALIVE_S) as engine:
        few = named("small", _PACED[context.quick])
        engine.deploy_many(few, zipped(COUNT))
        samples = len(few) if context.quick or context.endpoint else 2 * len(few)
        rows.append(_paced(context, engine, "small function", few, samples, rate=_PACE))
        rows.append(_engines_part(context, engine, few))
        for label, code, requirements in (("boto3 client at import", _BOTO3, []), ("numpy", _NUMPY, ["numpy"])):
            names = named(label.split()[0], 12 if context.quick else 40)
            package = with_requirements(code, requirements, engine.runtime) if requirements else zipped({"app.py": code})
            engine.deploy_many(names, package, MemorySize=512)
            rows.append(_paced(context, engine, label, names, len(names), rate=1))
    if context.endpoint is None:
        rows += _beside(context)
    return rows


def _beside(context: Context) -> list[Row]:
    """Warm calls at a fixed rate, alone and with cold starts among them: what refilling the pool costs the others."""
    rate, cold_share = 400.0, 20
    rows = []
    with context.engine() as engine:
        engine.deploy("hot", zipped(ECHO))
        seconds = 3.0 if context.quick else 10.0
        fresh = named("fresh", int(rate * seconds / cold_share) + 1)
        engine.deploy_many(fresh, zipped(COUNT))
        engine.settle()
        hot = http1.request(engine.host, engine.path("hot"), b"{}")
        first = requests(engine, fresh)

        def mixed(n: int) -> tuple[bytes, Tag]:
            return (first[n // cold_share], "cold") if n % cold_share == 0 else (hot, "ok")

        for case, source in (("warm calls alone", lambda _n: (hot, "ok")), ("warm calls beside cold starts", mixed)):
            context.say(case)
            plan = Plan(
                engine.host,
                Http(),
                source,
                connections=16,
                seconds=seconds,
                rate=rate,
                check=lambda tag, status, _body: str(tag) if status == 200 else None,
            )
            outcome = Generator(plan).run()
            rows.append(
                row(
                    "cold",
                    SUBJECT,
                    f"{case}, {rate:g}/s",
                    generator="Python, open loop",
                    latencies=outcome.latencies(),
                    seconds=outcome.seconds,
                    errors=outcome.errors,
                    in_flight=16,
                    payload=2,
                    cold_starts=len(outcome.kinds.get("cold", ())),
                )
            )
    return rows


def named(stem: str, n: int) -> list[str]:
    return [f"{stem}-{i}" for i in range(n)]


def requests(engine: Engine, names: list[str]) -> list[bytes]:
    return [http1.request(engine.host, engine.path(name), b"{}") for name in names]


def _paced(context: Context, engine: Engine, label: str, names: list[str], samples: int, rate: float) -> Row:
    context.say(f"{label}: {samples} starts at {rate}/s")
    engine.settle(instances=0 if context.endpoint is None else None)
    raw = requests(engine, names)
    plan = Plan(
        engine.host,
        Http(),
        lambda n: (raw[n % len(raw)], None),
        connections=8,
        count=samples,
        seconds=samples / rate + 60,
        rate=rate,
        check=only_cold,
    )
    return _row(f"{label}, paced {rate:g}/s", Generator(plan).run(), in_flight=1, generator="Python, open loop")


def _engines_part(context: Context, engine: Engine, names: list[str]) -> Row:
    """What a cold start takes beyond a warm call: each function is called twice, half a pace apart, and the difference is the sample.

    The function does nothing, so what is left is the engine's: a sandbox taken and made the function's, the runtime's init, the import.
    """
    context.say(f"{ENGINES_PART}: {len(names)} pairs at {_PACE:g}/s")
    engine.settle(instances=0 if context.endpoint is None else None)
    host, _, port = engine.host.rpartition(":")
    latencies = Latencies()
    errors = 0
    started = time.perf_counter()
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        for n, raw in enumerate(requests(engine, names)):
            time.sleep(max(0.0, started + n / _PACE - time.perf_counter()))
            cold_ns, first = _ask(sock, raw)
            time.sleep(max(0.0, started + (n + 0.5) / _PACE - time.perf_counter()))
            warm_ns, second = _ask(sock, raw)
            if (first, second) == (b"1", b"2"):
                latencies.add(cold_ns - warm_ns)
            else:
                errors += 1
    seconds = time.perf_counter() - started
    return row(
        "cold", SUBJECT, ENGINES_PART, generator="Python", latencies=latencies, seconds=seconds, errors=errors, in_flight=1, payload=2
    )


def _ask(sock: socket.socket, raw: bytes) -> tuple[int, bytes]:
    """(nanoseconds from the question to the answer, its body); no body for an error."""
    began = time.perf_counter_ns()
    sock.sendall(raw)
    buffer = bytearray()
    while (reply := http1.find(buffer, 0)) is None:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("closed before the answer")
        buffer += piece
    took = time.perf_counter_ns() - began
    return took, bytes(buffer[reply.body_at : reply.size]) if reply.status == _OK else b""


def _row(case: str, outcome: Outcome, in_flight: int, generator: str) -> Row:
    return row(
        "cold",
        SUBJECT,
        case,
        generator=generator,
        latencies=outcome.latencies("cold"),
        seconds=outcome.seconds,
        errors=outcome.errors,
        in_flight=in_flight,
        payload=2,
        not_cold=len(outcome.kinds.get("warm", ())),
        first_error=outcome.first_error,
    )
