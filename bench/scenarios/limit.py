"""The machine's limit: client, dispatcher and worker in C (and a worker in Python), frames over Unix sockets.

Same pinning and payloads as the warm scenario, measured in the same run, so that the engine's figures can be read as ratios.
"""

from __future__ import annotations

from bench import native
from bench.context import Context
from bench.rows import Row, row
from engine.wire import messages as m

C_WORKER = "C dispatcher, C worker"
PYTHON_WORKER = "C dispatcher, Python worker"
WORKERS = 8


def text(size: int) -> bytes:
    """A JSON string of ``size`` bytes, quotes included."""
    return b'"' + b"x" * (size - 2) + b'"'


def run(context: Context) -> list[Row]:
    """Both kinds of worker, 1, 8 and 64 in flight, and the payload sizes at one in flight."""
    binary = context.limit()
    rows = []
    cases = [(1, 100), (8, 100), (64, 100), (1, 10_000), (8, 10_000), (1, 1_000_000), (8, 1_000_000), (1, 6_000_000)]
    for python in (False, True):
        subject = PYTHON_WORKER if python else C_WORKER
        context.say(subject)
        for in_flight, size in cases:
            request = m.encode_call(m.Call(0, "echo", None, 0, None, None, None, text(size)))
            workers = min(in_flight, WORKERS)
            with native.dispatcher(binary, context.work, workers, python=python) as path:
                native.load(binary, "frames", path, request, depth=in_flight, seconds=0.2)
                got = native.load(binary, "frames", path, request, depth=in_flight, seconds=context.seconds)
            rows.append(
                row(
                    "limit",
                    subject,
                    f"binary, {in_flight} in flight, {size} B",
                    generator="C",
                    latencies=got.latencies,
                    seconds=got.seconds,
                    errors=got.errors,
                    in_flight=in_flight,
                    payload=size,
                    bound=True,
                )
            )
    return rows
