"""WebSocket APIs: which route a message takes, events, what clients are told, and the answers of ``@connections``. Pure.

Source: docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api.html and its pages on routes, integrations and
limits; docs.aws.amazon.com/apigatewaymanagementapi/latest/developerguide.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.protocol.function_url import MalformedResponse
from engine.protocol.gateway.request import ApiContext, ApiRequest, Connected, clf_time, grouped, header, multiple, parameters

CONNECT, DISCONNECT, DEFAULT = "$connect", "$disconnect", "$default"
MAX_MESSAGE, MAX_FRAME = 128 * 1024, 32 * 1024
IDLE_S, LIFE_S = 600.0, 7200.0
_BODY = re.compile(r"\$\{?request\.body\.([A-Za-z0-9_.\[\]-]+?)\}?")
_encode = msgspec.json.Encoder().encode


def route_key(selection: str, message: str) -> str:
    """The key of a message's route by the API's route selection expression; ``$default`` when the message has no such member."""
    match = _BODY.fullmatch(selection.strip())
    if match is None:
        return DEFAULT
    try:
        value: Any = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return DEFAULT
    for name in match[1].split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else DEFAULT


def connect(request: ApiRequest, context: ApiContext) -> dict[str, Any]:
    """The event of ``$connect``, with the handshake's headers and query."""
    headers, query = grouped(request.headers), multiple(parameters(request.query))
    document: dict[str, Any] = {"headers": {k: v[-1] for k, v in headers.items()}, "multiValueHeaders": headers}
    if query:
        document["queryStringParameters"] = {k: v[-1] for k, v in query.items()}
        document["multiValueQueryStringParameters"] = query
    return _described(document, request, context, "CONNECT")


def message(request: ApiRequest, context: ApiContext, message_id: str, body: str) -> bytes:
    """The event of a message, as JSON."""
    document = _described({}, request, context, "MESSAGE")
    document["requestContext"]["messageId"] = message_id
    return _encode(document | {"body": body})


def disconnect(request: ApiRequest, context: ApiContext, code: int, reason: str) -> bytes:
    """The event of ``$disconnect``, as JSON."""
    headers = {"Host": context.domain, "x-api-key": "", "X-Forwarded-For": "", "x-restapi": ""}
    document = {"headers": headers, "multiValueHeaders": {k: [v] for k, v in headers.items()}}
    described = _described(document, request, context, "DISCONNECT")
    described["requestContext"] |= {"disconnectStatusCode": code, "disconnectReason": reason}
    return _encode(described)


def encode(document: dict[str, Any]) -> bytes:
    """An event as JSON."""
    return _encode(document)


def _described(document: dict[str, Any], request: ApiRequest, context: ApiContext, kind: str) -> dict[str, Any]:
    connected = context.connected or Connected("", 0)
    found: dict[str, Any] = {
        "routeKey": context.route.key,
        "eventType": kind,
        "extendedRequestId": context.extended_id,
        "requestTime": clf_time(context.epoch_ms // 1000),
        "messageDirection": "IN",
        "stage": context.stage.name,
        "connectedAt": connected.connected_ms,
        "requestTimeEpoch": context.epoch_ms,
        "identity": {"sourceIp": request.peer},
        "requestId": context.extended_id,
        "domainName": context.domain,
        "connectionId": connected.connection_id,
        "apiId": context.api.api_id,
    }
    if agent := header(request.headers, "user-agent"):
        found["identity"]["userAgent"] = agent
    if context.iam is not None:
        iam = context.iam
        found["identity"] |= {
            "accessKey": iam["accessKey"], "accountId": iam["accountId"], "caller": iam["callerId"], "user": iam["userId"], "userArn": iam["userArn"],
        }  # fmt: skip
    if context.authorizer is not None:
        found["authorizer"] = dict(context.authorizer)
    document = {**document, "requestContext": found, "isBase64Encoded": False}
    if context.stage.variables:
        document["stageVariables"] = context.stage.variables
    return document


def failure(text: str, connection_id: str, request_id: str) -> str:
    """What a client is told when its message gets no further."""
    return json.dumps({"message": text, "connectionId": connection_id, "requestId": request_id})


def answer_body(payload: bytes) -> str | None:
    """What a two-way route sends back of a function's answer; None for nothing. Raises MalformedResponse."""
    try:
        answer = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise MalformedResponse(str(e)) from None
    if answer is None:
        return None
    if not isinstance(answer, dict):
        raise MalformedResponse("not an object")
    body = answer.get("body")
    if body is not None and not isinstance(body, str):
        raise MalformedResponse("body is not a string")
    return body or None


def about(connected_ms: int, active_ms: int, peer: str, agent: str) -> bytes:
    """GetConnection's answer."""
    times = [datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") for ms in (connected_ms, active_ms)]
    return _encode({"connectedAt": times[0], "identity": {"sourceIp": peer, "userAgent": agent}, "lastActiveAt": times[1]})
