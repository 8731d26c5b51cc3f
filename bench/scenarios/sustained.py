"""Cold starts at full speed, a core at a time and on all cores: whole lives of small functions, made, invoked once and ended.

How long a core needs for a life is only seen where nothing else runs on it, so the load generator has a core of its own where there are two. One core is measured
again with the generator on it, and all of them together. The kernel's own threads, which do a tenth of the work, run wherever it puts them.

The price of a bare fork stands beside each figure: a life is mostly the kernel's work on pages and processes, which differs from machine to machine and from hour
to hour by more than anything here.
"""

from __future__ import annotations

import os
import subprocess
import sys

from bench.context import Context
from bench.engine import COUNT, Engine, started, zipped
from bench.loadgen import Generator, Http, Outcome, Plan
from bench.rows import Row, row
from bench.scenarios.cold import GONE_AFTER_S, KEEP_ALIVE_S, SUBJECT, named, only_cold, requests

ALONE = "one core, generator on another"
TOGETHER = "one core, generator on it"
ALL = "all cores, generator on them"
# So many a second and core that no function is due again while its instance is there: the loop would find itself among warm ones, go round faster and stay there.
_MOST = 400
_PER_CORE = 4
# Written as the program of a process that has nothing but an interpreter.
_BARE_FORK = """
import os, time
took = []
for _ in range(300):
    began = time.perf_counter_ns()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    took.append(time.perf_counter_ns() - began)
print(sorted(took)[150])
"""


def run(context: Context) -> list[Row]:
    """One core with the generator elsewhere (where there is an elsewhere), one core with it, all cores; each with an engine of its own."""
    if context.endpoint is not None:
        return []
    here = sorted(context.cpus or os.sched_getaffinity(0))
    cases = [(ALONE, here[:1], here[1:2]), (TOGETHER, here[:1], here[:1]), (ALL, here, here)]
    return [_case(context, *case) for case in cases if case[2] and (case[0] != ALL or len(here) > 1)]


def _case(context: Context, label: str, engines: list[int], generators: list[int]) -> Row:
    before = os.sched_getaffinity(0)
    cores = len(engines)
    try:
        # Inherited by the engine and all its processes.
        os.sched_setaffinity(0, engines)
        bare_ns = int(subprocess.run([sys.executable, "-I", "-S", "-c", _BARE_FORK], capture_output=True, check=True).stdout)
        with started(context.work, keep_alive_s=KEEP_ALIVE_S) as engine:
            engine.runtime = context.runtime
            os.sched_setaffinity(0, generators)
            outcome = _lives(context, engine, label, cores)
    finally:
        os.sched_setaffinity(0, before)
    result = row(
        "sustained",
        SUBJECT,
        label,
        generator="Python",
        latencies=outcome.latencies("cold"),
        seconds=outcome.seconds,
        errors=outcome.errors,
        in_flight=cores * _PER_CORE,
        payload=2,
        not_cold=len(outcome.kinds.get("warm", ())),
        first_error=outcome.first_error,
        cores=cores,
        bare_fork_us=round(bare_ns / 1000),
    )
    # The others were answered too, but were not what is counted here.
    result.rate = round(result.requests / outcome.seconds, 1)
    return result


def _lives(context: Context, engine: Engine, label: str, cores: int) -> Outcome:
    seconds = 4.0 if context.quick else 15.0
    functions = named("small", int(_MOST * cores * GONE_AFTER_S))
    context.say(f"{label}: {len(functions)} functions, {seconds:g} s")
    engine.deploy_many(functions, zipped(COUNT))
    engine.settle(instances=0)
    raw = requests(engine, functions)
    plan = Plan(engine.host, Http(), lambda n: (raw[n % len(raw)], None), connections=cores * _PER_CORE, seconds=seconds, check=only_cold)
    return Generator(plan).run()
