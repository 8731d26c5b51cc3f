"""A function that calls itself through boto3, as in the user guide's warning, in a real engine."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.framework.engine import Engine

SOURCE = """
import boto3, json
def f(event, context):
    if event["left"] == 0:
        return "done"
    try:
        answer = boto3.client("lambda").invoke(FunctionName=context.function_name, Payload=json.dumps({"left": event["left"] - 1}))
    except Exception as e:
        return [type(e).__name__, e.response["ResponseMetadata"]["HTTPStatusCode"], event["left"], str(e)]
    return json.load(answer["Payload"])
"""


def test_a_function_that_calls_itself_is_stopped_unless_it_may(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("ouroboros", {"m.py": SOURCE}, Timeout=100, MemorySize=256)

    def run(times: int) -> Any:
        return json.loads(client.invoke(FunctionName="ouroboros", Payload=json.dumps({"left": times}))["Payload"].read())

    assert run(5) == "done"
    kind, status, left, text = run(30)
    assert (kind, status, left) == ("RecursiveInvocationException", 400, 15)
    assert "ouroboros was invoked 16 times in one chain of requests" in text
    with urllib.request.urlopen(f"{shared.url}/metrics") as page:
        assert b'lambda_engine_recursive_invocations_dropped_total{function="ouroboros"} 1.0\n' in page.read()
    client.put_function_recursion_config(FunctionName="ouroboros", RecursiveLoop="Allow")
    assert run(20) == "done"
