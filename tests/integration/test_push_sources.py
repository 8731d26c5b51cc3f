"""What other services push to functions, end to end over one endpoint: buckets, topics, rules, schedules and log groups, each with its permission."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework import inside, wait
from tests.framework.engine import ROLE, Engine, engine

ACCOUNT = "000000000000"
# Keeps every event it gets as an item of the table.
KEEPER = {
    "m.py": "import json, boto3\ntable = boto3.resource('dynamodb').Table('seen')\n"
    "def f(event, context):\n"
    "    table.put_item(Item={'id': context.aws_request_id, 'function': context.function_name, 'event': json.dumps(event)})\n"
}
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    """Its time is put forward by some of the tests."""
    with engine(pool_size=4) as started:
        started.client("dynamodb").create_table(
            TableName="seen", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}], BillingMode="PAY_PER_REQUEST",
        )  # fmt: skip
        yield started


def keeper(running: Engine, name: str, principal: str, source: str) -> str:
    """A function that keeps what it gets and may be invoked by a service for a source; its ARN."""
    arn = str(running.deploy(name, KEEPER)["FunctionArn"])
    allow(running, name, principal, source)
    return arn


def allow(running: Engine, name: str, principal: str, source: str) -> None:
    running.client().add_permission(
        FunctionName=name, StatementId=f"s{abs(hash(source))}", Action="lambda:InvokeFunction", Principal=principal, SourceArn=source
    )


def seen(running: Engine, name: str, count: int = 1) -> list[dict[str, Any]]:
    """The events the function kept, once there are ``count``."""
    table = running.client("dynamodb")

    def enough() -> list[dict[str, Any]]:
        items = [i for i in table.scan(TableName="seen", ConsistentRead=True)["Items"] if i["function"]["S"] == name]
        return [json.loads(i["event"]["S"]) for i in items] if len(items) >= count else []

    return wait.until(enough, f"{count} events kept by {name}", 60)


def test_an_object_put_reaches_a_function_and_its_table(running: Engine) -> None:
    s3 = running.client("s3")
    s3.create_bucket(Bucket="inbox")
    arn = keeper(running, "on-object", "s3.amazonaws.com", "arn:aws:s3:::inbox")
    configuration = {
        "LambdaFunctionConfigurations": [
            {
                "Id": "new", "LambdaFunctionArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}},
            }
        ]
    }  # fmt: skip
    s3.put_bucket_notification_configuration(Bucket="inbox", NotificationConfiguration=configuration)
    s3.put_object(Bucket="inbox", Key="elsewhere", Body=b"no")
    etag = s3.put_object(Bucket="inbox", Key="in/a b@c.txt", Body=b"12345")["ETag"].strip('"')
    (event,) = seen(running, "on-object")
    (record,) = event["Records"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("eventTime"))
    assert re.fullmatch(r"00[0-9A-F]{16}", record["s3"]["object"].pop("sequencer"))
    assert set(record.pop("responseElements")) == {"x-amz-request-id", "x-amz-id-2"}
    owner = record["s3"]["bucket"].pop("ownerIdentity")["principalId"]
    assert re.fullmatch("[0-9A-F]{14}", owner)
    assert record == {
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": "AWS:test"}, "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "s3": {
            "s3SchemaVersion": "1.0", "configurationId": "new", "bucket": {"name": "inbox", "arn": "arn:aws:s3:::inbox"},
            "object": {"key": "in/a+b%40c.txt", "size": 5, "eTag": etag},
        },
    }  # fmt: skip
    s3.delete_object(Bucket="inbox", Key="in/a b@c.txt")
    removed = next(e for e in seen(running, "on-object", 2) if e["Records"][0]["eventName"] == "ObjectRemoved:Delete")
    assert set(removed["Records"][0]["s3"]["object"]) == {"key", "sequencer"}


def test_a_bucket_tells_of_each_thing_that_happens_once(running: Engine) -> None:
    """moto tells of the tags of everything that is put, of an upload in parts twice, and of no version that is deleted."""
    s3, sqs, events = running.client("s3"), running.client("sqs"), running.client("events")
    s3.create_bucket(Bucket="once")
    arn = keeper(running, "told-once", "s3.amazonaws.com", "arn:aws:s3:::once")
    told = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*"]
    url = sqs.create_queue(QueueName="bucket-events")["QueueUrl"]
    events.put_rule(Name="of-bucket", EventPattern='{"source": ["aws.s3"], "detail": {"bucket": {"name": ["once"]}}}')
    events.put_targets(Rule="of-bucket", Targets=[{"Id": "1", "Arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:bucket-events"}])
    s3.put_bucket_notification_configuration(
        Bucket="once", NotificationConfiguration={
            "LambdaFunctionConfigurations": [{"LambdaFunctionArn": arn, "Events": told}], "EventBridgeConfiguration": {},
        },
    )  # fmt: skip
    upload = s3.create_multipart_upload(Bucket="once", Key="a b")["UploadId"]
    etag = s3.upload_part(Bucket="once", Key="a b", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    s3.complete_multipart_upload(
        Bucket="once", Key="a b", UploadId=upload, MultipartUpload={"Parts": [{"ETag": etag, "PartNumber": 1}]}
    )
    s3.put_object_tagging(Bucket="once", Key="a b", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    s3.put_bucket_versioning(Bucket="once", VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket="once", Key="v", Body=b"")["VersionId"]
    s3.delete_object(Bucket="once", Key="v")
    s3.delete_object(Bucket="once", Key="v", VersionId=version)
    names = [e["Records"][0]["eventName"] for e in sorted(seen(running, "told-once", 5), key=lambda e: e["Records"][0]["s3"]["object"]["sequencer"])]
    assert names == [
        "ObjectCreated:CompleteMultipartUpload", "ObjectTagging:Put", "ObjectCreated:Put", "ObjectRemoved:DeleteMarkerCreated", "ObjectRemoved:Delete",
    ]  # fmt: skip
    found: list[dict[str, Any]] = []

    def all_five() -> bool:
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", []):
            found.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return len(found) >= 5

    wait.until(all_five, "the bucket's events on the bus", 60)
    assert len({e["id"] for e in found}) == 5
    assert [(e["detail-type"], e["detail"].get("reason"), e["detail"].get("deletion-type")) for e in found] == [
        ("Object Created", "CompleteMultipartUpload", None), ("Object Tags Added", None, None), ("Object Created", "PutObject", None),
        ("Object Deleted", "DeleteObject", "Delete Marker Created"), ("Object Deleted", "DeleteObject", "Permanently Deleted"),
    ]  # fmt: skip
    assert found[0]["detail"]["object"]["key"] == "a b"
    assert (found[0]["detail"]["object"]["size"], found[4]["detail"]["object"]["version-id"]) == (1, version)


def test_a_bucket_that_may_not_invoke_is_refused(running: Engine) -> None:
    s3 = running.client("s3")
    s3.create_bucket(Bucket="stranger")
    arn = keeper(running, "not-for-all", "s3.amazonaws.com", "arn:aws:s3:::another")
    configuration = {"LambdaFunctionConfigurations": [{"LambdaFunctionArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    with pytest.raises(ClientError, match="Unable to validate the following destination configurations") as caught:
        s3.put_bucket_notification_configuration(Bucket="stranger", NotificationConfiguration=configuration)
    assert caught.value.response["Error"]["Code"] == "InvalidArgument"
    assert "LambdaFunctionConfigurations" not in s3.get_bucket_notification_configuration(Bucket="stranger")
    # Configured all the same, it is refused at each event, and the log says how to allow it.
    s3.put_bucket_notification_configuration(
        Bucket="stranger", NotificationConfiguration=configuration, SkipDestinationValidation=True
    )
    s3.put_object(Bucket="stranger", Key="k", Body=b"")
    wait.until(lambda: "does not let s3.amazonaws.com invoke it for arn:aws:s3:::stranger" in running.log.read_text(), "the refusal in the log")


def test_a_topic_reaches_a_function_by_its_filter_and_else_a_dead_letter_queue(running: Engine) -> None:
    sns, sqs = running.client("sns"), running.client("sqs")
    topic = sns.create_topic(Name="news")["TopicArn"]
    arn = keeper(running, "on-news", "sns.amazonaws.com", topic)
    subscription = sns.subscribe(
        TopicArn=topic, Protocol="lambda", Endpoint=arn, Attributes={"FilterPolicy": json.dumps({"kind": ["wanted"]})}, ReturnSubscriptionArn=True
    )["SubscriptionArn"]
    kinds = {"wanted": {"DataType": "String", "StringValue": "wanted"}, "other": {"DataType": "String", "StringValue": "other"}}
    sns.publish(TopicArn=topic, Message="no", MessageAttributes={"kind": kinds["other"]})
    sent = sns.publish(TopicArn=topic, Message="yes", Subject="s", MessageAttributes={"kind": kinds["wanted"]})["MessageId"]
    (event,) = seen(running, "on-news")
    (record,) = event["Records"]
    message = record.pop("Sns")
    assert record == {"EventSource": "aws:sns", "EventVersion": "1.0", "EventSubscriptionArn": subscription}
    for name in ("Timestamp", "Signature", "SigningCertUrl", "UnsubscribeUrl"):
        assert isinstance(message.pop(name), str)
    assert message == {
        "Type": "Notification", "MessageId": sent, "TopicArn": topic, "Subject": "s", "Message": "yes", "SignatureVersion": "1",
        "MessageAttributes": {"kind": {"Type": "String", "Value": "wanted"}},
    }  # fmt: skip
    url = sqs.create_queue(QueueName="undelivered")["QueueUrl"]
    sns.subscribe(
        TopicArn=topic, Protocol="lambda", Endpoint=arn.replace("on-news", "not-there"),
        Attributes={"RedrivePolicy": json.dumps({"deadLetterTargetArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:undelivered"})},
    )  # fmt: skip
    sns.publish(TopicArn=topic, Message="lost", MessageAttributes={"kind": kinds["other"]})
    dead = wait.until(lambda: sqs.receive_message(QueueUrl=url).get("Messages"), "the dead letter")
    assert json.loads(dead[0]["Body"])["Message"] == "lost"


def test_a_topic_filters_by_bodies_and_orders_only_queues(running: Engine) -> None:
    sns, sqs = running.client("sns"), running.client("sqs")
    topic = sns.create_topic(Name="bodies")["TopicArn"]
    arn = keeper(running, "on-bodies", "sns.amazonaws.com", topic)
    policy = {"$or": [{"a": {"b": [None]}}, {"ip": [{"cidr": "10.0.0.0/8"}]}]}
    sns.subscribe(
        TopicArn=topic, Protocol="lambda", Endpoint=arn, Attributes={"FilterPolicy": json.dumps(policy), "FilterPolicyScope": "MessageBody"}
    )
    for body in ('{"a": {"b": 1}}', '{"a": {"b": null}}', "no json", '{"ip": "10.1.2.3"}'):
        sns.publish(TopicArn=topic, Message=body)
    assert {e["Records"][0]["Sns"]["Message"] for e in seen(running, "on-bodies", 2)} == {'{"a": {"b": null}}', '{"ip": "10.1.2.3"}'}
    with pytest.raises(ClientError, match="Invalid parameter: FilterPolicy: cidr takes a block of addresses"):
        sns.subscribe(TopicArn=topic, Protocol="lambda", Endpoint=arn, Attributes={"FilterPolicy": '{"ip": [{"cidr": "x"}]}'})
    ordered = sns.create_topic(Name="b.fifo", Attributes={"FifoTopic": "true", "ContentBasedDeduplication": "true"})["TopicArn"]
    for name, value, words in (
        ("FilterPolicy", "{bad", "FilterPolicy: failed to parse JSON"),
        ("FilterPolicyScope", "Elsewhere", r"FilterPolicyScope: Invalid value \[Elsewhere\]"),
        ("RawMessageDelivery", "true", r"Delivery protocol \[lambda\] does not support raw message delivery"),
    ):
        with pytest.raises(ClientError, match=f"Invalid parameter: .*{words}"):
            sns.subscribe(TopicArn=topic, Protocol="lambda", Endpoint=f"{arn}:{name}", Attributes={name: value})
    assert [one["Endpoint"] for one in sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]] == [arn]
    with pytest.raises(ClientError, match="Invalid parameter: Lambda endpoint ARN"):
        sns.subscribe(TopicArn=topic, Protocol="lambda", Endpoint="on-bodies")
    with pytest.raises(ClientError, match="FIFO topics deliver to Amazon SQS queues only"):
        sns.subscribe(TopicArn=ordered, Protocol="lambda", Endpoint=arn)
    url = sqs.create_queue(QueueName="b.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    sns.subscribe(
        TopicArn=ordered, Protocol="sqs", Endpoint=f"arn:aws:sqs:us-east-1:{ACCOUNT}:b.fifo", Attributes={"RawMessageDelivery": "true"}
    )
    for text in ("1", "2", "1"):
        sns.publish(TopicArn=ordered, Message=text, MessageGroupId="g")
    got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"])["Messages"]
    assert [m["Body"] for m in got] == ["1", "2"]
    assert int(got[0]["Attributes"]["SequenceNumber"]) < int(got[1]["Attributes"]["SequenceNumber"])


def test_a_rule_reaches_functions_by_its_pattern_with_the_input_asked_for(running: Engine) -> None:
    events, sqs = running.client("events"), running.client("sqs")
    pattern = {"source": ["shop"], "detail": {"items": {"price": [{"numeric": [">", 10]}]}, "state": [{"anything-but": {"prefix": "draft"}}]}}
    rule = events.put_rule(Name="orders", EventPattern=json.dumps(pattern))["RuleArn"]
    whole, made = keeper(running, "on-order", "events.amazonaws.com", rule), keeper(running, "on-template", "events.amazonaws.com", rule)
    queue = sqs.create_queue(QueueName="no-permission")["QueueUrl"]
    forbidden = running.deploy("no-policy", KEEPER)["FunctionArn"]
    transformer = {
        "InputPathsMap": {"id": "$.detail.id", "first": "$.detail.items[0]", "gone": "$.detail.nothing"},
        "InputTemplate": '{"order": <id>, "text": "order <id> of <aws.events.rule-name><gone>", "item": <first>}',
    }
    events.put_targets(Rule="orders", Targets=[
        {"Id": "1", "Arn": whole}, {"Id": "2", "Arn": made, "InputTransformer": transformer},
        {"Id": "3", "Arn": forbidden, "DeadLetterConfig": {"Arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:no-permission"}},
    ])  # fmt: skip
    detail = {"id": "o-1", "state": "paid", "items": [{"price": 12.5}]}
    entry = {"Source": "shop", "DetailType": "order", "Detail": json.dumps(detail), "Resources": ["arn:aws:s3:::x"]}
    cheap = {**entry, "Detail": json.dumps({**detail, "items": [{"price": 9}]})}
    answer = events.put_events(Entries=[cheap, {**entry, "Source": "other"}, entry])
    (event,) = seen(running, "on-order")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.pop("time"))
    assert event == {
        "version": "0", "id": answer["Entries"][2]["EventId"], "detail-type": "order", "source": "shop", "account": ACCOUNT,
        "region": "us-east-1", "resources": ["arn:aws:s3:::x"], "detail": detail,
    }  # fmt: skip
    assert seen(running, "on-template") == [{"order": "o-1", "text": "order o-1 of orders", "item": {"price": 12.5}}]
    dead = wait.until(
        lambda: sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"]).get("Messages"), "the event that was not allowed"
    )[0]
    assert json.loads(dead["Body"])["id"] == answer["Entries"][2]["EventId"]
    assert dead["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "NO_PERMISSIONS"
    assert dead["MessageAttributes"]["RULE_ARN"]["StringValue"] == rule
    events.disable_rule(Name="orders")
    events.put_events(Entries=[entry])
    events.enable_rule(Name="orders")
    last = events.put_events(Entries=[entry])["Entries"][0]["EventId"]
    assert {e["id"] for e in seen(running, "on-order", 2)} == {answer["Entries"][2]["EventId"], last}


def test_what_a_rule_is_refused_for(running: Engine) -> None:
    events = running.client("events")
    for expression in ("rate(1 minutes)", "rate(0 minutes)", "cron(0 0 1 * 1 *)", "cron(61 0 * * ? *)", "at(2030-01-01T00:00:00)"):
        with pytest.raises(ClientError, match="Parameter ScheduleExpression is not valid"):
            events.put_rule(Name="wrong", ScheduleExpression=expression)
    with pytest.raises(ClientError, match="Event pattern is not valid"):
        events.put_rule(Name="wrong", EventPattern=json.dumps({"source": [{"sounds-like": "x"}]}))
    scheduler = running.client("scheduler")
    window, target = {"Mode": "OFF"}, {"Arn": f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:f", "RoleArn": ROLE}
    with pytest.raises(ClientError, match=r"Invalid Schedule Expression rate\(1 second\)"):
        scheduler.create_schedule(Name="w", ScheduleExpression="rate(1 second)", FlexibleTimeWindow=window, Target=target)
    with pytest.raises(ClientError, match="Provided time zone Mars/Phobos is not valid"):
        scheduler.create_schedule(
            Name="w", ScheduleExpression="rate(1 hour)", ScheduleExpressionTimezone="Mars/Phobos", FlexibleTimeWindow=window, Target=target
        )
    for members, words in (
        ({"Target": {**target, "Arn": "nothing"}}, "Provided Arn is not in correct format"),
        ({"Target": {**target, "Arn": "arn:aws:scheduler:::aws-sdk:sqs:purgeQueue"}}, "reaches no target like arn:aws:scheduler:::aws-sdk:sqs:purgeQueue"),
        ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE"}}, "MaximumWindowInMinutes must be provided"),
        ({"FlexibleTimeWindow": {"Mode": "OFF", "MaximumWindowInMinutes": 5}}, "MaximumWindowInMinutes must not be provided"),
    ):
        wanted = {"Name": "w", "ScheduleExpression": "rate(1 hour)", "FlexibleTimeWindow": window, "Target": target, **members}
        with pytest.raises(ClientError, match=f"ValidationException.*{words}"):
            scheduler.create_schedule(**wanted)


def test_a_pattern_can_be_tried(running: Engine) -> None:
    events = running.client("events")
    event = {"id": "1", "source": "a", "account": ACCOUNT, "time": "2030-01-01T00:00:00Z", "region": "us-east-1", "resources": [], "detail-type": "d"}
    for pattern, result in (({"source": ["a"]}, True), ({"source": [{"prefix": "b"}]}, False)):
        answer = events.test_event_pattern(EventPattern=json.dumps(pattern), Event=json.dumps(event))
        assert answer["Result"] is result
    with pytest.raises(ClientError, match="Parameter Event is not valid"):
        events.test_event_pattern(EventPattern='{"source": ["a"]}', Event='{"source": "a"}')
    with pytest.raises(ClientError, match="Event pattern is not valid"):
        events.test_event_pattern(EventPattern='{"source": "a"}', Event=json.dumps(event))


def test_what_a_schedule_cannot_deliver_is_kept(running: Engine) -> None:
    sqs = running.client("sqs")
    url = sqs.create_queue(QueueName="unscheduled")["QueueUrl"]
    target = {
        "Arn": f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:never-made", "RoleArn": ROLE, "Input": '{"a": 1}',
        "DeadLetterConfig": {"Arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:unscheduled"},
    }  # fmt: skip
    arn = running.client("scheduler").create_schedule(
        Name="unscheduled", ScheduleExpression="rate(1 hour)", FlexibleTimeWindow={"Mode": "OFF"}, Target=target
    )["ScheduleArn"]
    (dead,) = wait.until(lambda: sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get("Messages"), "the dead letter", 60)
    told = {name: value["StringValue"] for name, value in dead["MessageAttributes"].items()}
    assert (dead["Body"], told["SCHEDULE_ARN"], told["ERROR_CODE"], told["TARGET_ARN"]) == ('{"a": 1}', arn, "NO_RESOURCE", target["Arn"])
    running.client("scheduler").delete_schedule(Name="unscheduled")


def test_schedules_run_when_virtual_time_says_so_to_the_second(running: Engine) -> None:
    events, scheduler = running.client("events"), running.client("scheduler")
    rule = events.put_rule(Name="often", ScheduleExpression="rate(5 minutes)")["RuleArn"]
    arn = keeper(running, "on-time", "events.amazonaws.com", rule)
    events.put_targets(Rule="often", Targets=[{"Id": "1", "Arn": arn}])
    assert inside.advance(running, 60)["runs"] == 0
    assert inside.advance(running, 3600)["runs"] == 12
    found = seen(running, "on-time", 12)
    times = sorted(e.pop("time") for e in found)
    assert len(set(times)) == 12
    ids = {e.pop("id") for e in found}
    assert len(ids) == 12
    assert all(re.fullmatch(UUID, one) for one in ids)
    assert found[0] == {
        "version": "0", "detail-type": "Scheduled Event", "source": "aws.events", "account": ACCOUNT, "region": "us-east-1",
        "resources": [rule], "detail": {},
    }  # fmt: skip
    events.disable_rule(Name="often")
    # In a zone of its own, to the second: when a clock in Tokyo shows these numbers.
    now = inside.advance(running, 0)["now"]
    year = int(now[:4]) + 1
    running.deploy("once", KEEPER)
    scheduler.create_schedule(
        Name="new-year", ScheduleExpression=f"at({year}-01-01T09:00:07)", ScheduleExpressionTimezone="Asia/Tokyo",
        FlexibleTimeWindow={"Mode": "OFF"}, ActionAfterCompletion="DELETE",
        Target={"Arn": arn.replace("on-time", "once"), "RoleArn": ROLE, "Input": '{"at": "<aws.scheduler.scheduled-time>", "n": 1}'},
    )  # fmt: skip
    assert inside.advance(running, inside.seconds_to(now, f"{year - 1}-12-31T22:00:00Z"))["runs"] == 0
    assert inside.advance(running, 3 * 3600)["runs"] == 1
    assert seen(running, "once") == [{"at": f"{year}-01-01T00:00:07Z", "n": 1}]
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.get_schedule(Name="new-year")


def test_a_log_subscription_gets_what_its_pattern_asks_for(running: Engine) -> None:
    logs = running.client("logs")
    logs.create_log_group(logGroupName="/app")
    logs.create_log_stream(logGroupName="/app", logStreamName="one")
    source = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/app:*"
    running.deploy("on-log", KEEPER)
    arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:on-log"
    put = {"logGroupName": "/app", "filterName": "errors", "filterPattern": "ERROR -expected", "destinationArn": arn}
    with pytest.raises(ClientError, match="Make sure you have given CloudWatch Logs permission to execute your function"):
        logs.put_subscription_filter(**put)
    allow(running, "on-log", "logs.us-east-1.amazonaws.com", source)
    logs.put_subscription_filter(**put)
    with pytest.raises(ClientError, match="a column has no name"):
        logs.put_subscription_filter(**{**put, "filterPattern": "[a, , b]"})
    lines = ["INFO fine", "ERROR bad", "ERROR expected"]
    recent = int(time.time() * 1000)
    logs.put_log_events(logGroupName="/app", logStreamName="one", logEvents=[{"timestamp": recent + n, "message": m} for n, m in enumerate(lines)])
    (event,) = seen(running, "on-log")
    message = json.loads(gzip.decompress(base64.b64decode(event["awslogs"]["data"])))
    (line,) = message.pop("logEvents")
    assert re.fullmatch(r"\d{56}", line.pop("id"))
    assert line == {"timestamp": recent + 1, "message": "ERROR bad"}
    assert message == {
        "messageType": "DATA_MESSAGE", "owner": ACCOUNT, "logGroup": "/app", "logStream": "one", "subscriptionFilters": ["errors"],
    }  # fmt: skip


def test_a_subscription_whose_stream_is_gone_keeps_no_other_from_its_lines(running: Engine) -> None:
    logs, kinesis = running.client("logs"), running.client("kinesis")
    kinesis.create_stream(StreamName="gone", ShardCount=1)
    logs.create_log_group(logGroupName="/two")
    logs.create_log_stream(logGroupName="/two", logStreamName="one")
    stream, role = f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/gone", ROLE
    logs.put_subscription_filter(logGroupName="/two", filterName="a", filterPattern="", destinationArn=stream, roleArn=role)
    arn = keeper(running, "on-two", "logs.amazonaws.com", f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/two:*")
    logs.put_subscription_filter(logGroupName="/two", filterName="b", filterPattern="", destinationArn=arn)
    kinesis.delete_stream(StreamName="gone")
    logs.put_log_events(logGroupName="/two", logStreamName="one", logEvents=[{"timestamp": int(time.time() * 1000), "message": "line"}])
    assert len(seen(running, "on-two")) == 1
    wait.until(lambda: f"/two:* did not reach {stream}" in running.log.read_text(), "the log says so")


def test_a_rule_through_a_queue_and_a_mapping(running: Engine) -> None:
    """The way in from an AWS that cannot push to this machine."""
    events, sqs = running.client("events"), running.client("sqs")
    url = sqs.create_queue(QueueName="to-local")["QueueUrl"]
    events.put_rule(Name="to-local", EventPattern=json.dumps({"source": ["warehouse"]}))
    events.put_targets(Rule="to-local", Targets=[{"Id": "1", "Arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:to-local"}])
    running.deploy("by-queue", KEEPER)
    running.client().create_event_source_mapping(EventSourceArn=f"arn:aws:sqs:us-east-1:{ACCOUNT}:to-local", FunctionName="by-queue")
    sent = events.put_events(Entries=[{"Source": "warehouse", "DetailType": "d", "Detail": '{"n": 1}'}])["Entries"][0]["EventId"]
    (event,) = seen(running, "by-queue")
    body = json.loads(event["Records"][0]["body"])
    assert (body["id"], body["detail"], body["account"]) == (sent, {"n": 1}, ACCOUNT)
    assert url.endswith("/to-local")


def test_a_loop_through_a_bucket_ends(running: Engine) -> None:
    """The trace header goes with an object's event, so that a function that writes where it is called from is noticed."""
    s3 = running.client("s3")
    s3.create_bucket(Bucket="loop")
    code = "import boto3\ns3 = boto3.client('s3')\ndef f(e, c):\n    print('turn')\n    s3.put_object(Bucket='loop', Key='k', Body=b'x')\n"
    arn = running.deploy("loops", {"m.py": code}, Timeout=20)["FunctionArn"]
    allow(running, "loops", "s3.amazonaws.com", "arn:aws:s3:::loop")
    configuration = {"LambdaFunctionConfigurations": [{"LambdaFunctionArn": arn, "Events": ["s3:ObjectCreated:Put"]}]}
    s3.put_bucket_notification_configuration(Bucket="loop", NotificationConfiguration=configuration)
    s3.put_object(Bucket="loop", Key="k", Body=b"x")
    wait.until(lambda: re.search("function loops of account .* is given up", running.log.read_text()), "the end of the loop", 90)


