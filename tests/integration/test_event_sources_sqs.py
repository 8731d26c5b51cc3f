"""Queues of the embedded SQS run functions through event source mappings, over the public APIs on one endpoint."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.framework import wait
from tests.framework.engine import Engine, engine

CODE = {
    "m.py": "import json, time\n"
    "def f(e, c):\n"
    "    print('GOT', json.dumps(e))\n"
    "    bad = [r['messageId'] for r in e['Records'] if 'bad' in r['body']]\n"
    "    return {'batchItemFailures': [{'itemIdentifier': i} for i in bad]}\n"
    "def fails(e, c):\n"
    "    print('GOT', json.dumps(e))\n"
    "    raise ValueError('no')\n"
}
ARN = "arn:aws:{0}:us-east-1:000000000000:{1}"


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    """Its polls are short, so that changes of mappings are."""
    with engine(pool_size=4, event_poll_s=1) as started:
        yield started


def queue(running: Engine, name: str, **attributes: str) -> str:
    attributes = {"VisibilityTimeout": "30", **attributes}
    return str(running.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def mapped(running: Engine, name: str, source: str = "", handler: str = "m.f", **members: Any) -> str:
    """A function of this name with a mapping of the queue ``source`` (its own name); the mapping's UUID, once it is polled."""
    running.deploy(name, CODE, handler)
    made = running.client().create_event_source_mapping(EventSourceArn=ARN.format("sqs", source or name), FunctionName=name, **members)
    reach(running, made["UUID"], "Enabled")
    return str(made["UUID"])


def reach(running: Engine, uuid: str, state: str) -> None:
    client = running.client()
    wait.until(lambda: client.get_event_source_mapping(UUID=uuid)["State"] == state, f"mapping {state}", 90)


def events(running: Engine, name: str) -> list[list[dict[str, Any]]]:
    """The records of each event the function got."""
    log = running.data_dir / "logs" / "000000000000" / f"{name}.log"
    text = log.read_text() if log.exists() else ""
    return [json.loads(line)["Records"] for line in re.findall(r"GOT (\{.*\})", text)]


def bodies(running: Engine, name: str) -> list[str]:
    return [record["body"] for batch in events(running, name) for record in batch]


def left(running: Engine, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    got = running.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(got[name]) for name in names)


