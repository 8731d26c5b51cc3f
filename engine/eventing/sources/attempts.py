"""What becomes of a batch of a stream after an attempt: pure decisions.

Theory of operation. A batch is a run of records of one lane, in order; nothing behind it runs before it is done with. It is done when the
function took it, when it was tried as often as the mapping allows, or when it became too old. A failed batch of several records is
halved where the mapping says so, and the halves run in order; halving uses up no retry. A function that says where it stopped
has done what stands before. A call that never reached the function (a throttle, an engine that restarts) counts for nothing but the pause.
Source: docs.aws.amazon.com/lambda/latest/dg/{kinesis-on-failure-destination,services-kinesis-batchfailurereporting,with-kinesis}.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from engine.eventing.sources.records import Record

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0


class Condition(StrEnum):
    """Why records are given up, in the words of the on-failure record."""

    RETRIES = "RetryAttemptsExhausted"
    AGE = "RecordAgeExceeded"


@dataclass(frozen=True, slots=True)
class Batch:
    """Records on their way. ``invokes``: how often the function had them; ``failures`` of those that count; ``refusals`` in a row."""

    records: tuple[Record, ...]
    invokes: int = 0
    failures: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """What the mapping allows; -1 is no limit."""

    max_retries: int = -1
    max_age_s: int = -1
    bisect: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """``done`` records are finished with, ``again`` run next in this order after ``pause_s``; ``given_up`` is what is discarded."""

    done: tuple[Record, ...] = ()
    again: tuple[Batch, ...] = ()
    pause_s: float = 0.0
    given_up: Batch | None = None


def after(batch: Batch, failed_at: int | None, policy: Policy) -> Step:
    """The function ran and failed from the record ``failed_at`` on: 0 for a whole batch, None when it took all of it."""
    if failed_at is None:
        return Step(done=batch.records)
    done, rest = batch.records[:failed_at], batch.records[failed_at:]
    left = replace(batch, records=rest, invokes=batch.invokes + 1, refusals=0)
    if policy.bisect and done:
        return Step(done=done, again=(left,))
    if policy.bisect and len(rest) > 1:
        middle = len(rest) // 2
        return Step(again=(replace(left, records=rest[:middle]), replace(left, records=rest[middle:])))
    left = replace(left, failures=batch.failures + 1)
    if policy.max_retries != -1 and left.failures > policy.max_retries:
        return Step(done=done, given_up=left)
    return Step(done=done, again=(left,), pause_s=pause_s(left.failures))


def not_run(batch: Batch) -> Step:
    """The call never reached the function."""
    left = replace(batch, refusals=batch.refusals + 1)
    return Step(again=(left,), pause_s=pause_s(left.refusals))


def aged(batch: Batch, now_ms: int, policy: Policy) -> tuple[Batch | None, Batch | None]:
    """(the records that became too old, those that may run); either may be None."""
    if policy.max_age_s == -1:
        return None, batch
    count = _expired(batch.records, now_ms - policy.max_age_s * 1000)
    old, young = batch.records[:count], batch.records[count:]
    return (replace(batch, records=old) if old else None), (replace(batch, records=young) if young else None)


def _expired(records: Sequence[Record], before_ms: int) -> int:
    """How many records at the beginning arrived before ``before_ms``."""
    for count, record in enumerate(records):
        if record.arrival_ms >= before_ms:
            return count
    return len(records)


def pause_s(times: int) -> float:
    """Before an attempt after ``times`` bad ones."""
    return float(min(FIRST_PAUSE_S * 2 ** min(times - 1, 20), LONGEST_PAUSE_S))
