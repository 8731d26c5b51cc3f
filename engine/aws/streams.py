"""Streams of the embedded Kinesis and DynamoDB, made fit for readers that go on for long. Runs in the embedded AWS's process.

moto moves the records of a Kinesis shard that is split or merged into its children, where whoever has read them meets them again; what is put
later still goes to the closed shard, which never ends for its reader. It numbers records without a lock, so that two of one moment share a number, and each read walks through the
shard from its beginning. Its DynamoDB keeps every iterator it ever gave, and reads an item, changes it and writes it back while others do the
same, so that of two additions one is lost. Here closed shards keep what they have and end, numbers are given one at a time, a read costs what it
returns, old iterators are forgotten, and DynamoDB does one thing after the other. Numbers of Kinesis are as long as AWS's, and greater in a
shard that came later; a table's stream tells of each change once, of none where nothing changed, and a stream of another label is none.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from engine.aws import resource_tags

MAX_ITERATORS = 4096
_lock = threading.RLock()
# Taken before the other, never after it.
_tables = threading.RLock()


def install() -> None:
    """Work so from now on; once per process."""
    from moto.dynamodb.models import DynamoDBBackend  # noqa: PLC0415 - moto is an extra
    from moto.dynamodb.models.table import StreamShard  # noqa: PLC0415
    from moto.dynamodb.responses import DynamoHandler  # noqa: PLC0415
    from moto.dynamodbstreams.models import DynamoDBStreamsBackend  # noqa: PLC0415
    from moto.kinesis.models import KinesisBackend, Shard, Stream  # noqa: PLC0415

    Stream.put_record = _alone(Stream.put_record)
    Stream.get_shard_for_key = _open(Stream.get_shard_for_key)
    Shard.put_record = _put
    Shard.get_max_sequence_number = _last
    Shard.get_min_sequence_number = _first
    Shard.get_records = _records
    Shard.get_sequence_number_at = _before
    Stream.split_shard = _keeping(Stream.split_shard)
    Stream.merge_shards = _keeping(Stream.merge_shards)
    KinesisBackend.get_records = _ending(KinesisBackend.get_records)
    StreamShard.add = _alone(_telling(StreamShard.add))
    DynamoDBBackend.update_item = _once(DynamoDBBackend.update_item)
    # With what it answers: that is read from the item itself.
    DynamoHandler.call_action = _alone(DynamoHandler.call_action, _tables)
    resource_tags.install_kinesis()
    DynamoDBStreamsBackend.describe_stream = _labelled(DynamoDBStreamsBackend.describe_stream)
    for name in ("get_shard_iterator", "get_records"):
        setattr(DynamoDBStreamsBackend, name, _forgetting(getattr(DynamoDBStreamsBackend, name)))


def _alone(method: Callable[..., Any], lock: threading.RLock = _lock) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **named: Any) -> Any:
        with lock:
            return method(*args, **named)

    return call


def _start(shard: Any) -> int:
    """What the first number of a Kinesis shard comes after: 56 digits that begin as AWS's do."""
    made: int | None = getattr(shard, "engine_start", None)
    if made is None:
        made = shard.engine_start = int(f"49{time.time_ns() // 1_000_000:014d}{shard.shard_id.rpartition('-')[2]}{0:028d}")
    return made


def _put(self: Any, partition_key: str, data: str, explicit_hash_key: str) -> str:
    from moto.kinesis.models import Record  # noqa: PLC0415

    with _lock:
        number = _last(self) + 1
        self.records[number] = Record(partition_key, data, number, explicit_hash_key)
    return str(number)


def _first(self: Any) -> int:
    return _start(self) + 1


def _last(self: Any) -> int:
    with _lock:
        return next(reversed(self.records), _start(self))


def _records(self: Any, last_sequence_id: str, limit: int | None) -> tuple[list[Any], int, int]:
    """Numbers of a shard have no gaps."""
    with _lock:
        first, newest = max(int(last_sequence_id), _start(self)) + 1, _last(self)
        count = newest - first + 1 if limit is None else min(limit, newest - first + 1)
        found = [self.records[number] for number in range(first, first + count)]
        if not found:
            return [], first - 1, 0
        behind_s = self.records[newest].created_at - found[-1].created_at
    return found, found[-1].sequence_number, int(behind_s * 1000)


