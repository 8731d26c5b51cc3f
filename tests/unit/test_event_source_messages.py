"""Messages to records, records to batches, replies to failures; and the threads that poll, with a scripted queue and function."""

from __future__ import annotations

import itertools
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.client.errors import ApiError
from engine.eventing import patterns
from engine.eventing.sources import messages as m
from engine.eventing.sources.orders import Orders, Report, Source, Standing, event, line, read_orders, read_report
from engine.eventing.sources.pace import AT_ONCE, BATCHES_PER_S, Pace
from engine.eventing.sources.sqs import QueuePoller
from engine.wire.messages import Result
from tests.framework import wait

QUEUE = "arn:aws:sqs:eu-west-1:000000000000:q"


def message(name: str, size: int = 10) -> m.Message:
    return m.Message(name, f"r-{name}", b"x" * size, None)


def source(**changes: Any) -> Source:
    members: dict[str, Any] = {
        "mapping": "u", "revision": 1, "function": "arn:f", "qualifier": None, "arn": QUEUE, "batch_size": 10, "window_s": 0, "partial": False,
        "max_concurrency": None, "filters": (), "endpoint": None, "credentials": None, **changes,
    }  # fmt: skip
    return Source(**members)


@settings(deadline=None)
@given(st.lists(st.integers(1, 120), max_size=40), st.integers(1, 7))
def test_batches_keep_order_and_stay_within_both_limits(sizes: list[int], most: int) -> None:
    messages = [message(str(n), size) for n, size in enumerate(sizes)]
    cut = m.batches(messages, most, limit=150)
    assert [one for batch in cut for one in batch] == messages
    for batch in cut:
        assert 0 < len(batch) <= most
        assert len(event([one.record for one in batch])) <= 150
    for batch, following in itertools.pairwise(cut):
        assert len(batch) == most or sum(map(m.weight, [*batch, following[0]])) + len(event([])) > 150


def test_a_message_too_big_for_any_event_is_a_batch_of_its_own() -> None:
    cut = m.batches([message("a"), message("b", 500), message("c")], 10, limit=100)
    assert [[one.id for one in batch] for batch in cut] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("reply", "failed"),
    [
        (b"", ""), (b"null", ""), (b"{}", ""), (b'{"batchItemFailures": null}', ""), (b'{"batchItemFailures": []}', ""),
        (b'{"statusCode": 200}', ""), (b'{"batchItemFailures": [{"itemIdentifier": "a"}]}', "a"),
        (b'{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "a"}]}', "a"),
        (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', "ab"), (b'{"batchItemFailures": [{"itemIdentifier": null}]}', "ab"),
        (b'{"batchItemFailures": [{"wrong": "a"}]}', "ab"), (b'{"batchItemFailures": [{"itemIdentifier": "z"}]}', "ab"),
        (b'{"batchItemFailures": ["a"]}', "ab"), (b'{"batchItemFailures": "a"}', "ab"), (b"no JSON", "ab"), (b'"text"', "ab"),
        (b'{"batchItemFailures": [{"itemIdentifier": 1}]}', "ab"), (b'{"batchItemFailures": [{"itemIdentifier": ["a"]}]}', "ab"),
    ],
)  # fmt: skip
def test_what_a_reply_says_of_failures(reply: bytes, failed: str) -> None:
    assert m.failures(reply, ["a", "b"]) == frozenset(failed)


def raw(body: str, name: str = "1") -> dict[str, Any]:
    return {"MessageId": name, "ReceiptHandle": f"r{name}", "Body": body, "MD5OfBody": "d", "Attributes": {"AWSTraceHeader": "Root=1"}}


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ({"body": {"a": ["x"]}}, ['{"a": "x"}'], ['{"a": "y"}', "x", "[]", '"a"']),
        ({"body": ["x"]}, ["x"], ['{"a": "x"}', "y"]),
        ({"messageId": ["1"]}, ["x", '{"a": 1}'], []),
        ({"body": {"a": [{"exists": False}]}}, ['{"b": 1}'], ["x", '{"a": 1}']),
        ({"body": [{"anything-but": ["y"]}]}, ["x", "[]"], ["y", '{"a": 1}']),
        ({"$or": [{"body": {"a": [1]}}, {"body": {"b": ["c"]}}]}, ['{"a": 1}', '{"b": "c"}'], ["x", '{"b": 1}']),
    ],
)
def test_filters_meet_bodies_of_either_kind(pattern: dict[str, Any], good: list[str], bad: list[str]) -> None:
    parsed = [patterns.parse(json.dumps(pattern))]
    for body, expected in [*((b, True) for b in good), *((b, False) for b in bad)]:
        assert m.taken(m.record(raw(body), QUEUE), parsed) is expected, body
        assert m.taken(m.record(raw(body), QUEUE), []) is True


