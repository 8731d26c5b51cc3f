"""Streams of the embedded Kinesis and DynamoDB run functions through event source mappings, over the public APIs on one endpoint."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.framework import wait
from tests.framework.engine import ROLE, Engine, engine

CODE = {
    "m.py": "import base64, json, time\n"
    "def f(e, c):\n"
    "    print('GOT', time.time_ns(), json.dumps(e))\n"
    "    total = (e.get('state') or {}).get('total', 0) + len(e['Records'])\n"
    "    bodies = [base64.b64decode(r['kinesis']['data']).decode() for r in e['Records'] if 'kinesis' in r]\n"
    "    stuck = [r['kinesis']['sequenceNumber'] for r, b in zip(e['Records'], bodies) if b == 'stuck']\n"
    "    poison = [r for r in e['Records'] if r.get('dynamodb', {}).get('NewImage', {}).get('v') == {'S': 'poison'}]\n"
    "    if poison or 'poison' in bodies:\n"
    "        raise ValueError('poison')\n"
    "    return {'state': {'total': total}, 'batchItemFailures': [{'itemIdentifier': n} for n in stuck]}\n"
}
ARN = "arn:aws:{0}:us-east-1:000000000000:{1}"


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    with engine(pool_size=4) as started:
        yield started


def reach(running: Engine, uuid: str, state: str) -> None:
    client = running.client()
    wait.until(lambda: client.get_event_source_mapping(UUID=uuid)["State"] == state, f"mapping {state}", 90)


def mapped(running: Engine, name: str, source: str, **members: Any) -> str:
    """A function of this name with a mapping of ``source``; the mapping's UUID, once it is polled."""
    running.deploy(name, CODE)
    members = {"StartingPosition": "TRIM_HORIZON", **members}
    made = running.client().create_event_source_mapping(EventSourceArn=source, FunctionName=name, **members)
    reach(running, made["UUID"], "Enabled")
    return str(made["UUID"])


def stream(running: Engine, name: str, shards: int = 1) -> str:
    running.client("kinesis").create_stream(StreamName=name, ShardCount=shards)
    return ARN.format("kinesis", f"stream/{name}")


def put(running: Engine, name: str, *bodies: str, key: str = "k") -> None:
    client = running.client("kinesis")
    for body in bodies:
        client.put_record(StreamName=name, Data=body.encode(), PartitionKey=key)


def table(running: Engine, name: str) -> str:
    made = running.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    return str(made["TableDescription"]["LatestStreamArn"])


def queue(running: Engine, name: str) -> str:
    return str(running.client("sqs").create_queue(QueueName=name)["QueueUrl"])


def told(running: Engine, url: str) -> dict[str, Any]:
    """The next record in the queue of a destination."""
    client = running.client("sqs")
    (message,) = wait.until(lambda: client.receive_message(QueueUrl=url, WaitTimeSeconds=1).get("Messages"), "a record", 90)
    return dict(json.loads(message["Body"]))


def events(running: Engine, name: str) -> list[dict[str, Any]]:
    """What the function was given, by when: what two instances print may be written in another order."""
    log = running.data_dir / "logs" / "000000000000" / f"{name}.log"
    text = log.read_text() if log.exists() else ""
    found = sorted((int(at), line) for at, line in re.findall(r"GOT (\d+) (\{.*\})", text))
    return [json.loads(line) for _, line in found]


def bodies(running: Engine, name: str) -> list[str]:
    """What the function was given by Kinesis, in this order."""
    return [base64.b64decode(one["kinesis"]["data"]).decode() for event in events(running, name) for one in event["Records"]]


def seen_at_least(running: Engine, name: str, count: int) -> bool:
    return len(set(bodies(running, name))) >= count


def ids(running: Engine, name: str) -> list[list[str]]:
    """The keys of the items of each batch of DynamoDB."""
    return [[one["dynamodb"]["Keys"]["id"]["S"] for one in event["Records"]] for event in events(running, name)]