def _before(self: Any, at_timestamp: Any) -> int:
    at_s = at_timestamp.timestamp() if isinstance(at_timestamp, datetime) else float(at_timestamp)
    with _lock:
        return next((r.sequence_number for r in reversed(self.records.values()) if r.created_at < at_s), 0)


def _keeping(method: Callable[..., None]) -> Callable[..., None]:
    """Change the shards while their records are out of sight, so that none is moved."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **named: Any) -> None:
        with _lock:
            kept = {shard: shard.records for shard in self.shards.values()}
            for shard in kept:
                shard.records = type(shard.records)()
            try:
                method(self, *args, **named)
            finally:
                for shard, records in kept.items():
                    shard.records = records

    return call


def _open(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, partition_key: str, explicit_hash_key: str) -> Any:
        with _lock:
            found = method(self, partition_key, explicit_hash_key)
            if found is None or found.is_open:
                return found
            at = int(explicit_hash_key or hashlib.md5(partition_key.encode(), usedforsecurity=False).hexdigest(), 10 if explicit_hash_key else 16)
            return next((one for one in self.shards.values() if one.is_open and one.starting_hash <= at <= one.ending_hash), None)

    return call


def _ending(method: Callable[..., Any]) -> Callable[..., Any]:
    """A closed shard that was read to its end gives no further iterator."""

    @functools.wraps(method)
    def call(self: Any, stream_arn: str | None, shard_iterator: str, limit: int | None) -> Any:
        from moto.kinesis.utils import decompose_shard_iterator  # noqa: PLC0415

        with _lock:
            following, records, behind_ms = method(self, stream_arn, shard_iterator, limit)
            name, shard_id, _ = decompose_shard_iterator(shard_iterator)
            shard = self.describe_stream(stream_arn=stream_arn, stream_name=name).get_shard(shard_id)
            last = int(decompose_shard_iterator(following)[2])
            ended = not shard.is_open and last >= shard.get_max_sequence_number()
        return (None if ended else following), records, behind_ms

    return call


def _telling(method: Callable[..., None]) -> Callable[..., None]:
    """Tell of changes only, and of each how big it is: its key and the images that are told."""

    @functools.wraps(method)
    def add(self: Any, old: Any, new: Any) -> None:
        if old is not None and new is not None and old.attrs == new.attrs:
            return
        method(self, old, new)
        told = self.items[-1].record["dynamodb"]
        attributes = (old or new).attrs
        size = sum(len(name.encode()) + attributes[name].size() for name in told["Keys"] if name in attributes)
        told["SizeBytes"] = size + sum(item.size() for item, image in ((old, "OldImage"), (new, "NewImage")) if image in told)

    return add


def _once(method: Callable[..., Any]) -> Callable[..., Any]:
    """An update that makes an item is told once: moto first puts an item of the key alone."""

    @functools.wraps(method)
    def update_item(self: Any, table_name: str, *args: Any, **named: Any) -> Any:
        with _lock:
            shard = self.get_table(table_name).stream_shard
            count = 0 if shard is None else len(shard.items)
            item = method(self, table_name, *args, **named)
            if shard is not None and len(shard.items) == count + 2:
                first = shard.items.pop(count)
                shard.items[count].record["dynamodb"]["SequenceNumber"] = first.record["dynamodb"]["SequenceNumber"]
        return item

    return update_item


def _labelled(method: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(method)
    def describe_stream(self: Any, arn: str) -> dict[str, Any]:
        from moto.dynamodb.exceptions import ResourceNotFoundException  # noqa: PLC0415

        found = method(self, arn)
        if arn.rpartition("/stream/")[2] != found["StreamLabel"] or arn.split(":")[4] != self.account_id:
            raise ResourceNotFoundException(f"Requested resource not found: Stream: {arn} not found")
        return found

    return describe_stream


def _forgetting(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **named: Any) -> Any:
        with _lock:
            answer = method(self, *args, **named)
            surplus = len(self.shard_iterators) - MAX_ITERATORS
            for old in list(itertools.islice(self.shard_iterators, max(0, surplus))):
                del self.shard_iterators[old]
        return answer

    return call
