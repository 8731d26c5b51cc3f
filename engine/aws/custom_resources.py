"""Custom resources: a function of ours makes, changes and deletes them, and answers by writing to a URL.

Theory of operation. CloudFormation invokes the function that ServiceToken names with a request and a ResponseURL, and waits until something was PUT there, up to
ServiceTimeout. Here the URL is that of an object in the embedded S3, signed in advance, at the address at which functions reach the engine. The invocation is waited
for as well: a function that fails without an answer is invoked again as an asynchronous one would be, without the pauses, and then said to have failed.
Source: docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref.html.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.aws.lambda_resources import Made, Properties

KINDS = "Custom::"
PLAIN = "AWS::CloudFormation::CustomResource"
BUCKET = "cloudformation-custom-resource-response"
TIMEOUT_S = 3600
# Beyond the longest that a function may run.
READ_TIMEOUT_S = 930
ATTEMPTS = 3
POLL_S, LONGEST_POLL_S = 0.05, 1.0
# Not told to the function.
_OURS = frozenset({"ServiceTimeout"})


class Failed(ValueError):
    """The function said no, or nothing; the message says what."""


@dataclass(frozen=True, slots=True)
class About:
    """Which resource of which stack it is."""

    stack_id: str
    logical_id: str
    kind: str


class CustomResources:
    """``clients`` gives clients of the engine, ``outside`` clients that sign for the address at which functions reach it."""

    def __init__(self, clients: Callable[..., Any], outside: Callable[..., Any], pause: Callable[[float], None] = time.sleep) -> None:
        self._clients = clients
        self._outside = outside
        self._pause = pause

    def create(self, about: About, properties: Properties) -> Made:
        """Raises Failed; what the function made before it failed is deleted, if it named it."""
        answer = self._ask("Create", about, properties, {})
        physical = answer.get("PhysicalResourceId")
        if answer["Status"] != "SUCCESS":
            if physical:
                with contextlib.suppress(Failed):
                    self._ask("Delete", about, properties, {"PhysicalResourceId": physical})
            raise _refused(answer)
        if not physical:
            raise Failed("Invalid PhysicalResourceId: the response has none")
        return _made(answer)

    def update(self, about: About, made: Made, old: Properties, new: Properties) -> Made:
        """Raises Failed. One that became another physical resource has its former one deleted."""
        more = {"PhysicalResourceId": made.physical, "OldResourceProperties": _texts(old)}
        answer = self._ask("Update", about, new, more)
        if answer["Status"] != "SUCCESS":
            raise _refused(answer)
        changed = _made({"PhysicalResourceId": made.physical, **answer})
        if changed.physical != made.physical:
            self.delete(about, made, old)
        return changed

    def delete(self, about: About, made: Made, properties: Properties) -> None:
        """Raises Failed."""
        answer = self._ask("Delete", about, properties, {"PhysicalResourceId": made.physical})
        if answer["Status"] != "SUCCESS":
            raise _refused(answer)

    def _ask(self, kind: str, about: About, properties: Properties, more: Mapping[str, Any]) -> dict[str, Any]:
        token = properties["ServiceToken"]
        if ":lambda:" not in token:
            raise Failed(f"this engine's custom resources are functions, and not {token}")
        request_id = str(uuid.uuid4())
        key = f"{about.stack_id}|{about.logical_id}|{request_id}".replace("arn:aws:cloudformation:", "")
        s3 = self._clients("s3")
        if BUCKET not in {b["Name"] for b in s3.list_buckets()["Buckets"]}:
            s3.create_bucket(Bucket=BUCKET)
        url = self._outside("s3").generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=2 * TIMEOUT_S)
        event = {
            "RequestType": kind,
            "ServiceToken": token,
            "ResponseURL": url,
            "StackId": about.stack_id,
            "RequestId": request_id,
            "LogicalResourceId": about.logical_id,
            "ResourceType": about.kind,
            "ResourceProperties": _texts({k: v for k, v in properties.items() if k not in _OURS}),
            **more,
        }
        deadline_s = time.monotonic() + float(properties.get("ServiceTimeout") or TIMEOUT_S)
        try:
            return self._answer(s3, key, self._invoke(token, event, lambda: self._read(s3, key)), deadline_s, request_id)
        finally:
            s3.delete_object(Bucket=BUCKET, Key=key)

    def _invoke(self, token: str, event: Mapping[str, Any], read: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        client = self._clients("lambda", read_timeout=READ_TIMEOUT_S, retries={"total_max_attempts": 1})
        said = ""
        for _ in range(ATTEMPTS):
            done = client.invoke(FunctionName=token, Payload=json.dumps(event))
            found = read()
            if found is not None or not done.get("FunctionError"):
                return found
            said = done["Payload"].read().decode(errors="replace")
        raise Failed(f"{token} failed without an answer: {said[:1000]}")

    def _answer(self, s3: Any, key: str, found: dict[str, Any] | None, deadline_s: float, request_id: str) -> dict[str, Any]:
        """Wait for an answer that comes after the function's own end, as some are sent by other functions."""
        wait_s = POLL_S
        while found is None:
            if time.monotonic() > deadline_s:
                raise Failed(
                    "CloudFormation did not receive a response from your Custom Resource. Please check your logs for requestId "
                    f"[{request_id}]. If you are using the Python cfn-response module, you may need to update your Lambda function code so that "
                    "CloudFormation can attach the updated version."
                )
            self._pause(wait_s)
            wait_s = min(wait_s * 1.5, LONGEST_POLL_S)
            found = self._read(s3, key)
        return found

    @staticmethod
    def _read(s3: Any, key: str) -> dict[str, Any] | None:
        try:
            text = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        except s3.exceptions.NoSuchKey:
            return None
        try:
            document = json.loads(text)
        except ValueError as e:
            raise Failed(f"Invalid response: {e}") from e
        if not isinstance(document, dict) or document.get("Status") not in ("SUCCESS", "FAILED"):
            raise Failed("Invalid response: Status must be SUCCESS or FAILED")
        return document


def _refused(answer: Mapping[str, Any]) -> Failed:
    return Failed(
        f"Received response status [FAILED] from custom resource. Message returned: {answer.get('Reason')} (RequestId: {answer.get('RequestId')})"
    )


def _made(answer: Mapping[str, Any]) -> Made:
    physical = str(answer["PhysicalResourceId"])
    return Made(physical, physical, _flat(answer.get("Data") or {}))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Attributes by name; those of attributes by both names with a dot between."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        found[f"{prefix}{name}"] = value
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
    return found


def _texts(value: Any) -> Any:
    """As CloudFormation sends properties: whatever is no list or object is text."""
    if isinstance(value, Mapping):
        return {k: _texts(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_texts(v) for v in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
