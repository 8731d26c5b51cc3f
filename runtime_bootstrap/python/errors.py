"""Error documents and their log lines, as AWS's Python runtime writes them."""

from __future__ import annotations

import json
import os
import traceback
from types import TracebackType
from typing import Any, Optional

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_NBSP = "\u00a0"
WARNING = (
    "LAMBDA_WARNING: Unhandled exception. The most likely cause is an issue in the function code. "
    "See https://docs.aws.amazon.com/lambda/latest/dg/runtimes-update.html for what a runtime update may change.\r"
)


class Fault(Exception):
    """A failure that the runtime itself names. ``trace`` is the stack trace to report, already as lines."""

    def __init__(self, error_type: str, message: str, trace: Optional["list[str]"] = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.trace = trace or []


def stack(tb: Optional[TracebackType]) -> "list[str]":
    """The frames below the runtime's own, in ``traceback.format_list`` form."""
    frames = traceback.extract_tb(tb)
    first = 0
    while first < len(frames) and frames[first].filename.startswith(_OWN):
        first += 1
    return traceback.format_list(frames[first:])


def document_of(error: BaseException, request_id: str) -> "tuple[str, dict[str, Any]]":
    """(error type, document) of what was raised."""
    if isinstance(error, Fault):
        return error.error_type, document(error.message, error.error_type, request_id, error.trace)
    name = type(error).__name__
    return name, document(_text(error), name, request_id, stack(error.__traceback__))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def document(message: str, error_type: str, request_id: str, trace: "list[str]") -> "dict[str, Any]":
    """The document in AWS's key order."""
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace}


def encode(doc: "dict[str, Any]") -> bytes:
    return json.dumps(doc).encode()


def log_text(doc: "dict[str, Any]", json_format: bool, timestamp: str) -> str:
    """The error as one log event; spaces that lead a line become no-break spaces so that log viewers keep them."""
    if json_format:
        members = {"timestamp": timestamp, "log_level": "ERROR", **doc}
        return json.dumps({k: v for k, v in members.items() if v})
    lines = ["[ERROR] %s: %s" % (doc["errorType"], doc["errorMessage"])]
    if doc["stackTrace"]:
        lines.append("Traceback (most recent call last):")
        for entry in doc["stackTrace"]:
            for line in entry.rstrip("\n").split("\n"):
                bare = line.lstrip(" ")
                lines.append(_NBSP * (len(line) - len(bare)) + bare)
    return "\n".join(lines)
