"""The pytest plugin for users' tests: an empty account for each test, and events as the real sources send them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.testing import Account, Failed, Server, events, running

KEEPER = """
import json
def handler(event, context):
    print("GOT", json.dumps(event))
    if event == "fail": raise ValueError("asked to")
    return event
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def account(server: Server) -> Iterator[Account]:
    made = Account(server)
    yield made
    made.empty()


@pytest.fixture
def keeper(account: Account, tmp_path: Path) -> Any:
    path = tmp_path / "keeper.py"
    path.write_text(KEEPER)
    return account.deploy(path)


def got(function: Any) -> dict[str, Any]:
    """The event the function got."""
    line = function.account.until(lambda: next((one for one in function.logs() if one.startswith("GOT ")), None), "its event in the log")
    return dict(json.loads(line.removeprefix("GOT ")))


def shape(value: Any) -> Any:
    """An event's members without their values, so that two of them can be compared."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return type(value).__name__


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_an_empty_account(account: Account, keeper: Any, turn: int) -> None:
    assert keeper.invoke({"turn": turn}) == {"turn": turn}
    names = [f["FunctionName"] for f in account.client("lambda").list_functions()["Functions"]]
    assert names == ["keeper"]
    assert account.client("s3").list_buckets()["Buckets"] == []
    account.client("s3").create_bucket(Bucket="left-behind")
    start = time.process_time()
    account.empty()
    assert time.process_time() - start < 5
    assert account.client("lambda").list_functions()["Functions"] == []


def test_failures_and_asynchronous_invocations(account: Account, keeper: Any) -> None:
    with pytest.raises(Failed, match="asked to") as caught:
        keeper.invoke("fail")
    assert (caught.value.kind, caught.value.message) == ("ValueError", "asked to")
    request_id = keeper.send({"n": 1})
    account.settled()
    account.until(lambda: any(request_id in line for line in keeper.logs()), "its START line")
    with pytest.raises(AssertionError, match=r"not within 0.1 s: never"):
        account.until(lambda: None, "never", 0.1)
    with pytest.raises(FileNotFoundError):
        account.deploy("nowhere.py")


def test_a_bucket_event_has_the_shape_of_a_real_one(account: Account, keeper: Any) -> None:
    s3 = account.client("s3")
    s3.create_bucket(Bucket="bucket")
    keeper.allow("s3.amazonaws.com", "arn:aws:s3:::bucket")
    configuration = {"LambdaFunctionConfigurations": [{"LambdaFunctionArn": keeper.arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket="bucket", NotificationConfiguration=configuration)
    s3.put_object(Bucket="bucket", Key="a b", Body=b"x")
    account.settled()
    assert shape(got(keeper)) == shape(events.s3("bucket", "a b"))


@pytest.mark.slow
def test_a_topics_and_a_rules_event_have_the_shape_of_real_ones(account: Account, keeper: Any) -> None:
    sns, bus = account.client("sns"), account.client("events")
    topic = sns.create_topic(Name="topic")["TopicArn"]
    keeper.allow("sns.amazonaws.com", topic)
    sns.subscribe(TopicArn=topic, Protocol="lambda", Endpoint=keeper.arn)
    sns.publish(TopicArn=topic, Message="m", Subject="s")
    real = got(keeper)
    made = events.sns("m", subject="s")
    assert shape(real) == shape(made)
    assert list(real["Records"][0]["Sns"]) == list(made["Records"][0]["Sns"])
    rule = bus.put_rule(Name="rule", ScheduleExpression="rate(1 minute)")["RuleArn"]
    keeper.allow("events.amazonaws.com", rule)
    bus.put_targets(Rule="rule", Targets=[{"Id": "1", "Arn": keeper.arn}])
    assert account.advance(60) == 1
    line = account.until(lambda: next((one for one in keeper.logs() if "aws.events" in one), None), "the schedule's event")
    assert shape(json.loads(line.removeprefix("GOT "))) == shape(events.scheduled())


@pytest.mark.slow
def test_a_queues_event_has_the_shape_of_a_real_one(account: Account, keeper: Any) -> None:
    sqs = account.client("sqs")
    url = sqs.create_queue(QueueName="queue")["QueueUrl"]
    arn = f"arn:aws:sqs:us-east-1:{account.account_id}:queue"
    account.client("lambda").create_event_source_mapping(FunctionName="keeper", EventSourceArn=arn)
    attributes = {"k": {"DataType": "String", "StringValue": "v"}}
    sqs.send_message(QueueUrl=url, MessageBody="text", MessageAttributes=attributes)
    real, made = got(keeper), events.sqs("text", attributes={"k": "v"})
    # Some say null where others leave out.
    for event in (real, made):
        event["Records"][0].pop("md5OfMessageAttributes", None)
    assert shape(real) == shape(made)


@pytest.mark.slow
def test_a_log_subscriptions_event_has_the_shape_of_a_real_one(account: Account, keeper: Any) -> None:
    logs = account.client("logs")
    logs.create_log_group(logGroupName="/g")
    logs.create_log_stream(logGroupName="/g", logStreamName="s")
    keeper.allow("logs.amazonaws.com", f"arn:aws:logs:us-east-1:{account.account_id}:log-group:/g:*")
    logs.put_subscription_filter(logGroupName="/g", filterName="f", filterPattern="", destinationArn=keeper.arn)
    logs.put_log_events(logGroupName="/g", logStreamName="s", logEvents=[{"timestamp": int(time.time() * 1000), "message": "m"}])
    assert shape(got(keeper)) == shape(events.logs("m"))


def test_the_other_events_are_what_their_readers_expect() -> None:
    assert events.sqs({"a": 1}, "b", group="g")["Records"][1]["attributes"]["MessageGroupId"] == "g"
    assert events.kinesis({"a": 1})["Records"][0]["kinesis"]["data"] == "eyJhIjogMX0="
    change = events.dynamodb(("MODIFY", {"id": {"S": "1"}, "n": {"N": "1"}}, {"id": {"S": "1"}, "n": {"N": "2"}}))["Records"][0]
    assert change["dynamodb"]["Keys"] == {"id": {"S": "1"}}
    assert set(change["dynamodb"]) >= {"OldImage", "NewImage", "SequenceNumber"}
    assert "NewImage" not in events.dynamodb(("REMOVE", {"id": {"S": "1"}}, None))["Records"][0]["dynamodb"]
    assert events.kafka("v", topic="t")["records"]["t-0"][0]["value"] == "dg=="
    get, post = events.http_api(path="/x", query={"a": "1"}), events.http_api("POST", body={"a": 1})
    assert ("body" in get, get["rawQueryString"], post["body"], post["isBase64Encoded"]) == (False, "a=1", '{"a": 1}', False)
    rest = events.rest_api("PUT", "/pets/1", resource="/pets/{id}", path_parameters={"id": "1"}, body=b"\x00")
    assert (rest["isBase64Encoded"], rest["queryStringParameters"], rest["requestContext"]["resourcePath"]) == (True, None, "/pets/{id}")
    assert events.load_balancer(headers={"X-A": "1"})["headers"]["x-a"] == "1"
    assert events.s3("b", "k", "ObjectRemoved:Delete")["Records"][0]["s3"]["object"].keys() == {"key", "sequencer"}
    assert events.eventbridge("s", "d", {"n": 1})["detail"] == {"n": 1}
    json.dumps([get, post, rest, change])
