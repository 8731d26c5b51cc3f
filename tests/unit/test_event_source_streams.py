"""Records of streams, what becomes of batches, lanes, windows; and the reader of a shard, with a scripted stream and function."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.eventing import patterns
from engine.eventing.sources import attempts, discarded, records
from engine.eventing.sources.attempts import Batch, Condition, Policy, Step
from engine.eventing.sources.discarded import Discarded
from engine.eventing.sources.lane import Lane, lane_of
from engine.eventing.sources.orders import Checkpoint, Orders, Report, Source, Stream, line, read_orders, read_report
from engine.eventing.sources.orders import Lane as Position
from engine.eventing.sources.records import Record
from engine.eventing.sources.shard import LEAST_READ, Shard
from engine.eventing.sources.stream_clients import Page, ShardInfo, Stale
from engine.eventing.sources.streams import StreamPoller
from engine.wire.messages import Result
from tests.framework import wait

STREAM = "arn:aws:kinesis:eu-west-1:000000000000:stream/s"
TABLE = "arn:aws:dynamodb:eu-west-1:000000000000:table/t/stream/2026-01-01T00:00:00.000"
MOMENT = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
BEGINNING, NO_LIMIT = Checkpoint(), Policy()
AT_MS = round(MOMENT.timestamp() * 1000)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("engine.eventing.sources.shard.BUSY_PAUSE_S", 0.0)


def stream(**changes: Any) -> Stream:
    members: dict[str, Any] = {
        "role": "arn:role", "position": "TRIM_HORIZON", "since_ms": 0, "parallel": 1, "max_age_s": -1, "max_retries": -1, "bisect": False,
        "tumbling_s": 0, "on_failure": None, **changes,
    }  # fmt: skip
    return Stream(**members)


def source(*, arn: str = STREAM, batch_size: int = 10, window_s: int = 0, filters: tuple[str, ...] = (), partial: bool = False, **changes: Any) -> Source:
    return Source("u", 1, "arn:f", "live", arn, batch_size, window_s, partial, None, filters, None, None, stream(**changes))


def record(number: int, key: str = "k", at_ms: int = AT_MS, size: int = 10) -> Record:
    return Record(str(number), key, at_ms, json.dumps({"n": number, "k": key}).encode().ljust(size))


def numbers(given: Sequence[Record]) -> list[int]:
    return [int(one.number) for one in given]


def test_a_kinesis_record_is_awss() -> None:
    given = {"SequenceNumber": "495", "PartitionKey": "p", "Data": b"\x00\x01", "ApproximateArrivalTimestamp": MOMENT}
    made = records.kinesis(given, source(), "shardId-000000000006")
    assert made[:3] == ("495", "p", AT_MS)
    assert json.loads(made.event) == {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "p",
            "sequenceNumber": "495",
            "data": "AAE=",
            "approximateArrivalTimestamp": AT_MS / 1000,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": "shardId-000000000006:495",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": "arn:role",
        "awsRegion": "eu-west-1",
        "eventSourceARN": STREAM,
    }


def test_a_dynamodb_record_is_awss() -> None:
    change = {
        "ApproximateCreationDateTime": MOMENT, "Keys": {"id": {"B": b"x"}}, "NewImage": {"l": {"L": [{"BS": [b"y"]}, {"NULL": True}]}},
        "SequenceNumber": "111", "SizeBytes": 7, "StreamViewType": "NEW_IMAGE",
    }  # fmt: skip
    identity = {"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}
    made = records.dynamodb({"eventID": "e", "eventName": "REMOVE", "dynamodb": change, "userIdentity": identity}, source(arn=TABLE))
    assert made[:3] == ("111", '{"id": {"B": "eA=="}}', AT_MS)
    assert json.loads(made.event) == {
        "eventID": "e", "eventName": "REMOVE", "eventVersion": "1.1", "eventSource": "aws:dynamodb", "awsRegion": "eu-west-1",
        "dynamodb": {
            "ApproximateCreationDateTime": AT_MS // 1000, "Keys": {"id": {"B": "eA=="}},
            "NewImage": {"l": {"L": [{"BS": ["eQ=="]}, {"NULL": True}]}}, "SequenceNumber": "111", "SizeBytes": 7, "StreamViewType": "NEW_IMAGE",
        },
        "eventSourceARN": TABLE, "userIdentity": {"type": "Service", "principalId": "dynamodb.amazonaws.com"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "data", "takes"),
    [
        ({"data": {"a": ["x"]}}, b'{"a": "x"}', True), ({"data": {"a": ["x"]}}, b'{"a": "y"}', False), ({"data": {"a": ["x"]}}, b"no JSON", False),
        ({"data": {"a": [{"exists": False}]}}, b"[1]", False), ({"data": {"a": [{"exists": False}]}}, b"{}", True),
        ({"partitionKey": ["p"]}, b"\xff", True), ({"eventName": ["other"]}, b"{}", False), ({"data": {"n": [{"numeric": [">", 1]}]}}, b'{"n": 2}', True),
    ],
)  # fmt: skip
def test_filters_enter_the_data_of_kinesis(pattern: dict[str, Any], data: bytes, takes: bool) -> None:
    made = records.kinesis({"SequenceNumber": "1", "PartitionKey": "p", "Data": data, "ApproximateArrivalTimestamp": MOMENT}, source(), "s")
    assert records.taken(made, source(), [patterns.parse(json.dumps(pattern))]) is takes
    assert records.taken(made, source(), []) is True


def test_filters_enter_the_images_of_dynamodb() -> None:
    change = {"ApproximateCreationDateTime": MOMENT, "Keys": {}, "NewImage": {"v": {"S": "ok"}}, "SequenceNumber": "1"}
    made = records.dynamodb({"eventID": "e", "eventName": "INSERT", "dynamodb": change}, source(arn=TABLE))
    for pattern, takes in (
        ({"dynamodb": {"NewImage": {"v": {"S": [{"prefix": "o"}]}}}}, True),
        ({"eventName": ["INSERT"], "dynamodb": {"NewImage": {"w": {"S": [{"exists": True}]}}}}, False),
    ):
        assert records.taken(made, source(arn=TABLE), [patterns.parse(json.dumps(pattern))]) is takes


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 50)), max_size=30), st.integers(1, 6), st.sampled_from([0, 10]))
def test_batches_end_by_number_by_size_and_with_their_window(given: list[tuple[int, int]], most: int, tumbling_s: int) -> None:
    left = [Record(str(n), "k", at_s * 1000, b"x" * size) for n, (size, at_s) in enumerate(given)]
    seen: list[Record] = []
    while left:
        batch, full = records.fitting(left, most, tumbling_s, limit=64 + 100)
        rest = left[len(batch) :]
        assert 0 < len(batch) <= most
        assert len({records.window_start(one, tumbling_s) for one in batch}) == 1
        assert full or not rest
        seen, left = seen + batch, rest
    assert [int(one.number) for one in seen] == list(range(len(given)))


@pytest.mark.parametrize(
    ("reply", "at"),
    [
        (b"", None), (b"null", None), (b'""', None), (b"{}", None), (b'{"batchItemFailures": []}', None), (b'{"batchItemFailures": null}', None),
        (b'{"batchItemFailures": [{"itemIdentifier": "12"}, {"itemIdentifier": "11"}]}', 1), (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', 0),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', 0), (b'{"batchItemFailures": [{"x": "12"}]}', 0), (b'{"batchItemFailures": 1}', 0),
        (b'{"batchItemFailures": [{"itemIdentifier": "99"}]}', 0), (b"no JSON", 0), (b"[1]", 0), (b'{"batchItemFailures": ["12"]}', 0),
    ],
)  # fmt: skip
def test_where_a_reply_says_the_function_stopped(reply: bytes, at: int | None) -> None:
    assert records.first_failure(reply, ["10", "11", "12"]) == at


def test_what_becomes_of_a_batch() -> None:
    batch = Batch(tuple(record(n) for n in range(4)))
    one, two, three, four = batch.records
    assert attempts.after(batch, None, Policy()) == Step(done=batch.records)
    assert attempts.after(batch, 0, Policy(max_retries=0)) == Step(given_up=Batch(batch.records, 1, 1))
    retried = attempts.after(batch, 0, Policy(max_retries=1))
    assert retried.again == (Batch(batch.records, 1, 1),)
    assert attempts.after(retried.again[0], 0, Policy(max_retries=1)).given_up == Batch(batch.records, 2, 2)
    partial = attempts.after(batch, 1, Policy(max_retries=0))
    assert partial == Step(done=(one,), given_up=Batch((two, three, four), 1, 1))
    # Halving and cutting use up nothing.
    bisect = Policy(max_retries=0, bisect=True)
    assert attempts.after(batch, 0, bisect) == Step(again=(Batch((one, two), 1), Batch((three, four), 1)))
    assert attempts.after(batch, 3, bisect) == Step(done=(one, two, three), again=(Batch((four,), 1),))
    assert attempts.after(Batch((four,), 1), 0, bisect) == Step(given_up=Batch((four,), 2, 1))
    refused = attempts.not_run(attempts.not_run(batch).again[0])
    assert (refused.again[0].refusals, refused.again[0].invokes, refused.again[0].failures) == (2, 0, 0)
    assert attempts.pause_s(1) < attempts.pause_s(3) < attempts.pause_s(1000) == attempts.LONGEST_PAUSE_S


def test_records_are_given_up_one_by_one_as_they_age() -> None:
    batch = Batch(tuple(record(n, at_ms=n * 1000) for n in range(4)))
    old, young = attempts.aged(batch, 62_000, Policy(max_age_s=60))
    assert old is not None
    assert young is not None
    assert (numbers(old.records), numbers(young.records)) == ([0, 1], [2, 3])
    assert attempts.aged(batch, 0, Policy(max_age_s=60)) == (None, batch)
    assert attempts.aged(batch, 90_000, Policy(max_age_s=60)) == (batch, None)
    assert attempts.aged(batch, 90_000_000, Policy()) == (None, batch)


@settings(deadline=None)
@given(st.sets(st.integers(0, 15), max_size=5), st.integers(1, 16), st.integers(0, 2))
def test_halving_finds_exactly_the_poison_and_keeps_the_order(poison: set[int], size: int, retries: int) -> None:
    """A function that fails whenever a poisoned record is in the batch."""
    todo = [Batch(tuple(record(n) for n in range(size)))]
    done: list[int] = []
    given_up: list[int] = []
    last_of: Counter[int] = Counter()
    while todo:
        batch, *todo = todo
        inside = numbers(batch.records)
        bad = bool(poison & set(inside))
        last_of.update(inside if bad and len(inside) == 1 else [])
        step = attempts.after(batch, 0 if bad else None, Policy(max_retries=retries, bisect=True))
        done += numbers(step.done)
        given_up += numbers(step.given_up.records) if step.given_up else []
        todo = [*step.again, *todo]
    assert done == [n for n in range(size) if n not in poison]
    assert given_up == sorted(n for n in poison if n < size)
    assert all(last_of[n] == retries + 1 for n in given_up)


def result(error: str | None = None, payload: bytes = b"null") -> Result:
    return Result(0, 200, None, "3", error, "rid", None, payload)


def test_what_a_destination_is_told() -> None:
    batch = Batch((record(1), record(2, at_ms=AT_MS + 1500)), 2, 2)
    told = discarded.record(Discarded(batch, "shard", Condition.RETRIES, result("Unhandled"), AT_MS), source())
    assert list(told) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo"]
    assert told == {
        "requestContext": {"requestId": "rid", "functionArn": "arn:f:live", "condition": "RetryAttemptsExhausted", "approximateInvokeCount": 2},
        "responseContext": {"statusCode": 200, "executedVersion": "3", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": "2026-01-31T12:00:00.250Z",
        "KinesisBatchInfo": {
            "shardId": "shard", "startSequenceNumber": "1", "endSequenceNumber": "2", "approximateArrivalOfFirstRecord": "2026-01-31T12:00:00.250Z",
            "approximateArrivalOfLastRecord": "2026-01-31T12:00:01.750Z", "batchSize": 2, "streamArn": STREAM,
        },
    }  # fmt: skip
    aged = Discarded(batch, "shard", Condition.AGE, None, AT_MS)
    told = discarded.record(aged, source(arn=TABLE), whole=True)
    assert "responseContext" not in told
    assert told["DDBStreamBatchInfo"]["approximateArrivalOfLastRecord"] == "2026-01-31T12:00:01Z"
    assert told["payload"] == {"Records": [{"n": 1, "k": "k"}, {"n": 2, "k": "k"}]}
    assert discarded.object_key(aged, source(), "r") == "aws/lambda/u/shard/2026/01/31/2026-01-31T12.00.00-r"


def test_orders_and_reports_survive_the_line() -> None:
    at = Checkpoint("5", lanes={"0/2": Position("7", 60, {"n": 1})})
    orders = Orders(1, "e", 5, (source(),), {"u": {"s": at, "t": Checkpoint(ended=True)}})
    assert read_orders(line(orders)) == orders
    report = Report(1, {}, {"u": {"s": at, "t": None}})
    assert read_report(line(report)) == report


class Scripted:
    """A stream of one shard that gives what it has, and ends when told to."""

    idle_s = 0.005
    most = 1000

    def __init__(self, *given: Record) -> None:
        self.given = list(given)
        self.ended = False
        self.reads = 0
        self.pages: list[int] = []
        self.begun: list[Checkpoint] = []

    def retention_s(self) -> int:
        return -1

    def shards(self) -> list[ShardInfo]:
        return [ShardInfo("s", (), not self.ended)]

    def iterator(self, shard: str, at: Checkpoint, *, latest: bool = False) -> str:
        self.begun.append(at)
        return at.after or "0"

    def read(self, shard: str, iterator: str, limit: int) -> Page:
        self.reads += 1
        if iterator == "stale":
            raise Stale
        found = [one for one in list(self.given) if int(one.number) > int(iterator)][:limit]
        last = found[-1].number if found else iterator
        self.pages.append(len(found))
        latest = not self.given or int(last) >= int(self.given[-1].number)
        return Page(found, None if self.ended and latest else last, latest)


class Recorded:
    """A mapping whose function answers by ``reply``, called with the event; None is a throttle."""

    def __init__(self, reply: Any = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.discarded: list[Discarded] = []
        self.counts: Counter[str] = Counter()
        self.woken = threading.Event()
        self._reply = reply or (lambda event: result())
        self._lock = threading.Lock()

    def invoke(self, payload: bytes, count: int) -> Result | None:
        event = json.loads(payload)
        with self._lock:
            self.events.append(event)
        answer: Result | None = self._reply(event)
        return answer

    def discard(self, given: Discarded) -> None:
        self.discarded.append(given)

    def count(self, name: str, number: int) -> None:
        self.counts[name] += number

    def complain(self, problem: str) -> None:
        assert not problem, problem

    def wake(self) -> None:
        self.woken.set()

    def batches(self) -> list[list[int]]:
        return [[one["n"] for one in event["Records"]] for event in list(self.events)]


@pytest.fixture
def reading() -> Iterator[Any]:
    made: list[Shard] = []

    def make(client: Scripted, runner: Recorded, given: Source, at: Checkpoint = BEGINNING, policy: Policy = NO_LIMIT) -> Shard:
        shard = Shard("s", given, client, client.iterator("s", at), at, policy, runner, 0)
        made.append(shard)
        shard.start()
        return shard

    yield make
    for shard in made:
        shard.stop()
    wait.until(lambda: not any(shard.is_alive for shard in made), "the threads end")


def test_a_shard_is_read_in_order_and_ends(reading: Any) -> None:
    client, runner = Scripted(*(record(n) for n in range(1, 26))), Recorded()
    shard = reading(client, runner, source())
    wait.until(lambda: shard.checkpoint() == Checkpoint("25"), "all are done")
    client.ended = True
    wait.until(lambda: shard.ended and not shard.is_alive, "the end")
    assert runner.batches() == [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))]
    assert shard.checkpoint() == Checkpoint(ended=True)
    assert runner.woken.is_set()


def test_lanes_keep_the_order_of_keys_and_the_checkpoint_waits_for_the_slowest(reading: Any) -> None:
    keys = ["a", "b", "c", "d"]
    slow = lane_of("a", 2)
    gate = threading.Event()

    def reply(event: dict[str, Any]) -> Result:
        if lane_of(event["Records"][0]["k"], 2) == slow:
            assert gate.wait(60)
        return result()

    given = [record(n, keys[n % 4]) for n in range(1, 21)]
    client, runner = Scripted(*given), Recorded(reply)
    shard = reading(client, runner, source(batch_size=50, parallel=2))
    fast = [int(one.number) for one in given if lane_of(one.key, 2) != slow]
    assert fast
    wait.until(lambda: shard.checkpoint().lanes, "the other lane goes on")
    at = shard.checkpoint()
    held = min(int(one.number) for one in given if lane_of(one.key, 2) == slow)
    assert at.after == (str(held - 1) if held > 1 else None)
    assert at.lanes == {f"{1 - slow}/2": Position(str(fast[-1]))}
    gate.set()
    wait.until(lambda: shard.checkpoint() == Checkpoint("20"), "all are done")
    # Whoever goes on from the earlier checkpoint repeats the slow lane only.
    again = Recorded()
    second = reading(Scripted(*given), again, source(batch_size=50, parallel=2), at)
    wait.until(lambda: second.checkpoint().after == "20", "all are done again")
    assert sorted(itertools.chain(*again.batches())) == [n for n in range(1, 21) if n not in fast]


def test_a_throttle_counts_for_nothing_and_a_failure_for_one(reading: Any) -> None:
    answers = iter([None, None, result("Unhandled"), None, result("Unhandled"), result()])
    runner = Recorded(lambda event: next(answers))
    shard = reading(Scripted(record(1), record(2)), runner, source(batch_size=2), policy=Policy(max_retries=1))
    wait.until(lambda: shard.checkpoint().after == "2", "given up")
    (told,) = runner.discarded
    assert (told.condition, told.batch.invokes, numbers(told.batch.records)) == (Condition.RETRIES, 2, [1, 2])
    assert len(runner.events) == 5


def test_what_is_too_old_is_given_up_without_a_call(reading: Any) -> None:
    now_ms = round(datetime.now(UTC).timestamp() * 1000)
    runner = Recorded()
    shard = reading(Scripted(record(1), record(2, at_ms=now_ms)), runner, source(), policy=Policy(max_age_s=3600))
    wait.until(lambda: shard.checkpoint().after == "2", "all are done")
    assert [(told.condition, told.answer, numbers(told.batch.records)) for told in runner.discarded] == [(Condition.AGE, None, [1])]
    assert runner.batches() == [[2]]


def test_partial_failures_go_on_from_the_first(reading: Any) -> None:
    failed: set[int] = set()

    def reply(event: dict[str, Any]) -> Result:
        inside = [one["n"] for one in event["Records"]]
        bad = [n for n in inside if n in (2, 4) and n not in failed]
        failed.update(bad[:1])
        return result(payload=json.dumps({"batchItemFailures": [{"itemIdentifier": str(n)} for n in bad]}).encode())

    runner = Recorded(reply)
    shard = reading(Scripted(*(record(n) for n in range(1, 6))), runner, source(partial=True))
    wait.until(lambda: shard.checkpoint().after == "5", "all are done")
    assert runner.batches() == [[1, 2, 3, 4, 5], [2, 3, 4, 5], [4, 5]]


def test_windows_carry_their_state_and_are_closed_once(reading: Any) -> None:
    """Two windows of ten seconds; the second is over because the shard ends."""

    def reply(event: dict[str, Any]) -> Result:
        total = event["state"].get("total", 0) + sum(one["n"] for one in event["Records"])
        return result(payload=json.dumps({"state": {"total": total}}).encode())

    start_s = AT_MS // 1000 // 10 * 10
    given = [record(n, at_ms=(start_s + at_s) * 1000) for n, at_s in ((1, 1), (2, 2), (3, 8), (4, 9), (5, 10), (6, 11))]
    client, runner = Scripted(*given), Recorded(reply)
    client.ended = True
    shard = reading(client, runner, source(batch_size=2, tumbling_s=10))
    wait.until(lambda: shard.ended, "the end")
    told = [(e["window"]["start"][-4:], [r["n"] for r in e["Records"]], e["state"], e["isFinalInvokeForWindow"]) for e in runner.events]
    assert told == [
        (told[0][0], [1, 2], {}, False), (told[0][0], [3, 4], {"total": 3}, False), (told[0][0], [], {"total": 10}, True),
        (told[3][0], [5, 6], {}, False), (told[3][0], [], {"total": 11}, True),
    ]  # fmt: skip
    assert told[0][0] != told[3][0]
    assert runner.events[0]["shardId"] == "s"
    assert runner.events[0]["eventSourceARN"] == STREAM
    assert not any(e["isWindowTerminatedEarly"] for e in runner.events)


def test_a_window_goes_on_after_a_restart_and_a_reply_without_state_is_a_failure(reading: Any) -> None:
    start_s = AT_MS // 1000 // 10 * 10
    answers = iter([result(), result(payload=b'{"state": {"a": 2}}')])
    at = Checkpoint("1", lanes={"0/1": Position(None, start_s, {"a": 1})})
    runner = Recorded(lambda event: next(answers, result(payload=b'{"state": {}}')))
    shard = reading(Scripted(record(1), record(2, at_ms=start_s * 1000)), runner, source(tumbling_s=10), at)
    # The window is long over: it is closed as soon as nothing of it is left to read.
    wait.until(lambda: shard.checkpoint() == Checkpoint("2"), "the window is closed")
    assert [(e["state"], [r["n"] for r in e["Records"]], e["isFinalInvokeForWindow"]) for e in runner.events] == [
        ({"a": 1}, [2], False), ({"a": 1}, [2], False), ({"a": 2}, [], True),
    ]  # fmt: skip


def test_a_state_too_big_ends_the_window_early(reading: Any) -> None:
    big = json.dumps({"state": {"a": "x" * records.MAX_STATE_BYTES}}).encode()
    answers = iter([result(payload=big)])
    runner = Recorded(lambda event: next(answers, result(payload=b'{"state": {"b": 1}}')))
    shard = reading(Scripted(record(1), record(2)), runner, source(batch_size=1, tumbling_s=10))
    wait.until(lambda: shard.checkpoint() == Checkpoint("2"), "the window is closed")
    told = [([r["n"] for r in e["Records"]], len(e["state"]), e["isFinalInvokeForWindow"], e["isWindowTerminatedEarly"]) for e in runner.events]
    assert told == [([1], 0, False, False), ([], 1, True, True), ([2], 0, False, False), ([], 1, True, False)]


def test_a_batching_window_gathers(reading: Any) -> None:
    runner = Recorded()
    client = Scripted(record(1))
    shard = reading(client, runner, source(window_s=300, batch_size=3))
    wait.until(lambda: client.reads > 3, "reads that found nothing more")
    assert runner.events == []
    client.given += [record(2), record(3), record(4)]
    wait.until(lambda: shard.checkpoint().after == "3", "a full batch")
    client.ended = True
    # Nothing more will come: no reason to wait.
    wait.until(lambda: shard.ended, "the end")
    assert runner.batches() == [[1, 2, 3], [4]]


def test_what_is_outstanding_is_bounded(reading: Any) -> None:
    gate = threading.Event()
    runner = Recorded(lambda event: result() if gate.wait(60) else None)
    client = Scripted(*(record(n) for n in range(1, 2001)))
    shard = reading(client, runner, source(batch_size=10))
    wait.until(lambda: runner.counts["PolledEventCount"] >= 2 * LEAST_READ, "as much as two reads")
    assert runner.counts["PolledEventCount"] <= 3 * LEAST_READ
    gate.set()
    wait.until(lambda: shard.checkpoint().after == "2000", "all are done", 60)


def test_small_batches_do_not_wait_for_reads(reading: Any) -> None:
    client, runner = Scripted(*(record(n) for n in range(1, 301))), Recorded()
    shard = reading(client, runner, source(batch_size=1))
    wait.until(lambda: shard.checkpoint().after == "300", "all are done", 60)
    assert len(runner.batches()) == 300
    assert client.pages[0] == 300


def test_a_stale_iterator_is_replaced_and_what_is_too_early_left_out(reading: Any) -> None:
    client, runner = Scripted(record(1, at_ms=1000), record(2)), Recorded()
    shard = Shard("s", source(), client, "stale", Checkpoint(since_ms=AT_MS), Policy(), runner, AT_MS)
    shard.start()
    wait.until(lambda: shard.checkpoint().after == "2", "all are done")
    shard.stop()
    wait.until(lambda: not shard.is_alive, "the end")
    assert runner.batches() == [[2]]
    assert client.begun == [Checkpoint(since_ms=AT_MS)]


def test_a_lane_remembers_only_what_is_beyond_the_shard() -> None:
    assert Lane(Position(), 0).position("5") is None
    assert Lane(Position("5"), 0).position("5") is None
    assert Lane(Position("10"), 0).position("9") == Position("10")
    assert Lane(Position("5", 60, {"a": 1}), 60).position("5") == Position(None, 60, {"a": 1})


class Sharded:
    """boto3's Kinesis, of shards that have parents, and the function."""

    def __init__(self, shards: dict[str, tuple[str, ...]]) -> None:
        self.shards = shards
        self.order: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.failing = False
        self.exceptions = type("Exceptions", (), {"ExpiredIteratorException": KeyError})

    def describe_stream_summary(self, **_: Any) -> dict[str, Any]:
        return {"StreamDescriptionSummary": {"RetentionPeriodHours": 24}}

    def list_shards(self, **_: Any) -> dict[str, Any]:
        if self.failing:
            raise RuntimeError("slow down")
        return {"Shards": [
            {"ShardId": name, **dict(zip(("ParentShardId", "AdjacentParentShardId"), parents, strict=False)),
             "SequenceNumberRange": {"StartingSequenceNumber": "0", **({} if name.startswith("open") else {"EndingSequenceNumber": "1"})}}
            for name, parents in self.shards.items()
        ]}  # fmt: skip

    def get_shard_iterator(self, *, ShardId: str, ShardIteratorType: str, **_: Any) -> dict[str, str]:
        self.asked.append((ShardId, ShardIteratorType))
        return {"ShardIterator": f"{ShardId} {0 if ShardIteratorType in ('TRIM_HORIZON', 'AT_TIMESTAMP') else 1}"}

    def get_records(self, *, ShardIterator: str, Limit: int) -> dict[str, Any]:
        name, at = ShardIterator.split()
        one = {"SequenceNumber": "1", "PartitionKey": name, "Data": b"", "ApproximateArrivalTimestamp": datetime.now(UTC)}
        more = {"NextShardIterator": f"{name} 1"} if name.startswith("open") else {}
        return {"Records": [one] if at == "0" else [], "MillisBehindLatest": 0, **more}

    def invoke(self, function: str, payload: bytes = b"", *, qualifier: str | None = None, trace_id: str | None = None) -> Result:
        self.order.append(json.loads(payload)["Records"][0]["kinesis"]["partitionKey"])
        return result()


