"""Traces of invocations: synthetic ones, our own CSV, and the two that Microsoft published of Azure Functions.

- ``csv``: columns ``at_s,function,duration_s``.
- ``azure2021``: ``app,func,end_timestamp,duration`` in seconds, one row per invocation.
- ``azure2019``: ``HashOwner,HashApp,HashFunction,Trigger,1,2,…,1440``: invocations per minute. Within a minute they are spread evenly; how long
  they take comes from a ``function_durations_percentiles`` file (its ``Average``, in milliseconds) or from a default.
Source: github.com/Azure/AzurePublicDataset
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from engine.core.simulation import Arrival
from engine.errors import ConfigurationError

FORMATS = ("csv", "azure2019", "azure2021")
_MINUTE_S = 60.0


def poisson(rate: float, seconds: float, duration_s: float, *, function: str = "f", seed: int = 1) -> Iterator[Arrival]:
    """``rate`` invocations a second at random moments, with durations around ``duration_s`` (exponential); the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a load, not a secret
    at_s = draw.expovariate(rate)
    while at_s < seconds:
        yield Arrival(at_s, function, draw.expovariate(1.0 / duration_s) if duration_s > 0 else 0.0)
        at_s += draw.expovariate(rate)


def burst(number: int, duration_s: float, *, function: str = "f") -> Iterator[Arrival]:
    """All at once."""
    for _ in range(number):
        yield Arrival(0.0, function, duration_s)


def read(path: Path, kind: str, *, durations: Path | None = None, duration_s: float = 0.1, limit: int = 0) -> list[Arrival]:
    """A trace from a file, in order of arrival and beginning at 0. ``limit`` keeps the first so many (0: all).

    Raises ConfigurationError naming the file and the row that cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        try:
            if kind == "azure2019":
                found = list(_per_minute(rows, {} if durations is None else _averages(durations), duration_s))
            elif kind == "azure2021":
                found = [_ended(row) for row in rows]
            else:
                found = [Arrival(float(r["at_s"]), r["function"], float(r["duration_s"])) for r in rows]
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigurationError(f"{path}, line {rows.line_num}: not a trace of the format {kind}: {type(e).__name__} {e}") from e
    found.sort(key=lambda a: a.at_s)
    start_s = found[0].at_s if found else 0.0
    kept = found[:limit] if limit else found
    return [Arrival(a.at_s - start_s, a.function, a.duration_s) for a in kept]


def _ended(row: dict[str, str]) -> Arrival:
    duration_s = float(row["duration"])
    return Arrival(float(row["end_timestamp"]) - duration_s, f"{row['app'][:8]}/{row['func'][:8]}", duration_s)


def _per_minute(rows: Iterable[dict[str, str]], averages: dict[str, float], duration_s: float) -> Iterator[Arrival]:
    for row in rows:
        function = row["HashFunction"]
        for name, text in row.items():
            number = int(text) if name is not None and name.isdigit() else 0
            for n in range(number):
                at_s = (int(name) - 1 + (n + 0.5) / number) * _MINUTE_S
                yield Arrival(at_s, function, averages.get(function, duration_s))


def _averages(path: Path) -> dict[str, float]:
    """Average duration in seconds by function."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["HashFunction"]: float(row["Average"]) / 1000 for row in csv.DictReader(file)}
