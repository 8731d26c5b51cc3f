"""The scenarios by name. Each module has ``run(context) -> list[Row]`` and a first docstring line that says what it measures."""

from __future__ import annotations

from collections.abc import Callable

from bench.context import Context
from bench.rows import Row
from bench.scenarios import (
    burst,
    cold,
    control,
    density,
    events,
    layers,
    limit,
    many,
    open_loop,
    peers,
    restore,
    runtimes,
    scale,
    sustained,
    warm,
)

Scenario = Callable[[Context], list[Row]]

SCENARIOS: dict[str, Scenario] = {
    "limit": limit.run,
    "warm": warm.run,
    "open": open_loop.run,
    "cold": cold.run,
    "sustained": sustained.run,
    "restore": restore.run,
    "burst": burst.run,
    "scale": scale.run,
    "many": many.run,
    "control": control.run,
    "events": events.run,
    "density": density.run,
    "layers": layers.run,
    "runtimes": runtimes.run,
    "peers": peers.run,
}


def describe() -> str:
    """One line per scenario."""
    modules = {"limit": limit, "warm": warm, "open": open_loop, "cold": cold, "sustained": sustained, "restore": restore, "burst": burst, "scale": scale, "many": many, "density": density}
    modules |= {"layers": layers, "control": control, "events": events, "runtimes": runtimes, "peers": peers}
    return "\n".join(f"  {name:8} {(module.__doc__ or '').splitlines()[0]}" for name, module in modules.items())