@pytest.mark.slow
def test_events_outlive_the_control_plane(running: Engine) -> None:
    """What a bucket notifies of while nobody can take it waits until somebody can."""
    s3 = running.client("s3")
    s3.create_bucket(Bucket="patient")
    arn = keeper(running, "on-patience", "s3.amazonaws.com", "arn:aws:s3:::patient")
    configuration = {"LambdaFunctionConfigurations": [{"LambdaFunctionArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket="patient", NotificationConfiguration=configuration)
    for n in range(30):
        if n == 10:
            os.kill(running.state()["processes"]["control"], signal.SIGKILL)
        s3.put_object(Bucket="patient", Key=str(n), Body=b"")
    wanted = {str(n) for n in range(30)}
    wait.until(lambda: {e["Records"][0]["s3"]["object"]["key"] for e in seen(running, "on-patience")} == wanted, "all objects", 60)


@pytest.mark.slow
def test_the_command_puts_time_forward(running: Engine) -> None:
    command = [sys.executable, "-m", "engine.cli.main", "advance", "--data-dir", str(running.data_dir)]
    before = inside.advance(running, 0)["now"]
    done = subprocess.run([*command, "2h"], capture_output=True, text=True, timeout=60, check=True)
    assert inside.seconds_to(before, done.stdout.partition(",")[0]) >= 7200
    assert done.stdout.endswith(" 0 scheduled runs\n")
    assert subprocess.run([*command, "2 weeks"], capture_output=True, timeout=60, check=False).returncode == 2


def test_nobody_pushes_or_turns_the_hands_through_the_port(running: Engine) -> None:
    before = inside.advance(running, 0)["now"]
    for path in ("/_engine/push", "/_engine/time", "/_lambda-engine/time/864000"):
        assert inside.through_the_port(running, path) >= 400, path
    assert inside.seconds_to(before, inside.advance(running, 0)["now"]) < 86400


def test_what_would_never_run_is_refused(running: Engine) -> None:
    role, queue = ROLE, f"arn:aws:sqs:us-east-1:{ACCOUNT}:q"
    with pytest.raises(ClientError, match=r"NotImplemented.*a pipe would be kept but never run"):
        running.client("pipes").create_pipe(Name="p", RoleArn=role, Source=queue, Target=queue)
    firehose = running.client("firehose")
    destination: dict[str, Any] = {"RoleARN": role, "BucketARN": "arn:aws:s3:::b"}
    processors = [{"Type": "Lambda", "Parameters": [{"ParameterName": "LambdaArn", "ParameterValue": "arn"}]}]
    with pytest.raises(ClientError, match=r"NotImplemented.*no function of a ProcessingConfiguration would be run"):
        firehose.create_delivery_stream(
            DeliveryStreamName="turned", ExtendedS3DestinationConfiguration={**destination, "ProcessingConfiguration": {"Enabled": True, "Processors": processors}}
        )
    assert firehose.create_delivery_stream(DeliveryStreamName="plain", ExtendedS3DestinationConfiguration=destination)["DeliveryStreamARN"]
    events = running.client("events")
    events.put_rule(Name="to-http", EventPattern='{"source": ["to-http"]}')
    events.put_targets(Rule="to-http", Targets=[{"Id": "1", "Arn": f"arn:aws:events:us-east-1:{ACCOUNT}:api-destination/x/1"}])
    events.put_events(Entries=[{"Source": "to-http", "DetailType": "d", "Detail": "{}"}])
    wait.until(lambda: "API destinations are not called here" in running.log.read_text(), "the log says so")
