"""Polls one topic of Kafka or one queue of RabbitMQ and runs a function with what it gives.

Theory of operation. One thread has one session with the broker. Of a queue it makes one batch after the other; the partitions of a topic are lanes, each with a
batch of its own on the way, so the order of a partition or queue is kept and no partition waits for another.
What a function did is told to the broker then and only then: offsets are committed, messages acknowledged. A batch that failed runs again, after
a pause that grows: of Kafka in place, of RabbitMQ by giving it back. Whatever breaks ends the session, and another begins where the
broker says. So delivery is at least once, and how far a mapping came is known to the broker alone, under the mapping's own consumer group.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from engine.client.errors import ApiError, ClientError
from engine.eventing.sources import attempts, broker_records
from engine.eventing.sources.access import Connect
from engine.eventing.sources.broker_records import Filters
from engine.eventing.sources.lanes import Lanes
from engine.eventing.sources.messages import MAX_EVENT_BYTES
from engine.eventing.sources.orders import Checkpoint, Source
from engine.eventing.sources.sqs import THROTTLED, Invoker
from engine.eventing.sources.streams import FAILED, NOTHING, OK

# How long the broker may take to let the session begin before the mapping counts as polled without it.
BEGIN_S = 60.0
LOOK_S = 0.5
# While calls are under way: what they have done is to be told soon.
WORK_S = 0.05
_AROUND = 1024
_log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A message: its record in the event, and what the session knows it by."""

    record: dict[str, Any]
    handle: Any
    size: int


