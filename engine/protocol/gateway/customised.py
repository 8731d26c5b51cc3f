"""Gateway responses: what the owner of a REST API makes of API Gateway's own refusals. Pure.

Status, fixed headers, headers of the request, and a template in which variables are filled in; its directives are not run.
Source: docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-gatewayResponse-definition.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from engine.protocol.gateway.definition import GatewayResponse
from engine.protocol.gateway.refusals import Refused
from engine.protocol.gateway.request import header

_VARIABLE = re.compile(r"\$\{?context\.([A-Za-z0-9_.]+[A-Za-z0-9_])\}?")


def customised(
    error: Refused, responses: Mapping[str, GatewayResponse], sent: Sequence[tuple[str, str]], context: Mapping[str, str]
) -> Refused:
    """The refusal as the API has it. ``sent``: the request's headers; ``context``: ``requestId`` and the like."""
    own = responses.get(error.kind) if error.kind else None
    if own is None:
        own = responses.get("DEFAULT_4XX" if error.status < 500 else "DEFAULT_5XX") if error.kind else None
    if own is None:
        return error
    headers = [pair for pair in ((name, _value(text, sent, context)) for name, text in own.headers.items()) if pair[1] is not None]
    body = error.body if own.template is None else _filled(own.template, error, context)
    named = tuple((name, value) for name, value in headers if value is not None)
    return Refused(own.status or error.status, body, error.error_type, (*error.headers, *named), error.kind)


def _value(text: str, sent: Sequence[tuple[str, str]], context: Mapping[str, str]) -> str | None:
    if len(text) > 1 and text[0] == text[-1] == "'":
        value: str | None = text[1:-1]
    elif text.startswith("method.request.header."):
        value = header(sent, text.rpartition(".")[2].lower())
    else:
        value = context.get(text.removeprefix("context."))
    return None if value is None or any(c in value for c in "\r\n\0") else value


def _filled(template: str, error: Refused, context: Mapping[str, str]) -> bytes:
    try:
        message = next(iter(json.loads(error.body).values()), None)
    except (ValueError, AttributeError):
        message = None
    known = {
        **context,
        "error.message": "" if message is None else str(message),
        "error.messageString": json.dumps(message),
        "error.responseType": error.kind,
    }
    return _VARIABLE.sub(lambda match: known.get(match[1], ""), template).encode()
