"""When a schedule is due: ``rate``, ``cron`` and ``at``, as EventBridge's rules and EventBridge Scheduler read them. Pure.

Sources: docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html and
docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html. Days of the week are numbered from Sunday, which is 1. A local time that the
clocks skip in spring is skipped; one that they repeat in autumn comes once.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.errors import EngineError, Fault

FIRST_YEAR, LAST_YEAR = 1970, 2199
UNITS_S = {"minute": 60, "hour": 3600, "day": 86400}
_RATE = re.compile(r"rate\((\d{1,9}) (minute|hour|day)(s?)\)")
_CRON = re.compile(r"cron\(([^()]*)\)")
_AT = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")
_MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if number}
_DAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}
Days: TypeAlias = Callable[[int, int], set[int]]


class InvalidSchedule(EngineError):
    """An expression outside the language; the message says where. Whoever answers the API puts AWS's words in its place."""

    fault = Fault.CLIENT


@dataclass(frozen=True, slots=True)
class Rate:
    """Every ``period_s`` seconds."""

    period_s: int

    def after(self, moment_s: float, anchor_s: float) -> int | None:
        """The first time later than ``moment_s``, both in seconds since 1970; times are counted from ``anchor_s``."""
        # In whole seconds, as all times: a part of one would make a time come twice.
        first_s = int(anchor_s)
        return first_s + (int(max(0, moment_s - first_s)) // self.period_s + 1) * self.period_s


@dataclass(frozen=True, slots=True)
class At:
    """Once."""

    at_s: int

    def after(self, moment_s: float, anchor_s: float) -> int | None:
        """As ``Rate.after``; None when it is over."""
        return self.at_s if self.at_s > moment_s else None


@dataclass(frozen=True, slots=True)
class Cron:
    """At the minutes all fields agree on, in the local time of ``zone``."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: Days
    months: tuple[int, ...]
    years: tuple[int, ...]
    zone: ZoneInfo

    def after(self, moment_s: float, anchor_s: float) -> int | None:
        """As ``Rate.after``; None when the years are over."""
        for wall in self._walls(datetime.fromtimestamp(moment_s, UTC).astimezone(self.zone).replace(tzinfo=None)):
            there = wall.replace(tzinfo=self.zone)
            at_s = int(there.timestamp())
            skipped = datetime.fromtimestamp(at_s, self.zone).replace(tzinfo=None) != wall
            if at_s > moment_s and not skipped:
                return at_s
        return None

    def _walls(self, start: datetime) -> Iterator[datetime]:
        """Local times from the day of ``start`` on, in order."""
        for year in self.years:
            if year < start.year:
                continue
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                for day in sorted(self.days(year, month)):
                    if (year, month, day) < (start.year, start.month, start.day):
                        continue
                    for hour in self.hours:
                        for minute in self.minutes:
                            yield datetime(year, month, day, hour, minute)  # noqa: DTZ001 - what a clock on the wall shows


Schedule: TypeAlias = Rate | At | Cron


def parse(text: str, zone: str = "UTC", *, rule: bool = False) -> Schedule:
    """Reads an expression. ``rule``: as rules do, which know no ``at`` and no zone but UTC. Raises InvalidSchedule."""
    try:
        there = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as e:
        raise InvalidSchedule(f"there is no time zone {zone}") from e
    rate = _RATE.fullmatch(text)
    if rate is not None:
        count = int(rate[1])
        if not count or (rule and (count == 1) == bool(rate[3])):
            raise InvalidSchedule(f"{text}: one {rate[2]}, or several {rate[2]}s")
        return Rate(count * UNITS_S[rate[2]])
    at = _AT.fullmatch(text)
    if at is not None and not rule:
        try:
            return At(int(datetime.fromisoformat(at[1]).replace(tzinfo=there).timestamp()))
        except ValueError as e:
            raise InvalidSchedule(f"{text}: {e}") from e
    cron = _CRON.fullmatch(text)
    if cron is None:
        raise InvalidSchedule(f"{text}: rate(value unit), cron(six fields){'' if rule else ' or at(yyyy-mm-ddThh:mm:ss)'}")
    return _cron(cron[1].upper().split(), there)


def _cron(fields: list[str], zone: ZoneInfo) -> Cron:
    if len(fields) != 6:
        raise InvalidSchedule("cron has six fields: minutes, hours, day of month, month, day of week, year")
    minutes, hours, month_day, months, week_day, years = fields
    if (month_day == "?") == (week_day == "?"):
        raise InvalidSchedule("one of the two fields for days, and not both, is ?")
    return Cron(
        _numbers(minutes, 0, 59),
        _numbers(hours, 0, 23),
        _days_of_month(month_day) if week_day == "?" else _days_of_week(week_day),
        _numbers(months, 1, 12, _MONTHS),
        _numbers(years, FIRST_YEAR, LAST_YEAR),
        zone,
    )


def _numbers(field: str, low: int, high: int, names: dict[str, int] | None = None) -> tuple[int, ...]:
    """``*``, numbers, ranges, steps and lists of them."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = low, high
        else:
            begin = _number(first, names)
            end = _number(last, names) if dash else high if step else begin
        if not (low <= begin <= high and low <= end <= high) or (step and not step.isdecimal()) or step == "0":
            raise InvalidSchedule(f"{field}: between {low} and {high}")
        # A range that ends before it begins goes round: FRI-MON.
        spread = range(begin, end + 1) if begin <= end else (*range(begin, high + 1), *range(low, end + 1))
        found.update(spread[:: int(step or 1)])
    return tuple(sorted(found))


def _number(text: str, names: dict[str, int] | None) -> int:
    if text.isdecimal() and text.isascii() and len(text) <= 4:
        return int(text)
    if names and text in names:
        return names[text]
    raise InvalidSchedule(f"{text or 'nothing'} is no value")


def _days_of_month(field: str) -> Days:
    if field == "L":
        return lambda year, month: {_length(year, month)}
    if field == "LW":
        return lambda year, month: {_nearest_weekday(year, month, _length(year, month))}
    if field.endswith("W"):
        (wanted,) = _numbers(field[:-1], 1, 31) if field[:-1].isdecimal() else (0,)
        if not wanted:
            raise InvalidSchedule(f"{field}: a day before W")
        return lambda year, month: {_nearest_weekday(year, month, wanted)} if wanted <= _length(year, month) else set()
    numbers = set(_numbers(field, 1, 31))
    return lambda year, month: {day for day in numbers if day <= _length(year, month)}


def _days_of_week(field: str) -> Days:
    if "#" in field:
        name, _, count = field.partition("#")
        day, nth = _number(name, _DAYS), _number(count, None)
        if not (1 <= day <= 7 and 1 <= nth <= 5):
            raise InvalidSchedule(f"{field}: a day of the week and which one of the month, 1 to 5")
        return lambda year, month: set(_weekdays(year, month, {day})[nth - 1 : nth])
    if field == "L":
        return lambda year, month: set(_weekdays(year, month, {7}))
    if field.endswith("L"):
        last = _number(field[:-1], _DAYS)
        if not 1 <= last <= 7:
            raise InvalidSchedule(f"{field}: a day of the week before L")
        return lambda year, month: set(_weekdays(year, month, {last})[-1:])
    numbers = set(_numbers(field, 1, 7, _DAYS))
    return lambda year, month: set(_weekdays(year, month, numbers))


def _length(year: int, month: int) -> int:
    return calendar.monthrange(year, month)[1]


def _weekdays(year: int, month: int, numbers: set[int]) -> list[int]:
    """The days of the month that are these days of the week, Sunday being 1."""
    first, length = calendar.monthrange(year, month)
    return [day for day in range(1, length + 1) if (first + day) % 7 + 1 in numbers]


def _nearest_weekday(year: int, month: int, day: int) -> int:
    """The day, or of a weekend the nearest Friday or Monday within the month."""
    weekday = calendar.weekday(year, month, day)
    if weekday == calendar.SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == calendar.SUNDAY:
        return day + 1 if day < _length(year, month) else day - 2
    return day


def iso(at_s: float) -> str:
    """``2026-01-31T12:00:00Z``."""
    return (datetime(1970, 1, 1) + timedelta(seconds=int(at_s))).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ001 - UTC, as the Z says
