"""Lambda authorizers: what identifies a caller, the events they get, and what they answer. Pure; policies are read elsewhere.

Source: docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-use-lambda-authorizer.html, http-api-lambda-authorizer.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from engine.protocol.gateway import http, rest, websocket
from engine.protocol.gateway.definition import HTTP, Authorizer
from engine.protocol.gateway.request import ApiContext, ApiRequest, clf_time, header, parameters

_encode = msgspec.json.Encoder().encode
_SOURCE = re.compile(r"(?:method|route|\$)?\.?(?:request\.)?(header|querystring|path|stageVariables|context)\.(.+)")


class MalformedVerdict(ValueError):
    """What an authorizer returned is neither a policy nor a simple response. The message says why."""


class Verdict(NamedTuple):
    """What an authorizer said. ``allowed`` is None where ``policy``, a document, decides per resource."""

    allowed: bool | None
    policy: Mapping[str, Any] | None
    principal: str
    context: Mapping[str, Any]
    api_key: str


def identity(authorizer: Authorizer, request: ApiRequest, context: ApiContext) -> tuple[str, ...] | None:
    """The values of the identity sources, in order; None when one is missing or not of the form that is asked for."""
    found = []
    for source in authorizer.sources:
        value = value_of(source, request, context)
        if not value:
            return None
        found.append(value)
    if authorizer.validation and authorizer.kind == "TOKEN" and not (found and _matches(authorizer.validation, found[0])):
        return None
    return tuple(found)


def _matches(expression: str, value: str) -> bool:
    try:
        return re.search(expression, value) is not None
    except re.error:
        return False


def value_of(source: str, request: ApiRequest, context: ApiContext) -> str | None:
    """What an expression like ``method.request.header.Name`` stands for; None where there is nothing."""
    match = _SOURCE.fullmatch(source)
    if match is None:
        return None
    kind, name = match.groups()
    if kind == "header":
        return header(request.headers, name.lower())
    if kind == "querystring":
        return ",".join(v for k, v in parameters(request.query) if k == name)
    if kind == "path":
        return context.parameters.get(name)
    if kind == "stageVariables":
        return context.stage.variables.get(name)
    return _context_value(name, request, context)


def _context_value(name: str, request: ApiRequest, context: ApiContext) -> str | None:
    known = {
        "identity.sourceip": request.peer,
        "identity.useragent": header(request.headers, "user-agent"),
        "httpmethod": request.method,
        "http.method": request.method,
        "routekey": context.route.key,
        "resourcepath": context.route.path,
        "path": request.full_path,
        "stage": context.stage.name,
        "apiid": context.api.api_id,
        "accountid": context.api.account,
        "domainname": context.domain,
        "requesttime": clf_time(context.epoch_ms // 1000),
    }
    return known.get(name.lower())


def event(authorizer: Authorizer, request: ApiRequest, context: ApiContext, arn: str, found: tuple[str, ...]) -> bytes:
    """The authorizer's event, as JSON. ``arn``: of the method and path, or of the route; ``found``: what ``identity`` gave."""
    if authorizer.kind == "TOKEN":
        return _encode({"type": "TOKEN", "methodArn": arn, "authorizationToken": found[0]})
    if context.api.kind == HTTP and authorizer.payload == "2.0":
        document = {"version": "2.0", "type": "REQUEST", "routeArn": arn, "identitySource": list(found) or None}
        return _encode(document | {k: v for k, v in http.described(request, context).items() if k != "version"})
    document = {"type": "REQUEST", "methodArn": arn}
    if context.connected is not None:
        return _encode(document | websocket.connect(request, context))
    if context.api.kind == HTTP:
        token = ",".join(found)
        document = {"version": "1.0", **document, "identitySource": token, "authorizationToken": token}
    return _encode(document | rest.described(request, context))


def verdict(payload: bytes, *, simple: bool) -> Verdict:
    """What an authorizer's answer says. Raises MalformedVerdict."""
    try:
        answer = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as e:
        raise MalformedVerdict(f"not JSON: {e}") from None
    if not isinstance(answer, dict):
        raise MalformedVerdict("not an object")
    context = answer.get("context") or {}
    if not isinstance(context, dict):
        raise MalformedVerdict("context is not an object")
    if simple:
        allowed = answer.get("isAuthorized")
        if not isinstance(allowed, bool):
            raise MalformedVerdict("isAuthorized is not true or false")
        return Verdict(allowed, None, "", context, "")
    policy, principal = answer.get("policyDocument"), answer.get("principalId")
    if not isinstance(policy, dict):
        raise MalformedVerdict("there is no policyDocument")
    if principal is not None and not isinstance(principal, str):
        raise MalformedVerdict("principalId is not a string")
    return Verdict(None, policy, principal or "", context, str(answer.get("usageIdentifierKey") or ""))


def of_rest(said: Verdict, latency_ms: int) -> dict[str, Any]:
    """``requestContext.authorizer`` of payload format 1.0. Raises MalformedVerdict for a context that is not flat."""
    found: dict[str, Any] = {}
    for name, value in said.context.items():
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            found[name] = str(value)
        elif value is not None:
            raise MalformedVerdict(f"the context's member {name} is neither text nor number nor truth value")
    return {**found, "principalId": said.principal, "integrationLatency": latency_ms}


def of_http(said: Verdict, payload: str) -> dict[str, Any]:
    """``requestContext.authorizer`` in an HTTP API's event of either format."""
    if payload == "2.0":
        return {"lambda": dict(said.context) or None}
    return {**said.context, **({"principalId": said.principal} if said.principal else {})}
