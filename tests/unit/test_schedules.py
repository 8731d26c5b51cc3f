"""When schedules are due, against AWS's own examples, clocks that change, and the expressions AWS refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from engine.core.schedules import InvalidSchedule, iso, parse


def times(text: str, zone: str, start: str, count: int, anchor: str | None = None) -> list[str]:
    moment = datetime.fromisoformat(start).timestamp()
    anchor_s = datetime.fromisoformat(anchor or start).timestamp()
    schedule = parse(text, zone)
    found: list[str] = []
    while len(found) < count and (due := schedule.after(moment, anchor_s)) is not None:
        found.append(iso(due))
        moment = due
    return found


@pytest.mark.parametrize(
    ("text", "zone", "start", "wanted"),
    [
        ("rate(1 minute)", "UTC", "2026-03-07T12:00:00.7Z", ["2026-03-07T12:01:00Z", "2026-03-07T12:02:00Z"]),
        ("rate(7 days)", "UTC", "2026-03-07T12:00:00Z", ["2026-03-14T12:00:00Z"]),
        ("cron(0 10 * * ? *)", "UTC", "2026-03-07T10:00:00Z", ["2026-03-08T10:00:00Z", "2026-03-09T10:00:00Z"]),
        ("cron(15 12 * * ? *)", "UTC", "2026-03-07T12:14:59Z", ["2026-03-07T12:15:00Z"]),
        ("cron(0 18 ? * MON-FRI *)", "UTC", "2026-03-06T18:00:00Z", ["2026-03-09T18:00:00Z"]),
        ("cron(0 8 1 * ? *)", "UTC", "2026-03-07T00:00:00Z", ["2026-04-01T08:00:00Z", "2026-05-01T08:00:00Z"]),
        ("cron(0/10 * ? * MON-FRI *)", "UTC", "2026-03-06T23:50:00Z", ["2026-03-09T00:00:00Z", "2026-03-09T00:10:00Z"]),
        ("cron(0/5 8-17 ? * MON-FRI *)", "UTC", "2026-03-06T17:54:00Z", ["2026-03-06T17:55:00Z", "2026-03-09T08:00:00Z"]),
        ("cron(0 9 ? * 2#1 *)", "UTC", "2026-12-01T00:00:00Z", ["2026-12-07T09:00:00Z"]),
        ("cron(0 0 ? * 6L *)", "UTC", "2026-03-07T00:00:00Z", ["2026-03-27T00:00:00Z"]),
        ("cron(0 0 ? * FRI-MON *)", "UTC", "2026-03-04T00:00:00Z", ["2026-03-06T00:00:00Z", "2026-03-07T00:00:00Z", "2026-03-08T00:00:00Z",
                                                               "2026-03-09T00:00:00Z", "2026-03-13T00:00:00Z"]),
        ("cron(0 12 L * ? *)", "UTC", "2028-02-01T00:00:00Z", ["2028-02-29T12:00:00Z"]),
        ("cron(0 0 LW * ? *)", "UTC", "2026-05-01T00:00:00Z", ["2026-05-29T00:00:00Z"]),
        # The 1st of August 2026 is a Saturday: the nearest weekday within the month is Monday.
        ("cron(0 0 1W AUG ? *)", "UTC", "2026-03-07T00:00:00Z", ["2026-08-03T00:00:00Z"]),
        ("cron(0 0 15W * ? 2026)", "UTC", "2026-08-01T00:00:00Z", ["2026-08-14T00:00:00Z"]),
        ("cron(0 0 31 2 ? *)", "UTC", "2026-03-07T00:00:00Z", []),
        ("cron(0 0 1 1 ? 2026-2027)", "UTC", "2026-03-07T00:00:00Z", ["2027-01-01T00:00:00Z"]),
        ("at(2026-12-01T00:00:07)", "America/New_York", "2026-03-07T00:00:00Z", ["2026-12-01T05:00:07Z"]),
        ("at(2026-01-01T00:00:00)", "UTC", "2026-03-07T00:00:00Z", []),
        # New York skips 2:30 on 8 March 2026 and shows 1:30 twice on 1 November.
        ("cron(30 2 * * ? *)", "America/New_York", "2026-03-07T12:00:00Z", ["2026-03-09T06:30:00Z"]),
        ("cron(30 1 * * ? *)", "America/New_York", "2026-10-31T12:00:00Z", ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"]),
        ("cron(0 9 * * ? *)", "Europe/Berlin", "2026-03-28T00:00:00Z", ["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z"]),
    ],
)  # fmt: skip
def test_what_comes_next(text, zone, start, wanted):
    assert times(text, zone, start, max(1, len(wanted))) == wanted


def test_a_rate_is_counted_from_its_beginning():
    assert times("rate(1 hour)", "UTC", "2026-03-07T12:00:00Z", 1, "2026-03-01T00:20:30Z") == ["2026-03-07T12:20:30Z"]
    assert times("rate(1 hour)", "UTC", "2026-03-07T12:00:00Z", 1, "2026-04-01T00:00:00Z") == ["2026-04-01T01:00:00Z"]


@pytest.mark.parametrize(
    "text",
    ["", "rate(0 minutes)", "rate(1 second)", "rate(5)", "rate(-1 minutes)", "cron(0 10 * * ?)", "cron(0 10 * * * *)", "cron(0 10 ? * ? *)",
     "cron(60 * * * ? *)", "cron(* 24 * * ? *)", "cron(0 0 32 * ? *)", "cron(0 0 ? * 8 *)", "cron(0 0 ? * 2#6 *)", "cron(0 0 W * ? *)",
     "cron(0 0 ? * XYZ *)", "cron(0 0 1 13 ? *)", "cron(0 0 1 1 ? 1969)", "cron(*/0 * * * ? *)", "cron(1- * * * ? *)", "at(2026-13-01T00:00:00)",
     "at(2026-01-01)", "cron(\u0661 * * * ? *)"],
)  # fmt: skip
def test_what_is_no_schedule(text):
    with pytest.raises(InvalidSchedule):
        parse(text)


@pytest.mark.parametrize("text", ["rate(1 minutes)", "rate(5 minute)", "at(2030-01-01T00:00:00)"])
def test_rules_are_stricter_than_schedules(text):
    parse(text)
    with pytest.raises(InvalidSchedule):
        parse(text, rule=True)


def test_a_zone_must_be_there():
    for zone in ("Mars/Phobos", "../etc/passwd", ""):
        with pytest.raises(InvalidSchedule, match="no time zone"):
            parse("cron(0 0 * * ? *)", zone)


def test_every_wall_time_of_a_year_in_a_zone_that_changes_its_clocks():
    """Each half hour that exists there comes once, in order, whatever the clocks do."""
    zone = ZoneInfo("Australia/Lord_Howe")
    schedule = parse("cron(0/30 * * * ? 2026)", "Australia/Lord_Howe")
    moment = datetime(2026, 1, 1, tzinfo=zone).timestamp() - 1
    walls = []
    while (due := schedule.after(moment, 0)) is not None:
        assert due > moment
        walls.append(datetime.fromtimestamp(due, zone).replace(tzinfo=None))
        moment = due
    assert len(set(walls)) == len(walls)
    # It moves by half an hour: one time is skipped, and one that comes twice is counted once.
    assert len(walls) == 365 * 48 - 1
    assert all(w.year == 2026 for w in walls)
    assert datetime.fromtimestamp(moment, UTC).year == 2026