def test_orders_and_reports_survive_the_line() -> None:
    orders = Orders(3, "/run/engine.sock", 5, (source(credentials=("k", "s", None), filters=("{}",)),))
    assert read_orders(line(orders)) == orders
    report = Report(3, {"u": Standing(1, {"PolledEventCount": 2})})
    assert read_report(line(report)) == report


class Queue:
    """The client of a queue that gives what it has, ten at a time, and remembers what was deleted."""

    def __init__(self, *bodies: str) -> None:
        self.waiting = [raw(body, str(n)) for n, body in enumerate(bodies)]
        self.deleted: list[str] = []
        self.polls = 0
        self.nothing = threading.Event()
        self.meta = SimpleNamespace(endpoint_url="http://aws:1/")
        self._lock = threading.Lock()

    def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:
        assert QueueUrl in ("http://aws:1/000000000000/q", "http://aws:1/000000000000/q.fifo")
        with self._lock:
            self.polls += 1
            given, self.waiting = self.waiting[:MaxNumberOfMessages], self.waiting[MaxNumberOfMessages:]
        if not given:
            self.nothing.wait(0.01)
        return {"Messages": given} if given else {}

    def delete_message_batch(self, *, Entries: list[dict[str, str]], **_: Any) -> dict[str, Any]:
        assert len(Entries) <= 10
        with self._lock:
            self.deleted += [entry["ReceiptHandle"] for entry in Entries]
        return {}


class Function:
    """Answers with ``reply``; holds calls back until ``open`` is set."""

    def __init__(self, reply: bytes = b"null", error: str | None = None) -> None:
        self.reply, self.error = reply, error
        self.open = threading.Event()
        self.open.set()
        self.running = self.most = 0
        self.batches: list[list[str]] = []
        self._lock = threading.Lock()

    def invoke(self, function: str, payload: bytes = b"", *, qualifier: str | None = None, trace_id: str | None = None) -> Result:
        assert trace_id == "Root=1"
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.batches.append([record["body"] for record in json.loads(payload)["Records"]])
        assert self.open.wait(60)
        with self._lock:
            self.running -= 1
        return Result(0, 200, None, "$LATEST", self.error, "rid", None, self.reply)


def ended(poller: QueuePoller) -> None:
    poller.stop()
    wait.until(lambda: poller.revision is None, "the threads end")


def test_no_more_batches_at_once_than_the_mapping_allows() -> None:
    queue, function = Queue(*map(str, range(200))), Function()
    function.open.clear()
    poller = QueuePoller(source(max_concurrency=3), 1, function, lambda _: queue)
    poller.start()
    wait.until(lambda: function.running == 3, "three batches")
    function.open.set()
    wait.until(lambda: len(queue.deleted) == 200, "all are deleted")
    ended(poller)
    assert function.most == 3
    assert sorted(int(body) for batch in function.batches for body in batch) == list(range(200))
    assert poller.counts() == {"PolledEventCount": 200, "InvokedEventCount": 200, "DeletedEventCount": 200, "FailedInvokeEventCount": 0}


def test_what_comes_while_a_batch_is_run_does_not_wait_for_its_end() -> None:
    queue, function = Queue("a"), Function()
    function.open.clear()
    poller = QueuePoller(source(), 1, function, lambda _: queue)
    poller.start()
    wait.until(lambda: function.running == 1, "a batch")
    queue.waiting = [raw("b", "9")]
    wait.until(lambda: function.running == 2, "another beside it")
    function.open.set()
    wait.until(lambda: sorted(queue.deleted) == ["r0", "r9"], "both are deleted")
    wait.until(lambda: len(poller._at_work) == 1, "one thread is enough again")
    ended(poller)


