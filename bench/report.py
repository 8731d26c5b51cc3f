"""A result for people: a table, plots, and ``bench/PROMISES.md`` with every promise beside what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.promises import PROMISES, Results
from bench.rows import Row, load

PROMISES_PAGE = Path(__file__).with_name("PROMISES.md")
_HEADS = ("scenario", "subject", "case", "by", "n", "err", "per s", "p50", "p90", "p99", "p99.9")


def duration(us: float) -> str:
    """Microseconds with three digits and a unit."""
    if us <= 0:
        return "-"
    for limit, scale, unit in ((1000, 1, "µs"), (1_000_000, 1000, "ms"), (float("inf"), 1_000_000, "s")):
        if us < limit:
            value = us / scale
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    raise AssertionError(us)


def table(rows: list[Row]) -> str:
    """All rows, aligned; extra figures on a line of their own."""
    cells = [_HEADS]
    for r in rows:
        subject = f"{r.subject} (bound)" if r.bound else r.subject
        numbers = (duration(r.p50_us), duration(r.p90_us), duration(r.p99_us), duration(r.p999_us))
        cells.append((r.scenario, subject, r.case, r.generator, str(r.requests), str(r.errors), f"{r.rate:,.0f}", *numbers))
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADS))]
    out = []
    for n, line in enumerate(cells):
        text = "  ".join(c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        out.append(text.rstrip())
        shown = {k: v for k, v in rows[n - 1].extra.items() if v not in (None, "")} if n else {}
        if shown:
            out.append("    " + "  ".join(f"{k}={v}" for k, v in shown.items()))
    return "\n".join(out)


def heading(machine: dict[str, Any]) -> str:
    """The machine on two lines."""
    return (
        f"{machine['cpu'] or 'unknown CPU'}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"revision {machine['revision']}, {machine['when']}\n"
        f"pinning: {machine['pinning']}; load average before the run {machine['load_before']}"
        + (f"; functions: {machine['functions']}" if machine.get("functions") else "")
    )


def plot(path: Path, machine: dict[str, Any], rows: list[Row]) -> bool:
    """Latency curves and throughput as one PNG; False when matplotlib is missing or there is nothing to draw."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return False
    small = [r for r in rows if r.payload in (0, 2, 100) and r.curve and r.in_flight == 1]
    busy = sorted((r for r in rows if r.in_flight == 8 and r.payload == 100), key=lambda r: r.rate)
    if not small and not busy:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 6))
    for r in small:
        points = [(100 / (100 - p), us) for p, us in r.curve if p < 100 and us > 0]
        left.plot([x for x, _ in points], [y for _, y in points], marker=".", label=f"{r.subject}: {r.case} ({r.generator})")
    left.set(xscale="log", yscale="log", xlabel="1 / (1 - percentile)", ylabel="latency, µs", title="One in flight")
    left.grid(visible=True, which="both", alpha=0.2)
    if small:
        left.legend(fontsize=6)
    right.barh([f"{r.subject} ({r.generator})" for r in busy], [r.rate for r in busy], color=["#bbb" if r.bound else "#47a" for r in busy])
    right.set(xlabel="answers per second", title="Eight in flight, 100 B (grey: bounds)")
    right.tick_params(axis="y", labelsize=7)
    figure.suptitle(heading(machine), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def promises_page(machine: dict[str, Any], rows: list[Row]) -> str:
    """Every promise with its target, scenario and the measured value."""
    results = Results(rows)
    lines = [
        "# Promises",
        "",
        "Every number this project promises, the scenario that measures it, and what the last run gave. Written by",
        "`python -m bench --promises`; a promise without a figure is *pending* and says why. Machines differ: read a figure",
        "against the C dispatcher measured in the same run.",
        "",
        heading(machine).replace("\n", "  \n"),
        "",
        "| promise | target | measured | holds | scenario |",
        "|---|---|---|---|---|",
    ]
    for promise in PROMISES:
        got = promise.measure(results)
        if got is None:
            measured, holds = f"pending: {promise.pending}" if promise.pending else "not in this run", ""
        else:
            measured = got.text
            holds = "" if got.holds is None else "yes" if got.holds else "**no**"
        lines.append(f"| {promise.text} | {promise.target} | {measured} | {holds} | `{promise.scenario}` |")
    lines += ["", "## Beside it, in the same run", "", *_beside(rows)]
    return "\n".join(lines) + "\n"


def _beside(rows: list[Row]) -> list[str]:
    """Engine, limit and peers at 100 B, for orientation."""
    lines = ["| subject | case | by | per second | p50 | p99 |", "|---|---|---|---|---|---|"]
    for r in rows:
        if r.payload == 100 and r.scenario in ("limit", "warm", "peers"):
            subject = f"{r.subject} (bound)" if r.bound else r.subject
            lines.append(f"| {subject} | {r.case} | {r.generator} | {r.rate:,.0f} | {duration(r.p50_us)} | {duration(r.p99_us)} |")
    return lines


def main() -> None:
    """Print a saved result; with --promises also rewrite PROMISES.md from it."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Show a saved result.")
    parser.add_argument("result", type=Path)
    parser.add_argument("--plot", type=Path, help="write a PNG here")
    parser.add_argument("--promises", action="store_true", help=f"rewrite {PROMISES_PAGE.name} from it")
    options = parser.parse_args()
    machine, rows = load(options.result)
    print(heading(machine), table(rows), sep="\n\n")
    if options.plot:
        plot(options.plot, machine, rows)
    if options.promises:
        PROMISES_PAGE.write_text(promises_page(machine, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
