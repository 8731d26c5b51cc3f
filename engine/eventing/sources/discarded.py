"""What an on-failure destination is told of records of a stream that were given up; and the telling.

Source: docs.aws.amazon.com/lambda/latest/dg/{kinesis-on-failure-destination,services-dynamodb-errors}.html and recorded messages: queues and
topics get where the records are, a bucket gets the records too.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from engine.core.records import millis
from engine.eventing.sources.attempts import Batch, Condition
from engine.eventing.sources.messages import queue_url
from engine.eventing.sources.orders import Source, event
from engine.eventing.sources.records import Record, iso_s
from engine.wire.messages import Result

_INFO = {"kinesis": "KinesisBatchInfo", "dynamodb": "DDBStreamBatchInfo"}


class Discarded(NamedTuple):
    """A batch that was given up, of which shard and when; ``answer`` is the function's last, if it ran."""

    batch: Batch
    shard: str
    condition: Condition
    answer: Result | None
    at_ms: int


def record(given: Discarded, source: Source, *, whole: bool = False) -> dict[str, Any]:
    """The invocation record; ``whole`` with the records themselves."""
    batch, answer = given.batch, given.answer
    function = source.function if source.qualifier is None else f"{source.function}:{source.qualifier}"
    told: dict[str, Any] = {
        "requestContext": {
            "requestId": str(uuid.uuid4()) if answer is None else answer.request_id,
            "functionArn": function,
            "condition": str(given.condition),
            "approximateInvokeCount": batch.invokes,
        },
    }
    if answer is not None and given.condition is not Condition.AGE:
        told["responseContext"] = {
            "statusCode": answer.status,
            "executedVersion": answer.executed_version,
            "functionError": answer.function_error,
        }
    told |= {"version": "1.0", "timestamp": millis(given.at_ms), _INFO[source.service]: _info(batch.records, given.shard, source)}
    if whole:
        told["payload"] = json.loads(event([one.event for one in batch.records]))
    return told


def _info(records: Sequence[Record], shard: str, source: Source) -> dict[str, Any]:
    first, last = records[0], records[-1]
    # DynamoDB tells whole seconds.
    shown: Callable[[int], str] = millis if source.service == "kinesis" else lambda at_ms: iso_s(at_ms // 1000)
    return {
        "shardId": shard,
        "startSequenceNumber": first.number,
        "endSequenceNumber": last.number,
        "approximateArrivalOfFirstRecord": shown(first.arrival_ms),
        "approximateArrivalOfLastRecord": shown(last.arrival_ms),
        "batchSize": len(records),
        "streamArn": source.stream_arn,
    }


def object_key(given: Discarded, source: Source, random: str) -> str:
    """Where the record goes in a bucket."""
    moment = datetime.fromtimestamp(given.at_ms / 1000, UTC)
    return f"aws/lambda/{source.mapping}/{given.shard}/{moment:%Y/%m/%d}/{moment:%Y-%m-%dT%H.%M.%S}-{random}"


def tell(given: Discarded, source: Source, client: Callable[[str], Any]) -> None:
    """Send it to the mapping's destination with boto3 clients by service name. Raises what they raise."""
    target = source.stream.on_failure if source.stream else None
    if target is None:
        return
    service = target.split(":")[2]
    text = json.dumps(record(given, source, whole=service == "s3"), separators=(",", ":"))
    if service == "sqs":
        sqs = client("sqs")
        sqs.send_message(QueueUrl=queue_url(sqs.meta.endpoint_url, target), MessageBody=text)
    elif service == "sns":
        client("sns").publish(TopicArn=target, Message=text)
    else:
        key = object_key(given, source, str(uuid.uuid4()))
        client("s3").put_object(Bucket=target.rpartition(":")[2], Key=key, Body=text.encode(), ContentType="application/json")