class Session(Protocol):
    """A session with a broker. Every method raises what its library raises; then it is closed and another made.

    ``ready``: it has begun to be given messages. ``keeps``: what failed is run again without asking for it once more.
    """

    ready: bool
    keeps: bool

    def next(self, wait_s: float) -> Item | None: ...

    def done(self, items: Sequence[Item]) -> None: ...

    def failed(self, items: Sequence[Item]) -> None: ...

    def lag(self) -> int | None:
        """How many messages are behind what was read, where the broker says."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Parted(Session, Protocol):
    """A session whose messages are in order within parts only; a part may be held back."""

    def part(self, item: Item) -> int: ...

    def hold(self, part: int) -> None: ...

    def release(self, part: int) -> None: ...


# Makes a session for a source; ``complain`` is told what goes wrong without an exception.
Open = Callable[[Source, Connect, Callable[[str], None]], Session]


class BrokerPoller:
    """Polls from ``start`` until ``stop`` and the end of the last call."""

    def __init__(self, source: Source, invoker: Invoker, connect: Connect, opened: Open) -> None:
        self._source = source
        self._invoker = invoker
        self._connect = connect
        self._open = opened
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._carried: Item | None = None
        self._seen = -1
        self._over = False
        self._problem = ""
        self.result: str | None = NOTHING
        self.age_ms: int | None = None
        self.lag: int | None = None

    def start(self) -> None:
        """Begin to poll."""
        threading.Thread(target=self._run, name=f"{self._source.mapping}-broker", daemon=True).start()

    def update(self, source: Source) -> None:
        """Poll so from the next session on, which begins when the call under way has ended."""
        changed = source.revision != self._source.revision
        self._source = source
        if changed:
            self._changed.set()

    def stop(self) -> None:
        """Start no more calls. Idempotent."""
        self._stopped.set()
        self._changed.set()

    @property
    def stopping(self) -> bool:
        return self._stopped.is_set()

    @property
    def revision(self) -> int | None:
        """The revision that is worked by; None when nothing is done any more."""
        return None if self._over else self._seen

    def counts(self) -> dict[str, int]:
        """What became of messages, under the names of AWS's metrics."""
        with self._lock:
            return dict(self._counts)

    def take_checkpoints(self) -> dict[str, Checkpoint | None]:
        """The broker has them."""
        return {}

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number

    def _complain(self, problem: str) -> None:
        """Log what keeps the source from being polled, once."""
        if problem and problem != self._problem:
            _log.warning("mapping %s: its broker cannot be polled: %s", self._source.mapping, problem)
            self._count("PollingErrorCount", 1)
            self.result = f"PROBLEM: {problem}"
        self._problem = problem

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stopped.is_set():
                self._changed.clear()
                source = self._source
                try:
                    self._follow(source)
                    failures = 0
                except Exception as e:  # noqa: BLE001 - each library has its classes; none of them ends a mapping
                    failures += 1
                    self._complain(f"{type(e).__name__}: {e}")
                    # It is worked by this revision, as well as can be.
                    self._seen = source.revision
                    self._changed.wait(attempts.pause_s(failures))
        finally:
            self._over = True

    def _follow(self, source: Source) -> None:
        """One session, until the mapping is another or is polled no more."""
        filters = Filters(source.service, source.filters)
        session = self._open(source, self._connect, self._complain)
        began_s, self._carried = time.monotonic(), None
        if isinstance(session, Parted):
            self._follow_parts(session, source, filters, began_s)
            return
        try:
            while not self._changed.is_set():
                batch = self._collect(session, source)
                self._note(session, source, began_s)
                if batch and not self._changed.is_set():
                    self._deliver(session, source, filters, batch)
                    self._complain("")
        finally:
            session.close()

    def _note(self, session: Session, source: Source, began_s: float) -> None:
        if session.ready or time.monotonic() - began_s > BEGIN_S:
            self._seen = source.revision

    def _follow_parts(self, session: Parted, source: Source, filters: Filters, began_s: float) -> None:
        """The same, with the parts beside each other."""
        finished: queue.SimpleQueue[Sequence[Item]] = queue.SimpleQueue()

        def deliver(batch: Sequence[Item]) -> None:
            # Once it is another mapping, what is before may not be done with: all of it comes again in the next session.
            if not self._changed.is_set() and self._through(session, source, filters, batch):
                finished.put(batch)

        lanes: Lanes[Item] = Lanes(source.batch_size, source.window_s, MAX_EVENT_BYTES - _AROUND, deliver)
        under_way = 0
        try:
            while not self._changed.is_set():
                item = session.next(WORK_S if under_way else LOOK_S)
                self._note(session, source, began_s)
                if item is not None:
                    self._count("PolledEventCount", 1)
                    under_way += 1
                    if lanes.put(session.part(item), item):
                        session.hold(session.part(item))
                for part in lanes.freed():
                    session.release(part)
                under_way -= self._settle(session, finished)
        finally:
            lanes.stop()
            with contextlib.suppress(Exception):
                self._settle(session, finished)
            session.close()

    def _settle(self, session: Session, finished: queue.SimpleQueue[Sequence[Item]]) -> int:
        """Tell the broker what is done with, in the thread that reads: its library is for one. How many messages that were."""
        done: list[Item] = []
        while not finished.empty():
            done.extend(finished.get())
        if done:
            self._commit(session, done)
            self._complain("")
        return len(done)

    def _collect(self, session: Session, source: Source) -> list[Item]:
        """A batch; empty when there is nothing now."""
        batch: list[Item] = []
        filled, until_s = _AROUND, 0.0
        while not self._changed.is_set():
            left_s = LOOK_S if not batch else until_s - time.monotonic()
            # Without a window, what is there is taken.
            if batch and left_s <= 0 < source.window_s:
                break
            item, self._carried = self._carried, None
            if item is None:
                item = session.next(min(max(left_s, 0.0), LOOK_S))
                self._count("PolledEventCount", item is not None)
            if item is None:
                if not batch or left_s <= 0:
                    break
                continue
            if batch and filled + item.size > MAX_EVENT_BYTES:
                self._carried = item
                break
            until_s = until_s if batch else time.monotonic() + source.window_s
            batch.append(item)
            filled += item.size
            if len(batch) >= source.batch_size:
                break
        return batch

    def _deliver(self, session: Session, source: Source, filters: Filters, batch: Sequence[Item]) -> None:
        """Run the function until it takes the batch, or give the batch back."""
        if self._through(session, source, filters, batch):
            self._commit(session, batch)

    def _through(self, session: Session, source: Source, filters: Filters, batch: Sequence[Item]) -> bool:
        """Run the function until it takes the batch; whether it did."""
        taken = [item.record for item in batch if filters.take(item.record)]
        self._count("FilteredOutEventCount", len(batch) - len(taken))
        failures = 0
        while taken and not self._call(source, taken):
            failures += 1
            self._count("FailedInvokeEventCount", len(taken))
            self._changed.wait(attempts.pause_s(failures))
            if not session.keeps:
                session.failed(batch)
                return False
            if self._changed.is_set():
                return False
        return True

    def _commit(self, session: Session, batch: Sequence[Item]) -> None:
        session.done(batch)
        self._count("CommittedEventCount", len(batch))
        self.lag = session.lag()

    def _call(self, source: Source, records: Sequence[dict[str, Any]]) -> bool:
        """Whether the function took it."""
        self._count("InvokedEventCount", len(records))
        try:
            answer = self._invoker.invoke(source.function, broker_records.event(source, records), qualifier=source.qualifier)
        except ClientError as e:
            if not (isinstance(e, ApiError) and e.status == THROTTLED) and not self._stopped.is_set():
                _log.warning("mapping %s: %s was not run: %s", source.mapping, source.function, e)
            well = False
        else:
            well = answer.function_error is None
        if not well:
            self._count("InvokeErrorCount", 1)
        self.result = OK if well else FAILED
        return well
