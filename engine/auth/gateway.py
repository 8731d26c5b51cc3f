"""API Gateway's side of authorization: whether a function lets it in, and what the policies of authorizers and of APIs say. Pure.

Source: docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-authorization-flow.html, api-gateway-lambda-authorizer-output.html.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from engine.auth.identity import service
from engine.auth.policy import Identity, MalformedPolicy, Policy, Request, evaluate, parse

INVOKE = "lambda:InvokeFunction"
EXECUTE = "execute-api:Invoke"
API_GATEWAY = service("apigateway.amazonaws.com")
LOAD_BALANCER = service("elasticloadbalancing.amazonaws.com")
Context = dict[str, str | list[str]]


class Say(Enum):
    """What a policy says of one call."""

    ALLOW = auto()
    NOTHING = auto()
    DENY = auto()


@functools.lru_cache(maxsize=1024)
def _parsed(document: str) -> Policy | None:
    try:
        return parse(json.loads(document))
    except (MalformedPolicy, ValueError):
        return None


def lets_in(policy: str | None, caller: Identity, function_arn: str, account: str, source_arn: str) -> bool:
    """Whether a function's resource policy, JSON text, lets a service invoke it on behalf of ``source_arn`` of ``account``."""
    parsed = None if policy is None else _parsed(policy)
    if parsed is None:
        return False
    context: Context = {**caller.context, "aws:sourcearn": source_arn, "aws:sourceaccount": account}
    return evaluate(Request(INVOKE, function_arn, function_arn.split(":")[4], context), caller, parsed).allowed


def says(document: Mapping[str, Any], arn: str, context: Context) -> Say:
    """What the policy of a Lambda authorizer says of a call of ``arn``. Raises MalformedPolicy."""
    policy = parse(json.dumps(document))
    request = Request(EXECUTE, arn, arn.split(":")[4], context)
    if policy.denies(request):
        return Say.DENY
    return Say.ALLOW if policy.allows(request) else Say.NOTHING


def read(document: str, arn: str) -> Policy | None:
    """The resource policy of an API, JSON text, whose resources may leave out what comes before the stage; None when it cannot be read."""
    return _parsed(document.replace('"execute-api:/', f'"{arn.partition("/")[0]}/'))


def api_policy(document: str, api_account: str, arn: str, caller: Identity, context: Context) -> Say:
    """What the resource policy of an API, JSON text, says of a caller. A policy that cannot be read denies."""
    policy = read(document, arn)
    if policy is None:
        return Say.DENY
    request = Request(EXECUTE, arn, api_account, context)
    if policy.denies(request, caller):
        return Say.DENY
    return Say.ALLOW if policy.names(request, caller) else Say.NOTHING
