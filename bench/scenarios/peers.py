"""Peers on the same machine, payload and pinning: process pools, AWS's runtime client, ministack; in-process servers as bounds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from bench import http1, native, wrk
from bench.context import Context
from bench.peers import pools, servers, venv
from bench.rows import Latencies, Row, row
from bench.scenarios.limit import text

WORKERS = 2
SIZE = 100
Serve = Callable[[Path, Path], AbstractContextManager[tuple[str, str]]]

# (name, package it needs, how to start it, whether it is only a bound, whether it keeps connections open)
_SERVERS: list[tuple[str, str, Serve, bool, bool]] = [
    ("awslambdaric behind a minimal Runtime API", "awslambdaric", lambda p, w: servers.awslambdaric(p, w, workers=WORKERS), False, True),
    ("ministack", "ministack", servers.ministack, False, True),
    ("gunicorn gthread (in-process)", "gunicorn", lambda p, w: servers.gunicorn(p, w, threads=8), True, True),
    ("gunicorn sync (in-process)", "gunicorn", lambda p, w: servers.gunicorn(p, w, threads=0), True, False),
    ("uvicorn (in-process)", "uvicorn", servers.uvicorn, True, True),
]


def run(context: Context) -> list[Row]:
    """Each peer with 1 and 8 in flight, 100 B; pools also with 64 and with 1 MB."""
    rows = _pools(context)
    python, missing = venv.ready()
    for name, package, serve, bound, keep_alive in _SERVERS:
        if package in missing:
            context.say(f"{name}: not measured, {missing[package]}")
            continue
        try:
            with serve(python, context.work) as (host, path):
                rows += _server(context, name, host, path, bound=bound, keep_alive=keep_alive)
        except (OSError, RuntimeError, TimeoutError) as e:
            context.say(f"{name}: not measured, {e}")
    return rows


def _pools(context: Context) -> list[Row]:
    rows = []
    for name, measure in (
        ("ProcessPoolExecutor", pools.process_pool),
        ("multiprocessing.Pool", pools.multiprocessing_pool),
    ):
        for in_flight, size in ((1, SIZE), (8, SIZE), (64, SIZE), (1, 1_000_000)):
            context.say(f"{name}: {in_flight} in flight, {size} B")
            latencies, seconds = measure(text(size), WORKERS, in_flight, context.seconds)
            rows.append(
                row(
                    "peers",
                    f"{name}, {WORKERS} workers",
                    f"{in_flight} in flight, {size} B",
                    generator="Python, in the caller",
                    latencies=latencies,
                    seconds=seconds,
                    in_flight=in_flight,
                    payload=size,
                )
            )
    return rows


def _server(context: Context, name: str, host: str, path: str, *, bound: bool, keep_alive: bool) -> list[Row]:
    rows = []
    raw = http1.request(host, path, text(SIZE), {"Content-Type": "application/json"})
    for in_flight in (1, 8):
        case = f"{in_flight} in flight, {SIZE} B"
        context.say(f"{name}: {case}")
        if not keep_alive:
            if wrk.found():
                rows.append(wrk.row("peers", name, case, host, path, text(SIZE), raw, in_flight, context.seconds))
                rows[-1].bound = bound
            continue
        _c(context, host, raw, in_flight, 0.3)
        latencies, seconds, errors = _c(context, host, raw, in_flight, context.seconds)
        rows.append(
            row(
                "peers",
                name,
                case,
                generator="C",
                latencies=latencies,
                seconds=seconds,
                errors=errors,
                in_flight=in_flight,
                payload=SIZE,
                bound=bound,
            )
        )
    return rows


def _c(context: Context, host: str, raw: bytes, connections: int, seconds: float) -> tuple[Latencies, float, int]:
    got = native.load(context.limit(), "http", host, raw, connections=connections, seconds=seconds)
    return got.latencies, got.seconds, got.errors