def ended(poller: StreamPoller) -> None:
    poller.stop()
    wait.until(lambda: poller.revision is None, "the threads end")


def test_children_are_read_after_their_parents() -> None:
    aws = Sharded({"open-c": ("b1", "b2"), "b1": ("a",), "b2": ("a", "gone"), "a": ("long-gone",)})
    poller = StreamPoller(source(), aws, lambda source, service: aws, {})
    assert poller.result == "No records processed"
    poller.start()
    wait.until(lambda: len(aws.order) == 4, "every shard")
    assert aws.order[0] == "a"
    assert aws.order[-1] == "open-c"
    changed = wait.until(lambda: c if (c := poller.take_checkpoints()) else None, "checkpoints")
    assert poller.result == "OK"
    ended(poller)
    assert {**changed, **poller.take_checkpoints()} == {
        "a": Checkpoint(ended=True), "b1": Checkpoint(ended=True), "b2": Checkpoint(ended=True), "open-c": Checkpoint("1"),
    }  # fmt: skip
    assert poller.take_checkpoints() == {}


def test_latest_leaves_out_what_was_there_and_later_shards_are_read_whole() -> None:
    aws = Sharded({"closed": (), "open-1": ()})
    poller = StreamPoller(source(position="LATEST"), aws, lambda source, service: aws, {})
    poller.start()
    wait.until(lambda: poller.revision == 1, "polled")
    assert aws.asked == [("open-1", "LATEST")]
    aws.shards["open-2"] = ("closed",)
    poller.wake()
    wait.until(lambda: aws.order == ["open-2"], "the new shard")
    ended(poller)
    left = poller.take_checkpoints()
    assert left["closed"] == Checkpoint(ended=True)
    assert left["open-1"] is not None
    assert left["open-1"].since_ms is not None
    # Begun again before anything was read, it still reads what came in between.
    again = Sharded({"open-1": ()})
    known = {name: at for name, at in left.items() if at is not None}
    poller = StreamPoller(source(position="LATEST"), again, lambda source, service: again, known)
    poller.start()
    wait.until(lambda: again.order == ["open-1"], "what came in between")
    assert again.asked[0] == ("open-1", "AT_TIMESTAMP")
    ended(poller)
    assert poller.take_checkpoints()["closed"] is None


