"""A function that calls itself through boto3, as in the user guide's warning, in a real engine."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.framework import wait
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


THROUGH_A_QUEUE = """
import boto3, os
def f(event, context):
    (record,) = event["Records"]
    boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody=str(int(record["body"]) + 1))
"""


def test_a_loop_through_a_queue_ends_in_its_dead_letter_queue(shared: Engine) -> None:
    """SQS hands on the trace header that a function's client sends, as on AWS."""
    sqs = shared.client("sqs")
    dead = sqs.create_queue(QueueName="loop-dead")["QueueUrl"]
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:loop-dead", "maxReceiveCount": 1}
    attributes = {"RedrivePolicy": json.dumps(policy), "VisibilityTimeout": "10"}
    url = sqs.create_queue(QueueName="loop", Attributes=attributes)["QueueUrl"]
    shared.deploy("looping", {"m.py": THROUGH_A_QUEUE}, Timeout=10, MemorySize=512, Environment={"Variables": {"QUEUE": url}})
    made = shared.client().create_event_source_mapping(
        EventSourceArn="arn:aws:sqs:us-east-1:000000000000:loop", FunctionName="looping", BatchSize=1
    )
    try:
        sqs.send_message(QueueUrl=url, MessageBody="0")
        received: list[Any] = wait.until(
            lambda: sqs.receive_message(QueueUrl=dead, MessageSystemAttributeNames=["All"], WaitTimeSeconds=1).get("Messages"), "the end", 120
        )
        assert [m["Body"] for m in received] == ["16"]
        assert "Lineage=" in received[0]["Attributes"]["AWSTraceHeader"]
    finally:
        shared.client().delete_event_source_mapping(UUID=made["UUID"])
