"""The simulation's prediction beside a real run of the same trace."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable

import pytest

from engine.client import AsyncClient
from engine.client.errors import ApiError
from engine.core.simulation import Arrival, FunctionPlan, Simulation, World
from engine.lab import traces
from tests.framework.engine import Engine

SOURCE = "import time\ndef f(e, c): time.sleep(e)\n"
# Of all arrivals, in throttles and in invocations that ran: what a busy machine adds to durations, the model does not know.
ERROR = 0.1


async def play(engine: Engine, name: str, trace: Iterable[Arrival]) -> Counter[str]:
    """Run a trace in real time; how its invocations ended."""
    seen: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    client = AsyncClient(engine.run_dir() / "engine.sock")
    start_s = loop.time()

    async def one(arrival: Arrival) -> None:
        await asyncio.sleep(max(0.0, start_s + arrival.at_s - loop.time()))
        try:
            await client.invoke(name, json.dumps(arrival.duration_s).encode())
        except ApiError as e:
            seen[e.code] += 1
        else:
            seen["ran"] += 1

    await asyncio.gather(*(one(a) for a in trace))
    await client.close()
    return seen


@pytest.mark.slow
def test_a_reserved_function_under_a_random_load_is_throttled_as_predicted(shared: Engine) -> None:
    shared.deploy("simulated", {"m.py": SOURCE}, Timeout=60, MemorySize=1769)
    shared.client().put_function_concurrency(FunctionName="simulated", ReservedConcurrentExecutions=6)
    trace = list(traces.poisson(16.0, 12.0, 0.4, seed=7))
    plan = FunctionPlan(reserved=6, init_s=0.01)
    predicted = Simulation(World(plans={"f": plan})).run(trace)["f"]
    seen = asyncio.run(play(shared, "simulated", trace))
    shared.client().delete_function_concurrency(FunctionName="simulated")
    throttled = sum(predicted.throttles.values())
    assert 0.1 < throttled / len(trace) < 0.6, "a load that tells something"
    assert seen["ran"] + seen["TooManyRequestsException"] == len(trace)
    assert abs(seen["TooManyRequestsException"] - throttled) <= ERROR * len(trace)
    cold = [i for i in shared.state()["instances"] if i["function"] == "simulated"]
    assert len(cold) == predicted.cold_starts == 6


@pytest.mark.slow
def test_a_burst_gets_exactly_the_throttles_that_the_rules_say(shared: Engine) -> None:
    shared.deploy("bursting", {"m.py": SOURCE}, Timeout=60)
    shared.client().put_function_concurrency(FunctionName="bursting", ReservedConcurrentExecutions=20)
    trace = list(traces.burst(120, 15.0))
    predicted = Simulation(World(plans={"f": FunctionPlan(reserved=20)})).run(trace)["f"]
    seen = asyncio.run(play(shared, "bursting", trace))
    # Other tests count on what the account has left.
    shared.client().delete_function_concurrency(FunctionName="bursting")
    assert seen == {"ran": 20, "TooManyRequestsException": predicted.throttles["ReservedFunctionConcurrentInvocationLimitExceeded"]}
    assert seen["TooManyRequestsException"] == 100
