"""The promises as data: what is promised, which scenario measures it, and how to read the value from a result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bench.rows import Row
from bench.scenarios import control, layers
from bench.scenarios.cold import ENGINES_PART
from bench.scenarios.events import PACED
from bench.scenarios.limit import C_WORKER, PYTHON_WORKER
from bench.scenarios.sustained import ALL, ALONE, TOGETHER
from bench.scenarios.warm import BINARY, HTTP, HTTP_SIGNED

SMALL = 100


class Results:
    """Rows of one run, to be picked from."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def some(self, scenario: str, **wanted: object) -> list[Row]:
        """Rows whose fields have these values; ``case`` and ``subject`` need only begin with theirs."""
        return [r for r in self._rows if r.scenario == scenario and all(_fits(r, k, v) for k, v in wanted.items())]

    def best_rate(self, scenario: str, **wanted: object) -> Row | None:
        return max(self.some(scenario, **wanted), key=lambda r: r.rate, default=None)

    def best_p50(self, scenario: str, **wanted: object) -> Row | None:
        rows = [r for r in self.some(scenario, **wanted) if r.p50_us > 0]
        return min(rows, key=lambda r: r.p50_us, default=None)


class Got(NamedTuple):
    """A measured value; ``holds`` None when it is only told."""

    text: str
    holds: bool | None


class Promise(NamedTuple):
    """One line of PROMISES.md. ``pending`` says why there is no scenario yet."""

    text: str
    target: str
    scenario: str
    measure: Callable[[Results], Got | None]
    pending: str = ""


def _fits(row: Row, name: str, wanted: object) -> bool:
    value = getattr(row, name)
    if name in ("case", "subject") and isinstance(wanted, str):
        return str(value).startswith(wanted)
    return bool(value == wanted)


def _clean(rows: Iterable[Row]) -> str:
    errors = sum(r.errors for r in rows)
    return f"; {errors} errors" if errors else ""


