"""What API Gateway itself answers when a request gets no further, word for word. Pure.

Source: docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html and recorded answers.
"""

from __future__ import annotations

import json
from enum import Enum

from engine.protocol.gateway.definition import HTTP


class Why(Enum):
    """(REST API: status, message, error type, gateway response type; HTTP API: status, message)."""

    NO_STAGE = (403, "Forbidden", "ForbiddenException", ""), (404, "Not Found")
    NO_ROUTE = (403, "Missing Authentication Token", "MissingAuthenticationTokenException", "MISSING_AUTHENTICATION_TOKEN"), (404, "Not Found")
    UNSIGNED = (403, "Missing Authentication Token", "MissingAuthenticationTokenException", "MISSING_AUTHENTICATION_TOKEN"), (403, "Forbidden")
    UNAUTHORIZED = (401, "Unauthorized", "UnauthorizedException", "UNAUTHORIZED"), (401, "Unauthorized")
    FORBIDDEN = (403, "Forbidden", "ForbiddenException", "INVALID_API_KEY"), (403, "Forbidden")
    DENIED = (
        (403, "User is not authorized to access this resource", "AccessDeniedException", "ACCESS_DENIED"),
        (403, "Forbidden"),
    )
    DENIED_EXPLICITLY = (
        (403, "User is not authorized to access this resource with an explicit deny", "AccessDeniedException", "ACCESS_DENIED"),
        (403, "Forbidden"),
    )
    AUTHORIZER_FAILED = (500, None, "AuthorizerConfigurationException", "AUTHORIZER_CONFIGURATION_ERROR"), (500, "Internal Server Error")
    FAILED = (502, "Internal server error", "InternalServerErrorException", "INTEGRATION_FAILURE"), (500, "Internal Server Error")
    BROKEN = (500, "Internal server error", "InternalServerErrorException", "API_CONFIGURATION_ERROR"), (500, "Internal Server Error")
    THROTTLED = (500, "Internal server error", "InternalServerErrorException", "INTEGRATION_FAILURE"), (503, "Service Unavailable")
    TIMED_OUT = (504, "Endpoint request timed out", "InternalServerErrorException", "INTEGRATION_TIMEOUT"), (503, "Service Unavailable")
    TOO_LARGE = (413, "Request Too Long", "RequestTooLargeException", "REQUEST_TOO_LARGE"), (413, "Request Entity Too Large")


# Of the access denials of a REST API the word itself begins in upper case.
_CAPITAL = frozenset({Why.DENIED, Why.DENIED_EXPLICITLY})


class Refused(Exception):
    """A request ends here. ``headers`` are beyond those that every answer has; ``error_type`` is empty where the API gives none.
    ``kind``: the gateway response by which an owner changes it, empty when there is none.
    """

    def __init__(
        self, status: int, body: bytes, error_type: str = "", headers: tuple[tuple[str, str], ...] = (), kind: str = ""
    ) -> None:
        super().__init__(body.decode("utf-8", "replace"))
        self.status = status
        self.body = body
        self.error_type = error_type
        self.headers = headers
        self.kind = kind


def refused(why: Why, kind: str, *headers: tuple[str, str]) -> Refused:
    """The refusal of an API of this kind."""
    rest, http = why.value
    if kind == HTTP:
        return Refused(http[0], _body("message", http[1]), headers=headers)
    return Refused(rest[0], _body("Message" if why in _CAPITAL else "message", rest[1]), rest[2], headers, rest[3])


def unserved(reason: str) -> Refused:
    """501: the definition asks for something that is not done here; the answer says what."""
    return Refused(501, _body("message", f"Lambda Engine does not serve this: {reason}"), "NotImplementedException")


def said(status: int, message: str, error_type: str, *, capital: bool = False, kind: str = "") -> Refused:
    """Words that depend on the request."""
    return Refused(status, _body("Message" if capital else "message", message), error_type, kind=kind)


def _body(member: str, message: str | None) -> bytes:
    return json.dumps({member: message}, separators=(",", ":")).encode()
