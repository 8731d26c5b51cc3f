"""Records of a stream as Lambda sees them: what they look like in an event, which of them a filter takes, how they are cut into batches.

Source: docs.aws.amazon.com/lambda/latest/dg/{with-kinesis,with-ddb,with-kinesis-filtering,with-ddb-filtering,services-ddb-windows}.html. Pure.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from engine.eventing import patterns
from engine.eventing.sources.messages import MAX_EVENT_BYTES
from engine.eventing.sources.orders import Source, encode

# What an event has beside its records, at most: a window with its state counts for itself.
_AROUND = 64
MAX_STATE_BYTES = 1024 * 1024


class Record(NamedTuple):
    """A record: its sequence number, the key whose order is kept, when it arrived (epoch), and what it is in an event."""

    number: str
    key: str
    arrival_ms: int
    event: bytes


class Window(NamedTuple):
    """A tumbling window: when it starts (epoch) and what is known of it so far."""

    start_s: int
    state: Mapping[str, Any]


def kinesis(given: Mapping[str, Any], source: Source, shard: str) -> Record:
    """A record that Kinesis's GetRecords gave."""
    number, arrival_s = given["SequenceNumber"], given["ApproximateArrivalTimestamp"].timestamp()
    made = {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": given["PartitionKey"],
            "sequenceNumber": number,
            "data": base64.b64encode(given["Data"]).decode("ascii"),
            "approximateArrivalTimestamp": round(arrival_s, 3),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard}:{number}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": source.stream.role if source.stream else "",
        "awsRegion": source.region,
        "eventSourceARN": source.arn,
    }
    return Record(number, given["PartitionKey"], round(arrival_s * 1000), encode(made))


def dynamodb(given: Mapping[str, Any], source: Source) -> Record:
    """A record that GetRecords of DynamoDB Streams gave."""
    change = _plain(given["dynamodb"])
    made = {
        "eventID": given["eventID"],
        "eventName": given["eventName"],
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": source.region,
        "dynamodb": change,
        "eventSourceARN": source.arn,
    }
    if given.get("userIdentity"):
        identity = given["userIdentity"]
        made["userIdentity"] = {"type": identity.get("Type"), "principalId": identity.get("PrincipalId")}
    at_s = change.get("ApproximateCreationDateTime", 0)
    # AWS tells whole seconds; what is more exact is good for ages.
    change["ApproximateCreationDateTime"] = float(int(at_s))
    key = json.dumps(change.get("Keys"), sort_keys=True)
    return Record(change["SequenceNumber"], key, round(at_s * 1000), encode(made))


def _plain(value: Any) -> Any:
    """As JSON has it: bytes in base64, times in seconds."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return value.timestamp()
    return value


def taken(record: Record, source: Source, filters: Sequence[patterns.Pattern]) -> bool:
    """Whether one of the filters, if there are any, matches. ``data`` of Kinesis is what it decodes to, and must be a JSON object."""
    if not filters:
        return True
    seen = patterns.load(record.event)
    if not isinstance(seen, dict):
        return False
    if source.service == "kinesis":
        seen |= seen["kinesis"]
        if any("data" in pattern.fields for pattern in filters):
            try:
                data = patterns.load(base64.b64decode(seen["data"]))
            except ValueError:
                return False
            if not isinstance(data, dict):
                return False
            seen["data"] = data
    return any(pattern.matches(seen) for pattern in filters)


def window_start(record: Record, tumbling_s: int) -> int:
    """The start (epoch) of the tumbling window the record belongs to; 0 without such windows."""
    return record.arrival_ms // 1000 // tumbling_s * tumbling_s if tumbling_s else 0


def fitting(records: Iterable[Record], size: int, tumbling_s: int, limit: int = MAX_EVENT_BYTES) -> tuple[list[Record], bool]:
    """The first records that make a batch, and whether it can grow no more: by number, by bytes, or because a window ends with it."""
    batch: list[Record] = []
    filled = _AROUND
    for record in records:
        filled += len(record.event) + 1
        if batch and (filled > limit or window_start(record, tumbling_s) != window_start(batch[0], tumbling_s)):
            return batch, True
        batch.append(record)
        if len(batch) == size:
            return batch, True
    return batch, filled >= limit


def iso_s(at_s: float) -> str:
    """``2026-01-31T12:00:00Z``."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def windowed(
    records: Sequence[Record], source: Source, shard: str, window: Window, *, final: bool = False, early: bool = False
) -> bytes:
    """The payload of a batch in a tumbling window."""
    tumbling_s = source.stream.tumbling_s if source.stream else 0
    around = {
        "window": {"start": iso_s(window.start_s), "end": iso_s(window.start_s + tumbling_s)},
        "state": window.state,
        "shardId": shard,
        "eventSourceARN": source.arn,
        "isFinalInvokeForWindow": final,
        "isWindowTerminatedEarly": early,
    }
    return b'{"Records":[' + b",".join(one.event for one in records) + b"]," + encode(around)[1:]


def state_of(payload: bytes) -> dict[str, Any] | None:
    """The state in the reply of a function with tumbling windows; None, which is a failure, when there is none."""
    try:
        reply = json.loads(payload or b"null")
    except (ValueError, RecursionError):
        return None
    state = reply.get("state") if isinstance(reply, dict) else None
    return state if isinstance(state, dict) else None


def first_failure(payload: bytes, numbers: Sequence[str]) -> int | None:
    """Where in the batch the function stopped, by a reply with ReportBatchItemFailures: None when all went well, 0 when the reply
    cannot be read.
    """
    try:
        reply = json.loads(payload or b"null")
    except (ValueError, RecursionError):
        return 0
    if reply in (None, ""):
        return None
    items = reply.get("batchItemFailures") if isinstance(reply, dict) else ""
    if items is None:
        return None
    if not isinstance(items, list):
        return 0
    places = {number: at for at, number in enumerate(numbers)}
    named = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in items]
    found = [places.get(one, 0) if isinstance(one, str) else 0 for one in named]
    return min(found, default=None)
