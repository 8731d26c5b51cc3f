"""The piece that is played in a rehearsal."""

from __future__ import annotations

from typing import Any


def handler(event: Any, context: Any) -> Any:
    """Touch what an ordinary handler touches."""
    return [event, context.aws_request_id, context.get_remaining_time_in_millis()]
