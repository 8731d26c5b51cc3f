"""Micro benchmarks of the core's decisions on the hot path: ``pytest bench/micro``."""

from __future__ import annotations

from typing import Any

from engine import ids
from engine.core.concurrency import Account, FunctionQuota
from engine.core.pool import VersionPool
from engine.core.stats import Histogram


def test_request_id(benchmark: Any) -> None:
    assert len(benchmark(ids.request_id)) == 36


def test_admit_and_release(benchmark: Any) -> None:
    account, quota = Account(1000), FunctionQuota()

    def once() -> None:
        assert account.admit(quota) is None
        account.release(quota)

    benchmark(once)


def test_reuse_and_give_back(benchmark: Any) -> None:
    pool: VersionPool[int, int] = VersionPool()
    for n in range(8):
        pool.started(n)
        pool.ready(n, 0.0)

    def once() -> int | None:
        instance = pool.reuse()
        assert instance is not None
        return pool.ready(instance, 1.0)

    assert benchmark(once) is None


def test_wait_in_line_and_take_the_freed_instance(benchmark: Any) -> None:
    pool: VersionPool[int, int] = VersionPool()
    pool.started(1)
    pool.ready(1, 0.0)
    pool.reuse()

    def once() -> int | None:
        pool.enqueue(7)
        return pool.ready(1, 1.0)

    assert benchmark(once) == 7


def test_observe_a_duration(benchmark: Any) -> None:
    benchmark(Histogram().observe, 0.0123)
