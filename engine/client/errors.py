"""What a binary client raises."""

from __future__ import annotations

import json

from engine.errors import EngineError, Fault
from engine.wire.messages import Result

_BAD_REQUEST = 400


class ClientError(EngineError):
    """Root of everything a client raises on purpose."""

    fault = Fault.PLATFORM


class BadArgument(ClientError):
    """An argument cannot be sent: too long for its field, or not text. Nothing was sent."""

    fault = Fault.CLIENT


class ServerRefused(ClientError):
    """The server declined the connection, or what answers there is no engine. The message says why; a retry will not help."""

    fault = Fault.CLIENT


class ConnectionLost(ClientError):
    """No answer will come. ``sent`` says whether the call had left: if so, the function may have run."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        self.retryable = not sent


class CallTimeout(ClientError):
    """No answer within ``timeout_s``. ``sent`` as in ConnectionLost; a function that was started goes on running."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        self.retryable = not sent


class ApiError(ClientError):
    """The engine answered with a status of 400 or more, before or instead of running the function.

    ``code`` is the AWS exception name (``TooManyRequestsException``), ``status`` the HTTP status, ``message`` the text of
    the JSON body, ``reason`` its ``Reason`` member when there is one; ``result`` is the whole answer.
    """

    def __init__(self, result: Result) -> None:
        members = _members(result.payload)
        message = members.get("message", members.get("Message"))
        self.code = result.error_type or "ServiceException"
        self.status = result.status
        self.message = message if isinstance(message, str) else None
        reason = members.get("Reason")
        self.reason = reason if isinstance(reason, str) else None
        self.result = result
        self.fault = Fault.CLIENT if result.status < 500 else Fault.PLATFORM
        self.retryable = result.status in (429, 500, 502, 503)
        super().__init__(f"{self.code} ({self.status}): {self.message}")


class FunctionError(ClientError):
    """The function ran and failed. ``error_type``, ``message`` and ``stack`` are from its error document."""

    fault = Fault.FUNCTION

    def __init__(self, result: Result) -> None:
        members = _members(result.payload)
        self.error_type = str(members.get("errorType", ""))
        self.message = str(members.get("errorMessage", ""))
        stack = members.get("stackTrace")
        self.stack = [str(line) for line in stack] if isinstance(stack, list) else []
        self.result = result
        super().__init__(f"{self.error_type or result.function_error}: {self.message}")


def raise_for_function_error(result: Result) -> Result:
    """``result`` itself when the function succeeded. Raises FunctionError when it failed."""
    if result.function_error is not None:
        raise FunctionError(result)
    return result


def checked(result: Result) -> Result:
    """``result`` itself when the call was accepted. Raises ApiError."""
    if result.status >= _BAD_REQUEST:
        raise ApiError(result)
    return result


def _members(payload: bytes) -> dict[str, object]:
    """The JSON object in ``payload``; empty when it is none, since an error must never hide behind another."""
    try:
        document = json.loads(payload)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
