"""Kinesis and DynamoDB Streams behind one interface: shards, iterators, pages of records.

The clients block and raise what boto3 raises; ``Stale`` when an iterator is too old and another is to be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from engine.eventing.sources import records
from engine.eventing.sources.orders import Checkpoint, Source
from engine.eventing.sources.records import Record

DAY_S = 24 * 3600


class Stale(Exception):
    """The iterator has expired, or what it stood at was trimmed."""


class ShardInfo(NamedTuple):
    """A shard of the stream; ``parents`` are to be read before it, ``is_open``: it still gets records."""

    id: str
    parents: tuple[str, ...]
    is_open: bool


class Page(NamedTuple):
    """What one read gave; ``iterator`` None at the end of a closed shard, ``latest``: there is nothing newer."""

    records: Sequence[Record]
    iterator: str | None
    latest: bool


class StreamClient(Protocol):
    """A stream. ``idle_s``: how long to wait after a read that found nothing new; ``retention_s``: how long records last."""

    idle_s: float
    most: int

    def retention_s(self) -> int: ...

    def shards(self) -> list[ShardInfo]: ...

    def iterator(self, shard: str, at: Checkpoint, *, latest: bool = False) -> str:
        """Where to read on after ``at``; with ``latest`` only what comes from now on."""
        ...

    def read(self, shard: str, iterator: str, limit: int) -> Page: ...


# How long nothing is asked for after a read that found nothing new. AWS allows five reads of a shard a second.
IDLE_S, CONSUMER_IDLE_S = 1.0, 0.25


class KinesisClient:
    """``connect`` gives a boto3 client of Kinesis; asked each time, since credentials change.

    What AWS pushes to a consumer (enhanced fan-out) is fetched here, only more often than for the stream itself.
    """

    most = 10_000

    def __init__(self, source: Source, connect: Callable[[], Any]) -> None:
        self._source = source
        self._connect = connect
        # The ARN for AWS, which finds another account's stream by it only; some others that speak Kinesis look at the name.
        self._named = {"StreamARN": source.stream_arn, "StreamName": source.stream_arn.rpartition("/")[2]}
        self.idle_s = IDLE_S if source.arn == source.stream_arn else CONSUMER_IDLE_S

    def retention_s(self) -> int:
        summary = self._connect().describe_stream_summary(**self._named)["StreamDescriptionSummary"]
        return int(summary.get("RetentionPeriodHours", 24)) * 3600

    def shards(self) -> list[ShardInfo]:
        found: list[Mapping[str, Any]] = []
        asked: dict[str, Any] = dict(self._named)
        while True:
            answer = self._connect().list_shards(**asked)
            found += answer["Shards"]
            if not answer.get("NextToken"):
                return [_shard(one) for one in found]
            asked = {"NextToken": answer["NextToken"]}

    def iterator(self, shard: str, at: Checkpoint, *, latest: bool = False) -> str:
        where: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if latest:
            where = {"ShardIteratorType": "LATEST"}
        elif at.after is not None:
            where = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": at.after}
        elif at.since_ms is not None:
            where = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": datetime.fromtimestamp(at.since_ms // 1000, UTC)}
        answer = self._connect().get_shard_iterator(**self._named, ShardId=shard, **where)
        return str(answer["ShardIterator"])

    def read(self, shard: str, iterator: str, limit: int) -> Page:
        client = self._connect()
        try:
            answer = client.get_records(ShardIterator=iterator, Limit=limit)
        except client.exceptions.ExpiredIteratorException:
            raise Stale from None
        made = [records.kinesis(one, self._source, shard) for one in answer["Records"]]
        return Page(made, answer.get("NextShardIterator"), not answer.get("MillisBehindLatest"))


class DynamoDbClient:
    """``connect`` gives a boto3 client of DynamoDB Streams; asked each time, since credentials change."""

    idle_s = 0.25
    most = 1000

    def __init__(self, source: Source, connect: Callable[[], Any]) -> None:
        self._source = source
        self._connect = connect

    def retention_s(self) -> int:
        return DAY_S

    def shards(self) -> list[ShardInfo]:
        found: list[Mapping[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            answer = self._connect().describe_stream(StreamArn=self._source.arn, **more)["StreamDescription"]
            found += answer.get("Shards", [])
            if not answer.get("LastEvaluatedShardId"):
                return [_shard(one) for one in found]
            more = {"ExclusiveStartShardId": answer["LastEvaluatedShardId"]}

    def iterator(self, shard: str, at: Checkpoint, *, latest: bool = False) -> str:
        # A time cannot be asked for: older records are read from the beginning, and left out by who reads.
        where: dict[str, Any] = {"ShardIteratorType": "LATEST" if latest else "TRIM_HORIZON"}
        if not latest and at.after is not None:
            where = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": at.after}
        client = self._connect()
        try:
            answer = client.get_shard_iterator(StreamArn=self._source.arn, ShardId=shard, **where)
        except client.exceptions.TrimmedDataAccessException:
            answer = client.get_shard_iterator(StreamArn=self._source.arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        return str(answer["ShardIterator"])

    def read(self, shard: str, iterator: str, limit: int) -> Page:
        client = self._connect()
        try:
            answer = client.get_records(ShardIterator=iterator, Limit=limit)
        except (client.exceptions.ExpiredIteratorException, client.exceptions.TrimmedDataAccessException):
            raise Stale from None
        made = [records.dynamodb(one, self._source) for one in answer["Records"]]
        return Page(made, answer.get("NextShardIterator"), not made)


def _shard(given: Mapping[str, Any]) -> ShardInfo:
    parents = tuple(given[name] for name in ("ParentShardId", "AdjacentParentShardId") if given.get(name))
    return ShardInfo(given["ShardId"], parents, not given.get("SequenceNumberRange", {}).get("EndingSequenceNumber"))
