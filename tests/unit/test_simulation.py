"""The simulation against what Lambda's rules say must come out, and the invoker against the simulation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.concurrency import Throttle
from engine.core.simulation import Arrival, FunctionPlan, Outcome, Simulation, World, quantile
from engine.errors import ConfigurationError
from engine.lab import traces
from tests.unit.test_invoker import Rig


def run(trace: list[Arrival], **world: Any) -> Outcome:
    return Simulation(World(**world)).run(trace)["f"]


def plan(**members: Any) -> dict[str, Any]:
    return {"default": FunctionPlan(**members), "plans": {"f": FunctionPlan(**members)}}


def test_a_burst_of_3000_at_concurrency_500_is_throttled_2500_times(tmp_path: Path) -> None:
    outcome = run(list(traces.burst(3000, 2.0)), account_limit=500)
    assert (outcome.invocations, outcome.cold_starts, outcome.throttles) == (500, 500, {"ConcurrentInvocationLimitExceeded": 2500})

    async def real() -> None:
        rig = Rig(tmp_path, account_limit=500, max_instances=1000, scaling=(1000, 10.0))
        try:
            rig.put()
            answers = [rig.invoke() for _ in range(3000)]
            refused = [a.error.fields["Reason"] for a in answers if a.error is not None]
            assert refused == ["ConcurrentInvocationLimitExceeded"] * 2500
            assert rig.catalogue.functions()[0][1].quota.in_flight == 500
        finally:
            rig.close()
            await asyncio.sleep(0)

    asyncio.run(real())


def test_the_scaling_rate_throttles_a_burst_and_refills() -> None:
    trace = [*traces.burst(1500, 5.0), *(Arrival(2.0, "f", 5.0) for _ in range(300))]
    outcome = run(trace, account_limit=5000, max_instances=5000)
    # 1,000 at once; 200 more in the two seconds after it.
    assert outcome.throttles == {"FunctionInvocationRateLimitExceeded": 600}
    assert outcome.cold_starts == 1200


def test_ten_requests_a_second_for_each_reserved_unit() -> None:
    trace = [Arrival(n / 100, "f", 0.0) for n in range(200)]
    outcome = run(trace, **plan(reserved=2, init_s=0.0))
    assert outcome.throttles == {"ReservedFunctionInvocationRateLimitExceeded": 200 - outcome.invocations}
    assert outcome.invocations == 59


def test_keep_alive_decides_between_warm_and_cold() -> None:
    trace = [Arrival(at, "f", 0.1) for at in (0.0, 10.0, 20.0, 40.0)]
    assert run(trace, **plan(keep_alive_s=15.0)).cold_starts == 2
    assert run(trace, **plan(keep_alive_s=5.0)).cold_starts == 4
    assert run(trace, **plan(keep_alive_s=60.0)).cold_starts == 1
    # Until its keep-alive, not until somebody looks.
    assert run(trace, **plan(keep_alive_s=5.0, init_s=0.0)).instance_s == pytest.approx(3 * 5.1 + 0.1)


def test_provisioned_instances_are_never_cold_and_spill_over() -> None:
    trace = [Arrival(0.0, "f", 1.0) for _ in range(5)]
    outcome = run(trace, **plan(provisioned=3))
    assert (outcome.on_provisioned, outcome.spillover, outcome.cold_starts) == (3, 2, 2)
    assert outcome.waits_s.count(0.0) == 3


def test_a_freed_instance_serves_the_line_before_a_new_one() -> None:
    outcome = run([Arrival(0.0, "f", 1.0), Arrival(1.1, "f", 0.5)], **plan(init_s=1.0))
    assert outcome.cold_starts == 2
    assert max(outcome.waits_s) == pytest.approx(1.0)
    assert min(outcome.waits_s) == pytest.approx(0.9)


def test_a_full_host_waits_then_refuses() -> None:
    trace = [Arrival(0.0, "f", 30.0), Arrival(0.0, "f", 1.0)]
    assert run(trace, max_instances=1).throttles == {"HostCapacityExceeded": 1}
    assert run([Arrival(0.0, "f", 5.0), Arrival(0.0, "f", 1.0)], max_instances=1).throttles == {}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10), st.integers(0, 5), st.integers(1, 12), st.integers(0, 1000))
def test_every_arrival_is_accounted_for(rate: int, reserved: int, provisioned: int, host: int, seed: int) -> None:
    given_plan = FunctionPlan(reserved=max(reserved, provisioned), provisioned=provisioned, keep_alive_s=0.5)
    trace = list(traces.poisson(float(rate), 5.0, 0.3, seed=seed))
    world = World(max_instances=host + provisioned, host_wait_s=0.5, plans={"f": given_plan})
    outcome = Simulation(world).run(trace)["f"]
    assert outcome.invocations + sum(outcome.throttles.values()) == len(trace)
    assert outcome.peak_instances <= host + provisioned
    assert outcome.on_provisioned + outcome.spillover == (outcome.invocations if provisioned else 0)
    assert outcome.instance_s >= outcome.busy_s - 1e-6


def test_plans_that_do_not_fit_and_traces_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="exceed"):
        run([], account_limit=5, **plan(provisioned=6))
    with pytest.raises(ValueError, match="order"):
        Simulation(World()).run([Arrival(1.0, "f", 0.1), Arrival(0.5, "f", 0.1)])


def test_traces_are_read(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("at_s,function,duration_s\n5,b,0.5\n3,a,0.1\n")
    assert traces.read(own, "csv") == [Arrival(0.0, "a", 0.1), Arrival(2.0, "b", 0.5)]
    newer = tmp_path / "2021.csv"
    newer.write_text("app,func,end_timestamp,duration\naaaaaaaaaa,bbbbbbbbbb,10.5,0.5\naaaaaaaaaa,bbbbbbbbbb,12.0,1.0\n")
    assert traces.read(newer, "azure2021") == [Arrival(0.0, "aaaaaaaa/bbbbbbbb", 0.5), Arrival(1.0, "aaaaaaaa/bbbbbbbb", 1.0)]
    older, times = tmp_path / "2019.csv", tmp_path / "durations.csv"
    older.write_text("HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f1,http,2,0,1\no,a,f2,timer,0,1,0\n")
    times.write_text("HashOwner,HashApp,HashFunction,Average,Count\no,a,f1,250,3\n")
    found = traces.read(older, "azure2019", durations=times, duration_s=0.7)
    assert [(a.at_s, a.function, a.duration_s) for a in found] == [
        (0.0, "f1", 0.25), (30.0, "f1", 0.25), (75.0, "f2", 0.7), (135.0, "f1", 0.25),
    ]  # fmt: skip
    assert len(traces.read(older, "azure2019", limit=2)) == 2
    with pytest.raises(ConfigurationError, match="line 2: not a trace of the format azure2021"):
        traces.read(own, "azure2021")


def test_quantiles() -> None:
    assert quantile([], 0.5) == 0.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_instances_that_run_several_at_once_are_fewer() -> None:
    trace = [Arrival(0.0, "f", 1.0) for _ in range(20)]
    alone = run(trace, **plan(init_s=0.1))
    shared = run(trace, **plan(init_s=0.1, max_concurrency=8))
    assert (alone.cold_starts, shared.cold_starts) == (20, 3)
    assert shared.invocations == alone.invocations == 20
    assert shared.peak_instances == 3
    assert shared.cost_usd < alone.cost_usd


@pytest.mark.parametrize(("account", "reserved", "reason"), [(500, None, Throttle.ACCOUNT), (1000, 500, Throttle.RESERVED)])
def test_a_burst_of_three_thousand_at_concurrency_five_hundred(account: int, reserved: int | None, reason: Throttle) -> None:
    outcome = run([Arrival(0.0, "f", 60.0) for _ in range(3000)], account_limit=account, request_rate=0, **plan(reserved=reserved))
    assert (outcome.invocations, outcome.throttles) == (500, {reason: 2500})
