"""Application Auto Scaling of provisioned concurrency as decisions: target tracking on utilisation, and schedules.

Target tracking works as the alarms that AWS sets for it: out when three one-minute points in a row are above the target, in when fifteen are
below nine tenths of it. Schedules are ``at(...)``, ``rate(...)`` and ``cron(...)`` in UTC; one is due when a moment of it lies in the interval
asked about.
Source: docs.aws.amazon.com/autoscaling/application/userguide/services-that-can-integrate-lambda.html and …/scheduled-scaling-using-cron-expressions.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

OUT_POINTS, IN_POINTS = 3, 15
IN_SHARE = 0.9
_NAMES: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {name: n + 1 for n, name in enumerate(["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"])},
    {name: n + 1 for n, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])},
    {},
)
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (1, 7), (1970, 2199))
_UNITS = {"minute": 60, "minutes": 60, "hour": 3600, "hours": 3600, "day": 86400, "days": 86400}


def clamp(capacity: int, minimum: int, maximum: int) -> int:
    """Within the target's bounds."""
    return max(minimum, min(maximum, capacity))


def track(points: Sequence[float], target: float, current: int) -> int:
    """The capacity that utilisation, by minute and newest last, asks for."""
    newest = list(points)
    if len(newest) >= OUT_POINTS and all(p > target for p in newest[-OUT_POINTS:]):
        return max(current + 1, math.ceil(current * newest[-1] / target))
    if len(newest) >= IN_POINTS and all(p < target * IN_SHARE for p in newest[-IN_POINTS:]):
        return min(current - 1, math.ceil(current * max(newest[-IN_POINTS:]) / target))
    return current


def due(schedule: str, after_s: float, until_s: float, start_s: float = 0.0) -> bool:
    """Whether ``schedule`` has a moment in (after, until], in epoch seconds. Raises ValueError for what is no schedule."""
    kind, _, rest = schedule.partition("(")
    if not rest.endswith(")"):
        raise ValueError(f"{schedule!r} is not a schedule: at(...), rate(...) or cron(...)")
    body = rest[:-1].strip()
    if kind == "at":
        moment_s = datetime.fromisoformat(body).replace(tzinfo=UTC).timestamp()
        return after_s < moment_s <= until_s
    if kind == "rate":
        number, _, unit = body.partition(" ")
        period_s = int(number) * _UNITS[unit.strip()] if unit.strip() in _UNITS else 0
        if period_s <= 0:
            raise ValueError(f"{schedule!r} is not a rate: rate(5 minutes)")
        return math.floor((until_s - start_s) / period_s) > max(0, math.floor((after_s - start_s) / period_s))
    if kind == "cron":
        return _cron_due(_fields(body, schedule), after_s, until_s)
    raise ValueError(f"{schedule!r} is not a schedule: at(...), rate(...) or cron(...)")


def _fields(body: str, schedule: str) -> list[frozenset[int] | None]:
    """What each of minute, hour, day of month, month, day of week, year may be; None: anything."""
    parts = body.split()
    if len(parts) != 6:
        raise ValueError(f"{schedule!r} needs six fields: minute hour day-of-month month day-of-week year")
    return [_field(part, n) for n, part in enumerate(parts)]


def _field(text: str, n: int) -> frozenset[int] | None:
    if text in ("*", "?"):
        return None
    low, high = _RANGES[n]
    values: set[int] = set()
    for piece in text.split(","):
        span, _, step = piece.partition("/")
        first, _, last = span.partition("-")
        start = low if first == "*" else _number(first, n)
        end = _number(last, n) if last else (high if step or first == "*" else start)
        if not low <= start <= end <= high:
            raise ValueError(f"{text!r} is out of range {low}-{high}")
        values.update(range(start, end + 1, int(step or 1)))
    return frozenset(values)


def _number(text: str, n: int) -> int:
    names: dict[str, int] = _NAMES[n]
    return names.get(text.upper(), -1) if text.isalpha() else int(text)


def _cron_due(fields: list[frozenset[int] | None], after_s: float, until_s: float) -> bool:
    moment = datetime.fromtimestamp(math.floor(after_s / 60) * 60, UTC) + timedelta(minutes=1)
    while moment.timestamp() <= until_s:
        shown = (moment.minute, moment.hour, moment.day, moment.month, moment.isoweekday() % 7 + 1, moment.year)
        if all(allowed is None or value in allowed for value, allowed in zip(shown, fields, strict=True)):
            return True
        moment += timedelta(minutes=1)
    return False
