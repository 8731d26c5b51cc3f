"""The clock that schedules go by, with hands the test turns: to the second, in order, and nothing twice."""

from __future__ import annotations

import functools

import pytest

from engine.aws.push.timekeeper import Entry, Timekeeper
from engine.core.schedules import parse

START = 1_800_000_000.4


class Bench:
    def __init__(self) -> None:
        self.real = START
        self.keeper = Timekeeper(lambda: self.real)
        self.entries: dict[str, tuple[str, dict]] = {}
        self.ran: list[tuple[str, int]] = []
        self.keeper.sources.append(self._list)

    def _list(self):
        for name, (text, more) in self.entries.items():
            yield Entry((name, text), parse(text), functools.partial(self._note, name), **more)

    def _note(self, name: str, due: int) -> None:
        self.ran.append((name, due))


def test_a_minute_comes_at_its_second_and_not_before():
    bench = Bench()
    bench.entries["m"] = ("rate(1 minute)", {})
    assert bench.keeper.advance(0) == 0
    for _ in range(59):
        assert bench.keeper.advance(1) == 0
    assert bench.keeper.advance(1) == 1
    assert bench.ran == [("m", 1_800_000_060)]
    assert bench.keeper.advance(600) == 10


def test_what_comes_due_on_the_way_runs_in_order_at_its_own_time():
    bench = Bench()
    bench.entries |= {"three": ("rate(3 minutes)", {}), "two": ("rate(2 minutes)", {})}
    assert bench.keeper.advance(361) == 5
    assert [due - 1_800_000_000 for _, due in bench.ran] == [120, 180, 240, 360, 360]
    assert {name for name, _ in bench.ran[3:]} == {"two", "three"}


def test_real_time_runs_what_is_due_and_leaves_out_what_is_long_past():
    bench = Bench()
    bench.entries["m"] = ("rate(1 minute)", {})
    assert 59 <= bench.keeper.look() <= 60
    bench.real += 60
    bench.keeper.look()
    assert [due for _, due in bench.ran] == [1_800_000_060]
    bench.real += 8 * 3600
    bench.keeper.look()
    assert len(bench.ran) <= 3
    assert bench.ran[-1][1] > bench.real - 61


def test_a_changed_schedule_begins_anew_and_one_taken_away_ends():
    bench = Bench()
    bench.entries["m"] = ("rate(10 minutes)", {})
    bench.keeper.advance(540)
    bench.entries["m"] = ("rate(5 minutes)", {})
    assert bench.keeper.advance(299) == 0
    assert bench.keeper.advance(1) == 1
    del bench.entries["m"]
    assert bench.keeper.advance(86400) == 0


def test_beginnings_and_ends():
    bench = Bench()
    bench.entries["later"] = ("rate(1 minute)", {"begin_s": START + 3600, "end_s": START + 3600 + 150, "immediately": True})
    bench.entries["now"] = ("rate(1 hour)", {"immediately": True})
    assert bench.keeper.advance(0) == 1
    bench.keeper.advance(7200)
    assert [due for name, due in bench.ran if name == "later"] == [1_800_003_600, 1_800_003_660, 1_800_003_720]
    assert [due for name, due in bench.ran if name == "now"] == [1_800_000_000, 1_800_003_600, 1_800_007_200]


def test_one_that_fails_keeps_nobody_from_running(capsys):
    bench = Bench()
    bench.entries["m"] = ("rate(1 minute)", {})

    def fail(_due: int) -> None:
        raise ZeroDivisionError

    bench.keeper.sources.insert(0, lambda: [Entry(("bad",), parse("rate(1 minute)"), fail)])
    assert bench.keeper.advance(60) == 2
    assert bench.ran == [("m", 1_800_000_060)]
    assert "bad could not be run: ZeroDivisionError" in capsys.readouterr().err


def test_time_neither_goes_back_nor_runs_for_ever(monkeypatch):
    bench = Bench()
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="does not go back"):
            bench.keeper.advance(wrong)
    monkeypatch.setattr("engine.aws.push.timekeeper.MAX_RUNS", 100)
    bench.entries["m"] = ("rate(1 minute)", {})
    with pytest.raises(ValueError, match="more than 100 runs"):
        bench.keeper.advance(86400)
