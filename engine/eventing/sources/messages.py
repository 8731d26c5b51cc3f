"""Messages of a queue as Lambda sees them: their records, which of them a filter takes, how they are cut into batches, what a reply says.

Source: docs.aws.amazon.com/lambda/latest/dg/{with-sqs,services-sqs-errorhandling,invocation-eventfiltering}.html. Pure.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from engine.eventing import patterns
from engine.eventing.sources.orders import encode, event

MAX_EVENT_BYTES = 6 * 1024 * 1024
_EMPTY = len(event([]))
_ORDER = {
    name: n
    for n, name in enumerate(
        (
            "ApproximateReceiveCount", "AWSTraceHeader", "SentTimestamp", "SequenceNumber", "MessageGroupId", "SenderId", "MessageDeduplicationId",
            "ApproximateFirstReceiveTimestamp",
        )
    )
}  # fmt: skip


class Message(NamedTuple):
    """A received message: its id, the handle to delete it by, and its record in the event."""

    id: str
    receipt: str
    record: bytes
    trace: str | None


def queue_url(endpoint: str, queue: str) -> str:
    """Where SQS at ``endpoint`` has the queue with this ARN; asking it would take a permission that Lambda's roles do not have."""
    account, name = queue.split(":")[4:6]
    return f"{endpoint.rstrip('/')}/{account}/{name}"


def record(message: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """The record of a message that ReceiveMessage of ``queue`` (its ARN) gave."""
    attributes = message.get("MessageAttributes") or {}
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": _ordered(message.get("Attributes") or {}),
        "messageAttributes": {name: _attribute(value) for name, value in attributes.items()},
        "md5OfMessageAttributes": message.get("MD5OfMessageAttributes") if attributes else None,
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue,
        "awsRegion": queue.split(":")[3],
    }


def _ordered(given: Mapping[str, str]) -> dict[str, str]:
    """As Lambda's events have them, whatever order SQS tells them in."""
    return {name: given[name] for name in sorted(given, key=lambda one: _ORDER.get(one, len(_ORDER)))}


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if "StringValue" in value:
        given["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        given["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode("ascii")
    return {**given, "stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}


def received(given: Mapping[str, Any], queue: str) -> tuple[Message, dict[str, Any]]:
    """The message, and its record as filters see it."""
    made = record(given, queue)
    message = Message(made["messageId"], made["receiptHandle"], encode(made), made["attributes"].get("AWSTraceHeader"))
    return message, made


def taken(made: Mapping[str, Any], filters: Sequence[patterns.Pattern]) -> bool:
    """Whether one of the filters, if there are any, matches a record. A body that is a JSON object is entered, any other is a string; a
    filter that expects the other kind does not match, whatever it asks of it.
    """
    if not filters:
        return True
    seen = dict(made)
    if any("body" in pattern.fields for pattern in filters):
        try:
            body = patterns.load(made["body"])
        except ValueError:
            body = None
        if isinstance(body, dict):
            seen["body"] = body
            filters = [pattern for pattern in filters if "body" in pattern.entered or "body" not in pattern.compared]
        else:
            filters = [pattern for pattern in filters if "body" in pattern.compared or "body" not in pattern.entered]
    return any(pattern.matches(seen) for pattern in filters)


def weight(message: Message) -> int:
    """What the message adds to an event."""
    return len(message.record) + 1


def batches(messages: Iterable[Message], size: int, limit: int = MAX_EVENT_BYTES) -> list[list[Message]]:
    """Cut in order, so that no batch has more than ``size`` messages or ``limit`` bytes. One too big alone is a batch of its own."""
    cut: list[list[Message]] = []
    filled = limit
    for message in messages:
        if not cut or len(cut[-1]) == size or filled + weight(message) > limit:
            cut.append([])
            filled = _EMPTY
        cut[-1].append(message)
        filled += weight(message)
    return cut


def failures(payload: bytes, sent: Collection[str]) -> frozenset[str]:
    """Ids of the messages that a function with ReportBatchItemFailures did not process: all that were sent, if the reply cannot be read."""
    everything = frozenset(sent)
    try:
        reply = json.loads(payload or b"null")
    except (ValueError, RecursionError):
        return everything
    if reply is None:
        return frozenset()
    items = reply.get("batchItemFailures") if isinstance(reply, dict) else ""
    if items is None:
        return frozenset()
    if not isinstance(items, list):
        return everything
    ids = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in items]
    named = [one for one in ids if isinstance(one, str) and one in everything]
    return frozenset(named) if len(named) == len(ids) else everything