def test_a_message_is_delivered_as_awss_event_and_deleted(running: Engine) -> None:
    url = queue(running, "plain")
    uuid = mapped(running, "plain")
    attributes = {"k": {"DataType": "String", "StringValue": "v"}, "b": {"DataType": "Binary", "BinaryValue": b"\x00\x01"}}
    sent = running.client("sqs").send_message(QueueUrl=url, MessageBody="héllo", MessageAttributes=attributes)
    ((record,),) = wait.until(lambda: events(running, "plain"), "the event", 60)
    assert set(record.pop("attributes")) >= {
        "ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp",
    }  # fmt: skip
    assert record.pop("receiptHandle")
    assert record == {
        "messageId": sent["MessageId"],
        "body": "héllo",
        "messageAttributes": {
            "k": {"stringValue": "v", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
            "b": {"binaryValue": "AAE=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"},
        },
        "md5OfMessageAttributes": sent["MD5OfMessageAttributes"],
        "md5OfBody": sent["MD5OfMessageBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": ARN.format("sqs", "plain"),
        "awsRegion": "us-east-1",
    }
    wait.until(lambda: left(running, url) == 0, "the message is deleted", 60)
    counted = f'lambda_engine_event_source_events_total{{kind="DeletedEventCount",mapping="{uuid}"}} 1.0'
    wait.until(lambda: counted in running.get("/metrics")[1].decode(), "the deletion on /metrics", 60)


@pytest.mark.slow
def test_only_failed_messages_come_back_and_end_in_the_dead_letter_queue(running: Engine) -> None:
    dead = queue(running, "partial-dead")
    policy = json.dumps({"deadLetterTargetArn": ARN.format("sqs", "partial-dead"), "maxReceiveCount": "2"})
    url = queue(running, "partial", RedrivePolicy=policy, VisibilityTimeout="5")
    sqs = running.client("sqs")
    for n in range(8):
        sqs.send_message(QueueUrl=url, MessageBody=f"bad {n}" if n in (2, 5) else f"good {n}")
    mapped(running, "partial", FunctionResponseTypes=["ReportBatchItemFailures"])
    wait.until(lambda: left(running, dead) == 2, "both in the dead-letter queue", 90)
    assert left(running, url) == 0
    got = sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10)["Messages"]
    assert sorted(one["Body"] for one in got) == ["bad 2", "bad 5"]
    seen = wait.until(lambda: got if len(got := bodies(running, "partial")) >= 10 else None, "ten deliveries", 60)
    assert sorted(seen) == sorted([f"good {n}" for n in (0, 1, 3, 4, 6, 7)] + ["bad 2", "bad 5"] * 2)


def test_a_failed_batch_comes_back_whole(running: Engine) -> None:
    dead = queue(running, "failing-dead")
    policy = json.dumps({"deadLetterTargetArn": ARN.format("sqs", "failing-dead"), "maxReceiveCount": "1"})
    url = queue(running, "failing", RedrivePolicy=policy, VisibilityTimeout="5")
    for n in range(3):
        running.client("sqs").send_message(QueueUrl=url, MessageBody=str(n))
    mapped(running, "failing", handler="m.fails")
    wait.until(lambda: left(running, dead) == 3, "all in the dead-letter queue", 90)
    seen = wait.until(lambda: got if len(got := bodies(running, "failing")) >= 3 else None, "three messages", 60)
    assert sorted(seen) == ["0", "1", "2"]


def test_filters_let_some_through_and_the_others_are_deleted(running: Engine) -> None:
    url = queue(running, "filtered")
    criteria = {"Filters": [{"Pattern": json.dumps({"body": {"kind": ["a", {"prefix": "b-"}], "n": [{"numeric": [">", 1]}]}})}]}
    mapped(running, "filtered", FilterCriteria=criteria)
    sent = [{"kind": "a", "n": 2}, {"kind": "a", "n": 1}, {"kind": "b-1", "n": 7}, {"kind": "c", "n": 9}]
    for body in (*map(json.dumps, sent), "no JSON"):
        running.client("sqs").send_message(QueueUrl=url, MessageBody=body)
    wait.until(lambda: left(running, url) == 0, "the queue is empty", 60)
    # What a function prints is written after its reply.
    seen = wait.until(lambda: got if len(got := bodies(running, "filtered")) >= 2 else None, "two messages", 60)
    assert sorted(seen) == sorted(json.dumps(sent[n]) for n in (0, 2))


def test_disabled_it_polls_no_more_and_enabled_again_it_does(running: Engine) -> None:
    url = queue(running, "switched")
    uuid = mapped(running, "switched")
    client, sqs = running.client(), running.client("sqs")
    assert client.update_event_source_mapping(UUID=uuid, Enabled=False)["State"] == "Disabling"
    reach(running, uuid, "Disabled")
    sqs.send_message(QueueUrl=url, MessageBody="waits")
    # Another mapping is served meanwhile: whoever polls is alive and would have taken the message.
    other = queue(running, "served")
    mapped(running, "served")
    sqs.send_message(QueueUrl=other, MessageBody="x")
    wait.until(lambda: bodies(running, "served") == ["x"], "the other queue", 60)
    assert left(running, url) == 1
    assert bodies(running, "switched") == []
    assert client.update_event_source_mapping(UUID=uuid, Enabled=True)["State"] == "Enabling"
    wait.until(lambda: bodies(running, "switched") == ["waits"], "the message", 60)
    reach(running, uuid, "Enabled")
    assert client.delete_event_source_mapping(UUID=uuid)["State"] == "Deleting"

    def gone() -> bool:
        return uuid not in [m["UUID"] for m in client.list_event_source_mappings()["EventSourceMappings"]]

    wait.until(gone, "the mapping is gone", 60)
    assert refused(client.get_event_source_mapping, UUID=uuid)[0] == 404


def test_groups_keep_their_order(running: Engine) -> None:
    url = queue(running, "ordered.fifo", FifoQueue="true", ContentBasedDeduplication="true")
    sqs = running.client("sqs")
    for n in range(20):
        for group in "ab":
            sqs.send_message(QueueUrl=url, MessageBody=f"{group}{n}", MessageGroupId=group)
    mapped(running, "ordered", "ordered.fifo", BatchSize=3)
    seen = wait.until(lambda: got if len(got := bodies(running, "ordered")) >= 40 else None, "forty messages", 90)
    for group in "ab":
        assert [body for body in seen if body[0] == group] == [f"{group}{n}" for n in range(20)]
    (record, *_), *_ = events(running, "ordered")
    assert set(record["attributes"]) >= {"MessageGroupId", "MessageDeduplicationId"}


def test_a_window_gathers_more_than_one_poll_gives(running: Engine) -> None:
    url = queue(running, "gathered")
    sqs = running.client("sqs")
    for n in range(0, 30, 10):
        sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": str(i), "MessageBody": str(n + i)} for i in range(10)])
    mapped(running, "gathered", BatchSize=100, MaximumBatchingWindowInSeconds=2, ScalingConfig={"MaximumConcurrency": 2})
    seen = wait.until(lambda: got if len(got := bodies(running, "gathered")) >= 30 else None, "thirty messages", 90)
    assert sorted(map(int, seen)) == list(range(30))
    wait.until(lambda: left(running, url) == 0, "the queue is empty", 60)
    assert max(len(batch) for batch in events(running, "gathered")) > 10


def descendant(running: Engine, title: str) -> psutil.Process | None:
    """Of this engine, the process with that title."""
    assert running.process is not None
    for process in psutil.Process(running.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title):
                return process
    return None


@pytest.mark.parametrize("title", ["lambda-engine: event source pollers", pytest.param("lambda-engine: control plane", marks=pytest.mark.slow)])
def test_killed_it_polls_again_by_itself(running: Engine, title: str) -> None:
    name = f"killed-{title[-5:]}"
    # What the killed process had taken comes back after this.
    url = queue(running, name, VisibilityTimeout="5")
    mapped(running, name)
    before = descendant(running, title)
    assert before is not None
    before.kill()
    for n in range(30):
        running.client("sqs").send_message(QueueUrl=url, MessageBody=str(n))
    wait.until(lambda: set(bodies(running, name)) == set(map(str, range(30))), "every message", 90)
    wait.until(lambda: left(running, url) == 0, "the queue is empty", 90)
    assert wait.until(lambda: descendant(running, title), "a new process", 60).pid != before.pid
    wait.until(lambda: running.get("/readyz")[0] == 200, "the engine is ready", 60)


@pytest.mark.slow
def test_over_pulling_sends_messages_to_the_dead_letter_queue_that_no_run_has_seen() -> None:
    """Lambda's pollers take what a function with little reserved concurrency cannot."""
    code = {"m.py": "import time\ndef f(e, c):\n    time.sleep(20)\n"}
    with engine(pool_size=4, event_poll_s=1, event_over_pull=True) as started:
        dead = queue(started, "pulled-dead")
        policy = json.dumps({"deadLetterTargetArn": ARN.format("sqs", "pulled-dead"), "maxReceiveCount": "1"})
        url = queue(started, "pulled", RedrivePolicy=policy)
        started.deploy("pulled", code, Timeout=30)
        client = started.client()
        client.put_function_concurrency(FunctionName="pulled", ReservedConcurrentExecutions=1)
        for n in range(0, 60, 10):
            started.client("sqs").send_message_batch(QueueUrl=url, Entries=[{"Id": str(i), "MessageBody": str(n + i)} for i in range(10)])
        client.create_event_source_mapping(EventSourceArn=ARN.format("sqs", "pulled"), FunctionName="pulled", BatchSize=10)
        # One batch is run, the others are thrown back, and taken by the redrive policy when they are visible again.
        wait.until(lambda: left(started, dead) >= 40, "most are in the dead-letter queue", 120)


def test_a_thousand_messages_are_each_given_once(running: Engine) -> None:
    url = queue(running, "many")
    for n in range(0, 1000, 10):
        running.client("sqs").send_message_batch(QueueUrl=url, Entries=[{"Id": str(i), "MessageBody": str(n + i)} for i in range(10)])
    mapped(running, "many")
    wait.until(lambda: left(running, url) == 0, "the queue is empty", 90)
    seen = wait.until(lambda: got if len(got := bodies(running, "many")) >= 1000 else None, "every message", 60)
    assert sorted(map(int, seen)) == list(range(1000))


def refused(call: Any, **members: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call(**members)
    answer = caught.value.response
    error = answer["Error"]
    return answer["ResponseMetadata"]["HTTPStatusCode"], error["Code"], error["Message"]


def test_what_a_mapping_says_of_itself(running: Engine) -> None:
    queue(running, "described")
    running.deploy("described", CODE)
    client, arn = running.client(), ARN.format("sqs", "described")
    made = client.create_event_source_mapping(EventSourceArn=arn, FunctionName="described", Enabled=False, Tags={"a": "b"})
    assert made.pop("ResponseMetadata")["HTTPStatusCode"] == 202
    uuid = made["UUID"]
    assert made.pop("LastModified").timestamp() > 0
    base = {
        "UUID": uuid,
        "EventSourceMappingArn": ARN.format("lambda", f"event-source-mapping:{uuid}"),
        "EventSourceArn": arn,
        "FunctionArn": ARN.format("lambda", "function:described"),
        "BatchSize": 10,
        "MaximumBatchingWindowInSeconds": 0,
        "FunctionResponseTypes": [],
        "StateTransitionReason": "USER_INITIATED",
    }
    assert made == {**base, "State": "Creating"}
    reach(running, uuid, "Disabled")
    assert client.list_tags(Resource=made["EventSourceMappingArn"])["Tags"] == {"a": "b"}
    client.tag_resource(Resource=made["EventSourceMappingArn"], Tags={"c": "d"})
    assert client.list_tags(Resource=made["EventSourceMappingArn"])["Tags"] == {"a": "b", "c": "d"}
    version = client.publish_version(FunctionName="described")["Version"]
    client.create_alias(FunctionName="described", Name="live", FunctionVersion=version)
    criteria = {"Filters": [{"Pattern": '{"body": ["x"]}'}]}
    changes = {"FilterCriteria": criteria, "ScalingConfig": {"MaximumConcurrency": 3}, "BatchSize": 5, "FunctionName": "described:live"}
    changed = client.update_event_source_mapping(UUID=uuid, **changes)
    assert changed["State"] == "Updating"
    assert changed["FunctionArn"] == f"{base['FunctionArn']}:live"
    reach(running, uuid, "Disabled")
    got = client.get_event_source_mapping(UUID=uuid)
    assert (got["FilterCriteria"], got["ScalingConfig"], got["BatchSize"]) == (criteria, {"MaximumConcurrency": 3}, 5)
    cleared = client.update_event_source_mapping(UUID=uuid, FilterCriteria={}, ScalingConfig={})
    assert not {"FilterCriteria", "ScalingConfig"} & set(cleared)
    for groups in (["EventCount"], []):
        reach(running, uuid, "Disabled")
        counted = client.update_event_source_mapping(UUID=uuid, MetricsConfig={"Metrics": groups}).get("MetricsConfig")
        assert counted == ({"Metrics": groups} if groups else None)
    for given, kept in (({"MinimumPollers": 4}, {"MinimumPollers": 4, "MaximumPollers": 200}), ({}, None)):
        reach(running, uuid, "Disabled")
        assert client.update_event_source_mapping(UUID=uuid, ProvisionedPollerConfig=given).get("ProvisionedPollerConfig") == kept
    assert [m["UUID"] for m in client.list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"]] == [uuid]
    assert [m["UUID"] for m in client.list_event_source_mappings(FunctionName="described:live")["EventSourceMappings"]] == [uuid]
    assert client.list_event_source_mappings(FunctionName="described")["EventSourceMappings"] == []


def test_what_is_refused(running: Engine) -> None:
    queue(running, "refused")
    queue(running, "refused.fifo", FifoQueue="true")
    running.deploy("refused", CODE, Timeout=2)
    running.deploy("slow", CODE, Timeout=60)
    client, arn = running.client(), ARN.format("sqs", "refused")
    elsewhere, partition = arn.replace(":us-east-1:", ":eu-west-1:"), arn.replace("arn:aws:", "arn:aws-cn:")
    bad, create = (400, "InvalidParameterValueException"), client.create_event_source_mapping
    for members, text in (
        ({"EventSourceArn": ARN.format("s3", "bucket")}, "Unrecognized event source."),
        ({"EventSourceArn": elsewhere}, f"The event source {elsewhere} is not in the region of the function, us-east-1."),
        ({"EventSourceArn": partition}, f"The event source {partition} is not in the region of the function, us-east-1."),
        ({"FunctionName": "nobody"}, "Function does not exist"),
        ({"FunctionName": "refused:9"}, "Function does not exist"),
        ({"StartingPosition": "LATEST"}, "StartingPosition is not valid for SQS event sources."),
        ({"BatchSize": 11}, "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"),
        ({"EventSourceArn": f"{arn}.fifo", "MaximumBatchingWindowInSeconds": 1}, "Batching window is not supported for FIFO queues"),
        ({"EventSourceArn": f"{arn}.fifo", "BatchSize": 11}, "Batch size must not exceed 10 for FIFO queues"),
        (
            {"DestinationConfig": {"OnFailure": {"Destination": arn}}},
            "Unsupported DestinationConfig parameter for given event source mapping type.",
        ),
        ({"FilterCriteria": {"Filters": [{"Pattern": '{"body": "x"}'}]}}, "Invalid filter pattern definition."),
        (
            {"EventSourceArn": f"{arn}-not"},
            "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. "
            "SQS Error Message: The specified queue does not exist.",
        ),
        (
            {"EventSourceArn": arn.replace(":000000000000:", ":111111111111:")},
            "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. "
            "SQS Error Message: The specified queue does not exist.",
        ),
        ({"FunctionName": "slow"}, "Queue visibility timeout: 30 seconds is less than Function timeout: 60 seconds"),
    ):
        assert refused(create, **{"EventSourceArn": arn, "FunctionName": "refused", **members}) == (*bad, text)
    stream = ARN.format("rds", "cluster:c")
    assert refused(create, EventSourceArn=stream, FunctionName="refused", StartingPosition="LATEST") == (
        501, "NotImplementedException", "Lambda Engine does not poll DocumentDB clusters yet. Nothing was created.",
    )  # fmt: skip
    provisioned: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ProvisionedPollerConfig": {"MinimumPollers": 1}}, "must be at least 2"),
        ({"ProvisionedPollerConfig": {"MinimumPollers": 5, "MaximumPollers": 4}}, "must be less than or equal to MaximumPollers"),
        ({"ProvisionedPollerConfig": {"PollerGroupName": "g"}}, "Unsupported PollerGroupName parameter"),
        ({"ProvisionedPollerConfig": {"MinimumPollers": 2}, "ScalingConfig": {"MaximumConcurrency": 2}}, "cannot be used together"),
    )
    for settings, words in provisioned:
        status, kind, text = refused(create, EventSourceArn=arn, FunctionName="refused", **settings)
        assert (status, kind) == (400, "InvalidParameterValueException")
        assert words in text
    topics = refused(create, EventSourceArn=arn, FunctionName="refused", MetricsConfig={"Metrics": ["EventCount", "KafkaMetrics"]})
    assert topics == (*bad, "Unsupported MetricsConfig parameter for given event source mapping type: KafkaMetrics.")
    assert refused(create, EventSourceArn=arn, FunctionName="refused", LoggingConfig={"SystemLogLevel": "INFO"})[0] == 501
    assert client.list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"] == []
    # Members that tools send with nothing in them ask for nothing.
    hollow: Any = {"DestinationConfig": {"OnFailure": {}}, "MetricsConfig": {"Metrics": []}, "ScalingConfig": {}, "SourceAccessConfigurations": []}
    uuid = create(EventSourceArn=arn, FunctionName="refused", Enabled=False, **hollow)["UUID"]
    assert refused(create, EventSourceArn=arn, FunctionName=ARN.format("lambda", "function:refused:$LATEST")) == (
        409,
        "ResourceConflictException",
        f'An event source mapping with SQS arn (" {arn} ") and function (" refused ") already exists. '
        f"Please update or delete the existing mapping with UUID {uuid}",
    )
    missing = "01234567-89ab-cdef-0123-456789abcdef"
    for call in (client.get_event_source_mapping, client.update_event_source_mapping, client.delete_event_source_mapping):
        assert refused(call, UUID=missing) == (404, "ResourceNotFoundException", "The resource you requested does not exist.")
    reach(running, uuid, "Disabled")
    for given, arn_of in (("refused:$LATEST", "refused:$LATEST"), (ARN.format("lambda", "function:refused:$LATEST"), "refused")):
        changed = client.update_event_source_mapping(UUID=uuid, FunctionName=given)
        assert changed["FunctionArn"] == ARN.format("lambda", f"function:{arn_of}")
        assert [m["UUID"] for m in client.list_event_source_mappings(FunctionName="refused")["EventSourceMappings"]] == [uuid]
        reach(running, uuid, "Disabled")
    other = running.client(aws_access_key_id="111111111111")
    assert refused(other.get_event_source_mapping, UUID=uuid)[0] == 404
    assert other.list_event_source_mappings()["EventSourceMappings"] == []


def test_of_mappings_that_are_given_the_same_function_at_once_one_gets_it(running: Engine) -> None:
    queue(running, "contended")
    running.deploy("contended", CODE)
    client, arn = running.client(), ARN.format("sqs", "contended")
    uuids = []
    for n in range(6):
        client.create_alias(FunctionName="contended", Name=f"a{n}", FunctionVersion="$LATEST")
        made = client.create_event_source_mapping(EventSourceArn=arn, FunctionName=f"contended:a{n}", Enabled=False)
        uuids.append(made["UUID"])
    for uuid in uuids:
        reach(running, uuid, "Disabled")

    def give(uuid: str) -> str:
        try:
            client.update_event_source_mapping(UUID=uuid, FunctionName="contended")
        except ClientError as e:
            return str(e.response["Error"]["Code"])
        return "given"

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(give, uuids)) == ["ResourceConflictException"] * 5 + ["given"]
    mapped = [m["FunctionArn"].rpartition("function:")[2] for m in client.list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"]]
    assert len(set(mapped)) == 6
    assert "contended" in mapped
