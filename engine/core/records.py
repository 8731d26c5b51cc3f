"""Forms that records of several AWS services share. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def millis(at_ms: int) -> str:
    """``2026-01-31T12:00:00.000Z``."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"
