"""HTTP/1.1 answers as bytes, written whole."""

from __future__ import annotations

import base64
import json
import time
from email.utils import formatdate
from http.client import responses

from engine.core.invocation import Outcome
from engine.errors import AwsError
from engine.ids import request_id as new_request_id
from engine.supervisor.request import Request

REASONS = {
    200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 412: "Precondition Failed", 413: "Request Entity Too Large", 415: "Unsupported Media Type",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
}  # fmt: skip


def reason(status: int) -> str:
    """The phrase of a status line."""
    return REASONS.get(status) or responses.get(status, "Unknown")


_date_s = 0
_date = b""


def date_header() -> bytes:
    """``Date:`` line, made once a second."""
    global _date_s, _date  # noqa: PLW0603 - a one-entry cache of the wall clock
    now_s = int(time.time())
    if now_s != _date_s:
        _date_s = now_s
        _date = f"Date: {formatdate(now_s, usegmt=True)}\r\n".encode()
    return _date


def invoked(request: Request, outcome: Outcome, *, keep_alive: bool) -> bytes:
    """The head of an Invoke answer; the payload follows it."""
    more = b""
    if outcome.function_error is not None:
        more = b"X-Amz-Function-Error: %b\r\n" % outcome.function_error.encode()
    if request.tail is not None:
        more += b"X-Amz-Log-Result: %b\r\n" % base64.b64encode(request.log_tail() or b"")
    return (
        b"HTTP/1.1 200 OK\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\nx-amzn-RequestId: %b\r\n"
        b"X-Amz-Executed-Version: %b\r\nX-Amzn-Trace-Id: %b\r\n%bConnection: %b\r\n\r\n"
    ) % (
        date_header(),
        len(outcome.payload),
        request.request_id.encode(),
        request.version.config.version.encode(),
        request.trace_id,
        more,
        b"keep-alive" if keep_alive else b"close",
    )


def of_url(
    status: int, headers: list[tuple[str, str]], length: int | None, *, request_id: str, trace: bytes, keep_alive: bool
) -> bytes:
    """The head of a function URL's answer. ``length`` None: an answer that has no body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return b"".join(
        (
            f"HTTP/1.1 {status} {reason(status)}\r\n".encode(),
            date_header(),
            lines.encode("utf-8", "replace"),
            f"{size}x-amzn-RequestId: {request_id}\r\n".encode(),
            b"X-Amzn-Trace-Id: %b\r\n" % trace if trace else b"",
            f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n".encode(),
        )
    )


def streamed(request: Request, *, keep_alive: bool) -> bytes:
    """The head of an InvokeWithResponseStream answer; event-stream messages follow it as chunks."""
    return (
        b"HTTP/1.1 200 OK\r\n%bContent-Type: application/vnd.amazon.eventstream\r\nTransfer-Encoding: chunked\r\nx-amzn-RequestId: %b\r\n"
        b"X-Amz-Executed-Version: %b\r\nX-Amzn-Trace-Id: %b\r\nConnection: %b\r\n\r\n"
    ) % (
        date_header(),
        request.request_id.encode(),
        request.version.config.version.encode(),
        request.trace_id,
        b"keep-alive" if keep_alive else b"close",
    )


def simple(status: int, content_type: bytes, body: bytes, *, keep_alive: bool, head_only: bool = False) -> bytes:
    """A small whole answer."""
    connection = b"keep-alive" if keep_alive else b"close"
    head = (
        f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n".encode()
        + date_header()
        + b"Content-Type: " + content_type + b"\r\nContent-Length: " + str(len(body)).encode()
        + b"\r\nConnection: " + connection + b"\r\n\r\n"
    )  # fmt: skip
    return head if head_only else head + body


def no_content(request_id: str, *, keep_alive: bool) -> bytes:
    """204 without a body."""
    connection = "keep-alive" if keep_alive else "close"
    return (
        b"HTTP/1.1 204 No Content\r\n" + date_header() + f"x-amzn-RequestId: {request_id}\r\nConnection: {connection}\r\n\r\n".encode()
    )


def accepted(request_id: str, trace: str, *, keep_alive: bool) -> bytes:
    """202 of an asynchronous invocation, without a body."""
    return b"HTTP/1.1 202 Accepted\r\n%bx-amzn-RequestId: %b\r\nX-Amzn-Trace-Id: %b\r\nContent-Length: 0\r\nConnection: %b\r\n\r\n" % (
        date_header(), request_id.encode(), trace.encode("latin-1"), b"keep-alive" if keep_alive else b"close",
    )  # fmt: skip


def error(e: AwsError, *, keep_alive: bool, request_id: str | None = None) -> bytes:
    """An API error as AWS frames it."""
    body = json.dumps(e.body(), separators=(",", ":")).encode()
    extra = "".join(f"{k}: {v}\r\n" for k, v in e.headers.items())
    return (
        f"HTTP/1.1 {e.status} {REASONS.get(e.status, 'Unknown')}\r\n".encode()
        + date_header()
        + (
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nx-amzn-RequestId: {request_id or new_request_id()}\r\n"
            f"x-amzn-ErrorType: {e.code}\r\n{extra}Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        ).encode("latin-1", "replace")
        + body
    )
