"""Messages of brokers to records and events, filters that meet strange data, access, and the poller with a scripted broker."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from engine.aws.lambda_resources import Code, EventSourceHandler
from engine.client.errors import ApiError
from engine.control import broker_rules
from engine.errors import InvalidParameterValue, NotImplementedHere
from engine.eventing.sources import access, attempts, broker_records, kafka, rabbitmq
from engine.eventing.sources.broker_records import Filters
from engine.eventing.sources.brokers import BrokerPoller, Item
from engine.eventing.sources.messages import MAX_EVENT_BYTES
from engine.eventing.sources.orders import Broker, Source
from engine.wire.messages import Result
from tests.framework import wait

MQ = "arn:aws:mq:eu-west-1:000000000000:broker:b:b-1"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.001)


def source(kind: str = "kafka", *, arn: str = "", batch_size: int = 10, filters: tuple[str, ...] = (), revision: int = 1, **changes: Any) -> Source:
    members: dict[str, Any] = {
        "kind": kind, "servers": ("127.0.0.1:9092",), "topic": "t", "group": "/", "position": "LATEST", "since_ms": 0, "access": (), **changes,
    }  # fmt: skip
    function = "arn:aws:lambda:eu-west-1:000000000000:function:f"
    return Source("u", revision, function, None, arn, batch_size, 0.0, False, None, filters, None, None, None, None, Broker(**members))


def test_a_kafka_record_and_its_event_are_awss() -> None:
    made = broker_records.kafka("t", 1, 15, ("CREATE_TIME", 1545084650987), b"k", b"v", [("h", b"\x01\xff"), ("n", None)])
    assert made == {
        "topic": "t", "partition": 1, "offset": 15, "timestamp": 1545084650987, "timestampType": "CREATE_TIME", "key": "aw==", "value": "dg==",
        "headers": [{"h": [1, -1]}, {"n": []}],
    }  # fmt: skip
    bare = broker_records.kafka("t", 0, 1, ("LOG_APPEND_TIME", 1), None, None, ())
    assert not {"key", "value"} & set(bare)
    event = json.loads(broker_records.event(source(servers=("a:1", "b:2")), [made, bare, made]))
    assert event == {"eventSource": "SelfManagedKafka", "bootstrapServers": "a:1,b:2", "records": {"t-1": [made, made], "t-0": [bare]}}
    event = json.loads(broker_records.event(source(arn="arn:aws:kafka:x"), []))
    assert (event["eventSource"], event["eventSourceArn"]) == ("aws:kafka", "arn:aws:kafka:x")


def test_a_rabbitmq_message_and_its_event_are_awss() -> None:
    properties = {"headers": {"h": "v", "b": b"\xfe", "n": 10, "t": True, "d": {"x": ["y"]}}, "priority": 34, "timestamp": 2_021, "message_id": "m"}
    made = broker_records.rabbitmq(properties, b"{}", redelivered=False)
    assert made == {
        "basicProperties": {
            "contentType": None, "contentEncoding": None,
            "headers": {"h": {"bytes": [118]}, "b": {"bytes": [-2]}, "n": 10, "t": True, "d": {"x": [{"bytes": [121]}]}},
            "deliveryMode": None, "priority": 34, "correlationId": None, "replyTo": None, "expiration": None, "messageId": "m",
            "timestamp": "Jan 1, 1970, 12:33:41 AM", "type": None, "userId": None, "appId": None, "clusterId": None, "bodySize": 2,
        },
        "redelivered": False, "data": "e30=",
    }  # fmt: skip
    event = json.loads(broker_records.event(source("rabbitmq", arn=MQ, topic="q"), [made]))
    assert event == {"eventSource": "aws:rmq", "eventSourceArn": MQ, "rmqMessagesByQueue": {"q::/": [made]}}


@pytest.mark.parametrize(
    ("pattern", "value", "takes"),
    [
        ({"value": {"a": ["x"]}}, b'{"a": "x"}', True), ({"value": {"a": ["x"]}}, b'{"a": "y"}', False), ({"value": ["x"]}, b"x", True),
        ({"value": ["x"]}, b"y", False), ({"topic": ["t"]}, b"\xff", True), ({"topic": ["u"]}, b"x", False),
        # Of another kind than the pattern expects: only the rest is looked at.
        ({"value": {"a": ["x"]}}, b"plain", True), ({"value": ["x"]}, b'{"a": "x"}', True), ({"value": {"a": ["x"]}}, b"\xff", True),
        ({"value": {"a": ["x"]}, "topic": ["u"]}, b"plain", False), ({"value": {"a": ["x"]}}, None, True), ({"key": ["k"]}, b"x", True),
        ({"key": ["j"]}, b"x", False),
    ],
)  # fmt: skip
def test_filters_meet_data_of_either_kind(pattern: dict[str, Any], value: bytes | None, takes: bool) -> None:
    made = broker_records.kafka("t", 0, 1, ("CREATE_TIME", 1), b"k", value, ())
    assert Filters("kafka", [json.dumps(pattern)]).take(made) is takes
    assert Filters("kafka", []).take(made)
    assert Filters("kafka", [json.dumps({"topic": ["t"]}), json.dumps(pattern)]).take(made)


class Secrets:
    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[tuple[str, str]] = []

    def connect(self, source: Source, service: str) -> Any:
        self.asked.append((service, source.region))
        return self

    def get_secret_value(self, *, SecretId: str) -> dict[str, str]:
        return {"SecretString": self.text}


def test_who_may_speak_to_a_broker_is_in_a_secret() -> None:
    secrets = Secrets('{"username": "u", "password": "p"}')
    assert access.login(source(), secrets.connect) is None
    for kind, mechanism in (("BASIC_AUTH", "PLAIN"), ("SASL_SCRAM_256_AUTH", "SCRAM-SHA-256"), ("SASL_SCRAM_512_AUTH", "SCRAM-SHA-512")):
        given = source(access=(("VPC_SUBNET", "subnet:x"), (kind, "arn:s")), servers=("b.example:9096",))
        assert access.login(given, secrets.connect) == (mechanism, "u", "p")
        assert kafka._security(given, secrets.connect, given.broker.servers) == {
            "security.protocol": "sasl_ssl", "sasl.mechanism": mechanism, "sasl.username": "u", "sasl.password": "p",
        }  # fmt: skip
    assert set(secrets.asked) == {("secretsmanager", "eu-west-1")}
    for text in ("no JSON", "[]", "{}", "1"):
        with pytest.raises(ValueError, match="username and password"):
            access.login(source(access=(("BASIC_AUTH", "arn:s"),)), Secrets(text).connect)


def test_brokers_on_this_machine_are_spoken_to_without_tls() -> None:
    here = ("127.0.0.1:1", "localhost:1", "[::1]:1")
    assert all(map(access.is_here, here))
    assert not access.is_here("b-1.kafka.amazonaws.com:9092")
    secrets = Secrets("")
    assert kafka._security(source(), secrets.connect, here) == {"security.protocol": "plaintext"}
    assert kafka._security(source(), secrets.connect, (*here, "b:1")) == {"security.protocol": "ssl"}


def test_brokers_are_asked_of_the_service_that_has_them() -> None:
    class Aws:
        def __init__(self, **answers: Any) -> None:
            self.answers = answers

        def get_bootstrap_brokers(self, **_: Any) -> Any:
            return self.answers

        def describe_broker(self, *, BrokerId: str) -> Any:
            assert BrokerId == "b-1"
            return self.answers

    def asked(module: Any, given: Source, **answers: Any) -> tuple[str, ...]:
        found: tuple[str, ...] = module._asked(given, lambda source, service: Aws(**answers))
        return found

    assert asked(kafka, source(), BootstrapBrokerString="a:1,b:2") == ("a:1", "b:2")
    ends = [{"Endpoints": ["stomp+ssl://x:1"]}, {"Endpoints": ["amqps://y:2"]}]
    assert asked(rabbitmq, source("rabbitmq", arn=MQ), BrokerInstances=ends) == ("amqps://y:2",)
    with pytest.raises(ValueError, match="no AMQP endpoint"):
        asked(rabbitmq, source("rabbitmq", arn=MQ), BrokerInstances=ends[:1])
    with pytest.raises(ValueError, match="no brokers"):
        asked(kafka, source())


def test_what_a_mapping_of_a_broker_must_say() -> None:
    basic = {"SourceAccessConfigurations": [{"Type": "BASIC_AUTH", "URI": "arn:s"}]}
    place = {"SourceAccessConfigurations": [{"Type": "VPC_SUBNET", "URI": "subnet:s"}]}
    missing = "Required 'sourceAccessConfigurations' parameter is missing."
    for kind, merged in (("self-managed kafka", {}), ("mq", {}), ("mq", {"SourceAccessConfigurations": [{"Type": "VIRTUAL_HOST", "URI": "/"}]})):
        with pytest.raises(InvalidParameterValue, match=missing):
            broker_rules.check_access(kind, merged)
    for kind, merged in (("self-managed kafka", place), ("self-managed kafka", basic), ("kafka", {}), ("mq", basic)):
        broker_rules.check_access(kind, merged)
    both = {"SourceAccessConfigurations": [*basic["SourceAccessConfigurations"], {"Type": "SASL_SCRAM_512_AUTH", "URI": "arn:t"}]}
    with pytest.raises(InvalidParameterValue, match="ambiguous"):
        broker_rules.check_access("kafka", both)
    with pytest.raises(NotImplementedHere, match="CLIENT_CERTIFICATE_TLS_AUTH"):
        broker_rules.check_access("kafka", {"SourceAccessConfigurations": [{"Type": "CLIENT_CERTIFICATE_TLS_AUTH", "URI": "arn:s"}]})
    given = {"Topics": ["t"], "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": ["a:1", "b:2"]}}}
    kept = broker_rules.fixed("self-managed kafka", given, "uuid")
    assert kept == {**given, "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": "uuid"}}
    assert (broker_rules.group_of(kept), broker_rules.servers_of(kept)) == ("uuid", ("a:1", "b:2"))
    assert broker_rules.group_of({"SourceAccessConfigurations": [{"Type": "VIRTUAL_HOST", "URI": "/v"}]}) == "/v"
    for endpoints in ({}, {"KAFKA_BOOTSTRAP_SERVERS": ["no port"]}, {"KAFKA_BOOTSTRAP_SERVERS": ["a:1"] * 11}, {"OTHER": ["a:1"]}):
        with pytest.raises(InvalidParameterValue, match="KAFKA_BOOTSTRAP_SERVERS"):
            broker_rules.fixed("self-managed kafka", {**given, "SelfManagedEventSource": {"Endpoints": endpoints}}, "uuid")
    with pytest.raises(InvalidParameterValue, match="Queues must have exactly one member"):
        broker_rules.fixed("mq", {}, "uuid")
    registry = {**given, "SelfManagedKafkaEventSourceConfig": {"SchemaRegistryConfig": {"SchemaRegistryURI": "x"}}}
    with pytest.raises(NotImplementedHere, match="SchemaRegistryConfig"):
        broker_rules.fixed("self-managed kafka", registry, "uuid")


class Broken(Exception):
    pass


class Scripted:
    """A broker whose messages are given in order; each session begins after what was done."""

    def __init__(self, count: int, *, keeps: bool = True, size: int = 10) -> None:
        self.count, self.keeps, self.size = count, keeps, size
        self.upto = self.sessions = self.thrown_back = 0
        self.ready = True
        self._at = 0

    def opened(self, source: Source, connect: Any, complain: Any) -> Scripted:
        self.sessions += 1
        self._at = self.upto
        return self

    def next(self, wait_s: float) -> Item | None:
        if self._at >= self.count:
            threading.Event().wait(0.002)
            return None
        self._at += 1
        return Item({"n": self._at, "topic": "t", "partition": 0, "value": base64.b64encode(b"%d" % self._at).decode()}, self._at, self.size)

    def done(self, items: Sequence[Item]) -> None:
        self.upto = items[-1].handle

    def failed(self, items: Sequence[Item]) -> None:
        self.thrown_back += 1
        self._at = self.upto

    def lag(self) -> int | None:
        return self.count - self._at

    def close(self) -> None:
        self._at = self.upto


class Function:
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.batches: list[list[int]] = []

    def invoke(self, function: str, payload: bytes = b"", *, qualifier: str | None = None, trace_id: str | None = None) -> Result:
        self.batches.append([one["n"] for one in json.loads(payload)["records"]["t-0"]])
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return Result(0, 200, None, "1", answer, "rid", None, b"null")


def polled(broker: Scripted, function: Function, given: Source) -> BrokerPoller:
    poller = BrokerPoller(given, function, lambda source, service: None, broker.opened)
    poller.start()
    wait.until(lambda: broker.upto == broker.count, "all are done")
    poller.stop()
    wait.until(lambda: poller.revision is None, "the thread ends")
    return poller


def test_batches_run_in_order_and_are_told_to_the_broker() -> None:
    broker, function = Scripted(25), Function()
    poller = polled(broker, function, source())
    assert [n for batch in function.batches for n in batch] == list(range(1, 26))
    assert all(len(batch) <= 10 for batch in function.batches)
    assert (poller.result, poller.lag, poller.take_checkpoints()) == ("OK", 0, {})
    counts = poller.counts()
    assert (counts["PolledEventCount"], counts["InvokedEventCount"], counts["CommittedEventCount"]) == (25, 25, 25)


def test_a_failed_batch_runs_again_before_any_other() -> None:
    throttle = ApiError(Result(0, 429, "TooManyRequestsException", None, None, "rid", None, b"{}"))
    for keeps in (True, False):
        broker, function = Scripted(4, keeps=keeps), Function("Unhandled", throttle, None)
        polled(broker, function, source(batch_size=2))
        assert function.batches == [[1, 2], [1, 2], [1, 2], [3, 4]]
        assert broker.thrown_back == (0 if keeps else 2)


class Partitions(Scripted):
    """Three partitions, whose messages come in turns; handles are (partition, offset)."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.committed: dict[int, list[int]] = {0: [], 1: [], 2: []}
        self.held: list[tuple[str, int]] = []

    def next(self, wait_s: float) -> Item | None:
        if self._at >= self.count:
            threading.Event().wait(0.002)
            return None
        at, self._at = self._at, self._at + 1
        return Item({"topic": "t", "partition": at % 3, "offset": at // 3}, (at % 3, at // 3), self.size)

    def done(self, items: Sequence[Item]) -> None:
        for item in items:
            self.committed[item.handle[0]].append(item.handle[1])
        self.upto = sum(map(len, self.committed.values()))

    def part(self, item: Item) -> int:
        return int(item.handle[0])

    def hold(self, part: int) -> None:
        self.held.append(("hold", part))

    def release(self, part: int) -> None:
        self.held.append(("release", part))


def test_a_partition_that_fails_keeps_no_other_waiting_and_its_order() -> None:
    broker, failing = Partitions(60), threading.Event()
    seen: list[tuple[int, int]] = []

    class Invoker:
        def invoke(self, function: str, payload: bytes = b"", **members: Any) -> Result:
            ((_, batch),) = json.loads(payload)["records"].items()
            seen.extend((one["partition"], one["offset"]) for one in batch)
            stuck = batch[0]["partition"] == 1 and batch[0]["offset"] == 0 and not failing.is_set()
            return Result(0, 200, None, "1", "Unhandled" if stuck else None, "rid", None, b"null")

    given = source(batch_size=4)
    poller = BrokerPoller(given, Invoker(), lambda source, service: None, lambda *_: broker)
    poller.start()
    wait.until(lambda: len(broker.committed[0]) == len(broker.committed[2]) == 20, "the other partitions are done")
    assert broker.committed[1] == []
    assert ("hold", 1) in broker.held
    failing.set()
    wait.until(lambda: len(broker.committed[1]) == 20, "and so is the one that failed")
    assert ("release", 1) in broker.held
    poller.stop()
    wait.until(lambda: poller.revision is None, "the end")
    assert broker.committed == {n: list(range(20)) for n in range(3)}
    firsts = list(dict.fromkeys(seen))
    assert all([o for p, o in firsts if p == n] == list(range(20)) for n in range(3))


def test_a_partition_that_cannot_be_committed_begins_another_session() -> None:
    broker = Partitions(6)
    done, failures = broker.done, iter([True])

    def refuse_once(items: Sequence[Item]) -> None:
        if next(failures, False):
            raise OSError("not now")
        done(items)

    broker.done = refuse_once  # type: ignore[method-assign]

    def opened(*arguments: Any) -> Any:
        broker.sessions += 1
        broker._at = 0
        broker.committed.update({0: [], 1: [], 2: []})
        return broker

    class Invoker:
        def invoke(self, function: str, payload: bytes = b"", **members: Any) -> Result:
            return Result(0, 200, None, "1", None, "rid", None, b"null")

    poller = BrokerPoller(source(batch_size=2), Invoker(), lambda source, service: None, opened)
    poller.start()
    wait.until(lambda: broker.sessions == 2 and broker.committed == {n: [0, 1] for n in range(3)}, "all are done in the second session")
    poller.stop()
    wait.until(lambda: poller.revision is None, "the end")


def test_what_no_filter_takes_is_told_to_the_broker_without_a_run() -> None:
    function = Function()
    poller = polled(Scripted(6), function, source(filters=('{"n": [2, 5]}',)))
    assert function.batches in ([[2, 5]], [[2], [5]])
    assert poller.counts()["FilteredOutEventCount"] == 4


def test_no_event_is_over_six_megabytes() -> None:
    function = Function()
    polled(Scripted(5, size=MAX_EVENT_BYTES // 2 - 1024), function, source())
    assert function.batches == [[1, 2], [3, 4], [5]]


def test_whatever_breaks_another_session_is_made_and_a_change_too() -> None:
    class Failing(Scripted):
        def next(self, wait_s: float) -> Item | None:
            if self.sessions == 1 and self._at == 1:
                raise Broken("gone")
            return super().next(wait_s)

    broker, function = Failing(3), Function()
    poller = BrokerPoller(source(batch_size=1), function, lambda source, service: None, broker.opened)
    poller.start()
    wait.until(lambda: broker.upto == 3, "all are done")
    assert function.batches == [[1], [2], [3]]
    assert broker.sessions == 2
    poller.update(source(revision=2))
    wait.until(lambda: poller.revision == 2 and broker.sessions == 3, "another session")
    poller.update(source(revision=2))
    poller.stop()
    wait.until(lambda: poller.revision is None, "the thread ends")
    assert broker.sessions == 3


def test_a_template_has_its_own_name_for_bootstrap_servers() -> None:
    class Client:
        def create_event_source_mapping(self, **given: Any) -> dict[str, str]:
            self.given = given
            return {"UUID": "u"}

        def get_event_source_mapping(self, *, UUID: str) -> dict[str, str]:
            return {"UUID": UUID, "State": "Enabled"}

    client = Client()
    handler = EventSourceHandler(lambda service: client, Code(lambda bucket, key: None))
    handler.create("name", {"FunctionName": "f", "Topics": ["t"], "SelfManagedEventSource": {"Endpoints": {"KafkaBootstrapServers": ["a:1"]}}})
    endpoints = {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": ["a:1"]}}
    assert client.given == {"FunctionName": "f", "Topics": ["t"], "SelfManagedEventSource": endpoints}