def test_a_change_counts_when_every_thread_works_by_it_and_a_stop_lets_the_batch_finish() -> None:
    queue, function = Queue("a"), Function()
    function.open.clear()
    poller = QueuePoller(source(), 1, function, lambda _: queue)
    poller.start()
    wait.until(lambda: function.running == 1, "a batch")
    poller.update(source(revision=2))
    assert poller.revision in (-1, 1)
    function.open.set()
    wait.until(lambda: poller.revision == 2, "the change arrives")
    function.open.clear()
    queue.waiting = [raw("b", "9")]
    wait.until(lambda: function.running == 1, "another batch")
    poller.stop()
    assert poller.revision == 2
    function.open.set()
    ended(poller)
    assert queue.deleted == ["r0", "r9"]


def test_a_queue_in_order_is_not_gone_on_with_after_a_failure() -> None:
    queue, function = Queue(*"abcd"), Function(error="Unhandled")
    big = source(arn=f"{QUEUE}.fifo", batch_size=10)
    poller = QueuePoller(big, 1, function, lambda _: queue)
    limit = m.MAX_EVENT_BYTES
    queue.waiting = [raw(body * (limit // 3), str(n)) for n, body in enumerate("abcd")]
    poller.start()
    wait.until(lambda: function.batches and queue.polls > 1, "a batch and another poll")
    ended(poller)
    assert [[body[0] for body in batch] for batch in function.batches] == [["a", "b"]]
    assert queue.deleted == []


def test_over_pulling_throttles_slow_nothing_down_and_the_threads_stay() -> None:
    class Throttled(Function):
        def invoke(self, function: str, payload: bytes = b"", **_: Any) -> Result:
            self.batches.append([record["body"] for record in json.loads(payload)["Records"]])
            raise ApiError(Result(0, 429, "TooManyRequestsException", None, None, "rid", None, b"{}"))

    queue, function = Queue(*map(str, range(300))), Throttled()
    poller = QueuePoller(source(), 1, function, lambda _: queue, over_pull=True)
    poller.start()
    wait.until(lambda: not queue.waiting, "everything is taken")
    wait.until(lambda: queue.polls > 40, "it is polled on")
    assert len(poller._at_work) >= 5
    ended(poller)
    assert queue.deleted == []
    assert sum(map(len, function.batches)) == 300


def test_batches_in_flight_grow_by_five_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, function = Queue(*map(str, range(200))), Function()
    function.open.clear()
    moment = [100.0]
    monkeypatch.setattr("engine.eventing.sources.sqs.time", SimpleNamespace(monotonic=lambda: moment[0]))
    poller = QueuePoller(source(), 1, function, lambda _: queue)
    poller.start()
    wait.until(lambda: function.running == 5, "five batches")
    moment[0] += 1
    poller._add()
    wait.until(lambda: function.running == 10, "ten batches")
    # An eleventh thread waits for its time.
    assert len(poller._at_work) == 11
    function.open.set()
    moment[0] += 1
    wait.until(lambda: len(queue.deleted) == 200, "all are deleted")
    ended(poller)


def test_provisioned_pollers_are_there_before_the_messages_and_bound_the_batches() -> None:
    queue, function = Queue(), Function()
    function.open.clear()
    poller = QueuePoller(source(min_pollers=3, max_pollers=3), 1, function, lambda _: queue)
    poller.start()
    wait.until(lambda: poller._polling == 3 and poller.revision == 1, "three poll")
    queue.waiting = [raw(str(n), str(n)) for n in range(400)]
    wait.until(lambda: function.running == 30, "thirty batches")
    function.open.set()
    wait.until(lambda: len(queue.deleted) == 400, "all are deleted")
    wait.until(lambda: len(poller._at_work) == 3, "the others leave")
    poller.update(source(revision=2, min_pollers=5, max_pollers=9))
    wait.until(lambda: len(poller._at_work) == 5 and poller.revision == 2, "five poll")
    poller.update(source(revision=3))
    wait.until(lambda: len(poller._at_work) == 1 and poller.revision == 3, "one polls")
    ended(poller)
    assert function.most == 30


def test_a_pace_lets_a_handful_through_and_then_so_many_a_second() -> None:
    now = [50.0]
    pace = Pace(lambda: now[0])
    assert max(pace.rest_s() for _ in range(AT_ONCE)) == pytest.approx(0.0, abs=1e-6)
    rests = [pace.rest_s() for _ in range(BATCHES_PER_S)]
    assert rests[-1] == pytest.approx(1.0)
    now[0] += 3600
    assert max(pace.rest_s() for _ in range(AT_ONCE)) == pytest.approx(0.0, abs=1e-6)
