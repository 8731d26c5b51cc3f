"""Target tracking and schedules."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.core.autoscaling import clamp, due, track
from engine.core.schedules import InvalidSchedule


def epoch(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_three_minutes_above_the_target_scale_out_to_what_is_used() -> None:
    assert track([0.9, 0.9], 0.7, 10) == 10
    assert track([0.5, 0.9, 0.95, 1.0], 0.7, 10) == 15
    assert track([0.9, 0.6, 0.9], 0.7, 10) == 10
    assert track([0.71, 0.71, 0.71], 0.7, 10) == 11


def test_fifteen_minutes_well_below_it_scale_in_carefully() -> None:
    assert track([0.1] * 14, 0.7, 10) == 10
    assert track([0.1] * 14 + [0.35], 0.7, 10) == 5
    assert track([0.65] * 15, 0.7, 10) == 10, "between nine tenths and the target nothing happens"
    assert track([0.62] * 15, 0.7, 10) == 9
    assert clamp(track([0.0] * 15, 0.7, 1), 1, 5) == 1
    assert clamp(20, 1, 5) == 5


@pytest.mark.parametrize(
    ("schedule", "after", "until", "expected"),
    [
        ("at(2026-03-01T08:00:00)", "2026-03-01T07:59:00", "2026-03-01T08:00:00", True),
        ("at(2026-03-01T08:00:00)", "2026-03-01T08:00:00", "2026-03-01T08:01:00", False),
        ("rate(5 minutes)", "2026-03-01T08:04:30", "2026-03-01T08:05:30", True),
        ("rate(5 minutes)", "2026-03-01T08:05:30", "2026-03-01T08:06:30", False),
        ("rate(1 hour)", "2026-03-01T08:59:59", "2026-03-01T09:00:00", True),
        ("cron(0 8 * * ? *)", "2026-03-01T07:59:30", "2026-03-01T08:00:30", True),
        ("cron(0 8 * * ? *)", "2026-03-01T08:00:00", "2026-03-01T08:10:00", False),
        ("cron(0/15 * ? * MON-FRI *)", "2026-03-02T10:14:00", "2026-03-02T10:15:00", True),
        ("cron(0/15 * ? * MON-FRI *)", "2026-03-01T10:14:00", "2026-03-01T10:15:00", False),
        ("cron(30 18 1,15 JAN-MAR ? 2026)", "2026-03-15T18:29:00", "2026-03-15T18:30:00", True),
        ("cron(30 18 1,15 JAN-MAR ? 2027)", "2026-03-15T18:29:00", "2026-03-15T18:30:00", False),
    ],
)
def test_schedules(schedule: str, after: str, until: str, expected: bool) -> None:
    assert due(schedule, epoch(after), epoch(until)) is expected


@pytest.mark.parametrize("schedule", ["every day", "at(noon)", "rate(0 minutes)", "rate(5 fortnights)", "cron(* *)", "cron(61 * * * ? *)", "when(x)"])
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(InvalidSchedule):
        due(schedule, 0.0, 60.0)


def test_times_are_those_of_the_zone() -> None:
    noon = epoch("2026-07-01T10:00:00")
    assert due("cron(0 12 * * ? *)", noon - 30, noon + 30, zone="Europe/Berlin")
    assert due("at(2026-07-01T12:00:00)", noon - 30, noon + 30, zone="Europe/Berlin")
    assert not due("cron(0 12 * * ? *)", noon - 30, noon + 30)
