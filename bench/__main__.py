"""Run scenarios and write a table, JSON and a plot: ``python -m bench --quick`` or ``python -m bench --scenario cold``."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from bench import report
from bench.context import RESULTS, Context, machine
from bench.rows import Row, save
from bench.scenarios import SCENARIOS, describe


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the engine, the machine's limit and peers in one run.",
        epilog=f"scenarios:\n{describe()}\n\nexample: python -m bench --quick --scenario limit --scenario warm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="only this one; may be repeated (default: all)")
    p.add_argument("--quick", action="store_true", help="seconds instead of minutes; figures are rough")
    p.add_argument("--pin", default="0", help="CPUs every process is pinned to, such as 0 or 0,1; 'none' for free (default 0)")
    p.add_argument("--nice", type=int, default=0, help="run everything at this niceness; -12 (root) keeps other work out of the figures")
    p.add_argument("--runtime", default="", help="what functions run on, such as python3.13 (default: the Python of this run)")
    p.add_argument("--endpoint", help="measure the engine at this http://host:port instead of starting one")
    p.add_argument("--binary-endpoint", help="its binary socket: a path or host:port without authentication")
    p.add_argument("--signed-endpoint", help="an engine with auth=sigv4 and the bench's key, for the signed cases")
    p.add_argument("--name", default="latest", help="results are bench/results/NAME.json, .txt and .png")
    p.add_argument("--promises", action="store_true", help="also rewrite bench/PROMISES.md")
    return p


def main() -> int:
    """The exit status: 1 when a scenario failed."""
    options = parser().parse_args()
    # Engines have sessions of their own: they end with this one, also when a time limit ends it, only if it unwinds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cpus = None if options.pin == "none" else tuple(int(c) for c in options.pin.split(","))
    if cpus is not None:
        # Inherited by everything this run starts: engines, workers, dispatchers, peers, generators.
        os.sched_setaffinity(0, cpus)
    if options.nice:
        os.setpriority(os.PRIO_PROCESS, 0, options.nice)
    about = machine(cpus, options.nice)
    if options.runtime:
        about["functions"] = options.runtime
    work = Path(tempfile.mkdtemp(prefix="bench-"))
    context = Context(work, options.quick, cpus, options.endpoint, options.binary_endpoint, options.signed_endpoint)
    context.runtime = options.runtime
    rows: list[Row] = []
    failed = []
    try:
        for name in options.scenario or SCENARIOS:
            print(f"{name}", file=sys.stderr, flush=True)
            try:
                rows += SCENARIOS[name](context)
            except Exception:
                failed.append(name)
                traceback.print_exc()
            save(RESULTS / f"{options.name}.json", about, rows)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = f"{report.heading(about)}\n\n{report.table(rows)}\n"
    (RESULTS / f"{options.name}.txt").write_text(text, encoding="utf-8")
    print(text)
    if report.plot(RESULTS / f"{options.name}.png", about, rows):
        print(f"plot: {RESULTS / options.name}.png", file=sys.stderr)
    if options.promises:
        report.PROMISES_PAGE.write_text(report.promises_page(about, rows), encoding="utf-8")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