def test_halving_isolates_the_poisoned_change_of_a_table(running: Engine) -> None:
    arn, url = table(running, "poisoned"), queue(running, "poisoned-dead")
    client = running.client("dynamodb")
    for n in range(8):
        client.put_item(TableName="poisoned", Item={"id": {"S": str(n)}, "v": {"S": "poison" if n == 5 else "fine"}})
    destination = {"OnFailure": {"Destination": ARN.format("sqs", "poisoned-dead")}}
    uuid = mapped(running, "poisoned", arn, BisectBatchOnFunctionError=True, MaximumRetryAttempts=1, DestinationConfig=destination)
    record = told(running, url)
    context, info = record["requestContext"], record["DDBStreamBatchInfo"]
    assert (context["functionArn"], context["condition"]) == (ARN.format("lambda", "function:poisoned"), "RetryAttemptsExhausted")
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert (info["batchSize"], info["streamArn"], info["startSequenceNumber"]) == (1, arn, info["endSequenceNumber"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", info["approximateArrivalOfFirstRecord"])
    seen = wait.until(lambda: got if len(got := ids(running, "poisoned")) >= 8 else None, "eight calls", 90)
    assert seen == [list("01234567"), list("0123"), list("4567"), ["4", "5"], ["4"], ["5"], ["5"], ["6", "7"]]
    client.put_item(TableName="poisoned", Item={"id": {"S": "9"}})
    wait.until(lambda: ids(running, "poisoned")[-1] == ["9"], "a later change", 60)
    # Changes nothing, and is not told; what an update makes is told once.
    client.put_item(TableName="poisoned", Item={"id": {"S": "9"}})
    client.update_item(
        TableName="poisoned", Key={"id": {"S": "101"}}, UpdateExpression="SET v = :v", ExpressionAttributeValues={":v": {"S": "New item!"}}
    )
    wait.until(lambda: ids(running, "poisoned")[-2:] == [["9"], ["101"]], "an update", 60)
    (last,) = events(running, "poisoned")[-1]["Records"]
    assert last["dynamodb"]["NewImage"] == {"id": {"S": "101"}, "v": {"S": "New item!"}}
    assert last["dynamodb"]["SizeBytes"] == len("id101" "id101" "vNew item!")
    assert (last["eventName"], last["eventSource"], last["eventSourceARN"], last["eventVersion"]) == ("INSERT", "aws:dynamodb", arn, "1.1")
    lambda_ = running.client()
    wait.until(lambda: lambda_.get_event_source_mapping(UUID=uuid)["LastProcessingResult"] == "OK", "the result", 60)
    wanted = f'lambda_engine_event_source_iterator_age_seconds{{mapping="{uuid}"}} 0.0'
    wait.until(lambda: wanted in running.get("/metrics")[1].decode(), "no age on /metrics", 60)


def descendant(running: Engine, title: str) -> psutil.Process | None:
    assert running.process is not None
    for process in psutil.Process(running.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title):
                return process
    return None


@pytest.mark.slow
def test_four_shards_keep_the_order_of_keys_over_restarts_and_lose_nothing(running: Engine) -> None:
    """Two lanes per shard; the polling process is killed in the middle, and then the control plane with it."""
    arn = stream(running, "ordered", 4)
    client = running.client("kinesis")
    keys = [f"key-{n}" for n in range(12)]

    def send(first: int, last: int) -> None:
        for n in range(first, last):
            client.put_records(StreamName="ordered", Records=[{"Data": f"{key} {n}".encode(), "PartitionKey": key} for key in keys])

    send(0, 15)
    mapped(running, "ordered", arn, ParallelizationFactor=2, BatchSize=5)
    for upto, title in ((15, "lambda-engine: event source pollers"), (30, "lambda-engine: control plane")):
        some = (upto - 10) * len(keys)
        wait.until(partial(seen_at_least, running, "ordered", some), "some of them", 90)
        process = descendant(running, title)
        assert process is not None
        process.kill()
        send(upto, upto + 15)
    everything = {f"{key} {n}" for key in keys for n in range(45)}
    seen = wait.until(lambda: got if set(got := bodies(running, "ordered")) >= everything else None, "every record", 120)
    numbers: dict[str, list[int]] = defaultdict(list)
    for body in seen:
        key, n = body.split()
        numbers[key].append(int(n))
    for key, got in numbers.items():
        assert list(dict.fromkeys(got)) == list(range(45)), f"{key}: {got}"
    shards = {event["Records"][0]["eventID"].partition(":")[0] for event in events(running, "ordered")}
    assert len(shards) == 4
    wait.until(lambda: running.get("/readyz")[0] == 200, "the engine is ready", 60)


def test_a_stream_that_is_split_is_read_on_in_order(running: Engine) -> None:
    arn = stream(running, "split")
    put(running, "split", "1", "2")
    mapped(running, "split", arn)
    client = running.client("kinesis")
    (first,) = client.list_shards(StreamName="split")["Shards"]
    client.split_shard(StreamName="split", ShardToSplit=first["ShardId"], NewStartingHashKey=str(2**127))
    put(running, "split", "3", "4")
    wait.until(lambda: len(bodies(running, "split")) >= 4, "all four", 90)
    children = [one["ShardId"] for one in client.list_shards(StreamName="split")["Shards"] if one.get("ParentShardId")]
    client.merge_shards(StreamName="split", ShardToMerge=children[0], AdjacentShardToMerge=children[1])
    put(running, "split", "5")
    assert wait.until(lambda: got if len(got := bodies(running, "split")) >= 5 else None, "all five", 90) == list("12345")


def test_what_is_stuck_is_retried_alone_and_ends_in_a_bucket_with_its_records(running: Engine) -> None:
    arn = stream(running, "stuck")
    running.client("s3").create_bucket(Bucket="stuck")
    put(running, "stuck", "a", "stuck", "b")
    uuid = mapped(
        running, "stuck", arn, MaximumRetryAttempts=1, FunctionResponseTypes=["ReportBatchItemFailures"],
        DestinationConfig={"OnFailure": {"Destination": "arn:aws:s3:::stuck"}},
    )  # fmt: skip
    s3 = running.client("s3")
    (found,) = wait.until(lambda: s3.list_objects_v2(Bucket="stuck").get("Contents"), "the record", 90)
    assert re.fullmatch(rf"aws/lambda/{uuid}/shardId-0{{12}}/\d{{4}}/\d\d/\d\d/[-\dT.]+-[-0-9a-f]{{36}}", found["Key"])
    record = json.loads(s3.get_object(Bucket="stuck", Key=found["Key"])["Body"].read())
    assert record["responseContext"]["functionError"] is None
    assert (record["requestContext"]["approximateInvokeCount"], record["KinesisBatchInfo"]["batchSize"]) == (2, 2)
    assert [base64.b64decode(one["kinesis"]["data"]) for one in record["payload"]["Records"]] == [b"stuck", b"b"]
    # What a function prints is written after its reply.
    wait.until(lambda: bodies(running, "stuck") == ["a", "stuck", "b", "stuck", "b"], "two calls", 60)
    one = events(running, "stuck")[0]["Records"][0]
    assert (one["invokeIdentityArn"], one["eventName"], one["kinesis"]["partitionKey"]) == (ROLE, "aws:kinesis:record", "k")


def test_filters_and_starting_positions(running: Engine) -> None:
    arn = stream(running, "filtered")
    put(running, "filtered", *(json.dumps({"n": n, "kind": kind}) for n, kind in ((1, "a"), (2, "b"), (3, "a"))), "no JSON")
    criteria = {"Filters": [{"Pattern": json.dumps({"data": {"kind": ["a"], "n": [{"numeric": [">", 1]}]}})}]}
    mapped(running, "filtered", arn, FilterCriteria=criteria)
    mapped(running, "latest", arn, StartingPosition="LATEST")
    since = datetime.now(UTC) - timedelta(hours=1)
    mapped(running, "since", arn, StartingPosition="AT_TIMESTAMP", StartingPositionTimestamp=since)
    put(running, "filtered", '{"kind": "b"}')
    wait.until(lambda: len(bodies(running, "since")) == 5, "everything of the last hour", 60)
    wait.until(lambda: bodies(running, "latest") == ['{"kind": "b"}'], "what came later", 60)
    wait.until(lambda: bodies(running, "filtered") == ['{"n": 3, "kind": "a"}'], "what the filter takes", 60)


def test_windows_have_states(running: Engine) -> None:
    arn = stream(running, "windows")
    mapped(running, "windows", arn, TumblingWindowInSeconds=1, BatchSize=2)
    put(running, "windows", *"abcd")

    def closed() -> list[dict[str, Any]]:
        return [event for event in events(running, "windows") if event["isFinalInvokeForWindow"]]

    # All four may be in one window, or in two.
    wait.until(lambda: sum(event["state"]["total"] for event in closed()) == 4, "the windows are closed", 90)
    assert [event["Records"] for event in closed()] == [[]] * len(closed())
    first = events(running, "windows")[0]
    assert (first["state"], first["shardId"], first["eventSourceARN"]) == ({}, "shardId-000000000000", arn)


def test_a_consumer_of_a_stream_gets_what_the_stream_does(running: Engine) -> None:
    arn = stream(running, "fanned")
    consumer = running.client("kinesis").register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]["ConsumerARN"]
    mapped(running, "fanned", consumer)
    put(running, "fanned", "a", "b")
    wait.until(lambda: seen_at_least(running, "fanned", 2), "both records", 60)
    sources = {one["eventSourceARN"] for event in events(running, "fanned") for one in event["Records"]}
    assert sources == {consumer}


def test_disabled_it_reads_on_later_from_where_it_was(running: Engine) -> None:
    arn = stream(running, "paused")
    put(running, "paused", "1")
    uuid = mapped(running, "paused", arn)
    wait.until(lambda: bodies(running, "paused") == ["1"], "the first", 60)
    client = running.client()
    assert client.update_event_source_mapping(UUID=uuid, Enabled=False)["State"] == "Disabling"
    reach(running, uuid, "Disabled")
    put(running, "paused", "2")
    changed = client.update_event_source_mapping(UUID=uuid, Enabled=True, ParallelizationFactor=3)
    assert (changed["State"], changed["ParallelizationFactor"]) == ("Enabling", 3)
    wait.until(lambda: bodies(running, "paused")[1:], "the second", 60)
    assert bodies(running, "paused") == ["1", "2"]


def refused(call: Any, **members: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call(**members)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def test_what_a_mapping_of_a_stream_says_of_itself(running: Engine) -> None:
    arn = stream(running, "described")
    running.deploy("described", CODE)
    client = running.client()
    made = client.create_event_source_mapping(EventSourceArn=arn, FunctionName="described", StartingPosition="LATEST", Enabled=False)
    for name in ("ResponseMetadata", "LastModified", "UUID", "EventSourceMappingArn"):
        assert made.pop(name)
    assert made == {
        "EventSourceArn": arn, "FunctionArn": ARN.format("lambda", "function:described"), "State": "Creating",
        "StateTransitionReason": "User action", "BatchSize": 100, "BisectBatchOnFunctionError": False, "DestinationConfig": {"OnFailure": {}},
        "FunctionResponseTypes": [], "LastProcessingResult": "No records processed", "MaximumBatchingWindowInSeconds": 0,
        "MaximumRecordAgeInSeconds": -1, "MaximumRetryAttempts": -1, "ParallelizationFactor": 1, "StartingPosition": "LATEST",
        "TumblingWindowInSeconds": 0,
    }  # fmt: skip


def other(arn: str) -> str:
    """What has the name in another account."""
    return arn.replace(":000000000000:", ":111111111111:")


def test_what_is_refused_of_streams(running: Engine) -> None:
    arn, changes = stream(running, "refusing"), table(running, "refusing")
    running.deploy("refusing", CODE)
    create = running.client().create_event_source_mapping
    good = {"EventSourceArn": arn, "FunctionName": "refusing", "StartingPosition": "LATEST", "Enabled": False}
    fifo = ARN.format("sqs", "q.fifo")
    unsupported = "Unsupported {} parameter for given event source mapping type."
    null = "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null."
    for members, text in (
        ({"StartingPosition": None}, null),
        ({"EventSourceArn": f"{arn}-not"}, f"Stream not found: {arn}-not"),
        ({"EventSourceArn": changes.replace("table/refusing", "table/nothing")}, f"Stream not found: {changes.replace('table/refusing', 'table/nothing')}"),
        ({"EventSourceArn": f"{changes}0"}, f"Stream not found: {changes}0"),
        ({"EventSourceArn": other(arn)}, f"Stream not found: {other(arn)}"),
        ({"EventSourceArn": other(changes)}, f"Stream not found: {other(changes)}"),
        ({"EventSourceArn": arn.replace("stream/", "other/")}, "Unrecognized event source."),
        ({"EventSourceArn": changes, "StartingPosition": "AT_TIMESTAMP"}, f"Unsupported starting position for arn type: {changes}"),
        ({"StartingPosition": "AT_TIMESTAMP"}, "StartingPositionTimestamp is required with StartingPosition AT_TIMESTAMP."),
        (
            {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": datetime.now(UTC) + timedelta(hours=1)},
            "StartingPositionTimestamp cannot be in the future.",
        ),
        ({"StartingPositionTimestamp": datetime.now(UTC)}, "Timestamp only valid with StartingPosition AT_TIMESTAMP"),
        ({"ScalingConfig": {"MaximumConcurrency": 2}}, unsupported.format("ScalingConfig")),
        (
            {"DestinationConfig": {"OnFailure": {"Destination": fifo}}},
            f"The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={fifo})) is invalid.",
        ),
        ({"FilterCriteria": {"Filters": [{"Pattern": '{"data": ["x"]}'}]}}, "Invalid filter pattern definition."),
    ):
        given = {name: value for name, value in {**good, **members}.items() if value is not None}
        assert refused(create, **given) == (400, "InvalidParameterValueException", text)
    assert refused(create, **good, MaximumRecordAgeInSeconds=5)[:2] == (400, "ValidationException")
    consumer = f"{arn}/consumer/c:1"
    assert refused(create, **{**good, "EventSourceArn": consumer}) == (400, "InvalidParameterValueException", f"Stream not found: {consumer}")
    uuid = create(**good)["UUID"]
    assert refused(create, **good) == (
        409,
        "ResourceConflictException",
        f'The event source arn (" {arn} ") and function (" refusing ") provided mapping already exists. '
        f"Please update or delete the existing mapping with UUID {uuid}",
    )
