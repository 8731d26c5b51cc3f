"""Function URLs: an HTTP request as the event of payload format 2.0, and a function's answer as an HTTP response. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html and recorded exchanges. Headers that only describe the connection to
AWS's edge (its TLS version and cipher) are not made up here.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

import msgspec

JSON_TYPE = "application/json"
_TEXT_TYPES = frozenset({JSON_TYPE, "application/xml", "application/javascript"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Says how this one connection is used, or is stated by the server itself.
_CONNECTION = frozenset(
    {"connection", "content-length", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_encode = msgspec.json.Encoder().encode


class MalformedResponse(ValueError):
    """What the function returned cannot be an HTTP response. The message says why."""


class UrlRequest(NamedTuple):
    """One request to a function URL. ``headers`` have lower-case names; path and query are as received, the path without a prefix of ours."""

    method: str
    path: str
    query: str
    headers: Iterable[tuple[str, str]]
    body: bytes
    peer: str


class UrlContext(NamedTuple):
    """What the platform adds. ``domain``: the host name that belongs to the URL; ``iam``: the caller, when the URL demands one."""

    url_id: str
    domain: str
    request_id: str
    epoch_ms: int
    trace_id: str
    port: str
    iam: Mapping[str, Any] | None


class UrlResponse(NamedTuple):
    """An HTTP response without what belongs to the connection. Header names are as the function wrote them."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def event(request: UrlRequest, context: UrlContext) -> bytes:
    """The event, as JSON."""
    headers, cookies = _headers(request, context)
    http = {
        "method": request.method,
        "path": request.path,
        "protocol": "HTTP/1.1",
        "sourceIp": request.peer,
        "userAgent": headers.get("user-agent", ""),
    }
    described: dict[str, Any] = {
        "accountId": "anonymous" if context.iam is None else context.iam["accountId"],
        "apiId": context.url_id,
        "domainName": context.domain,
        "domainPrefix": context.url_id,
        "http": http,
        "requestId": context.request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": _clf_time(context.epoch_ms // 1000),
        "timeEpoch": context.epoch_ms,
    }
    if context.iam is not None:
        described["authorizer"] = {"iam": dict(context.iam)}
    document: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path,
        "rawQueryString": request.query,
        "headers": headers,
        "requestContext": described,
        "isBase64Encoded": False,
    }
    if cookies:
        document["cookies"] = cookies
    if request.query:
        document["queryStringParameters"] = _parameters(request.query)
    if request.body:
        document["body"], document["isBase64Encoded"] = encoded_body(request.body, headers.get("content-type", ""))
    return _encode(document)


@functools.lru_cache(maxsize=1)
def _clf_time(epoch_s: int) -> str:
    """``12/Mar/2020:19:03:58 +0000``; a second's requests share it."""
    return f"{datetime.fromtimestamp(epoch_s, UTC):%d/%b/%Y:%H:%M:%S +0000}"


def _headers(request: UrlRequest, context: UrlContext) -> tuple[dict[str, str], list[str]]:
    """Repeated headers joined by commas, cookies apart, and what a proxy says of the client."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        if name == "cookie":
            cookies += [cookie for part in value.split(";") if (cookie := part.strip())]
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    headers.update(
        {
            "x-amzn-trace-id": context.trace_id,
            "x-forwarded-for": request.peer,
            "x-forwarded-port": context.port,
            "x-forwarded-proto": "http",
        }
    )
    return headers, cookies


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            name, value = unquote_plus(name), unquote_plus(value)
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


def encoded_body(body: bytes, content_type: str) -> tuple[str, bool]:
    """The body as text where its type says that it is text and it is; otherwise in Base64."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _TEXT_TYPES or kind.startswith("text/"):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode("ascii"), True


def response(payload: bytes) -> UrlResponse:
    """The response that a function's answer, JSON, stands for. Raises MalformedResponse."""
    try:
        answer = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise MalformedResponse(f"the answer is not JSON: {e}") from None
    if isinstance(answer, dict) and "statusCode" in answer:
        return _described(answer)
    if isinstance(answer, str):
        return UrlResponse(200, [("content-type", JSON_TYPE)], answer.encode("utf-8", "surrogatepass"))
    return UrlResponse(200, [("content-type", JSON_TYPE)], _encode(answer))


def prelude(data: bytes) -> UrlResponse:
    """The status and headers that a streamed answer begins with; its body follows. Raises MalformedResponse."""
    try:
        answer = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise MalformedResponse(f"the prelude is not a JSON object: {e}") from None
    described = {"statusCode": answer.get("statusCode", 200), "headers": answer.get("headers"), "cookies": answer.get("cookies")}
    return _described(described, "application/octet-stream")


def _described(answer: Mapping[str, Any], content_type: str = JSON_TYPE) -> UrlResponse:
    status = status_of(answer["statusCode"])
    headers = answered_headers(answer.get("headers") or {})
    for cookie in _list(answer.get("cookies")):
        headers.append(("set-cookie", checked_header(cookie, "a cookie")))
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.insert(0, ("content-type", content_type))
    body = answer.get("body")
    if body is None:
        return UrlResponse(status, headers, b"")
    if not isinstance(body, str):
        raise MalformedResponse(f"body is {json.dumps(body)[:50]}, not a string")
    if not answer.get("isBase64Encoded"):
        return UrlResponse(status, headers, body.encode("utf-8", "surrogatepass"))
    try:
        return UrlResponse(status, headers, base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError):
        raise MalformedResponse("isBase64Encoded is set and body is not Base64") from None


def status_of(value: Any) -> int:
    """A final HTTP status, a number or its digits. Raises MalformedResponse."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    # Interim answers (1xx) would leave the client waiting for the final one.
    if not isinstance(value, int) or isinstance(value, bool) or not 200 <= value <= 599:
        raise MalformedResponse(f"statusCode {json.dumps(value)[:50]} is no final HTTP status")
    return value


def answered_headers(value: Any, keep: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """The headers of an answer, without those of the connection unless they are to ``keep``. Raises MalformedResponse."""
    if not isinstance(value, dict):
        raise MalformedResponse("headers is not an object")
    found = []
    for name, content in value.items():
        if not _TOKEN.fullmatch(name):
            raise MalformedResponse(f"{name[:50]!r} cannot be the name of a header")
        if name.lower() not in _CONNECTION or name.lower() in keep:
            found.append((name, checked_header(content, f"the header {name}")))
    return found


def checked_header(value: Any, what: str) -> str:
    """A header's value as text. Raises MalformedResponse for what would end the header."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str) or any(c in value for c in "\r\n\0"):
        raise MalformedResponse(f"{what} has a value that is not one line of text")
    return value


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedResponse("cookies is not a list")
    return value
