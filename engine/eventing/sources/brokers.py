"""Polls one topic of Kafka or one queue of RabbitMQ and runs a function with what it gives.

Theory of operation. One thread has one session with the broker and makes one batch after the other, so the order of a partition or queue is kept.
What a function did is told to the broker then and only then: offsets are committed, messages acknowledged. A batch that failed runs again, after
a pause that grows: of Kafka in place, of RabbitMQ by giving it back. Whatever breaks ends the session, and another begins where the
broker says. So delivery is at least once, and how far a mapping came is known to the broker alone, under the mapping's own consumer group.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from engine.client.errors import ApiError, ClientError
from engine.eventing.sources import attempts, broker_records
from engine.eventing.sources.access import Connect
from engine.eventing.sources.broker_records import Filters
from engine.eventing.sources.messages import MAX_EVENT_BYTES
from engine.eventing.sources.orders import Checkpoint, Source
from engine.eventing.sources.sqs import THROTTLED, Invoker
from engine.eventing.sources.streams import FAILED, NOTHING, OK

# How long the broker may take to let the session begin before the mapping counts as polled without it.
BEGIN_S = 60.0
LOOK_S = 0.5
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
        try:
            while not self._changed.is_set():
                batch = self._collect(session, source)
                if session.ready or time.monotonic() - began_s > BEGIN_S:
                    self._seen = source.revision
                if batch and not self._changed.is_set():
                    self._deliver(session, source, filters, batch)
                    self._complain("")
        finally:
            session.close()

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
        taken = [item.record for item in batch if filters.take(item.record)]
        self._count("FilteredOutEventCount", len(batch) - len(taken))
        failures = 0
        while taken and not self._call(source, taken):
            failures += 1
            self._count("FailedInvokeEventCount", len(taken))
            self._changed.wait(attempts.pause_s(failures))
            if not session.keeps:
                session.failed(batch)
                return
            if self._changed.is_set():
                return
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
