"""A load balancer's request as a function's event, and the function's answer as a response. Pure.

Query values stay percent-encoded, names of headers are in lower case; with multi-value headers on, the ``multiValue`` members stand in for the
others, in the answer too. Source: docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from http.client import responses
from typing import Any

import msgspec

from engine.protocol.function_url import MalformedResponse, UrlResponse, answered_headers, encoded_body, status_of
from engine.protocol.gateway.balancers import Asked
from engine.protocol.gateway.request import header, multiple

MAX_BODY = 1024 * 1024
SERVER = ("Server", "awselb/2.0")
_encode = msgspec.json.Encoder().encode


def event(asked: Asked, headers: Sequence[tuple[str, str]], body: bytes, group_arn: str, *, multi_value: bool) -> bytes:
    """The event, as JSON. ``headers`` are those handed on."""
    named = multiple([(name.lower(), value) for name, value in headers])
    pairs = (part.partition("=") for part in asked.query.split("&") if part)
    query = multiple([(name, value) for name, _, value in pairs])
    document: dict[str, Any] = {
        "requestContext": {"elb": {"targetGroupArn": group_arn}},
        "httpMethod": asked.method,
        "path": asked.path,
    }
    if multi_value:
        document |= {"multiValueQueryStringParameters": query, "multiValueHeaders": named}
    else:
        document |= {"queryStringParameters": {k: v[-1] for k, v in query.items()}, "headers": {k: v[-1] for k, v in named.items()}}
    text, encoded = "", False
    if body and header(headers, "content-encoding"):
        text, encoded = base64.b64encode(body).decode("ascii"), True
    elif body:
        text, encoded = encoded_body(body, header(headers, "content-type") or "")
    return _encode(document | {"body": text, "isBase64Encoded": encoded})


def response(payload: bytes, *, multi_value: bool) -> tuple[UrlResponse, str]:
    """The response that an answer stands for, and its reason phrase. Raises MalformedResponse."""
    try:
        answer = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise MalformedResponse(f"the answer is not a JSON object: {e}") from None
    if "statusCode" not in answer:
        raise MalformedResponse("the answer has no statusCode")
    status = status_of(answer["statusCode"])
    described = answer.get("statusDescription")
    if described is not None and (not isinstance(described, str) or not described.isprintable()):
        raise MalformedResponse("statusDescription is not one line of text")
    headers = _headers(answer, multi_value=multi_value)
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", "application/octet-stream"))
    body = answer.get("body")
    if body is not None and not isinstance(body, str):
        raise MalformedResponse("body is not a string")
    data = (body or "").encode("utf-8", "surrogatepass")
    if answer.get("isBase64Encoded"):
        try:
            data = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise MalformedResponse("isBase64Encoded is set and body is not Base64") from None
    if len(data) > MAX_BODY:
        raise MalformedResponse(f"the body is larger than {MAX_BODY} bytes")
    reason = (described or "").partition(" ")[2].strip() or responses.get(status, "Unknown")
    return UrlResponse(status, headers, data), reason


def _headers(answer: dict[str, Any], *, multi_value: bool) -> list[tuple[str, str]]:
    if not multi_value:
        return answered_headers(answer.get("headers") or {})
    several = answer.get("multiValueHeaders") or {}
    if not isinstance(several, dict) or not all(isinstance(values, list) for values in several.values()):
        raise MalformedResponse("multiValueHeaders is not an object of lists")
    return [pair for name, values in several.items() for value in values for pair in answered_headers({name: value})]


def page(status: int) -> UrlResponse:
    """What a load balancer itself answers."""
    said = f"{status} {responses.get(status, 'Unknown')}"
    lines = ("<html>", f"<head><title>{said}</title></head>", "<body>", f"<center><h1>{said}</h1></center>", "</body>", "</html>", "")
    return UrlResponse(status, [("Content-Type", "text/html")], "\r\n".join(lines).encode())
