"""Reads one shard of a stream and runs the function with what it gives.

Theory of operation. One thread reads pages and puts records into lanes by their key; a lane has a thread while it has work, which
makes one batch after the other, so a key's records run in order and ParallelizationFactor batches run at once. A record is outstanding from
the read to the moment it is done with: taken by the function, refused by a filter, or given up. The checkpoint is the record before the first
outstanding one, and by lane how much is done beyond it; so after a crash nothing is left out, and what comes again is what was being
worked on. Too much outstanding holds the reader back. A lane that fails blocks its keys, and in the end its shard, as on AWS.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from engine.eventing import patterns
from engine.eventing.sources import attempts, records
from engine.eventing.sources.attempts import Batch, Condition, Policy, Step
from engine.eventing.sources.discarded import Discarded
from engine.eventing.sources.lane import Lane, lane_of
from engine.eventing.sources.orders import Checkpoint, Source, Stream, encode, event
from engine.eventing.sources.orders import Lane as Position
from engine.eventing.sources.records import MAX_STATE_BYTES, Record, Window
from engine.eventing.sources.stream_clients import Stale, StreamClient
from engine.wire.messages import Result

MAX_OUTSTANDING_BYTES = 24 * 1024 * 1024
# Real shards answer five reads a second.
BUSY_PAUSE_S = 0.2
# So that small batches do not wait for reads: together with the pause twice what a real shard takes in.
LEAST_READ = 400
_log = logging.getLogger(__name__)


class Runner(Protocol):
    """What a shard needs of its mapping. ``invoke`` gives None when the function was not reached; nothing here raises."""

    def invoke(self, payload: bytes, count: int) -> Result | None: ...

    def discard(self, given: Discarded) -> None: ...

    def count(self, name: str, number: int) -> None: ...

    def complain(self, problem: str) -> None: ...

    def wake(self) -> None: ...


class Shard:
    """Reads from ``start`` until ``stop``, or until a closed shard is done with: then it has ``ended``.

    ``at``: where ``iterator`` stands; records that arrived before ``skip_before_ms`` (epoch) are left out.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        client: StreamClient,
        iterator: str,
        at: Checkpoint,
        policy: Policy,
        runner: Runner,
        skip_before_ms: int,
    ) -> None:
        assert source.stream is not None  # noqa: S101 - its poller sees to it
        self.name = name
        self._source = source
        self._stream: Stream = source.stream
        self._filters: Sequence[patterns.Pattern] = [patterns.parse(text) for text in source.filters]
        self._client = client
        self._iterator = iterator
        self._policy = policy
        self._runner = runner
        self._skip_before_ms = skip_before_ms
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._begun = at
        self._last_read = at.after
        self._outstanding: dict[str, str | None] = {}
        self._bytes = 0
        self._read_until_s = 0.0
        self._closed = False
        self._reading = False
        self.ended = False
        self.age_ms = 0
        # With another number of lanes, keys have other lanes: what those had done beyond the checkpoint comes again.
        total = self._stream.parallel
        self._page = max(LEAST_READ, source.batch_size * total)
        self._lanes = [Lane(at.lanes.get(f"{n}/{total}", Position()), self._stream.tumbling_s) for n in range(total)]

    def start(self) -> None:
        self._reading = True
        threading.Thread(target=self._read, name=f"{self.name}-reader", daemon=True).start()

    def stop(self) -> None:
        """Let running calls end; start none. Idempotent."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    @property
    def is_alive(self) -> bool:
        with self._changed:
            return self._reading or any(lane.running for lane in self._lanes)

    def checkpoint(self) -> Checkpoint:
        """How far this shard is done with."""
        with self._changed:
            if self.ended:
                return Checkpoint(ended=True)
            after = next(iter(self._outstanding.values()), self._last_read)
            total = len(self._lanes)
            found = {f"{n}/{total}": lane.position(after) for n, lane in enumerate(self._lanes)}
            kept = {name: position for name, position in found.items() if position is not None}
            return Checkpoint(after, self._begun.since_ms if after is None else None, lanes=kept)

    # Reading.

    def _read(self) -> None:
        failures = 0
        try:
            while self._has_room():
                began_s = time.time()
                try:
                    page = self._client.read(self.name, self._iterator, min(self._client.most, self._page))
                except Stale:
                    self._iterator = self._client.iterator(self.name, Checkpoint(self._last_read, self._begun.since_ms))
                    continue
                except Exception as e:  # noqa: BLE001 - boto3 raises a class per error and service; none of them ends a mapping
                    failures += 1
                    self._runner.count("PollingErrorCount", 1)
                    self._runner.complain(f"{type(e).__name__}: {e}")
                    self._stopped.wait(attempts.pause_s(failures))
                    continue
                if failures:
                    failures = 0
                    self._runner.complain("")
                self._offer(page.records)
                if page.iterator is None:
                    self._close()
                    return
                self._iterator = page.iterator
                self._advance(began_s if page.latest else 0.0)
                self._stopped.wait(self._client.idle_s if page.latest else BUSY_PAUSE_S)
        except Exception:  # noqa: BLE001 - whatever it was, the poller starts over from the checkpoint
            _log.exception("mapping %s: the reader of %s ended", self._source.mapping, self.name)
            self.stop()
            time.sleep(attempts.FIRST_PAUSE_S)
        finally:
            with self._changed:
                self._reading = False
            self._runner.wake()

    def _has_room(self) -> bool:
        """Wait until more may be read; False when no more shall be."""
        most = 2 * self._page
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped.is_set() or (len(self._outstanding) < most and self._bytes < MAX_OUTSTANDING_BYTES)
            )
            return not self._stopped.is_set()

    def _offer(self, given: Sequence[Record]) -> None:
        if given:
            self._runner.count("PolledEventCount", len(given))
        now_s = time.monotonic()
        wanted = [(one, records.taken(one, self._source, self._filters)) for one in given if one.arrival_ms >= self._skip_before_ms]
        refused = sum(not taken for _, taken in wanted)
        if refused:
            self._runner.count("FilteredOutEventCount", refused)
        keep = {one.number for one, taken in wanted if taken}
        with self._changed:
            for one in given:
                lane = self._lanes[lane_of(one.key, len(self._lanes))]
                if one.number in keep and not lane.has_done(one):
                    self._outstanding[one.number] = self._last_read
                    self._bytes += len(one.event)
                    lane.add(one, now_s)
                self._last_read = one.number
            self._changed.notify_all()
        self._employ()

    def _advance(self, read_until_s: float) -> None:
        self._read_until_s = max(self._read_until_s, read_until_s)
        if self._stream.tumbling_s:
            self._employ()

    def _close(self) -> None:
        """The shard gets no more records: finish what it had."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._employ()
        with self._changed:
            self._changed.wait_for(lambda: self._stopped.is_set() or self._is_done())
            self.ended = self._is_done()

    def _is_done(self) -> bool:
        return not self._outstanding and all(lane.window is None and not lane.running for lane in self._lanes)

    def _employ(self) -> None:
        """Give each lane that has work a thread."""
        with self._changed:
            for lane in self._lanes:
                if not lane.running and not self._stopped.is_set() and lane.has_work(self._read_until_s, closing=self._closed):
                    lane.running = True
                    threading.Thread(target=self._work, args=(lane,), name=f"{self.name}-lane", daemon=True).start()

    # Running.

    def _work(self, lane: Lane) -> None:
        """One batch after the other, until there is none."""
        try:
            while (batch := self._next(lane)) is not None:
                if batch:
                    self._run(lane, batch)
                else:
                    self._finish_window(lane)
        except Exception:  # noqa: BLE001 - as for the reader
            _log.exception("mapping %s: a batch of %s ended", self._source.mapping, self.name)
            self.stop()
            with self._changed:
                lane.running = False
                self._changed.notify_all()

    def _next(self, lane: Lane) -> list[Record] | None:
        """The next batch, once it may be sent; an empty one when a window is over; None when this thread is to end."""
        with self._changed:
            while not self._stopped.is_set():
                if lane.window_is_over(self._read_until_s, closing=self._closed):
                    return []
                if not lane.pending:
                    break
                batch, left_s = lane.cut(self._source.batch_size, self._source.window_s, time.monotonic(), closing=self._closed)
                if batch is not None:
                    return batch
                self._changed.wait(left_s)
            lane.running = False
            self._changed.notify_all()
            return None

    def _run(self, lane: Lane, batch: Sequence[Record]) -> None:
        """Until all of the batch is done with, or the shard is stopped."""
        if self._stream.tumbling_s and lane.window is None:
            lane.window = Window(records.window_start(batch[0], self._stream.tumbling_s), {})
        todo: deque[Batch] = deque([Batch(tuple(batch))])
        answer: Result | None = None
        while todo and not self._stopped.is_set():
            old, current = attempts.aged(todo.popleft(), _now_ms(), self._policy)
            if old is not None:
                self._give_up(lane, old, Condition.AGE, answer)
            if current is None:
                continue
            step, answer = self._attempt(lane, current)
            self._settle(lane, step.done)
            if step.given_up is not None:
                self._give_up(lane, step.given_up, Condition.RETRIES, answer)
            todo.extendleft(reversed(step.again))
            if step.pause_s:
                self._stopped.wait(step.pause_s)

    def _attempt(self, lane: Lane, batch: Batch) -> tuple[Step, Result | None]:
        """What one call of the function makes of the batch, and its answer."""
        numbers = [one.number for one in batch.records]
        self.age_ms = max(0, _now_ms() - batch.records[-1].arrival_ms)
        if lane.window is None:
            payload = event([one.event for one in batch.records])
        else:
            payload = records.windowed(batch.records, self._source, self.name, lane.window)
        answer = self._runner.invoke(payload, len(batch.records))
        if answer is None:
            return attempts.not_run(batch), None
        failed_at = 0 if answer.function_error is not None else None
        if failed_at is None and self._source.partial:
            failed_at = records.first_failure(answer.payload, numbers)
        if answer.function_error is None and lane.window is not None:
            state = records.state_of(answer.payload)
            if state is None:
                failed_at = 0
            elif failed_at != 0:
                self._keep_state(lane, lane.window, state)
        step = attempts.after(batch, failed_at, self._policy)
        self._runner.count("FailedInvokeEventCount", len(batch.records) - len(step.done))
        return step, answer

    def _keep_state(self, lane: Lane, window: Window, state: dict[str, object]) -> None:
        kept = Window(window.start_s, state)
        if len(encode(state)) > MAX_STATE_BYTES:
            self._call_last(lane, kept, early=True)
            kept = Window(window.start_s, {})
        with self._changed:
            lane.window = kept

    def _finish_window(self, lane: Lane) -> None:
        if lane.window is not None and self._call_last(lane, lane.window, early=False):
            with self._changed:
                lane.window = None
                self._changed.notify_all()
            self._runner.wake()

    def _call_last(self, lane: Lane, window: Window, *, early: bool) -> bool:
        """Tell the function that its window is over, again until it takes it; False when the shard is stopped before."""
        payload = records.windowed([], self._source, self.name, window, final=True, early=early)
        failures = 0
        while not self._stopped.is_set():
            answer = self._runner.invoke(payload, 0)
            if answer is not None and answer.function_error is None:
                return True
            failures += 1
            self._stopped.wait(attempts.pause_s(failures))
        return False

    def _give_up(self, lane: Lane, batch: Batch, condition: Condition, answer: Result | None) -> None:
        self._runner.discard(Discarded(batch, self.name, condition, answer, _now_ms()))
        self._settle(lane, batch.records)

    def _settle(self, lane: Lane, done: Sequence[Record]) -> None:
        if not done:
            return
        with self._changed:
            for one in done:
                del self._outstanding[one.number]
                self._bytes -= len(one.event)
            lane.after = done[-1].number
            if not self._outstanding:
                self.age_ms = 0
            self._changed.notify_all()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


