"""Polls one queue and runs a function with what it gives.

Theory of operation. Each thread does one batch at a time from the first poll to the deletion, so the number of threads is the number of
batches in flight, and nothing is held back in memory. One thread always polls, also while others have the function run; one that was given as much
as it asked for starts another, up to the mapping's limit, and one that got nothing while another polls ends. As on AWS there are five at first,
and five more each second. SQS itself keeps a group of a FIFO queue with whoever has its first messages, so
order needs nothing here but that a batch is not gone on with after a failure. What is not deleted comes back when its visibility
timeout is over: after a failure, a throttle, a crash of this process; delivery is at least once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from engine.client.errors import ApiError, ClientError
from engine.eventing import patterns
from engine.eventing.sources import messages as m
from engine.eventing.sources.orders import Checkpoint, Source, event
from engine.eventing.sources.pace import Pace
from engine.wire.messages import Result

# Batches in flight where the mapping does not say; and whatever it says.
CONCURRENCY, MAX_CONCURRENCY = 16, 128
# Batches in flight when a queue begins to be busy, and by how many they may grow each second.
FIRST_CONCURRENCY, GROWTH_PER_S = 5, 5
# Batches in flight of one provisioned poller.
BATCHES_OF_POLLER = 10
MAX_RECEIVE = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
THROTTLED = 429
_log = logging.getLogger(__name__)


class Invoker(Protocol):
    """The part of the blocking binary client that is used here."""

    def invoke(
        self, function: str, payload: bytes = ..., *, qualifier: str | None = None, trace_id: str | None = None
    ) -> Result: ...


class QueuePoller:
    """Polls from ``start`` until ``stop`` and the end of the last batch. ``connect`` gives a boto3 client for a source; ``pace``, if there
    is one, says how long to rest after a batch; ``over_pull``: throttles slow nothing down, and as many threads as at first stay.
    """

    def __init__(
        self,
        source: Source,
        poll_s: int,
        invoker: Invoker,
        connect: Callable[[Source], Any],
        pace: Pace | None = None,
        *,
        over_pull: bool = False,
    ) -> None:
        self._counts: Counter[str] = Counter()
        self._source = source
        self._filters = [patterns.parse(text) for text in source.filters]
        self._poll_s = poll_s
        self._invoker = invoker
        self._connect = connect
        self._pace = pace
        self._over_pull = over_pull
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._at_work: dict[int, int] = {}
        # How many of them have no batch.
        self._polling = 0
        self._next = 0
        self._busy_since_s = 0.0
        self._problem = ""

    def start(self) -> None:
        """Begin to poll."""
        for _ in range(self._least()):
            self._add()

    def update(self, source: Source) -> None:
        """Poll so from the next batch of each thread on."""
        with self._lock:
            self._filters = [patterns.parse(text) for text in source.filters]
            self._source = source
            more = self._least() - self._polling
        for _ in range(more):
            self._add(soon=True)

    def stop(self) -> None:
        """Finish what was received, poll no more. Idempotent."""
        self._stopped.set()

    @property
    def stopping(self) -> bool:
        return self._stopped.is_set()

    @property
    def revision(self) -> int | None:
        """The newest revision that all threads work by; None when there is no thread any more."""
        with self._lock:
            return min(self._at_work.values(), default=None)

    # Queues say neither how the last batch went nor how far behind it was, and nothing is to be remembered of them.
    result: str | None = None
    age_ms: int | None = None
    lag: int | None = None

    def take_checkpoints(self) -> dict[str, Checkpoint | None]:
        return {}

    def counts(self) -> dict[str, int]:
        """What became of messages, under the names of AWS's metrics."""
        with self._lock:
            return dict(self._counts)

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number

    def _add(self, *, soon: bool = False) -> None:
        """One thread more, if there is room; ``soon``: when there will be."""
        with self._lock:
            most = self._limit() if soon else min(self._limit(), self._ramp())
            if self._stopped.is_set() or len(self._at_work) >= most:
                return
            number = self._next
            self._next += 1
            # Nothing has been seen yet: not even the revision it is started for.
            self._at_work[number] = -1
            self._polling += 1
        threading.Thread(target=self._run, args=(number,), name=f"{self._source.arn}-{number}", daemon=True).start()

    def _ramp(self) -> int:
        """How many batches may be in flight by now."""
        now_s = time.monotonic()
        if len(self._at_work) <= 1:
            self._busy_since_s = now_s
        first = max(FIRST_CONCURRENCY, self._source.min_pollers * BATCHES_OF_POLLER)
        return first + int((now_s - self._busy_since_s) * GROWTH_PER_S)

    def _early(self) -> bool:
        """Whether there is a thread more than there may be by now: the newest waits."""
        with self._lock:
            return not self._stopped.is_set() and len(self._at_work) > self._ramp()

    def _limit(self) -> int:
        wanted = self._source.max_concurrency or self._source.max_pollers * BATCHES_OF_POLLER or CONCURRENCY
        return min(wanted, MAX_CONCURRENCY)

    def _least(self) -> int:
        """How many threads poll, whatever comes."""
        least = max(FIRST_CONCURRENCY if self._over_pull else 1, self._source.min_pollers)
        return min(least, self._limit())

    def _run(self, number: int) -> None:
        pause_s = FIRST_PAUSE_S
        try:
            while self._early():
                self._stopped.wait(1 / GROWTH_PER_S)
            while (work := self._begin(number)) is not None:
                steady = self._over_pull
                try:
                    got, healthy = self._round(*work)
                except Exception as e:  # noqa: BLE001 - boto3 raises a class per error and service; none of them ends a mapping
                    self._count("PollingErrorCount", 1)
                    self._complain(f"{type(e).__name__}: {e}")
                    got, healthy, steady = 0, False, False
                if healthy:
                    pause_s = FIRST_PAUSE_S
                    if got and self._pace is not None:
                        self._stopped.wait(self._pace.rest_s())
                elif not steady:
                    self._stopped.wait(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                if not (healthy and got) and not self._stays(number):
                    return
        finally:
            with self._lock:
                self._leave(number)

    def _leave(self, number: int) -> None:
        """Count a thread no more, which has no batch. Idempotent; the lock is held."""
        if self._at_work.pop(number, None) is not None:
            self._polling -= 1

    def _begin(self, number: int) -> tuple[Source, list[patterns.Pattern]] | None:
        """What the next round works by; None when there is to be none."""
        with self._lock:
            if self._stopped.is_set() or sorted(self._at_work).index(number) >= self._limit():
                return None
            self._at_work[number] = self._source.revision
            return self._source, self._filters

    def _stays(self, number: int) -> bool:
        """Whether a thread without work is the one that goes on polling; it leaves at once if not."""
        with self._lock:
            if self._polling <= self._least():
                return True
            self._leave(number)
            return False

    def _round(self, source: Source, filters: Sequence[patterns.Pattern]) -> tuple[int, bool]:
        """(messages received, whether all went well) of one batch."""
        client = self._connect(source)
        url = m.queue_url(client.meta.endpoint_url, source.arn)
        collected, count = self._collect(client, url, source, filters)
        self._complain("")
        if not collected:
            return count, True
        with self._busy():
            return count, self._work_off(client, url, source, collected)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """While a thread has a batch, another polls."""
        with self._lock:
            self._polling -= 1
            alone = self._polling < self._least()
        if alone:
            self._add(soon=True)
        try:
            yield
        finally:
            with self._lock:
                self._polling += 1

    def _work_off(self, client: Any, url: str, source: Source, collected: Sequence[m.Message]) -> bool:
        """Run the function with what was received; whether all went well."""
        healthy = True
        for batch in m.batches(collected, source.batch_size):
            done, healthy = self._invoke(source, batch)
            self._delete(client, url, done)
            if len(done) < len(batch) and source.fifo:
                break
        return healthy

    def _collect(
        self, client: Any, url: str, source: Source, filters: Sequence[patterns.Pattern]
    ) -> tuple[list[m.Message], int]:
        """The messages of a batch that filters take, and how many there were with the others, which are deleted."""
        collected: list[m.Message] = []
        count = size = 0
        deadline_s: float | None = None
        while True:
            room = min(MAX_RECEIVE, source.batch_size - len(collected))
            left_s = self._poll_s if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            given = self._receive(client, url, room, min(self._poll_s, int(left_s)))
            count += len(given)
            if len(given) == room:
                self._add()
            refused: list[m.Message] = []
            for message, seen in (m.received(one, source.arn) for one in given):
                (collected if m.taken(seen, filters) else refused).append(message)
            if refused:
                self._count("FilteredOutEventCount", len(refused))
                self._delete(client, url, refused)
            size = sum(m.weight(message) for message in collected)
            if collected and deadline_s is None:
                deadline_s = time.monotonic() + source.window_s
            full = len(collected) >= source.batch_size or size >= m.MAX_EVENT_BYTES
            if full or deadline_s is None or time.monotonic() >= deadline_s or self._stopped.is_set():
                return collected, count
            if not given:
                # Less than a second is left, which is no time for a long poll.
                self._stopped.wait(min(0.1, deadline_s - time.monotonic()))

    def _receive(self, client: Any, url: str, count: int, wait_s: int) -> list[dict[str, Any]]:
        answer = client.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=wait_s,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        given: list[dict[str, Any]] = answer.get("Messages") or []
        self._count("PolledEventCount", len(given))
        return given

    def _invoke(self, source: Source, batch: Sequence[m.Message]) -> tuple[list[m.Message], bool]:
        """The messages that are done with, and whether the function ran."""
        self._count("InvokedEventCount", len(batch))
        payload = event([message.record for message in batch])
        trace = next((message.trace for message in batch if message.trace), None)
        try:
            result = self._invoker.invoke(source.function, payload, qualifier=source.qualifier, trace_id=trace)
        except ClientError as e:
            self._count("InvokeErrorCount", 1)
            self._count("FailedInvokeEventCount", len(batch))
            if not (isinstance(e, ApiError) and e.status == THROTTLED):
                _log.warning("mapping %s: %s was not run: %s", source.mapping, source.function, e)
            return [], False
        failed = frozenset(message.id for message in batch)
        if result.function_error is None:
            failed = m.failures(result.payload, failed) if source.partial else frozenset()
        else:
            self._count("InvokeErrorCount", 1)
        self._count("FailedInvokeEventCount", len(failed))
        return [message for message in batch if message.id not in failed], True

    def _delete(self, client: Any, url: str, done: Sequence[m.Message]) -> None:
        for at in range(0, len(done), MAX_RECEIVE):
            entries = [{"Id": str(n), "ReceiptHandle": one.receipt} for n, one in enumerate(done[at : at + MAX_RECEIVE])]
            answer = client.delete_message_batch(QueueUrl=url, Entries=entries)
            failed = answer.get("Failed") or []
            self._count("DeletedEventCount", len(entries) - len(failed))
            if failed:
                _log.warning("%d messages of %s could not be deleted and will come again: %s", len(failed), url, failed[0].get("Message"))

    def _complain(self, problem: str) -> None:
        """Log what keeps the queue from being polled, once."""
        if problem and problem != self._problem:
            _log.warning("mapping %s: %s cannot be polled: %s", self._source.mapping, self._source.arn, problem)
        self._problem = problem
