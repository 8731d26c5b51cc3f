"""Leases, reservations and the scaling rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.concurrency import Account, FunctionQuota, RequestRate, ScalingRate, Throttle
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


def test_provisioned_instances_are_taken_out_of_the_unreserved_pool() -> None:
    account = Account(10)
    quota, other = FunctionQuota(), FunctionQuota()
    account.provision(quota, 6)
    assert account.unreserved_limit == 4
    assert [account.admit(other) for _ in range(4)] == [None] * 4
    assert account.admit(quota) is Throttle.ACCOUNT
    assert account.claimed == 10
    account.provision(quota, 0)
    assert account.unreserved_limit == 10


def test_provisioned_instances_count_inside_the_reservation() -> None:
    account, quota = Account(10), FunctionQuota()
    account.reserve(quota, 5)
    account.provision(quota, 3)
    assert account.unreserved_limit == 5
    assert [account.admit(quota) for _ in range(3)] == [None, None, Throttle.RESERVED]
    account.provision(quota, 5)
    account.release(quota)
    account.release(quota)
    assert account.admit(quota) is Throttle.RESERVED
    account.reserve(quota, None)
    assert account.unreserved_limit == 5
    with pytest.raises(ValueError, match="not negative"):
        account.provision(quota, -1)


def test_leases_follow_a_reservation_that_comes_and_goes_under_provisioned_ones() -> None:
    account, quota = Account(10), FunctionQuota()
    account.provision(quota, 2)
    assert account.admit(quota) is None
    account.reserve(quota, 4)
    assert (account.unreserved_in_flight, account.unreserved_limit) == (0, 6)
    account.reserve(quota, None)
    assert (account.unreserved_in_flight, account.unreserved_limit) == (1, 8)
    account.release(quota)
    assert account.claimed == 2


def test_ten_requests_a_second_for_each_unit_of_concurrency() -> None:
    account, quota = Account(2, 10), FunctionQuota()

    def second(at_s: float, wanted: int) -> int:
        taken = 0
        for n in range(wanted):
            if account.admit(quota, at_s + n / wanted) is None:
                taken += 1
                account.release(quota)
        return taken

    # A full bucket, and what flows in while it is emptied.
    assert second(100.0, 100) == 39
    assert second(101.0, 100) == 20
    assert account.admit(quota, 102.0) is None
    assert second(200.0, 10) == 10


def test_rates_name_whose_they_are() -> None:
    account, kept, other = Account(10, 1), FunctionQuota(), FunctionQuota()
    account.reserve(kept, 1)
    assert account.admit(kept, 5.0) is None
    account.release(kept)
    assert account.admit(kept, 5.5) is Throttle.RESERVED_RATE
    assert account.admit(kept, 6.0) is None
    assert [account.admit(other, 5.0) for _ in range(9)] == [None] * 9
    for _ in range(9):
        account.release(other)
    assert account.admit(other, 5.0) is Throttle.CALLER_RATE
    assert (other.in_flight, account.unreserved_in_flight) == (0, 0)


@given(st.integers(1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_a_request_rate_is_a_token_bucket_of_one_second(per_s: int, times: list[float]) -> None:
    """Against the textbook's bucket, which keeps tokens and a time."""
    rate = RequestRate(per_s)
    tokens, at_s = float(per_s), 0.0
    for now_s in sorted(times):
        tokens, at_s = min(float(per_s), tokens + (now_s - at_s) * per_s), now_s
        taken = rate.take(now_s)
        if abs(tokens - 1.0) > 1e-6:  # on the edge rounding decides
            assert taken == (tokens > 1.0)
        tokens -= taken
