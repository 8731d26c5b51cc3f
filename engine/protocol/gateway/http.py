"""Payload format 2.0: a request as an HTTP API's event. Pure. Answers are read as those of function URLs are.

Source: docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.protocol.function_url import encoded_body
from engine.protocol.gateway.definition import DEFAULT_ROUTE
from engine.protocol.gateway.request import ApiContext, ApiRequest, clf_time, parameters

_encode = msgspec.json.Encoder().encode


def event(request: ApiRequest, context: ApiContext) -> bytes:
    """The event, as JSON."""
    document = described(request, context)
    document["isBase64Encoded"] = False
    if request.body:
        document["body"], document["isBase64Encoded"] = encoded_body(request.body, document["headers"].get("content-type", ""))
    return _encode(document)


def described(request: ApiRequest, context: ApiContext) -> dict[str, Any]:
    """The event without the request's body. Members that would be empty are left out."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for spelled, value in request.headers:
        name = spelled.lower()
        if name == "cookie":
            cookies += [cookie for part in value.split(";") if (cookie := part.strip())]
        else:
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    document: dict[str, Any] = {
        "version": "2.0",
        "routeKey": context.route.key,
        "rawPath": request.full_path,
        "rawQueryString": request.query,
    }
    if cookies:
        document["cookies"] = cookies
    document["headers"] = headers
    query: dict[str, str] = {}
    for name, value in parameters(request.query):
        query[name] = f"{query[name]},{value}" if name in query else value
    if query:
        document["queryStringParameters"] = query
    document["requestContext"] = _context(request, context, headers.get("user-agent", ""))
    if context.parameters:
        document["pathParameters"] = dict(context.parameters)
    if context.stage.variables:
        document["stageVariables"] = context.stage.variables
    return document


def _context(request: ApiRequest, context: ApiContext, agent: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "accountId": context.api.account,
        "apiId": context.api.api_id,
        "domainName": context.domain,
        "domainPrefix": context.domain.partition(".")[0],
        "http": {
            "method": request.method,
            "path": request.full_path,
            "protocol": "HTTP/1.1",
            "sourceIp": request.peer,
            "userAgent": agent,
        },
        "requestId": context.extended_id,
        "routeKey": context.route.key or DEFAULT_ROUTE,
        "stage": context.stage.name,
        "time": clf_time(context.epoch_ms // 1000),
        "timeEpoch": context.epoch_ms,
    }
    if context.authorizer is not None:
        found["authorizer"] = dict(context.authorizer)
    elif context.iam is not None:
        found["authorizer"] = {"iam": dict(context.iam)}
    return found
