"""Sends records of ended events to destinations, and the events themselves to dead-letter queues.

boto3 blocks, so a few threads do the sending. What cannot be sent is counted and logged, and the record is lost, as on AWS; boto3 has
repeated what was worth repeating by then. Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from engine.core import lineage
from engine.eventing import records
from engine.eventing.policies import Policy
from engine.eventing.records import End

THREADS = 8
_log = logging.getLogger(__name__)
_trace = threading.local()


class Aws(Protocol):
    """boto3 clients with the rights of one execution role."""

    def client(self, service: str) -> Any: ...


# (role ARN, account, function) to clients; raises AwsError when the role cannot be assumed.
Clients = Callable[[str, str, str], Awaitable[Aws]]


class Delivery:
    """``failures`` counts what was not delivered: ``destination`` (DestinationDeliveryFailures) and ``dead_letter`` (DeadLetterErrors)."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._threads = ThreadPoolExecutor(THREADS, "delivery")
        self._urls: dict[str, str] = {}
        self.failures: Counter[str] = Counter()

    def close(self) -> None:
        """Wait for what is being sent."""
        self._threads.shutdown()

    async def deliver(self, end: End, policy: Policy) -> None:
        """Tell whoever the policy names how the event ended. Raises nothing but cancellation."""
        target = policy.on_success if end.succeeded else policy.on_failure
        if target:
            await self._try("destination", self._record, end, policy, target)
        if policy.dead_letter and not end.succeeded:
            await self._try("dead_letter", self._dead_letter, end, policy, policy.dead_letter)

    async def _try(self, what: str, send: Callable[[Aws, End, str], None], end: End, policy: Policy, target: str) -> None:
        try:
            aws = await self._clients(policy.role, end.event.account, end.event.function)
            await asyncio.get_running_loop().run_in_executor(self._threads, send, aws, end, target)
        except Exception as e:  # noqa: BLE001 - boto3 raises a class per error and service; none of them may keep the event
            self.failures[what] += 1
            _log.warning("event %s of %s: its %s %s was not told: %s", end.event.request_id, end.function_arn, what, target, e)

    def _record(self, aws: Aws, end: End, target: str) -> None:
        service = target.split(":")[2]
        text = records.record(end).decode()
        if service == "sqs":
            traced = {"AWSTraceHeader": {"DataType": "String", "StringValue": end.event.trace_id}} if end.event.trace_id else {}
            aws.client("sqs").send_message(QueueUrl=self._queue_url(aws, target), MessageBody=text, MessageSystemAttributes=traced)
        elif service == "sns":
            aws.client("sns").publish(TopicArn=target, Message=text)
        elif service == "lambda":
            self._invoke(aws, end, target, text)
        elif service == "events":
            answer = aws.client("events").put_events(Entries=[records.bus_entry(end, target)])
            if answer.get("FailedEntryCount"):
                raise RuntimeError(str(answer["Entries"]))
        elif service == "s3":
            key = records.object_key(end, str(uuid.uuid4()))
            aws.client("s3").put_object(Bucket=target.rpartition(":")[2], Key=key, Body=text.encode(), ContentType="application/json")
        else:
            raise RuntimeError(f"{service} takes no records")

    def _dead_letter(self, aws: Aws, end: End, target: str) -> None:
        body, attributes = end.event.payload.decode(), records.dead_letter_attributes(end)
        if target.split(":")[2] == "sqs":
            aws.client("sqs").send_message(QueueUrl=self._queue_url(aws, target), MessageBody=body, MessageAttributes=attributes)
        else:
            aws.client("sns").publish(TopicArn=target, Message=body, MessageAttributes=attributes)

    def _queue_url(self, aws: Aws, arn: str) -> str:
        url = self._urls.get(arn)
        if url is None:
            account, name = arn.split(":")[4:6]
            url = self._urls[arn] = aws.client("sqs").get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
        return url

    @staticmethod
    def _invoke(aws: Aws, end: End, target: str, text: str) -> None:
        """Asynchronously, with the chain of functions that led here in the trace header: destinations may form a loop."""
        client = aws.client("lambda")
        client.meta.events.register("before-call.lambda.Invoke", _add_trace, unique_id="engine-lineage")
        own = lineage.mark(end.event.account, end.event.function)
        _trace.header, _ = lineage.met((end.event.trace_id or "").encode("ascii", "replace"), own)
        client.invoke(FunctionName=target, InvocationType="Event", Payload=text.encode())


def _add_trace(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["X-Amzn-Trace-Id"] = _trace.header.decode()