def _rate(subject: str, target: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        # HTTP alone and HTTP with signatures share a beginning: the subject must be equal here.
        rows = [r for r in results.some("warm", payload=SMALL) if r.subject == subject]
        if not rows:
            return None
        best = max(rows, key=lambda r: r.rate)
        return Got(f"{best.rate:,.0f}/s ({best.in_flight} in flight, {best.generator}){_clean([best])}", best.rate >= target)

    return measure


def _ratio(subject: str, limit: str, target: float | None) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        ours = [r for r in results.some("warm", payload=SMALL, in_flight=1) if r.subject == subject and r.p50_us > 0]
        floor = results.best_p50("limit", subject=limit, payload=SMALL, in_flight=1)
        if not ours or floor is None:
            return None
        best = min(ours, key=lambda r: r.p50_us)
        ratio = best.p50_us / floor.p50_us
        return Got(f"{ratio:.2f}× ({best.p50_us:.0f} against {floor.p50_us:.0f} µs)", None if target is None else ratio <= target)

    return measure


def _cold(p50_ms: float, p99_ms: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = results.some("cold", case="small function, paced")
        if not rows:
            return None
        r = rows[0]
        holds = r.p50_us <= p50_ms * 1000 and r.p99_us <= p99_ms * 1000 and not r.errors
        return Got(f"p50 {r.p50_us / 1000:.2f} ms, p99 {r.p99_us / 1000:.2f} ms, n = {r.requests}{_clean([r])}", holds)

    return measure


def _engines_part(p50_ms: float, p99_ms: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = results.some("cold", case=ENGINES_PART)
        if not rows:
            return None
        r = rows[0]
        holds = r.p50_us <= p50_ms * 1000 and r.p99_us <= p99_ms * 1000 and not r.errors
        text = f"p50 {r.p50_us / 1000:.2f} ms, p99 {r.p99_us / 1000:.2f} ms, n = {r.requests}, beyond a warm call of the same function"
        return Got(f"{text}{_clean([r])}", holds)

    return measure


def _restored(p50_ms: float, p99_ms: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows, warm = results.some("restore", case="restored"), results.some("restore", case="warm")
        if not rows or not warm:
            return None
        r = rows[0]
        holds = r.p50_us <= p50_ms * 1000 and r.p99_us <= p99_ms * 1000 and not r.errors
        beside = f"warm in the same run p50 {warm[0].p50_us / 1000:.2f} ms"
        return Got(f"p50 {r.p50_us / 1000:.2f} ms, p99 {r.p99_us / 1000:.2f} ms, n = {r.requests}; {beside}{_clean([r])}", holds)

    return measure


def _sustained(target: float, *, each: bool = False) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = {case: row for case in (ALONE, TOGETHER, ALL) for row in results.some("sustained", case=case)}
        if not rows:
            return None
        rates = {case: r.rate / int(r.extra["cores"]) if each else r.rate for case, r in rows.items()}
        warm = sum(int(r.extra["not_cold"]) for r in rows.values())
        aside = f"; {warm} warm answers not counted" if warm else ""
        text = "; ".join(f"{rate:,.0f}/s {'a core, ' if each else ''}{case}" for case, rate in rates.items())
        # One core tells what a core does; all of them do the generator's work too.
        told = min(rates[case] for case in rates if case != ALL) if each else max(rates.values())
        bare = min(int(r.extra["bare_fork_us"]) for r in rows.values())
        return Got(f"{text}{aside}; a bare fork {bare} µs{_clean(rows.values())}", told >= target and not any(r.errors for r in rows.values()))

    return measure


def _burst(size: int, target_s: float | None) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = results.some("burst", case=f"{size} at once")
        if not rows:
            return None
        # Both readings of "first invocations" have to hold: of one new function, and of as many new functions.
        worst = {kind: [r.seconds for r in rows if kind in r.case] for kind in ("of one function", "of as many functions")}
        text = "; ".join(f"{max(times):.2f} s {kind}" for kind, times in worst.items() if times)
        holds = max(r.seconds for r in rows) < target_s and not sum(r.errors for r in rows) if target_s is not None else None
        return Got(f"{text} (worst turn){_clean(rows)}", holds)

    return measure


def _scaled(target_s: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = results.some("scale", case="0 to 500")
        if not rows:
            return None
        r = rows[0]
        phases = ", ".join(f"{name.removesuffix('_ms')} {spread.get('mean', 0):.1f} ms (max {spread.get('max', 0):.0f})" for name, spread in r.extra["phases"].items())
        text = f"{r.seconds:.2f} s, {r.extra['live']} live; each: {phases}, {r.extra['cpu_ms_per_instance']:.1f} ms of CPU"
        return Got(f"{text}{_clean([r])}", r.seconds < target_s and r.extra["live"] == r.in_flight)

    return measure


def _restores(per_s: float, private_mb: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = [r for r in results.some("scale") if "restores" in r.case]
        if not rows:
            return None
        r = rows[0]
        holds = r.extra["per_cpu_second"] >= per_s and r.extra["private_mb"] <= private_mb
        return Got(f"{r.extra['per_cpu_second']:.0f} per second of CPU time, {r.extra['private_mb']:.1f} MB each, n = {r.in_flight}{_clean([r])}", holds)

    return measure


def _ahead(results: Results) -> Got | None:
    """Engine against each competitor at 1 and 8 in flight, 100 B: HTTP against HTTP servers, binary against pools."""
    behind = []
    compared = 0
    for peer in results.some("peers", payload=SMALL, bound=False):
        subject = BINARY if "in the caller" in peer.generator else HTTP
        ours = [r for r in results.some("warm", payload=SMALL, in_flight=peer.in_flight) if r.subject == subject and r.generator == "C"]
        if not ours:
            continue
        compared += 1
        if ours[0].rate <= peer.rate or ours[0].p50_us >= peer.p50_us:
            behind.append(f"{peer.subject} at {peer.case}: {peer.rate:,.0f}/s against {ours[0].rate:,.0f}/s")
    if not compared:
        return None
    return Got("; ".join(behind) or f"ahead in all {compared} comparisons", not behind)


def _density(results: Results) -> Got | None:
    rows = results.some("density")
    if not rows:
        return None
    extra = next(r.extra for r in rows if "instances" in r.extra)
    value = float(extra["pss_mib_per_instance"])
    return Got(f"{value:.2f} MiB ({extra['instances']} instances; own processes {extra['instance_pss_mib']} MiB)", value * 1.048576 <= 5)


def _thaw(results: Results) -> Got | None:
    rows = [*results.some("density", case="first invocation"), *results.some("density", case="second")]
    if len(rows) != 2:
        return None
    frozen, hot = rows
    return Got(f"p50 {hot.p50_us:.0f} → {frozen.p50_us:.0f} µs", None)


def _crowd(results: Results) -> Got | None:
    rows = results.some("density", case="busy")
    if len(rows) < 2:
        return None
    alone, *among = rows
    idle = " → ".join(str(r.extra["idle"]) for r in rows)
    figures = {
        "p50": [f"{r.p50_us:.0f}" for r in rows],
        "p99": [f"{r.p99_us:.0f}" for r in rows],
        "paced p50": [f"{r.p50_us:.0f}" for r in results.some("density", case="paced")],
    }
    text = "; ".join(f"{name} {' → '.join(values)} µs" for name, values in figures.items())
    cpu = " → ".join(f"{r.extra['supervisor_us_per_request']:.0f}" for r in rows)
    return Got(f"{text}; supervisor's CPU {cpu} µs a request ({idle} idle)", max(r.p50_us for r in among) <= 1.1 * alone.p50_us)


def _layers(results: Results) -> Got | None:
    """The first layer, a bare fork, beside all of them."""
    first, last = (_by_kind(results, layers.LAYERS[0].name), _by_kind(results, layers.DEFAULT))
    if not first or not last:
        return None
    figures = (f"{kind} p50 {first[kind].p50_us / 1000:.2f} → {r.p50_us / 1000:.2f} ms" for kind, r in last.items() if kind in first)
    cpu = [float(rows[layers.ON_DEMAND].extra["cpu_ms_per_start"]) for rows in (first, last)]
    return Got(f"{'; '.join(figures)}; CPU time per start {cpu[0]:.1f} → {cpu[1]:.1f} ms", None)


def _vpc(results: Results) -> Got | None:
    outside, inside = (_by_kind(results, layers.DEFAULT), _by_kind(results, layers.VPC))
    if not outside or not inside:
        return None
    figures = (f"{kind} p50 {outside[kind].p50_us / 1000:.2f} → {r.p50_us / 1000:.2f} ms" for kind, r in inside.items())
    holds = all(r.requests and not r.errors and r.p50_us - outside[kind].p50_us < 5000 for kind, r in inside.items())
    return Got("; ".join(figures) + _clean(inside.values()), holds)


def _by_kind(results: Results, layer: str) -> dict[str, Row]:
    return {r.case: r for r in results.some("layers") if r.subject == layer}


def _refill(results: Results) -> Got | None:
    rows = {r.case.split(",")[0]: r for r in results.some("cold", case="warm calls")}
    if len(rows) != 2:
        return None
    alone, beside = rows["warm calls alone"], rows["warm calls beside cold starts"]
    return Got(f"p50 {alone.p50_us:.0f} → {beside.p50_us:.0f} µs, p99 {alone.p99_us:.0f} → {beside.p99_us:.0f} µs", None)


def _operations(target: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = [r for r in results.some("control") if "cpu_ms_per_operation" in r.extra]
        if not rows:
            return None
        text = "; ".join(f"{r.case} {r.rate:,.0f}/s ({r.extra['cpu_ms_per_operation']} ms of CPU)" for r in rows)
        return Got(f"{text}{_clean(rows)}", min(r.rate for r in rows) >= target)

    return measure


def _undisturbed(results: Results) -> Got | None:
    rows = {r.case: r for r in results.some("control", case="warm calls")}
    if not rows.keys() >= {control.ALONE, control.BESIDE, control.CLIENT}:
        return None
    alone, beside, client = rows[control.ALONE], rows[control.BESIDE], rows[control.CLIENT]
    (ratio, low, high), (of_client, *_) = beside.extra["p99_ratio"], client.extra["p99_ratio"]
    text = (
        f"p50 {alone.p50_us:.0f} → {beside.p50_us:.0f} µs, p99 {alone.p99_us:.0f} → {beside.p99_us:.0f} µs: {ratio:.2f}×, by 95 % between {low:.2f} and {high:.2f}"
        f" (beside the operations' client alone {of_client:.2f}×)"
    )
    failed = beside.extra["failed_operations"]
    text += _clean([alone, beside]) + (f"; {failed} operations failed" if failed else "")
    # Where chance may have made either of it, it is told, not judged.
    return Got(text, True if high <= 1.2 else False if low > 1.2 else None)


def _start(target_s: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = results.some("control", case="start with")
        if not rows:
            return None
        text = "; ".join(f"{r.seconds:.2f} s with {r.case.split()[2]} ({r.extra['cpu_s']} s of CPU)" for r in rows)
        return Got(text, rows[-1].seconds < target_s)

    return measure


def _official_client(results: Results) -> Got | None:
    """AWS's Python client over the HTTP Runtime API, and what the hop costs beside a worker that speaks frames."""
    rows = {r.subject: r for r in results.some("runtimes", case="warm")}
    ours, native = rows.get("python, awslambdaric over HTTP"), rows.get("python, native frames")
    if ours is None or native is None:
        return None
    text = f"{ours.rate:,.0f}/s, p50 {ours.p50_us:.0f} µs (native frames: {native.rate:,.0f}/s, {native.p50_us:.0f} µs)"
    return Got(text + _clean([ours, native]), ours.rate >= 2500 and ours.p50_us <= 350)


def _node_cold(results: Results) -> Got | None:
    rows = results.some("runtimes", subject="nodejs", case="cold start")
    return None if not rows else Got(f"p50 {rows[0].p50_us / 1000:.1f} ms, n = {rows[0].requests}{_clean(rows)}", rows[0].p50_us <= 15_000)


def _first_byte(results: Results) -> Got | None:
    rows = results.some("runtimes", case="from the function's write")
    return None if not rows else Got(f"p50 {rows[0].p50_us / 1000:.2f} ms, p99 {rows[0].p99_us / 1000:.2f} ms", rows[0].p99_us <= 5_000)


def _stream_rate(results: Results) -> Got | None:
    rows = results.some("runtimes", case="20 MiB")
    if not rows:
        return None
    megabytes_s = rows[0].payload / rows[0].p50_us
    return Got(f"{megabytes_s:.0f} MB/s", megabytes_s >= 200)


def _accepted(target: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        alone, beside = results.some("events", case="a backlog"), results.some("events", case="accepted")
        if not alone:
            return None
        r = alone[0]
        text = f"{r.rate:,.0f}/s, p99 {r.p99_us / 1000:.0f} ms ({r.extra['engine_cpu_us']:.0f} µs of CPU each)"
        text += "".join(f"; {b.rate:,.0f}/s while they run" for b in beside)
        return Got(f"{text}, {r.in_flight} in flight{_clean([*alone, *beside])}", r.rate >= target and not r.errors)

    return measure


def _run(target: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows, accepted = results.some("events", case="run"), results.some("events", case="accepted")
        if not rows or not accepted:
            return None
        r, alone = rows[0], rows[0].extra["per_s_alone"]
        best = max(r.extra["per_s"], alone or 0)
        text = f"{r.extra['per_s']:,.0f}/s beside being accepted" + (f", {alone:,.0f}/s alone" if alone else "")
        return Got(f"{text} ({accepted[0].extra['engine_cpu_us']:.0f} µs of CPU each, accepted and run)", best >= target)

    return measure


def _backlog(growth_mib: float) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = results.some("events", case="a backlog")
        if not rows:
            return None
        r = rows[0]
        grown = ", ".join(f"{name} {mib:+.1f} MiB" for name, mib in r.extra["growth_mib"].items())
        text = f"{r.extra['queued']:,} queued: {grown}; {r.extra['disk_bytes_per_event']} bytes of disk each"
        return Got(text, max(r.extra["growth_mib"].values()) <= growth_mib)

    return measure


def _drained(per_s: float, ratio: float, kind: str) -> Callable[[Results], Got | None]:
    def measure(results: Results) -> Got | None:
        rows = {r.case: r for r in results.some("events", case=kind)}
        drained = [r for r in results.some("events") if r.case.endswith(f"drained beside {kind}")]
        if len(rows) != 2 or not drained:
            return None
        alone, beside = rows[f"{kind} alone"], rows[f"{kind} beside a drain"]
        text = f"{drained[0].extra['per_s']:,}/s; p50 {alone.p50_us:.0f} → {beside.p50_us:.0f} µs, p99 {alone.p99_us:.0f} → {beside.p99_us:.0f} µs"
        holds = drained[0].extra["per_s"] >= per_s and beside.p99_us < ratio * alone.p99_us
        return Got(text + _clean([alone, beside]), holds)

    return measure


def _nothing(_results: Results) -> Got | None:
    return None


PROMISES: tuple[Promise, ...] = (
    Promise("HTTP warm invocations, SigV4 verification off", "≥ 12,000/s", "warm", _rate(HTTP, 12_000)),
    Promise("HTTP warm invocations, SigV4 verification on", "≥ 9,000/s", "warm", _rate(HTTP_SIGNED, 9_000)),
    Promise("Binary protocol, warm", "≥ 25,000/s", "warm", _rate(BINARY, 25_000)),
    Promise("Binary p50 at one in flight, to the C dispatcher with a Python worker", "≤ 3×", "warm, limit", _ratio(BINARY, PYTHON_WORKER, 3)),
    Promise("the same, to the C dispatcher with a C worker", "told", "warm, limit", _ratio(BINARY, C_WORKER, None)),
    Promise("HTTP p50 at one in flight, to the C dispatcher with a Python worker", "told", "warm, limit", _ratio(HTTP, PYTHON_WORKER, None)),
    Promise("Cold start of a small function, client to reply over HTTP", "p50 ≤ 3 ms, p99 ≤ 12 ms", "cold", _cold(3, 12)),
    Promise("Cold starts, sustained", "≥ 200/s", "sustained", _sustained(200)),
    Promise("100 concurrent first invocations, all answered", "< 0.8 s", "burst", _burst(100, 0.8)),
    Promise("500 concurrent first invocations, all answered", "told", "burst", _burst(500, None)),
    Promise("Ahead of every peer that hands work to a separate process (throughput and p50)", "all", "warm, peers", _ahead),
    Promise("Control-plane operations on 1,000 functions, 8 at once", "≥ 200/s each", "control", _operations(200)),
    Promise("200 control-plane operations/s do not delay warm invocations", "p99 ≤ 1.2×", "control", _undisturbed),
    Promise("Start with 10,000 functions in the store", "< 2 s", "control", _start(2)),
    Promise("AWS's own Python runtime client over the HTTP Runtime API, 1 in flight", "≥ 2,500/s, p50 ≤ 0.35 ms", "runtimes", _official_client),
    Promise("Cold start of a small Node.js function, client to reply over HTTP", "p50 ≤ 15 ms", "runtimes", _node_cold),
    Promise("A streamed piece, from the function's write to the client's read", "p99 ≤ 5 ms", "runtimes", _first_byte),
    Promise("A streamed response of 20 MiB", "≥ 200 MB/s", "runtimes", _stream_rate),
    Promise("Proportional memory of an idle small Python instance", "≤ 5 MB", "density", _density),
    Promise("Thawing an instance that was frozen", "told", "density", _thaw),
    Promise("A busy function's p50 with a thousand idle instances around it", "≤ 1.1×", "density", _crowd),
    Promise("What isolation adds to a cold start: a bare fork, and all of it", "told", "layers", _layers),
    Promise("A cold start in a VPC, beside one outside", "p50 < 5 ms more", "layers", _vpc),
    Promise("Asynchronous invocations accepted: on the disk when answered", "≥ 5,000/s", "events", _accepted(5_000)),
    Promise("Asynchronous invocations of an echo, run", "≥ 2,000/s", "events", _run(2_000)),
    Promise("A million queued events are on the disk, not in memory", "≤ 32 MiB more in either plane", "events", _backlog(32)),
    Promise("10,000 SQS messages drained by a no-op function in tens, warm calls beside it", "≥ 2,000/s, p99 < 1.25×", "events", _drained(2_000, 1.25, f"{PACED} calls/s")),
    Promise("the same, each warm call sent when the one before is answered", "≥ 2,000/s, p99 < 1.25×", "events", _drained(2_000, 1.25, "warm calls")),
    Promise("Refilling the pool does not delay warm invocations", "told", "cold", _refill),
    Promise("Ten minutes of mixed load with random worker kills: each request answered once, nothing left behind", "exact", "tests/chaos", _nothing, "proved by the chaos tests, not timed here"),
    Promise("Later: HTTP warm", "≥ 20,000/s", "warm", _rate(HTTP, 20_000)),
    Promise("Later: binary warm", "≥ 35,000/s", "warm", _rate(BINARY, 35_000)),
    Promise("Later: binary p50 to the C dispatcher with a Python worker", "≤ 2×", "warm, limit", _ratio(BINARY, PYTHON_WORKER, 2)),
    Promise("Later: cold starts per core, sustained", "≥ 250/s", "sustained", _sustained(250, each=True)),
    Promise("Engine part of a cold start", "p50 ≤ 1.5 ms, p99 ≤ 6 ms", "cold", _engines_part(1.5, 6)),
    Promise("0 to 500 live instances", "< 4 s", "scale", _scaled(4)),
    Promise("Restores: numpy, boto3 client, 1 s of init", "≥ 150/s/core, ≤ 6 MB private each", "scale", _restores(150, 6)),
    Promise("Start from a template: numpy, boto3 client, 1 s of init", "p50 ≤ 5 ms, p99 ≤ 12 ms", "restore", _restored(5, 12)),
)
