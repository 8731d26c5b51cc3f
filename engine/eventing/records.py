"""What destinations and dead-letter queues are told of an asynchronous invocation. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html and recorded messages: members in AWS's order, compact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.core.records import millis
from engine.store.api import LATEST, Event

ERROR_TEXT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the function answered last: a status, the version that ran, ``Unhandled`` when it failed, and its payload."""

    status: int
    executed_version: str
    function_error: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class End:
    """How an event ended. ``runs`` counts invocations made; ``answer`` is None when the last attempt reached no function."""

    event: Event
    function_arn: str
    condition: str
    runs: int
    answer: Answer | None
    at_ms: int

    @property
    def succeeded(self) -> bool:
        return self.condition == "Success"


def record(end: End) -> bytes:
    """The invocation record as JSON."""
    told: dict[str, Any] = {
        "version": "1.0",
        "timestamp": millis(end.at_ms),
        "requestContext": {
            "requestId": end.event.request_id,
            "functionArn": end.function_arn,
            "condition": end.condition,
            "approximateInvokeCount": end.runs,
        },
        "requestPayload": _value(end.event.payload),
    }
    if end.answer is not None:
        context: dict[str, Any] = {"statusCode": end.answer.status, "executedVersion": end.answer.executed_version}
        if end.answer.function_error is not None:
            context["functionError"] = end.answer.function_error
        told["responseContext"] = context
        told["responsePayload"] = _value(end.answer.payload)
    return json.dumps(told, separators=(",", ":")).encode()


def dead_letter_attributes(end: End) -> dict[str, dict[str, str]]:
    """Message attributes of the original event in a dead-letter queue or topic."""
    status = 200 if end.answer is not None else 429
    return {
        "RequestID": {"DataType": "String", "StringValue": end.event.request_id},
        "ErrorCode": {"DataType": "Number", "StringValue": str(status)},
        "ErrorMessage": {"DataType": "String", "StringValue": _error_text(end) or "unknown"},
    }


def bus_entry(end: End, bus_arn: str) -> dict[str, Any]:
    """The PutEvents entry of a record."""
    result = "Success" if end.succeeded else "Failure"
    return {
        "Source": "lambda",
        "DetailType": f"Lambda Function Invocation Result - {result}",
        "Detail": record(end).decode(),
        "Resources": [bus_arn, end.function_arn],
        "EventBusName": bus_arn,
    }


def object_key(end: End, random: str) -> str:
    """Where the record of a failure goes in a bucket; ``random`` is a UUID."""
    moment = datetime.fromtimestamp(end.at_ms / 1000, UTC)
    return f"aws/lambda/async/{end.event.function}/{moment:%Y/%m/%d}/{moment:%Y-%m-%dT%H.%M.%S}-{random}"


def qualified(arn: str, qualifier: str | None) -> str:
    """The function's ARN as records have it, never without a qualifier."""
    return f"{arn}:{qualifier or LATEST}"


def _value(raw: bytes) -> Any:
    """JSON as it is; what is none, as text."""
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def _error_text(end: End) -> str:
    if end.answer is None:
        return end.condition
    value = _value(end.answer.payload)
    text = value.get("errorMessage") if isinstance(value, Mapping) else None
    shown = text if isinstance(text, str) else end.answer.payload.decode("utf-8", "replace")
    return shown.encode()[:ERROR_TEXT_BYTES].decode("utf-8", "ignore")
