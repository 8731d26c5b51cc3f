"""Reserved concurrency in a real engine: the supervisor obeys from the moment the API has answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.framework.engine import Engine
from tests.framework.frame_server import until

# Runs until its function has the tag "go": it can be held without guessing how long anything takes.
SOURCE = """
import json, os, time, urllib.request
def f(event, context):
    url = os.environ["AWS_ENDPOINT_URL"] + "/2017-03-31/tags/" + context.invoked_function_arn.replace(":", "%3A")
    while event == "hold" and "go" not in json.load(urllib.request.urlopen(url))["Tags"]:
        time.sleep(0.02)
    return event
"""
ARN = "arn:aws:lambda:us-east-1:000000000000:function:reserved"


def test_a_reservation_is_a_limit_and_zero_lets_nothing_run(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("reserved", {"m.py": SOURCE}, Timeout=100)

    def invoke(event: bytes = b'"now"') -> bytes:
        return bytes(client.invoke(FunctionName="reserved", Payload=event)["Payload"].read())

    def refused() -> Any:
        with pytest.raises(client.exceptions.TooManyRequestsException) as caught:
            invoke()
        answer = caught.value.response
        return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"], answer["Reason"]

    throttled = (429, "Rate Exceeded.", "ReservedFunctionConcurrentInvocationLimitExceeded")
    assert invoke() == b'"now"'
    client.put_function_concurrency(FunctionName="reserved", ReservedConcurrentExecutions=0)
    assert refused() == throttled
    client.put_function_concurrency(FunctionName="reserved", ReservedConcurrentExecutions=1)
    assert invoke() == b'"now"'
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(invoke, b'"hold"')
        try:
            until(lambda: [f["in_flight"] for f in shared.state()["functions"] if f["name"] == "reserved"] == [1], 60)
            assert refused() == throttled
            client.delete_function_concurrency(FunctionName="reserved")
            assert invoke() == b'"now"'
        finally:
            client.tag_resource(Resource=ARN, Tags={"go": ""})
        assert held.result(60) == b'"hold"'
