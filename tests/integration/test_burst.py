"""A burst of 3,000 invocations at concurrency 500: exactly as many are refused as Lambda's rules predict, and for that reason."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from engine.client import ApiError, AsyncClient
from engine.core.simulation import Arrival, FunctionPlan, Simulation, World
from tests.framework.engine import Engine, engine
from tests.framework.frame_server import until

# Held until the function has the tag "go": the burst is over before anything ends, whatever anything takes.
SOURCE = """
import asyncio, json, os, urllib.request
gate, watching = asyncio.Event(), []
async def watch(arn):
    url = os.environ["AWS_ENDPOINT_URL"] + "/2017-03-31/tags/" + arn.replace(":", "%3A")
    while "go" not in json.load(await asyncio.to_thread(urllib.request.urlopen, url))["Tags"]:
        await asyncio.sleep(0.1)
    gate.set()
async def f(event, context):
    if not watching:
        watching.append(asyncio.create_task(watch(":".join(context.invoked_function_arn.split(":")[:7]))))
    await gate.wait()
    return event
"""
NUMBER, LIMIT = 3000, 500


def burst(running: Engine, name: str) -> tuple[int, Counter[str]]:
    """How many were answered, and how many refused by reason."""
    boto = running.client()
    refused: Counter[str] = Counter()

    async def one(client: AsyncClient, n: int) -> bool:
        try:
            return (await client.invoke(name, b"%d" % n, timeout_s=170)).payload == b"%d" % n
        except ApiError as e:
            refused[e.reason or e.code] += 1
            return False

    def over() -> bool:
        held = [f["in_flight"] for f in running.state()["functions"] if f["name"] == name] == [LIMIT]
        return held and refused.total() == NUMBER - LIMIT

    async def all_at_once() -> int:
        client = AsyncClient(running.run_dir() / "engine.sock")
        calls = [asyncio.ensure_future(one(client, n)) for n in range(NUMBER)]
        try:
            await asyncio.to_thread(until, over, 100)
            arn = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
            await asyncio.to_thread(boto.tag_resource, Resource=arn, Tags={"go": ""})
            return sum(await asyncio.gather(*calls))
        finally:
            await client.close()

    return asyncio.run(all_at_once()), refused


@pytest.mark.slow
def test_a_burst_of_three_thousand_at_concurrency_five_hundred() -> None:
    trace = [Arrival(0.0, "f", 60.0) for _ in range(NUMBER)]
    with engine(account_concurrency=LIMIT + 100) as running:
        tags = {"lambda-engine:max-concurrency": "100"}
        for name, reserved, reason in (
            ("burst-reserved", LIMIT, "ReservedFunctionConcurrentInvocationLimitExceeded"),
            ("burst-shared", None, "ConcurrentInvocationLimitExceeded"),
        ):
            running.deploy(name, {"m.py": SOURCE}, Timeout=170, MemorySize=1769, Tags=tags)
            if reserved is not None:
                running.client().put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)
            else:
                # Another function's reservation leaves as much to all others.
                running.client().put_function_concurrency(FunctionName="burst-reserved", ReservedConcurrentExecutions=100)
            assert burst(running, name) == (LIMIT, Counter({reason: NUMBER - LIMIT}))
            plan = FunctionPlan(reserved=reserved)
            predicted = Simulation(World(account_limit=LIMIT if reserved is None else LIMIT + 100, request_rate=0, default=plan)).run(trace)
            assert predicted["f"].throttles == {reason: NUMBER - LIMIT}
            metrics = running.get("/metrics")[1].decode()
            assert f'lambda_engine_throttles_total{{function="{name}",reason="{reason}"}} {NUMBER - LIMIT:.1f}' in metrics
