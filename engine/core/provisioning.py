"""Provisioned concurrency as pure decisions: how a configuration spreads over versions, what to start or let go, what to call its state.

Theory of operation. A configuration belongs to a version or an alias and asks for a number of instances. An alias that splits its
requests splits its instances likewise. Several configurations may meet at one version: what that version shall have is their sum.
A version's instances are *held* until all that it shall have are initialised, then all serve at once; an instance that dies later
is replaced one by one. What a version has too many is let go only when nothing of the function is still being allocated, so that
re-pointing an alias keeps the old version's instances serving until the new one's stand.
Source: docs.aws.amazon.com/lambda/latest/dg/provisioned-concurrency.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

# Initialising ahead of need may take this long, or the function's timeout if that is longer.
INIT_TIMEOUT_S = 130.0
RAMP_PER_MINUTE = 6000
INIT_FAILURE = "FUNCTION_ERROR_INIT_FAILURE"
# Goes on with why; over as soon as that is.
INVALID_RUNTIME = "INVALID_RUNTIME: "
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class Status(StrEnum):
    """ProvisionedConcurrencyStatusEnum of the service model."""

    IN_PROGRESS = "IN_PROGRESS"
    READY = "READY"
    FAILED = "FAILED"


def spread(count: int, version: str, weights: Sequence[tuple[str, float]]) -> dict[str, int]:
    """Instances per version: shares in whole numbers that sum to ``count``, largest remainders first."""
    shares = {name: weight for name, weight in weights if weight > 0}
    shares[version] = shares.get(version, 0.0) + max(0.0, 1.0 - sum(shares.values()))
    exact = {name: count * share for name, share in shares.items()}
    whole = {name: int(value + 1e-9) for name, value in exact.items()}
    left = count - sum(whole.values())
    for name in sorted(exact, key=lambda n: (whole[n] - exact[n], n))[:left]:
        whole[name] += 1
    return {name: number for name, number in whole.items() if number > 0}


@dataclass(frozen=True, slots=True)
class Have:
    """A version's provisioned instances: initialised ones and those on their way. ``serving``: they take requests."""

    ready: int = 0
    starting: int = 0
    serving: bool = False


NONE = Have()


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do for one version now."""

    start: int = 0
    release: bool = False
    retire: int = 0


def steps(target: int, have: Have, *, allocating: bool) -> Steps:
    """What brings a version nearer to ``target``. ``allocating``: some version of the function is not complete yet."""
    total = have.ready + have.starting
    surplus = max(0, total - target)
    return Steps(
        start=max(0, target - total),
        release=not have.serving and target > 0 and have.ready >= target,
        retire=0 if allocating else surplus,
    )


def pause_s(failures: int) -> float:
    """How long to wait before replacing an instance again after ``failures`` that could not be initialised in a row."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** max(0, failures - 1)) if failures else 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """A configuration as the API shows it."""

    requested: int
    allocated: int
    available: int
    status: Status
    reason: str | None = None


def figures(requested: int, targets: Mapping[str, int], have: Mapping[str, Have], failed: str | None) -> Figures:
    """The counts of one configuration. ``failed`` says why it was given up."""
    if failed is not None:
        return Figures(requested, 0, 0, Status.FAILED, failed)
    allocated = available = 0
    for name, target in targets.items():
        version = have.get(name, NONE)
        allocated += min(target, version.ready)
        available += min(target, version.ready) if version.serving else 0
    status = Status.READY if available >= requested else Status.IN_PROGRESS
    return Figures(requested, allocated, available, status)


def refusal(requested: int, others: int, reserved: int | None, unreserved: int, floor: int) -> str | None:
    """Why a configuration cannot be had, in Lambda's words, or None.

    ``others``: provisioned for the function elsewhere. ``unreserved``: what the account has left without this configuration.
    """
    if reserved is not None:
        if requested + others > reserved:
            return "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
        return None
    if requested > unreserved:
        return f"Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{unreserved}]."
    if unreserved - requested < floor:
        return (
            "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{floor}]."
        )
    return None
