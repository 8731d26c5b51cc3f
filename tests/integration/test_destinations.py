"""Asynchronous invocations end in five kinds of destinations and in dead-letter queues, over the public APIs on one endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework import wait
from tests.framework.engine import Engine, engine

CODE = {
    "m.py": "def f(e, c):\n"
    "    print('GOT', __import__('json').dumps(e))\n"
    "    if isinstance(e, dict) and e.get('fail'): raise ValueError('no: ' + e['fail'])\n"
    "    return {'did': e}\n"
}
ARN = "arn:aws:{0}:us-east-1:000000000000:{1}"


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    """Its retries come at once."""
    with engine(pool_size=4, async_retry_base_s=0.05) as started:
        started.deploy("f", CODE)
        yield started


def queue(running: Engine, name: str) -> str:
    return str(running.client("sqs").create_queue(QueueName=name)["QueueUrl"])


def received(running: Engine, url: str) -> dict[str, Any]:
    """The one message of a queue."""
    sqs = running.client("sqs")

    def take() -> dict[str, Any] | None:
        found = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"], MaxNumberOfMessages=10).get("Messages", [])
        assert len(found) <= 1
        return found[0] if found else None

    return wait.until(take, f"a message in {url}", 60)


def send(running: Engine, event: Any, name: str = "f", **options: Any) -> str:
    answer = running.client().invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event), **options)
    assert answer["StatusCode"] == 202
    return str(answer["ResponseMetadata"]["RequestId"])


def configure(running: Engine, success: str = "", failure: str = "", **more: Any) -> dict[str, Any]:
    destinations = {"OnSuccess": {"Destination": success} if success else {}, "OnFailure": {"Destination": failure} if failure else {}}
    answer = running.client().put_function_event_invoke_config(FunctionName="f", DestinationConfig=destinations, **more)
    return dict(answer)


def test_the_record_of_a_success_in_a_queue(running: Engine) -> None:
    url = queue(running, "won")
    configure(running, success=ARN.format("sqs", "won"))
    rid = send(running, {"n": 1})
    record = json.loads(received(running, url)["Body"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": rid, "functionArn": ARN.format("lambda", "function:f:$LATEST"), "condition": "Success", "approximateInvokeCount": 1,
        },
        "requestPayload": {"n": 1},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": {"did": {"n": 1}},
    }  # fmt: skip


def test_the_record_of_a_failure_after_its_retries_and_the_dead_letter(running: Engine) -> None:
    record_url, dead_url = queue(running, "lost"), queue(running, "dead")
    configure(running, failure=ARN.format("sqs", "lost"), MaximumRetryAttempts=1)
    client = running.client()
    client.update_function_configuration(FunctionName="f", DeadLetterConfig={"TargetArn": ARN.format("sqs", "dead")})
    client.get_waiter("function_updated_v2").wait(FunctionName="f")
    assert client.get_function_configuration(FunctionName="f")["DeadLetterConfig"] == {"TargetArn": ARN.format("sqs", "dead")}
    rid = send(running, {"fail": "q"})
    record = json.loads(received(running, record_url)["Body"])
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 2
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert record["responsePayload"]["errorMessage"] == "no: q"
    dead = received(running, dead_url)
    assert json.loads(dead["Body"]) == {"fail": "q"}
    told = {name: a["StringValue"] for name, a in dead["MessageAttributes"].items()}
    assert told == {"RequestID": rid, "ErrorCode": "200", "ErrorMessage": "no: q"}
    client.update_function_configuration(FunctionName="f", DeadLetterConfig={"TargetArn": ""})
    client.get_waiter("function_updated_v2").wait(FunctionName="f")
    assert "DeadLetterConfig" not in client.get_function_configuration(FunctionName="f")


def test_a_topic_a_bus_and_a_bucket(running: Engine) -> None:
    url = queue(running, "behind")
    sns, events, s3 = running.client("sns"), running.client("events"), running.client("s3")
    sns.subscribe(TopicArn=sns.create_topic(Name="told")["TopicArn"], Protocol="sqs", Endpoint=ARN.format("sqs", "behind"))
    configure(running, failure=ARN.format("sns", "told"), MaximumRetryAttempts=0)
    send(running, {"fail": "topic"})
    wrapped = json.loads(received(running, url)["Body"])
    assert json.loads(wrapped["Message"])["requestPayload"] == {"fail": "topic"}

    bus_url = queue(running, "bus")
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["lambda"]}))
    events.put_targets(Rule="all", Targets=[{"Id": "q", "Arn": ARN.format("sqs", "bus")}])
    configure(running, success=ARN.format("events", "event-bus/default"))
    send(running, {"n": 2})
    entry = json.loads(received(running, bus_url)["Body"])
    assert (entry["source"], entry["detail-type"]) == ("lambda", "Lambda Function Invocation Result - Success")
    assert entry["resources"] == [ARN.format("events", "event-bus/default"), ARN.format("lambda", "function:f:$LATEST")]
    assert entry["detail"]["responsePayload"] == {"did": {"n": 2}}

    s3.create_bucket(Bucket="records")
    configure(running, failure="arn:aws:s3:::records", MaximumRetryAttempts=0)
    send(running, {"fail": "bucket"})
    listed = wait.until(lambda: s3.list_objects_v2(Bucket="records").get("Contents"), "an object in the bucket", 60)
    assert re.fullmatch(
        r"aws/lambda/async/f/\d{4}/\d\d/\d\d/\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", listed[0]["Key"]
    )
    body = json.loads(s3.get_object(Bucket="records", Key=listed[0]["Key"])["Body"].read())
    assert body["requestPayload"] == {"fail": "bucket"}


def test_another_function_gets_the_record_as_its_event(running: Engine) -> None:
    running.deploy("next", CODE)
    configure(running, success=ARN.format("lambda", "function:next"))
    rid = send(running, {"n": 3})
    log = running.data_dir / "logs" / "000000000000" / "next.log"
    line = wait.until(lambda: re.search(r"GOT (.*)", log.read_text()) if log.exists() else None, "the record in the log", 60)
    assert json.loads(line[1])["requestContext"]["requestId"] == rid


def test_nothing_is_run_with_nothing_reserved(running: Engine) -> None:
    url = queue(running, "closed")
    configure(running, failure=ARN.format("sqs", "closed"))
    client = running.client()
    client.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    try:
        send(running, {"n": 4})
        record = json.loads(received(running, url)["Body"])
    finally:
        client.delete_function_concurrency(FunctionName="f")
    assert record["requestContext"]["condition"] == "ZeroReservedConcurrency"
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert "responseContext" not in record
    assert "responsePayload" not in record


def test_a_record_that_cannot_be_delivered_is_counted(running: Engine) -> None:
    configure(running, success=ARN.format("sqs", "nowhere"))
    send(running, {"n": 5})

    def counted() -> bool:
        text = running.get("/metrics")[1].decode()
        return re.search(r'^lambda_engine_async_undelivered_total\{target="destination"\} [1-9]', text, re.MULTILINE) is not None

    wait.until(counted, "the failure on /metrics", 60)
    wait.until(lambda: "lambda_engine_async_queue_depth 0.0" in running.get("/metrics")[1].decode(), "the event is done")


def refused(call: Any, **members: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call(**members)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def test_configurations_are_kept_by_qualifier(running: Engine) -> None:
    client = running.client()
    running.deploy("kept", CODE)
    version = client.publish_version(FunctionName="kept")["Version"]
    client.create_alias(FunctionName="kept", Name="live", FunctionVersion=version)
    base = ARN.format("lambda", "function:kept")
    missing = client.get_function_event_invoke_config
    assert refused(missing, FunctionName="kept")[2] == f"The function {base}:$LATEST doesn't have an EventInvokeConfig"
    put = client.put_function_event_invoke_config(FunctionName="kept", Qualifier="live", MaximumRetryAttempts=0)
    assert put["FunctionArn"] == f"{base}:live"
    assert (put["MaximumRetryAttempts"], put["DestinationConfig"]) == (0, {"OnSuccess": {}, "OnFailure": {}})
    assert "MaximumEventAgeInSeconds" not in put
    client.update_function_event_invoke_config(FunctionName="kept", Qualifier="live", MaximumEventAgeInSeconds=60)
    got = client.get_function_event_invoke_config(FunctionName="kept", Qualifier="live")
    assert (got["MaximumRetryAttempts"], got["MaximumEventAgeInSeconds"]) == (0, 60)
    client.put_function_event_invoke_config(FunctionName="kept", MaximumEventAgeInSeconds=120)
    listed = client.list_function_event_invoke_configs(FunctionName="kept")["FunctionEventInvokeConfigs"]
    assert [c["FunctionArn"] for c in listed] == [f"{base}:$LATEST", f"{base}:live"]
    client.delete_function_event_invoke_config(FunctionName="kept", Qualifier="live")
    assert refused(missing, FunctionName="kept", Qualifier="live")[0] == 404


def test_what_is_refused(running: Engine) -> None:
    put = running.client().put_function_event_invoke_config
    assert refused(put, FunctionName="gone", MaximumRetryAttempts=1) == (404, "ResourceNotFoundException", "The function doesn't exist.")
    assert refused(put, FunctionName="f", Qualifier="9", MaximumRetryAttempts=1)[2] == "The function doesn't exist."
    bad = (400, "InvalidParameterValueException")
    for write in (put, running.client().update_function_event_invoke_config):
        assert refused(write, FunctionName="f") == (*bad, "You must specify at least one of error handling or destination setting.")
    own = ARN.format("lambda", "function:f")
    to = {"OnSuccess": {"Destination": own}}
    assert refused(put, FunctionName="f", DestinationConfig=to) == (*bad, "You can't specify the function as a destination for itself.")
    to = {"OnSuccess": {"Destination": f"{own}-gone"}}
    assert refused(put, FunctionName="f", DestinationConfig=to) == (*bad, f"The destination ARN {own}-gone is invalid.")
    for other in (f"{own}:9", f"{own}:gone", own.replace("us-east-1", "eu-west-1")):
        found = other if other.endswith("function:f") else other.replace("function:f:", "function:kept:")
        to = {"OnSuccess": {"Destination": found}}
        assert refused(put, FunctionName="f", DestinationConfig=to) == (*bad, f"The destination ARN {found} is invalid.")
    for nowhere in ("kafka://topic", "arn:aws:sqs:::", "arn:aws:sns:us-east-1:000000000000:", "arn:aws:events:us-east-1:000000000000:rule/r", "arn:aws-cn:sqs:us-east-1:000000000000:q"):
        text = f"DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={nowhere}))"
        to = {"OnFailure": {"Destination": nowhere}}
        assert refused(put, FunctionName="f", DestinationConfig=to) == (*bad, f"The provided destination config {text} is invalid.")
    to = {"OnSuccess": {"Destination": "arn:aws:s3:::records"}}
    text = "DestinationConfig(onSuccess=OnSuccess(destination=arn:aws:s3:::records), onFailure=null)"
    assert refused(put, FunctionName="f", DestinationConfig=to) == (*bad, f"The provided destination config {text} is invalid.")
    to = {"OnFailure": {"Destination": "nonsense"}}
    assert refused(put, FunctionName="f", DestinationConfig=to)[1] == "ValidationException"
    assert refused(put, FunctionName="f", MaximumRetryAttempts=3)[1] == "ValidationException"
    update = running.client().update_function_event_invoke_config
    assert refused(update, FunctionName="gone", MaximumRetryAttempts=1)[2] == "The function doesn't exist."