def test_a_change_starts_over_from_the_checkpoints() -> None:
    aws = Sharded({"open-1": ()})
    poller = StreamPoller(source(), aws, lambda source, service: aws, {"open-1": Checkpoint("0")})
    poller.start()
    wait.until(lambda: poller.revision == 1, "polled")
    changed = source(parallel=3)
    poller.update(Source(**{name: getattr(changed, name) for name in changed.__struct_fields__} | {"revision": 2}))
    wait.until(lambda: poller.revision == 2, "the change arrives")
    ended(poller)
    assert aws.asked == [("open-1", "AFTER_SEQUENCE_NUMBER")] * 2


def test_shards_are_read_on_while_they_cannot_be_listed() -> None:
    aws = Sharded({"open-1": ()})
    poller = StreamPoller(source(), aws, lambda source, service: aws, {})
    poller.start()
    wait.until(lambda: aws.order == ["open-1"], "the record")
    aws.failing = True
    poller.wake()
    wait.until(lambda: poller.counts().get("PollingErrorCount", 0) > 1, "it is tried again")
    assert poller.result == "PROBLEM: slow down"
    aws.failing = False
    aws.shards["open-2"] = ()
    wait.until(lambda: aws.order == ["open-1", "open-2"], "a shard more")
    ended(poller)
    assert aws.asked == [("open-1", "TRIM_HORIZON"), ("open-2", "TRIM_HORIZON")]
