"""What becomes of an event after an attempt: pure decisions.

Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html. A function that fails gets two more runs, one and two
minutes later, or as many as its policy allows. An attempt that never reached the function (throttled, or the platform failed) is no run: it is repeated with growing
pauses until the event is too old. The age looks ahead: an event that would be too old at its next attempt is given up now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from engine.eventing.policies import DEFAULT, Policy
from engine.store.api import Event

FIRST_PAUSE_MS = 1_000
LONGEST_PAUSE_MS = 300_000


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCESS = "success"
    FUNCTION_ERROR = "function error"
    NOT_RUN = "not run"
    IMPOSSIBLE = "impossible"


class GiveUp(StrEnum):
    """Why an event is not tried again, in the words of destination records where they have one."""

    RETRIES_EXHAUSTED = "RetriesExhausted"
    EVENT_AGE_EXCEEDED = "EventAgeExceeded"
    ZERO_RESERVED = "ZeroReservedConcurrency"
    IMPOSSIBLE = "Impossible"


@dataclass(frozen=True, slots=True)
class Later:
    """Try again: the event as it goes back to the queue."""

    event: Event


def after(
    event: Event, outcome: Outcome, now_ms: int, retry_base_ms: int, policy: Policy = DEFAULT
) -> Later | GiveUp | None:
    """What to do next; None when the event is done.

    ``retry_base_ms`` is the pause before the first retry after a function error; the second waits twice that.
    """
    if outcome is Outcome.SUCCESS:
        return None
    if outcome is Outcome.IMPOSSIBLE:
        return GiveUp.IMPOSSIBLE
    if outcome is Outcome.FUNCTION_ERROR:
        if event.failures >= policy.max_retries:
            return GiveUp.RETRIES_EXHAUSTED
        pause_ms = retry_base_ms << event.failures
        # A run ends a streak of refusals: the pauses start over.
        changed = replace(event, due_ms=now_ms + pause_ms, failures=event.failures + 1, refusals=0)
    else:
        pause_ms = min(FIRST_PAUSE_MS << min(event.refusals, 20), LONGEST_PAUSE_MS)
        changed = replace(event, due_ms=now_ms + pause_ms, refusals=event.refusals + 1)
    if changed.due_ms > event.first_ms + policy.max_age_ms:
        return GiveUp.EVENT_AGE_EXCEEDED
    return Later(changed)
