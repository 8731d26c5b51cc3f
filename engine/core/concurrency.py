"""Who may run: account limit, reserved, unreserved and provisioned concurrency, rates. O(1) per decision.

Theory of operation. A request in flight on an on-demand instance holds one lease, from ``admit`` to ``release``. A function with
reserved concurrency draws on its own allotment, every other one on what is left of the account's limit. Provisioned instances are
capacity taken out beforehand: out of the function's reservation when it has one, otherwise out of the account's unreserved pool;
so a request that one of them serves takes no lease here, and what does not fit them spills over to ``admit``. Next to concurrency
stands the request rate, ten a second for each unit of it, and the scaling rate, which bounds new instances of one function.
All numbers that ``admit`` compares are brought up to date when a limit changes, not when a request comes.
Source: docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html and scaling-behavior.html
"""

from __future__ import annotations

from enum import StrEnum

# Of the account's limit this much stays with functions that have no reservation.
UNRESERVED_FLOOR = 100
# Requests per second for each unit of concurrency.
REQUEST_RATE = 10
SCALING_BURST = 1000
SCALING_PERIOD_S = 10.0


class Throttle(StrEnum):
    """ThrottleReason of the service model, and one of our own: ``HOST_FULL`` says that this machine has no room."""

    ACCOUNT = "ConcurrentInvocationLimitExceeded"
    RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
    FUNCTION_RATE = "FunctionInvocationRateLimitExceeded"
    RESERVED_RATE = "ReservedFunctionInvocationRateLimitExceeded"
    CALLER_RATE = "CallerRateLimitExceeded"
    HOST_FULL = "HostCapacityExceeded"


class RequestRate:
    """Token bucket of one second's worth of requests, kept as one number: when the bucket will be full again."""

    __slots__ = ("_full_s", "_interval_s", "per_s")

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._interval_s = 1.0 / per_s if per_s > 0 else 0.0
        self._full_s = float("-inf")

    def take(self, now_s: float) -> bool:
        """Whether one more request may start now; takes its token if so."""
        full_s = self._full_s
        if full_s <= now_s:
            full_s = now_s
        # Half a nanosecond of slack: sums of intervals are not exact.
        elif full_s - now_s + self._interval_s > 1.0000000005:
            return False
        if self.per_s <= 0:
            return False
        self._full_s = full_s + self._interval_s
        return True


class ScalingRate:
    """Token bucket for new instances of one function: ``burst`` at once, refilled evenly over ``period_s``."""

    __slots__ = ("_at_s", "_tokens", "burst", "period_s")

    def __init__(self, burst: int = SCALING_BURST, period_s: float = SCALING_PERIOD_S) -> None:
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
    """One function's leases. ``reserved`` None draws on the unreserved pool; ``provisioned`` is the allotment of all its versions.

    ``ceiling`` is what ``in_flight`` may reach, None without a reservation; ``rate`` bounds requests within a reservation.
    """

    __slots__ = ("ceiling", "claim", "in_flight", "provisioned", "provisioned_in_flight", "rate", "reserved", "scaling")

    def __init__(self, reserved: int | None = None, scaling: ScalingRate | None = None) -> None:
        self.reserved = reserved
        self.provisioned = 0
        self.provisioned_in_flight = 0
        self.in_flight = 0
        self.claim = 0
        self.ceiling: int | None = reserved
        self.rate: RequestRate | None = None
        self.scaling = scaling or ScalingRate()

    @property
    def concurrent(self) -> int:
        """Everything of the function in flight (ConcurrentExecutions)."""
        return self.in_flight + self.provisioned_in_flight


class Account:
    """The account's concurrency: one per account, single writer.

    ``request_rate`` is requests a second for each unit of reserved or provisioned concurrency, ``shared_rate`` (None: the same) for each
    unit of what is left to all other functions; 0 sets no limit.
    """

    __slots__ = ("_claimed", "_room", "limit", "rate", "request_rate", "shared_rate", "unreserved_in_flight")

    def __init__(self, limit: int = 1000, request_rate: int = 0, shared_rate: int | None = None) -> None:
        if limit < 1:
            raise ValueError("an account's concurrency limit is at least 1")
        self.limit = limit
        self.request_rate = request_rate
        self.shared_rate = request_rate if shared_rate is None else shared_rate
        self.unreserved_in_flight = 0
        self._claimed = 0
        self._room = limit
        self.rate = self._rate_of(limit, self.shared_rate)

    @staticmethod
    def _rate_of(concurrency: int, each: int) -> RequestRate | None:
        return RequestRate(each * max(0, concurrency)) if each else None

    @property
    def unreserved_limit(self) -> int:
        """What reservations and provisioned instances leave to on-demand invocations of all other functions."""
        return self._room

    @property
    def claimed(self) -> int:
        """Set aside, in use or not, and unreserved in use (ClaimedAccountConcurrency)."""
        return self._claimed + self.unreserved_in_flight

    def admit(self, quota: FunctionQuota, now_s: float = 0.0, *, rated: bool = True) -> Throttle | None:
        """Take an on-demand lease, or say why not. Nothing is taken when a reason is returned.

        ``rated`` False, for attempts of asynchronous invocations: request rates do not apply.
        """
        if quota.ceiling is None:
            if self.unreserved_in_flight >= self._room:
                return Throttle.ACCOUNT
            if rated and self.rate is not None and not self.rate.take(now_s):
                return Throttle.CALLER_RATE
            self.unreserved_in_flight += 1
        elif quota.in_flight >= quota.ceiling:
            return Throttle.RESERVED
        elif rated and quota.rate is not None and not quota.rate.take(now_s):
            return Throttle.RESERVED_RATE
        quota.in_flight += 1
        return None

    def release(self, quota: FunctionQuota) -> None:
        """Give the lease back. Raises ValueError when none is held: a bug that would let limits drift."""
        if quota.in_flight <= 0:
            raise ValueError("released more leases than were taken")
        quota.in_flight -= 1
        if quota.ceiling is None:
            self.unreserved_in_flight -= 1

    def reserve(self, quota: FunctionQuota, reserved: int | None) -> None:
        """Change a function's reservation; leases in flight move between the pools with it."""
        if reserved is not None and reserved < 0:
            raise ValueError("reserved concurrency is not negative")
        if (quota.reserved is None) != (reserved is None):
            self.unreserved_in_flight += quota.in_flight if reserved is None else -quota.in_flight
        if reserved != quota.reserved:
            quota.rate = None if reserved is None else self._rate_of(reserved, self.request_rate)
        quota.reserved = reserved
        self._claim(quota)

    def provision(self, quota: FunctionQuota, provisioned: int) -> None:
        """Change how many instances are provisioned for the function's versions together."""
        if provisioned < 0:
            raise ValueError("provisioned concurrency is not negative")
        quota.provisioned = provisioned
        self._claim(quota)

    def _claim(self, quota: FunctionQuota) -> None:
        """Set aside what the function has of its own, and bring up to date what requests are compared with."""
        reserved = quota.reserved
        quota.ceiling = None if reserved is None else max(0, reserved - quota.provisioned)
        claim = quota.provisioned if reserved is None else reserved
        if claim == quota.claim:
            return
        self._claimed += claim - quota.claim
        quota.claim = claim
        self._room = self.limit - self._claimed
        self.rate = self._rate_of(self._room, self.shared_rate)
