"""Decisions of provisioned concurrency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import provisioning
from engine.core.provisioning import Have, Status


@given(st.integers(0, 5000), st.floats(0, 1))
def test_an_alias_with_weights_spreads_every_instance(count: int, weight: float) -> None:
    spread = provisioning.spread(count, "1", (("2", weight),))
    assert sum(spread.values()) == count
    assert abs(spread.get("2", 0) - count * weight) < 1


@pytest.mark.parametrize(
    ("count", "weights", "expected"),
    [
        (10, (), {"1": 10}),
        (10, (("2", 0.1),), {"1": 9, "2": 1}),
        (3, (("2", 0.5),), {"1": 2, "2": 1}),
        (1, (("2", 0.1),), {"1": 1}),
        (4, (("2", 1.0),), {"2": 4}),
    ],
)
def test_shares_are_whole_instances(count: int, weights: tuple[tuple[str, float], ...], expected: dict[str, int]) -> None:
    assert provisioning.spread(count, "1", weights) == expected


def test_nothing_serves_until_all_stand() -> None:
    assert provisioning.steps(3, Have(2, 1), allocating=True) == provisioning.Steps()
    assert provisioning.steps(3, Have(3, 0), allocating=True).release
    assert not provisioning.steps(3, Have(3, 0, serving=True), allocating=False).release
    assert not provisioning.steps(0, Have(0, 0), allocating=False).release


def test_a_dead_one_is_replaced_and_a_surplus_let_go_only_when_nothing_is_allocated() -> None:
    assert provisioning.steps(3, Have(2, 0, serving=True), allocating=True).start == 1
    assert provisioning.steps(3, Have(5, 1, serving=True), allocating=True).retire == 0
    assert provisioning.steps(3, Have(5, 1, serving=True), allocating=False).retire == 3


def test_figures_tell_what_is() -> None:
    targets = {"1": 3, "2": 1}
    part = provisioning.figures(4, targets, {"1": Have(2, 1), "2": Have(1, 0)}, None)
    assert (part.allocated, part.available, part.status) == (3, 0, Status.IN_PROGRESS)
    half = provisioning.figures(4, targets, {"1": Have(3, 0, serving=True), "2": Have(0, 1)}, None)
    assert (half.allocated, half.available, half.status) == (3, 3, Status.IN_PROGRESS)
    whole = provisioning.figures(4, targets, {"1": Have(5, 0, serving=True), "2": Have(1, 0, serving=True)}, None)
    assert (whole.allocated, whole.available, whole.status) == (4, 4, Status.READY)
    given_up = provisioning.figures(4, targets, {}, provisioning.INIT_FAILURE)
    assert (given_up.allocated, given_up.status, given_up.reason) == (0, Status.FAILED, "FUNCTION_ERROR_INIT_FAILURE")


def test_pauses_grow_to_a_minute() -> None:
    assert [provisioning.pause_s(n) for n in (0, 1, 2, 3, 20)] == [0.0, 1.0, 2.0, 4.0, 60.0]


def test_refusals_are_lambdas() -> None:
    assert provisioning.refusal(5, 0, 10, 1000, 100) is None
    assert provisioning.refusal(5, 6, 10, 1000, 100) == (
        "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
    )
    assert provisioning.refusal(901, 0, None, 1000, 100) == (
        "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100]."
    )
    assert provisioning.refusal(1001, 0, None, 1000, 100) == (
        "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000]."
    )
    assert provisioning.refusal(900, 0, None, 1000, 100) is None
