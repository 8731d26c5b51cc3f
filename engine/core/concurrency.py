"""Who may run: account limit, reserved and unreserved concurrency, scaling rate. O(1) per decision.

Theory of operation. A request in flight holds one lease, from ``admit`` to ``release``. A function with reserved concurrency draws
on its own allotment, every other one on what the reservations leave of the account's limit. Provisioned instances are served
before the planner is asked and count inside the reservation; their allotment enters here as ``provisioned``.
Source: docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html and scaling-behavior.html
"""

from __future__ import annotations

from enum import StrEnum


class Throttle(StrEnum):
    """ThrottleReason of the service model."""

    ACCOUNT = "ConcurrentInvocationLimitExceeded"
    RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
    FUNCTION_RATE = "FunctionInvocationRateLimitExceeded"
    RESERVED_RATE = "ReservedFunctionInvocationRateLimitExceeded"


class ScalingRate:
    """Token bucket for new instances of one function: ``burst`` at once, refilled evenly over ``period_s``."""

    __slots__ = ("_at_s", "_tokens", "burst", "period_s")

    def __init__(self, burst: int = 1000, period_s: float = 10.0) -> None:
        self.burst = burst
        self.period_s = period_s
        self._tokens = float(burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Whether one more instance may be started now; takes the token if so."""
        if self._at_s is not None and now_s > self._at_s:
            self._tokens = min(float(self.burst), self._tokens + (now_s - self._at_s) * self.burst / self.period_s)
        self._at_s = now_s if self._at_s is None else max(self._at_s, now_s)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def give_back(self) -> None:
        """Return a token that was taken but not used."""
        self._tokens = min(float(self.burst), self._tokens + 1.0)


class FunctionQuota:
    """One function's leases. ``reserved`` None draws on the unreserved pool."""

    __slots__ = ("in_flight", "provisioned", "reserved", "scaling")

    def __init__(self, reserved: int | None = None, scaling: ScalingRate | None = None) -> None:
        self.reserved = reserved
        self.provisioned = 0
        self.in_flight = 0
        self.scaling = scaling or ScalingRate()


class Account:
    """The account's concurrency: one per account, single writer."""

    __slots__ = ("_reserved_total", "limit", "unreserved_in_flight")

    def __init__(self, limit: int = 1000) -> None:
        if limit < 1:
            raise ValueError("an account's concurrency limit is at least 1")
        self.limit = limit
        self._reserved_total = 0
        self.unreserved_in_flight = 0

    @property
    def unreserved_limit(self) -> int:
        """What the reservations leave to all other functions."""
        return self.limit - self._reserved_total

    def admit(self, quota: FunctionQuota) -> Throttle | None:
        """Take a lease, or say why not. Nothing is taken when a reason is returned."""
        if quota.reserved is None:
            if self.unreserved_in_flight >= self.limit - self._reserved_total:
                return Throttle.ACCOUNT
            self.unreserved_in_flight += 1
        elif quota.in_flight >= quota.reserved:
            return Throttle.RESERVED
        quota.in_flight += 1
        return None

    def release(self, quota: FunctionQuota) -> None:
        """Give the lease back. Raises ValueError when none is held: a bug that would let limits drift."""
        if quota.in_flight <= 0:
            raise ValueError("released more leases than were taken")
        quota.in_flight -= 1
        if quota.reserved is None:
            self.unreserved_in_flight -= 1

    def reserve(self, quota: FunctionQuota, reserved: int | None) -> None:
        """Change a function's reservation; leases in flight move between the pools with it."""
        if reserved is not None and reserved < 0:
            raise ValueError("reserved concurrency is not negative")
        self._reserved_total += (reserved or 0) - (quota.reserved or 0)
        if (quota.reserved is None) != (reserved is None):
            self.unreserved_in_flight += quota.in_flight if reserved is None else -quota.in_flight
        quota.reserved = reserved
