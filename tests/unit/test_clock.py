from __future__ import annotations

import time

import pytest

from engine.clock import Clock, ManualClock, SystemClock


def test_system_clock_reads_the_host():
    clock: Clock = SystemClock()
    before, before_ms = time.monotonic(), time.time_ns() // 1_000_000
    now, now_ms = clock.monotonic(), clock.epoch_ms()
    assert before <= now <= time.monotonic()
    assert before_ms <= now_ms <= time.time_ns() // 1_000_000


def test_manual_clock_stands_still_until_told():
    clock: Clock = ManualClock(10.0, 5_000)
    assert (clock.monotonic(), clock.epoch_ms()) == (10.0, 5_000)
    assert (clock.monotonic(), clock.epoch_ms()) == (10.0, 5_000)


def test_both_hands_move_together():
    clock = ManualClock(10.0, 5_000)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.epoch_ms()) == (11.5, 6_500)


def test_manual_clock_does_not_go_back():
    with pytest.raises(ValueError, match="does not go back"):
        ManualClock().advance(-0.001)
