"""``simulate``: what a trace of invocations would meet with given limits, in virtual time and without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Json
from engine.cli.output import CliError, document, say, table
from engine.core.simulation import Arrival, FunctionPlan, Outcome, Simulation, World, quantile
from engine.errors import ConfigurationError

_PER_FUNCTION = 20


def simulate(
    trace: Annotated[Path | None, typer.Argument(help="A trace file; without one the load is synthetic.")] = None,
    kind: Annotated[str, typer.Option("--format", help="csv (at_s,function,duration_s), azure2019 or azure2021.")] = "csv",
    durations: Annotated[Path | None, typer.Option(help="azure2019: its file of durations.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Take the first so many invocations of the file; 0: all.")] = 0,
    rate: Annotated[float, typer.Option(min=0.001, help="Synthetic: invocations a second.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=0.001, help="Synthetic: for so long.")] = 60.0,
    burst: Annotated[int, typer.Option(min=0, help="Synthetic: so many at once instead.")] = 0,
    seed: Annotated[int, typer.Option(help="Synthetic: another one gives another load.")] = 1,
    duration: Annotated[float, typer.Option(min=0.0, help="Seconds an invocation takes, where the trace does not say.")] = 0.1,
    init: Annotated[float, typer.Option(min=0.0, help="Seconds an init takes.")] = 0.2,
    memory: Annotated[int, typer.Option(min=128, help="MemorySize in MB, for the cost.")] = 128,
    reserved: Annotated[int | None, typer.Option(min=0, help="Reserved concurrency of each function.")] = None,
    provisioned: Annotated[int, typer.Option(min=0, help="Provisioned concurrency of each function.")] = 0,
    keep_alive: Annotated[float, typer.Option(min=0.001, help="Seconds after which an idle instance goes.")] = 600.0,
    per_instance: Annotated[int, typer.Option(min=1, help="Invocations that an instance runs at once.")] = 1,
    account: Annotated[int, typer.Option(min=1, help="Concurrent executions of the account.")] = 1000,
    max_instances: Annotated[int, typer.Option(min=1, help="Instances the host holds.")] = 1000,
    request_rate: Annotated[int, typer.Option(min=0, help="Requests per second and unit of concurrency; 0: no limit.")] = 10,
    as_json: Json = False,
) -> None:
    """Predict cold starts, throttles, waiting, instance-seconds and cost of a trace under given limits."""
    arrivals = _arrivals(trace, kind, durations, limit, rate, seconds, burst, seed, duration)
    plan = FunctionPlan(reserved, provisioned, keep_alive, init, memory, per_instance)
    names = dict.fromkeys(a.function for a in arrivals)
    world = World(
        account_limit=account,
        max_instances=max_instances,
        request_rate=request_rate,
        default=plan,
        plans=dict.fromkeys(names, plan),
    )
    try:
        outcomes = Simulation(world).run(arrivals)
    except ValueError as e:
        raise CliError(f"{e}: {len(names)} functions with these settings need more than --account {account}", 2) from e
    _print(outcomes, len(arrivals), as_json=as_json)


def _arrivals(
    trace: Path | None,
    kind: str,
    durations: Path | None,
    limit: int,
    rate: float,
    seconds: float,
    burst: int,
    seed: int,
    duration: float,
) -> list[Arrival]:
    from engine.lab import traces

    if kind not in traces.FORMATS:
        raise CliError(f"--format is one of {', '.join(traces.FORMATS)}, not {kind}", 2)
    if trace is None:
        return list(traces.burst(burst, duration) if burst else traces.poisson(rate, seconds, duration, seed=seed))
    try:
        return traces.read(trace, kind, durations=durations, duration_s=duration, limit=limit)
    except (OSError, ConfigurationError) as e:
        raise CliError(str(e), 2) from e


def _print(outcomes: dict[str, Outcome], arrived: int, *, as_json: bool) -> None:
    if as_json:
        document({"arrivals": arrived, "functions": {name: _figures(o) for name, o in outcomes.items()}})
        return
    busiest = sorted(outcomes.items(), key=lambda item: -(item[1].invocations + sum(item[1].throttles.values())))
    rows = [_row(name, o) for name, o in busiest[:_PER_FUNCTION]]
    table(("FUNCTION", "RAN", "COLD", "THROTTLED", "WAITED", "P50", "P99", "PEAK", "INSTANCE-S", "SPILL", "USD"), rows)
    if len(busiest) > _PER_FUNCTION:
        say(f"and {len(busiest) - _PER_FUNCTION} more functions; --json shows all")
    reasons: dict[str, int] = {}
    for outcome in outcomes.values():
        for reason, number in outcome.throttles.items():
            reasons[reason] = reasons.get(reason, 0) + number
    total = f"{arrived} arrivals, {sum(o.invocations for o in outcomes.values())} ran, {sum(o.cost_usd for o in outcomes.values()):.6f} USD"
    say("; ".join([total, *(f"{number} {reason}" for reason, number in sorted(reasons.items()))]))


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {
        "invocations": outcome.invocations,
        "cold_starts": outcome.cold_starts,
        "throttles": outcome.throttles,
        "waited": outcome.waited,
        "wait_s": {"p50": quantile(outcome.waits_s, 0.5), "p99": quantile(outcome.waits_s, 0.99)},
        "on_provisioned": outcome.on_provisioned,
        "spillover": outcome.spillover,
        "peak_instances": outcome.peak_instances,
        "instance_s": outcome.instance_s,
        "busy_s": outcome.busy_s,
        "cost_usd": outcome.cost_usd,
    }


def _row(name: str, outcome: Outcome) -> tuple[str, ...]:
    return (
        name[:24],
        str(outcome.invocations),
        str(outcome.cold_starts),
        str(sum(outcome.throttles.values())),
        str(outcome.waited),
        f"{quantile(outcome.waits_s, 0.5) * 1000:.0f}ms",
        f"{quantile(outcome.waits_s, 0.99) * 1000:.0f}ms",
        str(outcome.peak_instances),
        f"{outcome.instance_s:.1f}",
        str(outcome.spillover),
        f"{outcome.cost_usd:.6f}",
    )
