"""Leases, reservations and the scaling rate."""

from __future__ import annotations

import pytest

from engine.core.concurrency import Account, FunctionQuota, ScalingRate, Throttle
from engine.core.restart import RestartPolicy


def test_unreserved_functions_share_what_reservations_leave() -> None:
    account = Account(10)
    kept, other = FunctionQuota(), FunctionQuota()
    account.reserve(kept, 4)
    assert account.unreserved_limit == 6
    assert [account.admit(other) for _ in range(6)] == [None] * 6
    assert account.admit(other) is Throttle.ACCOUNT
    assert [account.admit(kept) for _ in range(4)] == [None] * 4
    assert account.admit(kept) is Throttle.RESERVED
    account.release(other)
    assert account.admit(other) is None


def test_reserved_zero_throttles_everything() -> None:
    account, quota = Account(10), FunctionQuota()
    account.reserve(quota, 0)
    assert account.admit(quota) is Throttle.RESERVED
    assert quota.in_flight == 0


def test_a_reservation_made_while_busy_moves_its_leases() -> None:
    account, quota = Account(10), FunctionQuota()
    for _ in range(3):
        assert account.admit(quota) is None
    account.reserve(quota, 5)
    assert account.unreserved_in_flight == 0
    account.reserve(quota, None)
    assert account.unreserved_in_flight == 3
    for _ in range(3):
        account.release(quota)
    assert account.unreserved_in_flight == 0


def test_misuse_is_loud() -> None:
    account, quota = Account(1), FunctionQuota()
    with pytest.raises(ValueError, match="more leases"):
        account.release(quota)
    with pytest.raises(ValueError, match="not negative"):
        account.reserve(quota, -1)
    with pytest.raises(ValueError, match="at least 1"):
        Account(0)


def test_scaling_rate_allows_a_burst_then_refills_evenly() -> None:
    rate = ScalingRate(burst=10, period_s=10.0)
    assert sum(rate.take(100.0) for _ in range(20)) == 10
    assert not rate.take(100.9)
    assert rate.take(101.0)
    assert not rate.take(101.0)
    rate.give_back()
    assert rate.take(101.0)
    assert sum(rate.take(1000.0) for _ in range(20)) == 10


def test_scaling_rate_ignores_a_clock_that_goes_back() -> None:
    rate = ScalingRate(burst=1, period_s=10.0)
    assert rate.take(50.0)
    assert not rate.take(10.0)
    assert not rate.take(59.0)
    assert rate.take(60.0)


def test_a_child_that_keeps_ending_is_started_ever_later() -> None:
    policy = RestartPolicy(intensity=2, period_s=10.0, max_pause_s=4.0)
    assert [policy.delay_s(t) for t in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)] == [0.0, 0.0, 1.0, 2.0, 4.0, 4.0]
    assert policy.delay_s(100.0) == 0.0
