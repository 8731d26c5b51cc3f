"""Warm invocations of an echo: HTTP with authentication off and on, and the binary protocol; 1, 8, 64 in flight; 100 B to 6 MB."""

from __future__ import annotations

from bench import http1, native, wrk
from bench.context import Context
from bench.engine import ACCESS_KEY, ECHO, REGION, SECRET, Engine, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Latencies, Row, row
from bench.scenarios.limit import text
from bench.signing import Signer, signed_source
from engine.wire import messages as m

HTTP = "engine, HTTP"
HTTP_SIGNED = "engine, HTTP, SigV4 verified"
BINARY = "engine, binary"

FLIGHTS = (1, 8, 64)
CASES = [(n, 100) for n in FLIGHTS] + [(n, 10_000) for n in FLIGHTS] + [(1, 1_000_000), (8, 1_000_000), (1, 6_000_000), (4, 6_000_000)]
SIGNED_CASES = [(n, 100) for n in FLIGHTS] + [(8, 10_000), (1, 1_000_000)]
_HELLO = m.pack(m.CLIENT_HELLO, m.VERSION, {"role": "client"})


def run(context: Context) -> list[Row]:
    """Two engines one after the other: authentication off, then on."""
    rows: list[Row] = []
    with context.engine() as engine:
        engine.deploy("echo", zipped(ECHO))
        for in_flight, size in CASES:
            rows += _http(context, engine, in_flight, size, signer=None)
        for in_flight, size in CASES:
            rows += _binary(context, engine, in_flight, size)
    if context.endpoint is None or context.signed_endpoint is not None:
        with context.engine(auth=True) as engine:
            engine.deploy("echo", zipped(ECHO))
            for in_flight, size in SIGNED_CASES:
                body = text(size)
                rows += _http(context, engine, in_flight, size, signer=Signer(ACCESS_KEY, SECRET, REGION, engine.host, body))
    return rows


def _http(context: Context, engine: Engine, in_flight: int, size: int, signer: Signer | None) -> list[Row]:
    subject = HTTP if signer is None else HTTP_SIGNED
    case = f"{in_flight} in flight, {size} B"
    context.say(f"{subject}: {case}")
    path, body = engine.path("echo"), text(size)
    # A signature is good for minutes; the server verifies it on every request all the same.
    raw = http1.request(engine.host, path, body, signer.headers(path) if signer else None)
    rows = []

    def measured(generator: str, latencies: Latencies, seconds: float, errors: int, cpu: tuple[float, float]) -> None:
        own, total = engine.cpu_s()
        n = max(1, len(latencies))
        rows.append(
            row(
                "warm",
                subject,
                case,
                generator=generator,
                latencies=latencies,
                seconds=seconds,
                errors=errors,
                in_flight=in_flight,
                payload=size,
                supervisor_cpu_us=round((own - cpu[0]) / n * 1e6, 1),
                engine_cpu_us=round((total - cpu[1]) / n * 1e6, 1),
            )
        )

    binary = context.limit()
    native.load(binary, "http", engine.host, raw, connections=in_flight, seconds=0.5)
    cpu = engine.cpu_s()
    got = native.load(binary, "http", engine.host, raw, connections=in_flight, seconds=context.seconds)
    measured("C", got.latencies, got.seconds, got.errors, cpu)
    small = size == CASES[0][1]
    if small and wrk.found():
        rows.append(wrk.row("warm", subject, case, engine.host, path, body, raw, in_flight, context.seconds))
    if small and not context.quick:
        cpu = engine.cpu_s()
        source = signed_source(signer, engine.host, path, body, every_request=True) if signer else lambda _n: (raw, None)
        plan = Plan(engine.host, Http(), source, connections=in_flight, seconds=context.seconds)
        outcome = Generator(plan).run()
        label = "Python, each request signed" if signer else "Python"
        measured(label, outcome.latencies(), outcome.seconds, outcome.errors, cpu)
    return rows


def _binary(context: Context, engine: Engine, in_flight: int, size: int) -> list[Row]:
    if engine.binary is None:
        return []
    case = f"{in_flight} in flight, {size} B"
    context.say(f"{BINARY}: {case}")
    request = m.encode_call(m.Call(0, "echo", None, 0, None, None, None, text(size)))
    binary = context.limit()

    def load(seconds: float) -> native.LoadResult:
        return native.load(
            binary, "frames", engine.binary or "", request, preamble=_HELLO, depth=in_flight, seconds=seconds, status=200
        )

    load(0.5)
    cpu = engine.cpu_s()
    got = load(context.seconds)
    own, total = engine.cpu_s()
    n = max(1, len(got.latencies))
    return [
        row(
            "warm",
            BINARY,
            case,
            generator="C",
            latencies=got.latencies,
            seconds=got.seconds,
            errors=got.errors,
            in_flight=in_flight,
            payload=size,
            supervisor_cpu_us=round((own - cpu[0]) / n * 1e6, 1),
            engine_cpu_us=round((total - cpu[1]) / n * 1e6, 1),
        )
    ]
