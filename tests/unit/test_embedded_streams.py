"""What the embedded Kinesis and DynamoDB Streams do differently, on their own backends."""

from __future__ import annotations

import base64
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.aws import streams

kinesis = pytest.importorskip("moto.kinesis.models", reason="the extra `embedded` is not installed")
DATA = base64.b64encode(b"x").decode()
ARN = "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/label"


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.dynamodb.models import DynamoDBBackend
    from moto.dynamodb.models.table import StreamShard
    from moto.dynamodb.responses import DynamoHandler
    from moto.dynamodbstreams.models import DynamoDBStreamsBackend

    for owner, names in (
        (kinesis.Shard, ("put_record", "get_max_sequence_number", "get_min_sequence_number", "get_records", "get_sequence_number_at")),
        (kinesis.Stream, ("put_record", "get_shard_for_key", "split_shard", "merge_shards")),
        (kinesis.KinesisBackend, ("get_records",)),
        (StreamShard, ("add",)),
        (DynamoDBBackend, ("update_item",)),
        (DynamoHandler, ("call_action",)),
        (DynamoDBStreamsBackend, ("get_shard_iterator", "get_records", "describe_stream")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    streams.install()


@pytest.fixture
def backend() -> Any:
    made = kinesis.KinesisBackend("us-east-1", "000000000000")
    made.create_stream("s", 1, stream_mode=None)
    return made


def put(backend: Any, key: str) -> str:
    number, shard = backend.put_record(None, "s", key, "", DATA)
    return f"{shard}:{number}"


def drained(backend: Any, shard: str, kind: str = "TRIM_HORIZON", at: Any = None) -> tuple[list[str], bool]:
    """The keys from there on, and whether the shard ended."""
    iterator = backend.get_shard_iterator(None, "s", shard, kind, "0", at)
    keys: list[str] = []
    while iterator is not None:
        iterator, found, behind_ms = backend.get_records(None, iterator, 2)
        keys += [one.partition_key for one in found]
        if not found:
            assert behind_ms == 0
            break
    return keys, iterator is None


def test_shards_that_are_split_and_merged_keep_their_records_and_end(backend: Any) -> None:
    for key in "abc":
        put(backend, key)
    (first,) = backend.list_shards(stream_arn=None, stream_name="s")[0]
    backend.split_shard(None, "s", first.shard_id, str(2**127))
    assert drained(backend, first.shard_id) == (["a", "b", "c"], True)
    children = [one.shard_id for one in backend.list_shards(stream_arn=None, stream_name="s")[0] if one.parent]
    for key in "defg":
        put(backend, key)
    got = [drained(backend, name) for name in children]
    assert [ended for _, ended in got] == [False, False]
    assert sorted(key for keys, _ in got for key in keys) == list("defg")
    backend.merge_shards(None, "s", *children)
    assert [drained(backend, name) for name in children] == [(keys, True) for keys, _ in got]
    merged = backend.list_shards(stream_arn=None, stream_name="s")[0][-1]
    assert (merged.parent, merged.adjacent_parent) == tuple(children)
    assert drained(backend, merged.shard_id) == ([], False)


def test_a_time_finds_what_came_since(backend: Any) -> None:
    put(backend, "a")
    (shard,) = backend.list_shards(stream_arn=None, stream_name="s")[0]
    moment = next(iter(shard.records.values())).created_at
    assert drained(backend, shard.shard_id, "AT_TIMESTAMP", datetime.fromtimestamp(moment - 1, UTC))[0] == ["a"]
    assert drained(backend, shard.shard_id, "AT_TIMESTAMP", moment + 1)[0] == []
    assert drained(backend, shard.shard_id, "LATEST")[0] == []


def test_many_senders_share_no_number(backend: Any) -> None:
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.extend(put(backend, "k") for _ in range(100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 400


def test_old_iterators_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.dynamodbstreams.models import DynamoDBStreamsBackend

    class Items:
        id, table = "s", type("Table", (), {"table_arn": "arn", "latest_stream_label": "label"})
        starting_sequence_number = 10
        items: tuple[()] = ()

        def get(self, start: int, quantity: int) -> list[Any]:
            return []

    monkeypatch.setattr(streams, "MAX_ITERATORS", 5)
    backend = DynamoDBStreamsBackend("us-east-1", "000000000000")
    monkeypatch.setattr(backend, "_get_table_from_arn", lambda arn: type("T", (), {"stream_shard": Items()}))
    iterator = backend.get_shard_iterator(ARN, "s", "TRIM_HORIZON").arn
    for _ in range(20):
        iterator = backend.get_records(iterator, 10)["NextShardIterator"]
    assert len(backend.shard_iterators) == 5
