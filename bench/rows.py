"""What a measurement yields: latencies in HDR histograms, and rows of a result."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram

_LOWEST_NS = 100
_HIGHEST_NS = 600_000_000_000
_DIGITS = 3


class Latencies:
    """A histogram of nanoseconds, exact to three digits from 0.1 µs to ten minutes."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._histogram = HdrHistogram(_LOWEST_NS, _HIGHEST_NS, _DIGITS)
        for value in values:
            self.add(value)

    def add(self, ns: int, count: int = 1) -> None:
        self._histogram.record_value(min(max(ns, _LOWEST_NS), _HIGHEST_NS), count)

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def us(self, percentile: float) -> float:
        """Microseconds at this percentile; 0 when nothing was recorded."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1000 if len(self) else 0.0

    def curve(self) -> list[tuple[float, float]]:
        """(percentile, microseconds) pairs for a plot."""
        points = [0.0, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100]
        return [(p, self.us(p)) for p in points]


@dataclass
class Row:
    """One measured case. ``subject`` is what was measured, ``case`` what was asked of it, ``generator`` who asked.

    Latencies are microseconds, ``rate`` is answers per second. ``bound``: listed for orientation, not a competitor.
    """

    scenario: str
    subject: str
    case: str
    generator: str
    in_flight: int
    payload: int
    requests: int
    errors: int
    seconds: float
    rate: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    bound: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)


def row(
    scenario: str,
    subject: str,
    case: str,
    *,
    generator: str,
    latencies: Latencies,
    seconds: float,
    errors: int = 0,
    in_flight: int = 1,
    payload: int = 0,
    bound: bool = False,
    **extra: Any,
) -> Row:
    """A Row from recorded latencies; ``rate`` counts answers without error."""
    n = len(latencies)
    return Row(
        scenario=scenario,
        subject=subject,
        case=case,
        generator=generator,
        in_flight=in_flight,
        payload=payload,
        requests=n,
        errors=errors,
        seconds=round(seconds, 4),
        rate=round((n - errors) / seconds, 1) if seconds > 0 else 0.0,
        p50_us=latencies.us(50),
        p90_us=latencies.us(90),
        p99_us=latencies.us(99),
        p999_us=latencies.us(99.9),
        max_us=latencies.us(100),
        bound=bound,
        extra=extra,
        curve=latencies.curve(),
    )


def from_array(values: array[int]) -> Latencies:
    """Latencies of raw nanoseconds."""
    return Latencies(values)


def save(path: Path, machine: dict[str, Any], rows: list[Row]) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "rows": [asdict(r) for r in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Read what ``save`` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["machine"], [Row(**r) for r in document["rows"]]
