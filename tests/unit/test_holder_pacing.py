"""How many sandboxes are ordered at once: all hands for whoever waits, few for the stock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

from engine.sandbox.api import NO_ROOM, ZygoteSpec
from engine.supervisor.holders import FULL_S, MAX_MAKING, UNHURRIED, Holder, HolderPool
from tests.unit.test_holder_networks import PLACE, Orders, ready, run


def test_the_stock_fills_a_few_at_a_time_while_nobody_waits() -> None:
    def check(pool: HolderPool, orders: Orders) -> None:
        pool.use("p")
        pool.zygote_ready("p", 1)
        assert len(orders.made) == UNHURRIED
        ready(pool, orders.made[0][0])
        assert len(orders.made) == UNHURRIED + 1
        for holder_id, *_ in orders.made:
            ready(pool, holder_id)
        assert pool.counts() == {"p": {"ready": 4, "making": 0}}

    run(check)


def test_whoever_waits_is_served_at_full_speed_and_before_the_stock() -> None:
    def check(pool: HolderPool, orders: Orders) -> None:
        served: list[Holder | None] = []
        for _ in range(2 * MAX_MAKING):
            pool.take("p", lambda holder, _why: served.append(holder))
        pool.zygote_ready("p", 1)
        assert len(orders.made) == MAX_MAKING
        for holder_id, *_ in orders.made:
            ready(pool, holder_id)
            if len(served) == 2 * MAX_MAKING:
                break
        assert None not in served
        assert len(served) == 2 * MAX_MAKING
        assert pool.counts()["p"]["ready"] == 0
        # What was ordered for those in line goes to them; the stock comes after.
        assert len(orders.made) <= 2 * MAX_MAKING + UNHURRIED

    run(check)


def test_without_a_stock_it_is_ready_when_sandboxes_can_be_made_and_makes_what_is_asked_for() -> None:
    def check(pool: HolderPool, orders: Orders) -> None:
        pool.use("p")
        assert not pool.ready_anywhere()
        pool.zygote_ready("p", 1)
        assert pool.ready_anywhere()
        assert not orders.made
        served: list[Holder | None] = []
        pool.take("p", lambda holder, _why: served.append(holder))
        ready(pool, orders.made[0][0])
        assert len(served) == len(orders.made) == 1

    run(check, size=0)


def test_only_what_is_made_for_somebody_who_waits_is_hurried() -> None:
    def check(pool: HolderPool, orders: Orders) -> None:
        pool.use("p")
        pool.zygote_ready("p", 1)
        assert orders.hurried == []
        for _ in range(UNHURRIED + 3):
            pool.take("p", lambda _holder, _why: None)
        # Those under way are enough for the first two in line.
        assert orders.hurried == [made[0] for made in orders.made[UNHURRIED : UNHURRIED + 3]]
        for holder_id, *_ in list(orders.made):
            ready(pool, holder_id)
        assert len(orders.made) > UNHURRIED + 3
        assert len(orders.hurried) == 3

    run(check)


def _clocked() -> tuple[HolderPool, Orders, list[tuple[float, Callable[[], None]]]]:
    """A pool, what it asks for, and what it would do later."""
    orders = Orders()
    later: list[tuple[float, Callable[[], None]]] = []
    clocked = SimpleNamespace(time=lambda: 0.0, call_later=lambda delay_s, call, *args: later.append((delay_s, partial(call, *args))))
    spec_of = lambda key: ZygoteSpec(key.partition("@")[0], "python3.12", "/bin/true")  # noqa: E731
    return HolderPool(clocked, orders, 4, spec_of), orders, later  # type: ignore[arg-type]


def test_a_stock_that_the_broker_is_too_full_for_rests_and_who_waits_is_tried() -> None:
    pool, orders, later = _clocked()
    pool.use("p")
    pool.zygote_ready("p", 1)
    for holder_id, *_ in list(orders.made):
        pool.holder_failed(holder_id, f"{NO_ROOM}: 500 of 512")
    orders.made.clear()
    pool._refill_all()
    assert not orders.made
    told: list[str] = []
    pool.take("p", lambda _, why: told.append(why))
    assert len(orders.made) == 1
    pool.holder_failed(orders.made[0][0], f"{NO_ROOM}: 500 of 512")
    assert told == [f"{NO_ROOM}: 500 of 512"]
    resting = [call for delay_s, call in later if delay_s == FULL_S]
    assert len(resting) == 1, "once, however many were refused"
    resting[0]()
    assert len(orders.made) == 1 + UNHURRIED


def test_nothing_is_made_for_a_stock_that_was_given_up_while_it_rested() -> None:
    pool, orders, later = _clocked()
    key = f"p@{PLACE}"
    pool.use(key)
    pool.zygote_ready("p", 1)
    pool.holder_failed(orders.made[0][0], f"{NO_ROOM}: 500 of 512")
    pool.retain(())
    orders.made.clear()
    [rested] = [call for delay_s, call in later if delay_s == FULL_S]
    rested()
    assert not orders.made, "nobody would ever take or end it"
