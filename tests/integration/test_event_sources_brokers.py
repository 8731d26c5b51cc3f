"""A Kafka cluster (librdkafka's own, in memory) and a real RabbitMQ run functions through event source mappings."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.framework import host, wait
from tests.framework.engine import Engine, engine
from tests.framework.rabbitmq import RabbitMq, free_port, rabbitmq

CODE = {
    "m.py": "import base64, json\n"
    "failed = set()\n"
    "def f(e, c):\n"
    "    print('GOT', json.dumps(e))\n"
    "    for records in (e.get('records') or e['rmqMessagesByQueue']).values():\n"
    "        for r in records:\n"
    "            body = base64.b64decode(r.get('value') or r['data']).decode()\n"
    "            if body.startswith('once') and body not in failed:\n"
    "                failed.add(body)\n"
    "                raise ValueError(body)\n"
}
MQ = "arn:aws:mq:us-east-1:000000000000:broker:local:b-1"
NOBODY = "arn:aws:mq:us-east-1:000000000000:broker:nobody:b-2"
PLACE = [{"Type": "VPC_SUBNET", "URI": "subnet:subnet-1"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:sg-1"}]


@pytest.fixture(scope="module")
def rabbit_port() -> int:
    """Where RabbitMQ will be, if it is started: the engine has to know before."""
    return free_port()


@pytest.fixture(scope="module")
def rabbit(rabbit_port: int) -> Iterator[RabbitMq]:
    host.require("no RabbitMQ")
    with rabbitmq(rabbit_port) as started:
        yield started


@pytest.fixture(scope="module")
def running(rabbit_port: int) -> Iterator[Engine]:
    with engine(pool_size=4, event_brokers={NOBODY: "amqp://127.0.0.1:1", MQ: f"amqp://127.0.0.1:{rabbit_port}"}) as started:
        yield started


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A producer that has a cluster of one broker within; others reach it by TCP."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1})
    yield producer
    producer.flush(10)


def servers(cluster: Any) -> list[str]:
    return [f"{one.host}:{one.port}" for one in cluster.list_topics(timeout=30).brokers.values()]


def put(cluster: Any, topic: str, *bodies: str, partition: int = 0) -> None:
    for body in bodies:
        cluster.produce(topic, value=body.encode(), key=b"k", headers=[("h", b"\x01\xff")], partition=partition)
    assert cluster.flush(30) == 0


def reach(running: Engine, uuid: str, state: str) -> None:
    client = running.client()
    wait.until(lambda: client.get_event_source_mapping(UUID=uuid)["State"] == state, f"mapping {state}", 120)


def mapped(running: Engine, name: str, **members: Any) -> str:
    running.deploy(name, CODE)
    made = running.client().create_event_source_mapping(FunctionName=name, **members)
    reach(running, made["UUID"], "Enabled")
    return str(made["UUID"])


def topic(cluster: Any, name: str, **members: Any) -> dict[str, Any]:
    """The members that make a mapping of the topic."""
    endpoints = {"KAFKA_BOOTSTRAP_SERVERS": servers(cluster)}
    given = {"SelfManagedEventSource": {"Endpoints": endpoints}, "Topics": [name], "SourceAccessConfigurations": PLACE}
    return {**given, "StartingPosition": "TRIM_HORIZON", **members}


def events(running: Engine, name: str) -> list[dict[str, Any]]:
    log = running.data_dir / "logs" / "000000000000" / f"{name}.log"
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in re.findall(r"GOT (\{.*\})", text)]


def records(running: Engine, name: str) -> list[dict[str, Any]]:
    found = [event.get("records") or event["rmqMessagesByQueue"] for event in events(running, name)]
    return [one for parts in found for part in parts.values() for one in part]


def bodies(running: Engine, name: str) -> list[str]:
    return [base64.b64decode(one.get("value") or one["data"]).decode() for one in records(running, name)]


def descendant(running: Engine, title: str) -> psutil.Process | None:
    assert running.process is not None
    for process in psutil.Process(running.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title):
                return process
    return None


@pytest.mark.slow
def test_partitions_keep_their_order_over_a_failure_and_a_kill(running: Engine, cluster: Any) -> None:
    for partition in (0, 1):
        put(cluster, "orders", *(f"{partition} {n}" for n in range(5)), partition=partition)
    put(cluster, "orders", "once", partition=0)
    uuid = mapped(running, "orders", **topic(cluster, "orders", BatchSize=4))
    wait.until(lambda: bodies(running, "orders").count("once") >= 2, "the batch that failed runs again", 90)
    first = next(one for one in records(running, "orders") if one["partition"] == 1)
    assert {name: value for name, value in first.items() if name not in ("timestamp", "value")} == {
        "topic": "orders", "partition": 1, "offset": 0, "timestampType": "CREATE_TIME", "key": "aw==", "headers": [{"h": [1, -1]}],
    }  # fmt: skip
    event = events(running, "orders")[0]
    assert (event["eventSource"], event["bootstrapServers"]) == ("SelfManagedKafka", servers(cluster)[0])
    assert "eventSourceArn" not in event
    client = running.client()
    wait.until(lambda: client.get_event_source_mapping(UUID=uuid)["LastProcessingResult"] == "OK", "the result", 60)
    process = descendant(running, "lambda-engine: event source pollers")
    assert process is not None
    process.kill()
    for partition in (0, 1):
        put(cluster, "orders", *(f"{partition} {n}" for n in range(5, 8)), partition=partition)
    everything = {f"{partition} {n}" for partition in (0, 1) for n in range(8)}
    seen = wait.until(lambda: got if set(got := bodies(running, "orders")) >= everything else None, "every record", 120)
    numbers: dict[str, list[str]] = defaultdict(list)
    for body in dict.fromkeys(one for one in seen if one != "once"):
        numbers[body[0]].append(body)
    assert {key: got == sorted(got) for key, got in numbers.items()} == {"0": True, "1": True}
    wanted = f'lambda_engine_event_source_offset_lag{{mapping="{uuid}"}} 0.0'
    wait.until(lambda: wanted in running.get("/metrics")[1].decode(), "no lag on /metrics", 60)


@pytest.mark.slow
def test_latest_and_filters_of_a_topic(running: Engine, cluster: Any) -> None:
    put(cluster, "latest", '{"kind": "a", "n": 0}')
    criteria = {"Filters": [{"Pattern": '{"value": {"kind": ["a"]}}'}]}
    mapped(running, "latest", **topic(cluster, "latest", StartingPosition="LATEST", FilterCriteria=criteria))
    put(cluster, "latest", '{"kind": "b", "n": 1}', '{"kind": "a", "n": 2}')
    assert wait.until(lambda: bodies(running, "latest"), "what came later", 90) == ['{"kind": "a", "n": 2}']
    (one,) = records(running, "latest")
    assert (one["topic"], one["partition"], one["offset"], one["key"], one["headers"]) == ("latest", 0, 2, "aw==", [{"h": [1, -1]}])


@pytest.mark.slow
def test_disabled_it_reads_on_later_from_where_its_group_was(running: Engine, cluster: Any) -> None:
    put(cluster, "paused", "1")
    uuid = mapped(running, "paused", **topic(cluster, "paused"))
    wait.until(lambda: bodies(running, "paused") == ["1"], "the first", 90)
    client = running.client()
    client.update_event_source_mapping(UUID=uuid, Enabled=False)
    reach(running, uuid, "Disabled")
    put(cluster, "paused", "2")
    client.update_event_source_mapping(UUID=uuid, Enabled=True)
    wait.until(lambda: bodies(running, "paused")[1:] == ["2"], "what came meanwhile", 120)


def test_what_a_mapping_of_a_topic_says_of_itself(running: Engine, cluster: Any) -> None:
    running.deploy("described", CODE)
    client = running.client()
    members = topic(cluster, "described", Enabled=False)
    made = client.create_event_source_mapping(FunctionName="described", **members)
    for name in ("ResponseMetadata", "LastModified", "EventSourceMappingArn"):
        assert made.pop(name)
    uuid = made.pop("UUID")
    function = "arn:aws:lambda:us-east-1:000000000000:function:described"
    assert made == {
        "FunctionArn": function, "State": "Creating", "StateTransitionReason": "USER_INITIATED", "BatchSize": 100,
        "LastProcessingResult": "No records processed", "SelfManagedEventSource": members["SelfManagedEventSource"],
        "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": uuid}, "SourceAccessConfigurations": PLACE, "StartingPosition": "TRIM_HORIZON",
        "Topics": ["described"],
    }  # fmt: skip
    with pytest.raises(ClientError) as caught:
        client.create_event_source_mapping(FunctionName="described", **members)
    assert caught.value.response["Error"]["Message"] == (
        f'An event source mapping with event source ("{servers(cluster)[0]}"), function ("{function}"), topics ("described") already exists. '
        f"Please update or delete the existing mapping with UUID {uuid}"
    )
    with pytest.raises(ClientError, match="does not support FunctionResponseTypes"):
        client.create_event_source_mapping(FunctionName="described", FunctionResponseTypes=["ReportBatchItemFailures"], **members)
    members.pop("SourceAccessConfigurations")
    with pytest.raises(ClientError, match="Required 'sourceAccessConfigurations' parameter is missing"):
        client.create_event_source_mapping(FunctionName="described", **members)


def secret(running: Engine, name: str, **content: str) -> list[dict[str, str]]:
    made = running.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(content))
    return [{"Type": "BASIC_AUTH", "URI": made["ARN"]}]


def test_a_broker_that_cannot_be_reached_is_said(running: Engine) -> None:
    access = secret(running, "nobody", username="guest", password="guest")
    uuid = mapped(running, "nobody", EventSourceArn=NOBODY, Queues=["q"], SourceAccessConfigurations=access)
    client = running.client()
    said = wait.until(lambda: r if (r := client.get_event_source_mapping(UUID=uuid)["LastProcessingResult"])[:3] == "PRO" else None, "the problem", 60)
    assert said.startswith("PROBLEM: AMQPConnectionError")


def test_a_queue_of_rabbitmq_is_worked_off(running: Engine, rabbit: RabbitMq) -> None:
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(f"{rabbit.url}/"))
    channel = connection.channel()
    channel.queue_declare("q")
    properties = pika.BasicProperties(content_type="text/plain", headers={"h": "v", "n": 10}, priority=3, timestamp=2021, delivery_mode=1)
    channel.basic_publish("", "q", b"first", properties)
    access = secret(running, "rabbit", username="guest", password="guest")
    criteria = {"Filters": [{"Pattern": '{"data": [{"anything-but": ["left out"]}]}'}]}
    uuid = mapped(running, "rabbit", EventSourceArn=MQ, Queues=["q"], SourceAccessConfigurations=access, FilterCriteria=criteria)
    for body in ("once", "left out", "last"):
        channel.basic_publish("", "q", body.encode())
    wait.until(lambda: bodies(running, "rabbit").count("once") >= 2, "what failed comes again", 90)
    seen = wait.until(lambda: got if "last" in (got := bodies(running, "rabbit")) else None, "the last message", 90)
    assert list(dict.fromkeys(seen)) == ["first", "once", "last"]
    again = [one for one, body in zip(records(running, "rabbit"), seen, strict=True) if body == "once"]
    assert (again[0]["redelivered"], again[-1]["redelivered"]) == (False, True)
    event = events(running, "rabbit")[0]
    assert (event["eventSource"], event["eventSourceArn"], list(event["rmqMessagesByQueue"])) == ("aws:rmq", MQ, ["q::/"])
    told = records(running, "rabbit")[0]["basicProperties"]
    assert (told["headers"], told["timestamp"]) == ({"h": {"bytes": [118]}, "n": 10}, "Jan 1, 1970, 12:33:41 AM")
    assert (told["contentType"], told["priority"], told["deliveryMode"], told["bodySize"], told["appId"]) == ("text/plain", 3, 1, 5, None)
    client = running.client()
    client.update_event_source_mapping(UUID=uuid, Enabled=False)
    reach(running, uuid, "Disabled")
    channel.basic_publish("", "q", b"later")
    wait.until(lambda: channel.queue_declare("q", passive=True).method.message_count == 1, "it waits in the queue", 60)
    assert "later" not in bodies(running, "rabbit")
    connection.close()
