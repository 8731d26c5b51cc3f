"""The answer to a request that Lambda throttles."""

from __future__ import annotations

from engine.errors import TooManyRequests


def throttled(reason: str, message: str = "Rate Exceeded.") -> TooManyRequests:
    """The 429 that AWS sends."""
    return TooManyRequests(message, fields={"Reason": reason}, headers={"Retry-After": "1"})
