"""Payload format 1.0: a request as a REST API's event, and a function's answer as its response. Pure.

HTTP APIs offer the format too, with a ``version`` member and a few differences.
Source: docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html, http-api-develop-integrations-lambda.html
and recorded exchanges.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.protocol.function_url import (
    JSON_TYPE,
    MalformedResponse,
    UrlResponse,
    answered_headers,
    checked_header,
    encoded_body,
    status_of,
)
from engine.protocol.gateway.definition import HTTP, REST
from engine.protocol.gateway.request import ApiContext, ApiRequest, clf_time, grouped, header, multiple, parameters

_ANSWER = frozenset({"statusCode", "headers", "multiValueHeaders", "body", "isBase64Encoded"})
# A REST API keeps these for itself and hands the function's on under another name.
_REMAPPED = frozenset({"connection", "content-length", "date", "host", "server", "user-agent", "www-authenticate"})
_IDENTITY = (
    "accessKey", "accountId", "caller", "cognitoAuthenticationProvider", "cognitoAuthenticationType", "cognitoIdentityId",
    "cognitoIdentityPoolId", "principalOrgId", "sourceIp", "user", "userAgent", "userArn",
)  # fmt: skip
_encode = msgspec.json.Encoder().encode


def event(request: ApiRequest, context: ApiContext) -> bytes:
    """The event, as JSON."""
    document = described(request, context)
    document["body"], document["isBase64Encoded"] = _body(request, context)
    return _encode(document)


def described(request: ApiRequest, context: ApiContext) -> dict[str, Any]:
    """The event without the request's body."""
    rest = context.api.kind == REST
    headers = grouped([pair for pair in request.headers if not rest or pair[0].lower() != "content-length"])
    query = multiple(parameters(request.query))
    path = request.path if rest else request.full_path
    resource = context.route.path or context.route.key
    document: dict[str, Any] = {} if rest else {"version": "1.0"}
    document |= {
        "resource": resource,
        "path": path,
        "httpMethod": request.method,
        "headers": _last(headers),
        "multiValueHeaders": headers or None,
        "queryStringParameters": _last(query),
        "multiValueQueryStringParameters": query or None,
        "pathParameters": dict(context.parameters) or None,
        "stageVariables": context.stage.variables or None,
        "requestContext": _context(request, context, resource, path),
    }
    return document


def _last(values: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    return {name: found[-1] for name, found in values.items()} or None


def _context(request: ApiRequest, context: ApiContext, resource: str, path: str) -> dict[str, Any]:
    api, stage = context.api, context.stage.name
    identity: dict[str, Any] = dict.fromkeys(_IDENTITY)
    identity |= {"sourceIp": request.peer, "userAgent": header(request.headers, "user-agent")}
    if context.iam is not None:
        iam = context.iam
        identity |= {
            "accessKey": iam["accessKey"], "accountId": iam["accountId"], "caller": iam["callerId"], "user": iam["userId"], "userArn": iam["userArn"],
        }  # fmt: skip
    if context.api_key is not None:
        identity["apiKeyId"], identity["apiKey"] = context.api_key
    found: dict[str, Any] = {
        "accountId": api.account,
        "apiId": api.api_id,
        "deploymentId": context.stage.deployment_id,
        "domainName": context.domain,
        "domainPrefix": context.domain.partition(".")[0],
        "extendedRequestId": context.extended_id,
        "httpMethod": request.method,
        "identity": identity,
        "path": f"/{stage}{'' if path == '/' else path}" if api.kind == REST and stage else path,
        "protocol": "HTTP/1.1",
        "requestId": context.request_id,
        "requestTime": clf_time(context.epoch_ms // 1000),
        "requestTimeEpoch": context.epoch_ms,
        "resourceId": context.route.resource_id if api.kind == REST else context.route.key,
        "resourcePath": resource,
        "stage": stage,
    }
    if context.route.operation:
        found["operationName"] = context.route.operation
    if context.authorizer is not None:
        found["authorizer"] = dict(context.authorizer)
    return found


def _body(request: ApiRequest, context: ApiContext) -> tuple[str | None, bool]:
    if not request.body:
        return None, False
    kind = header(request.headers, "content-type") or ""
    if context.api.kind == HTTP:
        return encoded_body(request.body, kind)
    if is_binary(kind, context.api.binary):
        return base64.b64encode(request.body).decode("ascii"), True
    return request.body.decode("utf-8", "replace"), False


def is_binary(media_type: str, binary: Sequence[str]) -> bool:
    """Whether a media type is one of those that a REST API treats as bytes."""
    kind = media_type.partition(";")[0].strip().lower()
    return "*/*" in binary or any(kind == b.lower() or (b.endswith("/*") and kind.startswith(b[:-1].lower())) for b in binary)


def response(payload: bytes, api_kind: str, binary: Sequence[str], accept: str) -> UrlResponse:
    """The response that a function's answer, JSON, stands for; ``accept`` is the request's header. Raises MalformedResponse."""
    try:
        answer = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise MalformedResponse(f"the answer is not JSON: {e}") from None
    if not isinstance(answer, dict):
        raise MalformedResponse("the answer is not an object")
    rest = api_kind == REST
    if rest and (strangers := answer.keys() - _ANSWER):
        raise MalformedResponse(f"the answer has unknown members: {', '.join(sorted(strangers))[:100]}")
    if not rest and "statusCode" not in answer:
        raise MalformedResponse("the answer has no statusCode")
    status = status_of(answer.get("statusCode", 200) or 200)
    headers = _headers(answer, remap=rest)
    kind = next((value for name, value in headers if name.lower() == "content-type"), None)
    if kind is None:
        kind = JSON_TYPE if rest else "text/plain;charset=UTF-8"
        headers.insert(0, ("Content-Type", kind))
    body = answer.get("body")
    if body is None:
        return UrlResponse(status, headers, b"")
    if not isinstance(body, str):
        raise MalformedResponse("body is not a string")
    if not answer.get("isBase64Encoded") or (rest and not _wants_bytes(kind, accept, binary)):
        return UrlResponse(status, headers, body.encode("utf-8", "surrogatepass"))
    try:
        return UrlResponse(status, headers, base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError):
        raise MalformedResponse("isBase64Encoded is set and body is not Base64") from None


def _wants_bytes(content_type: str, accept: str, binary: Sequence[str]) -> bool:
    return bool(binary) and (is_binary(content_type, binary) or is_binary(accept.partition(",")[0], binary))


def _headers(answer: Mapping[str, Any], *, remap: bool) -> list[tuple[str, str]]:
    """``multiValueHeaders`` first, then what ``headers`` have beyond them."""
    found: list[tuple[str, str]] = []
    several = answer.get("multiValueHeaders") or {}
    if not isinstance(several, dict) or not all(isinstance(values, list) for values in several.values()):
        raise MalformedResponse("multiValueHeaders is not an object of lists")
    for name, values in several.items():
        for value in values:
            found += answered_headers({name: value}, keep=_REMAPPED if remap else frozenset())
    known = {(name.lower(), value) for name, value in found}
    for pair in answered_headers(answer.get("headers") or {}, keep=_REMAPPED if remap else frozenset()):
        if (pair[0].lower(), pair[1]) not in known:
            found.append(pair)
    if remap:
        found = [(f"x-amzn-Remapped-{name}" if name.lower() in _REMAPPED else name, value) for name, value in found]
    return [(name, checked_header(value, f"the header {name}")) for name, value in found]
