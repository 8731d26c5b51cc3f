"""Error documents and their log events, in the words and key order of AWS's Python runtime.

Source: the published runtime interface client, version 4.0.1, observed.
"""

from __future__ import annotations

import os
import time
import traceback
from types import TracebackType
from typing import Any, Optional

from runtime_bootstrap.python import marshal
from runtime_bootstrap.python.faults import Fault

_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_NO_BREAK_SPACE = "\u00a0"
# AWS prints this before every init error.
WARNING = (
    "LAMBDA_WARNING: Unhandled exception. The most likely cause is an issue in the function code. However, in rare cases, a Lambda "
    "runtime update can cause unexpected function behavior. For functions using managed runtimes, runtime updates can be triggered by a "
    "function change, or can be applied automatically. To determine if the runtime has been updated, check the runtime version in the "
    "INIT_START log entry. If this error correlates with a change in the runtime version, you may be able to mitigate this error by "
    "temporarily rolling back to the previous runtime version. For more information, see "
    "https://docs.aws.amazon.com/lambda/latest/dg/runtimes-update.html\r"
)


def document(error: BaseException, request_id: str) -> "dict[str, Any]":
    """What the caller gets for ``error``; ``request_id`` is empty during init."""
    if isinstance(error, Fault):
        message, error_type, trace = error.message, error.error_type, error.trace
    else:
        message, error_type, trace = str(error), type(error).__name__, stack_of(error.__traceback__)
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace}


def stack_of(tb: Optional[TracebackType]) -> "list[str]":
    """The frames after the runtime's own (all of them when there are no others), as ``traceback.format_list`` writes them."""
    # Without columns, so that no interpreter underlines.
    frames = [(f.filename, f.lineno or 0, f.name, f.line) for f in traceback.extract_tb(tb)]
    first = 0
    while first < len(frames) and frames[first][0].startswith(_OWN):
        first += 1
    return traceback.format_list(frames[first:] if first < len(frames) else frames)


def encode(doc: "dict[str, Any]") -> bytes:
    return marshal.to_json(doc).encode("utf-8", "replace")


def log_json(doc: "dict[str, Any]") -> str:
    """The log event of an error in JSON format; its level key differs from that of logging records."""
    return marshal.to_json({"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "log_level": "ERROR", **doc})


def log_text(doc: "dict[str, Any]") -> str:
    """The log event of an error. Leading spaces become no-break spaces: log viewers would drop them."""
    title = "[ERROR]"
    if doc["errorType"]:
        title += " " + doc["errorType"]
    if doc["errorMessage"]:
        title += (": " if doc["errorType"] else " ") + doc["errorMessage"]
    lines = [title, "Traceback (most recent call last):"]
    for entry in doc["stackTrace"]:
        for line in entry.splitlines() or [""]:
            bare = line.lstrip(" ")
            lines.append(_NO_BREAK_SPACE * (len(line) - len(bare)) + bare)
    return "\n".join(lines)
