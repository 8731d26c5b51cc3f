"""What becomes of an event after an attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.eventing.policies import MAX_AGE_MS
from engine.eventing.retry import LONGEST_PAUSE_MS, GiveUp, Later, Outcome, after
from engine.store.api import Event

T0 = 1_700_000_000_000
BASE_MS = 60_000
EVENT = Event("id", "000000000000", "f", None, b"{}", T0, T0)


def later(event: Event, outcome: Outcome, now_ms: int = T0) -> Event:
    decision = after(event, outcome, now_ms, BASE_MS)
    assert isinstance(decision, Later)
    return decision.event


def test_success_is_the_end() -> None:
    assert after(EVENT, Outcome.SUCCESS, T0, BASE_MS) is None


def test_a_failing_function_runs_again_after_one_and_two_minutes_and_no_more() -> None:
    once = later(EVENT, Outcome.FUNCTION_ERROR, T0 + 5)
    assert once == replace(EVENT, due_ms=T0 + 5 + 60_000, failures=1)
    twice = later(once, Outcome.FUNCTION_ERROR, T0 + 70_000)
    assert twice == replace(EVENT, due_ms=T0 + 70_000 + 120_000, failures=2)
    assert after(twice, Outcome.FUNCTION_ERROR, T0 + 200_000, BASE_MS) is GiveUp.RETRIES_EXHAUSTED


def test_what_did_not_run_is_repeated_with_growing_pauses_and_costs_no_retry() -> None:
    event, pauses = EVENT, []
    for _ in range(12):
        event = later(event, Outcome.NOT_RUN)
        pauses.append((event.due_ms - T0) // 1000)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert event.failures == 0
    assert later(event, Outcome.FUNCTION_ERROR).refusals == 0


def test_an_event_that_would_be_too_old_next_time_is_given_up_now() -> None:
    last = T0 + MAX_AGE_MS - 1000
    assert later(EVENT, Outcome.NOT_RUN, last).due_ms == T0 + MAX_AGE_MS
    assert after(EVENT, Outcome.NOT_RUN, last + 1, BASE_MS) is GiveUp.EVENT_AGE_EXCEEDED
    assert after(EVENT, Outcome.FUNCTION_ERROR, T0 + MAX_AGE_MS - 59_999, BASE_MS) is GiveUp.EVENT_AGE_EXCEEDED


def test_what_can_never_run_is_not_tried_again() -> None:
    assert after(EVENT, Outcome.IMPOSSIBLE, T0, BASE_MS) is GiveUp.IMPOSSIBLE


@given(st.lists(st.sampled_from([Outcome.FUNCTION_ERROR, Outcome.NOT_RUN]), max_size=400), st.integers(0, 900_000))
def test_every_event_ends_within_its_age(outcomes: list[Outcome], run_ms: int) -> None:
    event, now_ms, failures = EVENT, T0, 0
    for outcome in outcomes:
        now_ms = max(now_ms, event.due_ms) + run_ms
        failures += outcome is Outcome.FUNCTION_ERROR
        decision = after(event, outcome, now_ms, BASE_MS)
        if not isinstance(decision, Later):
            assert decision in (GiveUp.RETRIES_EXHAUSTED, GiveUp.EVENT_AGE_EXCEEDED)
            return
        event = decision.event
        assert now_ms < event.due_ms <= T0 + MAX_AGE_MS
        assert event.due_ms - now_ms <= max(LONGEST_PAUSE_MS, 2 * BASE_MS)
        assert event.failures == failures <= 2


@pytest.mark.parametrize("refusals", [50, 10**6])
def test_long_streaks_of_refusals_do_not_overflow(refusals: int) -> None:
    assert later(replace(EVENT, refusals=refusals), Outcome.NOT_RUN).due_ms == T0 + LONGEST_PAUSE_MS
