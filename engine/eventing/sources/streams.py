"""Polls one stream: finds its shards, reads each, and starts over from the checkpoints when the mapping changes.

Theory of operation. One thread lists shards now and then, and whenever one has ended; a shard is read when its parents are done, so
keys keep their order across resharding. Where a mapping begins at LATEST, the iterators are made before the mapping counts as polled: what
is put after it is ``Enabled`` is seen. A change of the mapping lets running calls end and has all shards read anew from where they were.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping

from engine.client.errors import ApiError, ClientError
from engine.eventing.sources import attempts, discarded
from engine.eventing.sources.access import Connect
from engine.eventing.sources.attempts import Policy
from engine.eventing.sources.discarded import Discarded
from engine.eventing.sources.orders import Checkpoint, Source
from engine.eventing.sources.shard import Shard
from engine.eventing.sources.sqs import THROTTLED, Invoker
from engine.eventing.sources.stream_clients import DynamoDbClient, KinesisClient, ShardInfo, StreamClient
from engine.wire.messages import Result

LIST_S = 10.0
NOTHING, OK, FAILED = "No records processed", "OK", "PROBLEM: Function call failed"
_log = logging.getLogger(__name__)


class StreamPoller:
    """Polls from ``start`` until ``stop`` and the end of the last calls. ``checkpoints``: how far the shards were done with before."""

    def __init__(self, source: Source, invoker: Invoker, connect: Connect, checkpoints: Mapping[str, Checkpoint]) -> None:
        self._source = source
        self._invoker = invoker
        self._connect = connect
        self._positions = dict(checkpoints)
        self._reported: dict[str, Checkpoint] = dict(checkpoints)
        self._shards: dict[str, Shard] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._seen = -1
        self._over = False
        self._result = NOTHING
        self._problem = ""

    def start(self) -> None:
        """Begin to poll."""
        threading.Thread(target=self._run, name=f"{self._source.arn}-shards", daemon=True).start()

    def update(self, source: Source) -> None:
        """Poll so, once the calls under way have ended. Other credentials alone change nothing."""
        self._source = source
        self._woken.set()

    def stop(self) -> None:
        """Start no more calls. Idempotent."""
        self._stopped.set()
        self._woken.set()

    @property
    def stopping(self) -> bool:
        return self._stopped.is_set()

    @property
    def revision(self) -> int | None:
        """The revision that is worked by; None when nothing is done any more."""
        return None if self._over else self._seen

    @property
    def result(self) -> str | None:
        """LastProcessingResult."""
        return self._result

    @property
    def lag(self) -> int | None:
        """Of topics only."""
        return None

    @property
    def age_ms(self) -> int | None:
        """The greatest age of what was sent last, over the shards."""
        with self._lock:
            return max((shard.age_ms for shard in self._shards.values()), default=0)

    def counts(self) -> dict[str, int]:
        """What became of records, under the names of AWS's metrics."""
        with self._lock:
            return dict(self._counts)

    def take_checkpoints(self) -> dict[str, Checkpoint | None]:
        """Those that changed since they were last taken; None for shards that the stream has no more."""
        with self._lock:
            current = {**self._positions, **{name: shard.checkpoint() for name, shard in self._shards.items()}}
            changed: dict[str, Checkpoint | None] = {k: v for k, v in current.items() if self._reported.get(k) != v}
            changed |= dict.fromkeys(self._reported.keys() - current.keys())
            self._reported = current
            return changed

    # The runner of its shards.

    def invoke(self, payload: bytes, count: int) -> Result | None:
        source = self._source
        if count:
            self.count("InvokedEventCount", count)
        try:
            answer = self._invoker.invoke(source.function, payload, qualifier=source.qualifier)
        except ClientError as e:
            self.count("InvokeErrorCount", 1)
            self._result = FAILED
            if not (isinstance(e, ApiError) and e.status == THROTTLED) and not self._stopped.is_set():
                _log.warning("mapping %s: %s was not run: %s", source.mapping, source.function, e)
            return None
        if answer.function_error is None:
            self._result = OK
        else:
            self.count("InvokeErrorCount", 1)
            self._result = FAILED
        return answer

    def discard(self, given: Discarded) -> None:
        source, count = self._source, len(given.batch.records)
        self.count("DroppedEventCount", count)
        _log.warning("mapping %s: %d records of %s are given up: %s", source.mapping, count, given.shard, given.condition)
        if source.stream is None or source.stream.on_failure is None:
            return
        try:
            discarded.tell(given, source, lambda service: self._connect(self._source, service))
        except Exception as e:  # noqa: BLE001 - boto3 raises a class per error and service; none of them may hold the shard
            self.count("OnFailureDestinationDeliveryErrorCount", 1)
            _log.warning("mapping %s: %s was not told: %s", source.mapping, source.stream.on_failure, e)
        else:
            self.count("OnFailureDestinationDeliveredEventCount", count)

    def count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number

    def complain(self, problem: str) -> None:
        """Log what keeps the stream from being polled, once."""
        if problem and problem != self._problem:
            _log.warning("mapping %s: %s cannot be polled: %s", self._source.mapping, self._source.arn, problem)
        self._problem = problem

    def wake(self) -> None:
        self._woken.set()

    # The thread that looks after shards.

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stopped.is_set():
                source = self._source
                if source.revision != self._seen:
                    self._end()
                try:
                    self._follow(source)
                    failures = 0
                except Exception as e:  # noqa: BLE001 - as above; none of them ends a mapping
                    failures += 1
                    self.count("PollingErrorCount", 1)
                    self._result = f"PROBLEM: {e}"
                    self.complain(f"{type(e).__name__}: {e}")
                    # It is worked by this revision, as well as can be: shards that are known are read on.
                    self._seen = source.revision
                    self._stopped.wait(attempts.pause_s(failures))
        finally:
            self._end()
            self._over = True

    def _follow(self, source: Source) -> None:
        """Until the mapping is another or is polled no more."""
        client = self._client(source)
        policy = _policy(source, client)
        while True:
            self._woken.clear()
            self._look(source, client, policy)
            self.complain("")
            self._seen = source.revision
            self._woken.wait(LIST_S)
            if self._stopped.is_set() or self._source.revision != source.revision:
                break
        self._end()

    def _client(self, source: Source) -> StreamClient:
        if source.service == "kinesis":
            return KinesisClient(source, lambda: self._connect(self._source, "kinesis"))
        return DynamoDbClient(source, lambda: self._connect(self._source, "dynamodbstreams"))

    def _look(self, source: Source, client: StreamClient, policy: Policy) -> None:
        """Start what is to be read now, and settle what has ended."""
        found = client.shards()
        known = {one.id for one in found}
        first = not self._positions and not self._shards
        with self._lock:
            for name, shard in list(self._shards.items()):
                if not shard.is_alive:
                    self._positions[name] = shard.checkpoint()
                    del self._shards[name]
            for name in self._positions.keys() - known:
                del self._positions[name]
        if first:
            self._positions = self._beginning(source, found)
        ended = {name for name, at in self._positions.items() if at.ended}
        for one in found:
            at = self._positions.setdefault(one.id, Checkpoint())
            waits = any(parent in known and parent not in ended for parent in one.parents)
            if at.ended or waits or one.id in self._shards:
                continue
            latest = first and source.stream is not None and source.stream.position == "LATEST"
            iterator = client.iterator(one.id, at, latest=latest)
            shard = Shard(one.id, source, client, iterator, at, policy, self, 0 if latest else _skipped(source, at))
            with self._lock:
                self._shards[one.id] = shard
            shard.start()

    def _beginning(self, source: Source, found: list[ShardInfo]) -> dict[str, Checkpoint]:
        """Where the mapping starts in each shard there is. Shards that come later are read from their beginning."""
        stream = source.stream
        if stream is None or stream.position == "TRIM_HORIZON":
            return {one.id: Checkpoint() for one in found}
        if stream.position == "LATEST":
            now_ms = time.time_ns() // 1_000_000
            return {one.id: Checkpoint(since_ms=now_ms) if one.is_open else Checkpoint(ended=True) for one in found}
        return {one.id: Checkpoint(since_ms=stream.since_ms) for one in found}

    def _end(self) -> None:
        """Stop all shards, and remember how far they are."""
        with self._lock:
            shards = dict(self._shards)
        for shard in shards.values():
            shard.stop()
        while any(shard.is_alive for shard in shards.values()):
            time.sleep(0.01)
        with self._lock:
            for name, shard in shards.items():
                self._positions[name] = shard.checkpoint()
            self._shards.clear()


def _skipped(source: Source, at: Checkpoint) -> int:
    """What arrived before this (epoch, ms) is read but left out, because the service cannot begin there. DynamoDB tells time in seconds."""
    if at.since_ms is None or at.after is not None or source.stream is None:
        return 0
    if source.service == "dynamodb":
        return at.since_ms // 1000 * 1000
    # Against another clock than one's own, a time of one's own is no reason to leave out anything.
    return at.since_ms if source.stream.position == "AT_TIMESTAMP" else 0


def _policy(source: Source, client: StreamClient) -> Policy:
    """What the mapping allows. Without a limit of age, records last as long as the stream keeps them."""
    if source.stream is None:
        return Policy()
    age_s = source.stream.max_age_s
    return Policy(source.stream.max_retries, client.retention_s() if age_s == -1 else age_s, source.stream.bisect)
