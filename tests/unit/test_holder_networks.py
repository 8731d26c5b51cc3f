"""Stocks of sandboxes in networks: made there, small, given up, and not made in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from engine.sandbox.api import ZygoteSpec
from engine.supervisor.holders import NETWORK_SIZE, UNHURRIED, Holder, HolderPool

PLACE = "vpc-1/subnet-a/sg-a"


class Orders:
    """What the pool asks of the sandbox."""

    def __init__(self) -> None:
        self.zygotes: list[str] = []
        self.made: list[tuple[int, str, str]] = []
        self.killed: list[int] = []
        self.hurried: list[int] = []

    def add_zygote(self, spec: ZygoteSpec) -> None:
        self.zygotes.append(spec.key)

    def make(self, holder_id: int, zygote_key: str, network: str = "", *, hurried: bool = False, **_: Any) -> None:
        self.made.append((holder_id, zygote_key, network))
        if hurried:
            self.hurried.append(holder_id)

    def kill(self, holder_id: int) -> None:
        self.killed.append(holder_id)


class NoFds:
    """Stands for a holder's descriptors."""

    def close(self) -> None: ...


def run(test: Callable[[HolderPool, Orders], None], size: int = 4) -> None:
    async def main() -> None:
        orders = Orders()
        spec_of = lambda key: ZygoteSpec(key.partition("@")[0], "python3.12", "/bin/true")  # noqa: E731
        pool = HolderPool(asyncio.get_running_loop(), orders, size, spec_of)  # type: ignore[arg-type]
        test(pool, orders)
        pool.close()

    asyncio.run(main())


class Ready(Holder):
    """A holder without descriptors."""

    def close_fds(self) -> None: ...


def ready(pool: HolderPool, holder_id: int) -> bool:
    return pool.holder_ready(Ready(holder_id, "", NoFds(), 1))  # type: ignore[arg-type]


def test_a_network_has_its_own_small_stock_from_the_same_zygote() -> None:
    def test(pool: HolderPool, orders: Orders) -> None:
        pool.use("p")
        pool.zygote_ready("p", 1)
        pool.use(f"p@{PLACE}")
        assert orders.zygotes == ["p"]
        assert [m[1:] for m in orders.made] == [("p", "")] * UNHURRIED + [("p", PLACE)] * NETWORK_SIZE
        got: list[Holder | None] = []
        pool.take(f"p@{PLACE}", lambda holder, _: got.append(holder))
        assert not got
        assert ready(pool, 1), "another network's does not do"
        assert not got
        first = next(holder_id for holder_id, _, network in orders.made if network)
        assert ready(pool, first)
        assert [h.holder_id for h in got if h] == [first]

    run(test)


def test_who_asks_while_a_zygote_is_started_again_waits_for_it() -> None:
    def test(pool: HolderPool, orders: Orders) -> None:
        told: list[tuple[Holder | None, str]] = []
        pool.use("p")
        pool.zygote_failed("p", "no interpreter")
        pool.take("p", lambda *what: told.append(what))
        assert told == [(None, "no interpreter")], "it never was ready"
        pool.zygote_ready("p", 7)
        pool.zygote_failed("p", "killed")
        assert (pool.failures(), pool.zygote_pids()) == ({}, {})
        orders.made.clear()
        pool.take("p", lambda *what: told.append(what))
        assert (len(told), orders.made) == (1, [])
        pool.zygote_ready("p", 8)
        assert ready(pool, orders.made[0][0])
        assert told[1][0] is not None

    run(test)


def test_who_is_in_line_when_a_zygote_is_killed_waits_for_one_of_its_successors() -> None:
    def test(pool: HolderPool, orders: Orders) -> None:
        told: list[tuple[Holder | None, str]] = []
        pool.use("p")
        pool.zygote_ready("p", 7)
        pool.take("p", lambda *what: told.append(what))
        pool.order("p", lambda *what: told.append(what))
        former = [holder_id for holder_id, _, _ in orders.made]
        pool.zygote_failed("p", "killed")
        pool.zygote_failed("p", "does not start")
        for holder_id in former:
            pool.holder_failed(holder_id, "zygote: killed")
        assert told == []
        orders.made.clear()
        pool.zygote_ready("p", 8)
        for holder_id, _, _ in list(orders.made):
            assert ready(pool, holder_id)
        assert [holder.holder_id > max(former) for holder, _ in told if holder] == [True, True]

    run(test, size=0)


def test_who_is_in_line_is_told_when_no_successor_comes_to_be_ready() -> None:
    def test(pool: HolderPool, orders: Orders) -> None:
        told: list[tuple[Holder | None, str]] = []
        pool.use("p")
        pool.zygote_ready("p", 7)
        pool.take("p", lambda *what: told.append(what))
        pool.order("p", lambda *what: told.append(what))
        for n in range(4):
            pool.zygote_failed("p", f"no {n}")
            assert told == []
        pool.zygote_failed("p", "not again")
        assert told == [(None, "not again")] * 2

    run(test)


def test_a_stock_that_no_version_wants_is_given_up() -> None:
    def test(pool: HolderPool, orders: Orders) -> None:
        pool.use("p")
        pool.use(f"p@{PLACE}")
        pool.zygote_ready("p", 1)
        mine = {i for i, _, network in orders.made if network}
        assert ready(pool, min(mine))
        pool.retain({f"p@{PLACE}"})
        assert not orders.killed
        pool.retain(set())
        assert set(orders.killed) == mine
        assert list(pool.counts()) == ["p"], "stocks without a network are kept"
        assert not ready(pool, max(mine)), "what was being made is not wanted any more"

    run(test)


def test_a_network_that_cannot_be_had_is_tried_again_only_for_who_waits() -> None:
    def test(pool: HolderPool, orders: Orders) -> None:
        pool.use(f"p@{PLACE}")
        pool.zygote_ready("p", 1)
        for holder_id in range(1, NETWORK_SIZE + 1):
            pool.holder_failed(holder_id, "no such subnet")
        orders.made.clear()
        pool._refill_all()
        assert not orders.made
        reasons: list[str] = []
        pool.take(f"p@{PLACE}", lambda _, reason: reasons.append(reason))
        assert len(orders.made) == 1
        pool.holder_failed(orders.made[0][0], "no such subnet")
        assert reasons == ["no such subnet"]

    run(test)
