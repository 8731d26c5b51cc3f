"""Application Auto Scaling of provisioned concurrency as decisions: target tracking on utilisation, and schedules.

Target tracking works as the alarms that AWS sets for it: out when three one-minute points in a row are above the target, in when fifteen are
below nine tenths of it. Schedules are ``at(...)``, ``rate(...)`` and ``cron(...)``; one is due when a moment of it lies in the interval asked
about.
Source: docs.aws.amazon.com/autoscaling/application/userguide/services-that-can-integrate-lambda.html and …/scheduled-scaling-using-cron-expressions.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.core import schedules

OUT_POINTS, IN_POINTS = 3, 15
IN_SHARE = 0.9


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


def due(schedule: str, after_s: float, until_s: float, start_s: float = 0.0, zone: str = "UTC") -> bool:
    """Whether ``schedule`` has a moment in (after, until], in epoch seconds. ``start_s``: what a rate counts from; ``zone``: whose times
    ``at`` and ``cron`` name. Raises InvalidSchedule for what is no schedule.
    """
    moment_s = schedules.parse(schedule, zone).after(max(after_s, start_s), start_s)
    return moment_s is not None and moment_s <= until_s
