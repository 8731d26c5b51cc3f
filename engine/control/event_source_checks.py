"""Whether the source of a mapping is there and open to the function's role; asked of whoever has it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.arn import FunctionRef, fits
from engine.control.broker_rules import source_of
from engine.control.event_source_rules import DYNAMODB, KINESIS, SQS, Kind
from engine.control.plane import Plane
from engine.errors import InvalidParameterValue, ServiceError
from engine.eventing.sources.messages import queue_url
from engine.store.api import Version

_DENIED = "AccessDenied"
# What some that speak SQS say of a queue has no account, or is not told.
_OWNER = re.compile(r"arn:[^:]*:sqs:[^:]*:(\d{12}):")
_NO_QUEUE = ("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
# What a stream's reader has to be allowed, as the refusal says it.
_READING = {
    "kinesis": "GetRecords, GetShardIterator, DescribeStream, ListShards, and ListStreams",
    "dynamodb": "GetRecords, GetShardIterator, DescribeStream, and ListStreams",
}


async def check_source(plane: Plane, kind: Kind, arn: str, ref: FunctionRef, version: Version) -> None:
    """Raises InvalidParameterValue for a source that is not there, is in another region or partition (what has its name in this one would be polled), is
    closed to the function's role, or gives too little time.

    Whether a broker can be reached is for LastProcessingResult to say.
    """
    if arn and (arn.split(":")[3] != ref.region or not fits(arn.split(":")[1], ref.region)):
        raise InvalidParameterValue(f"The event source {arn} is not in the region of the function, {ref.region}.")
    if kind not in (SQS, KINESIS, DYNAMODB):
        return
    aws = await plane.roles.clients(str(version.config.get("Role") or ""), ref.account, ref.name)
    if kind is not SQS:
        await asyncio.to_thread(_check_stream, aws, kind, arn)
        return
    visible_s = await asyncio.to_thread(_visibility_s, aws, arn)
    timeout_s = int(version.config.get("Timeout", 3))
    if visible_s < timeout_s:
        raise InvalidParameterValue(f"Queue visibility timeout: {visible_s} seconds is less than Function timeout: {timeout_s} seconds")


def conflict(kind: Kind, document: Mapping[str, Any], ref: FunctionRef, other: str) -> str:
    """That the mapping ``other`` is the same, in AWS's words."""
    arn, servers, parts = source_of(document)
    ends = f"Please update or delete the existing mapping with UUID {other}"
    if kind is SQS:
        return f'An event source mapping with SQS arn (" {arn} ") and function (" {ref.name} ") already exists. {ends}'
    if kind not in (KINESIS, DYNAMODB):
        where, what = arn or ",".join(servers), "queues" if "Queues" in document else "topics"
        shown = f'event source ("{where}"), function ("{ref.arn()}"), {what} ("{",".join(parts)}")'
        return f"An event source mapping with {shown} already exists. {ends}"
    return f'The event source arn (" {arn} ") and function (" {ref.name} ") provided mapping already exists. {ends}'


def _asked(what: str, ask: Callable[[], Any], refused: Callable[[str, str], str]) -> Any:
    """What ``ask`` gives. ``refused`` makes a text of an error's code and message."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

    try:
        return ask()
    except ClientError as e:
        error = e.response["Error"]
        raise InvalidParameterValue(refused(error.get("Code", ""), error.get("Message", ""))) from e
    except BotoCoreError as e:
        raise ServiceError(f"{what} could not be asked: {e}") from e


def _visibility_s(aws: Any, queue: str) -> int:
    """Raises InvalidParameterValue also when another account's queue of that name answers: some that speak SQS look at the name only."""

    def ask() -> Any:
        sqs = aws.client("sqs")
        return sqs.get_queue_attributes(QueueUrl=queue_url(sqs.meta.endpoint_url, queue), AttributeNames=["VisibilityTimeout", "QueueArn"])

    def refused(code: str, message: str) -> str:
        if code.startswith(_DENIED):
            return "The function execution role does not have permissions to call ReceiveMessage on SQS"
        if "NonExistentQueue" in code or "QueueDoesNotExist" in code:
            code, message = _NO_QUEUE
        return f"Error occurred while ReceiveMessage. SQS Error Code: {code}. SQS Error Message: {message}"

    found = _asked(f"SQS about {queue}", ask, refused)["Attributes"]
    owner = _OWNER.match(found.get("QueueArn", ""))
    if owner is not None and owner[1] != queue.split(":")[4]:
        raise InvalidParameterValue(refused(*_NO_QUEUE))
    return int(found["VisibilityTimeout"])


def _check_stream(aws: Any, kind: Kind, arn: str) -> None:
    stream, _, consumer = arn.partition("/consumer/")

    def ask() -> Any:
        if kind is KINESIS:
            found = _summary(aws.client("kinesis"), stream)
            return _consumer(aws, arn) if consumer else found
        return aws.client("dynamodbstreams").describe_stream(StreamArn=arn, Limit=1)

    def refused(code: str, message: str) -> str:
        if code.startswith(_DENIED):
            return f"Cannot access stream {arn}. Please ensure the role can perform the {_READING[kind.name]} Actions on your stream in IAM."
        if code == "ResourceNotFoundException":
            return f"Stream not found: {arn}"
        return f"Cannot access stream {arn}: {code}: {message}"

    _asked(arn, ask, refused)


def _summary(kinesis: Any, stream: str) -> Any:
    """By the ARN alone, which says whose it is; some that speak Kinesis ask for the name."""
    try:
        return kinesis.describe_stream_summary(StreamARN=stream)
    except kinesis.exceptions.ClientError as e:
        if e.response["Error"].get("Code", "") != "ValidationException":
            raise
    return kinesis.describe_stream_summary(StreamARN=stream, StreamName=stream.rpartition("/")[2])


def _consumer(aws: Any, arn: str) -> Any:
    """Lambda's own policy for roles does not let them describe a consumer: what it cannot be asked about is taken to be there."""
    client = aws.client("kinesis")
    try:
        return client.describe_stream_consumer(ConsumerARN=arn)
    except client.exceptions.ClientError as e:
        if not e.response["Error"].get("Code", "").startswith(_DENIED):
            raise
        return None
