"""Whom a request to a REST API is made for, as its integration has it for functions that keep their tenants apart. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/tenant-isolation-invoke.html and
docs.aws.amazon.com/apigateway/latest/developerguide/rest-api-parameter-mapping-sources.html
"""

from __future__ import annotations

from engine.core import tenancy
from engine.protocol.gateway.authorizers import value_of
from engine.protocol.gateway.request import ApiContext, ApiRequest

_AUTHORIZER = "context.authorizer."


def tenant_of(expression: str, request: ApiRequest, context: ApiContext) -> str | None:
    """The value of the expression that X-Amz-Tenant-Id is mapped from; None without either. Raises ValidationError for no possible tenant."""
    if not expression:
        return None
    if len(expression) > 1 and expression[0] == expression[-1] == "'":
        value: str | None = expression[1:-1]
    elif expression.startswith(_AUTHORIZER):
        value = _claim(expression.removeprefix(_AUTHORIZER), context)
    else:
        value = value_of(expression, request, context)
    return tenancy.read(value.encode()) if value else None


def _claim(name: str, context: ApiContext) -> str | None:
    """What the authorizer said of the caller: a member, or one of its ``claims``."""
    found: object = context.authorizer
    for part in name.split(".", 1):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None
