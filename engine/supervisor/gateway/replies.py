"""Answers of an API, whole, with the headers that API Gateway adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.protocol import cors
from engine.protocol.function_url import UrlResponse
from engine.protocol.gateway.definition import HTTP, Api
from engine.protocol.gateway.refusals import Refused
from engine.supervisor import replies

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection

JSON = "application/json"


def send(
    connection: Connection,
    head: Head,
    api: Api | None,
    answer: UrlResponse,
    request_id: str,
    extended_id: str,
    trace: str,
    *,
    preflight: bool = False,
) -> None:
    """Answer the request. A response that may have no body gets none. ``preflight``: its cross-origin headers are right as they are."""
    headers = list(answer.headers)
    http = api is not None and api.kind == HTTP
    if http and api is not None and api.cors and not preflight:
        origin = head.header(b"origin")
        headers = cors.apply(api.cors, None if origin is None else origin.decode("latin-1"), headers)
    if http:
        headers.append(("Apigw-Requestid", extended_id))
    else:
        headers += [("x-amzn-RequestId", request_id), ("x-amz-apigw-id", extended_id), ("X-Amzn-Trace-Id", trace)]
    bodiless = answer.status in (204, 304)
    if not bodiless:
        headers.append(("Content-Length", str(len(answer.body))))
    headers.append(("Connection", "keep-alive" if head.keep_alive else "close"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    status = f"HTTP/1.1 {answer.status} {replies.reason(answer.status)}\r\n"
    whole = b"".join((status.encode(), replies.date_header(), lines.encode("utf-8", "replace"), b"\r\n"))
    connection.answer(whole, b"" if bodiless or head.method == b"HEAD" else answer.body)


def refusal(error: Refused) -> UrlResponse:
    """A refusal as a response."""
    headers = [("Content-Type", JSON), *error.headers]
    if error.error_type:
        headers.append(("x-amzn-ErrorType", error.error_type))
    return UrlResponse(error.status, headers, error.body)
