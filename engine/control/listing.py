"""Pages of listings: how many items, and the opaque marker of the last one."""

from __future__ import annotations

import base64
import binascii

import msgspec

from engine.errors import InvalidParameterValue
from engine.store.api import Position

MAX_PAGE = 50


def page_size(wanted: int | None) -> int:
    """How many items to give: a larger wish is accepted and capped."""
    return min(wanted or MAX_PAGE, MAX_PAGE)


def next_marker(last: Position) -> str:
    """The marker behind which the next page begins."""
    return base64.urlsafe_b64encode(msgspec.json.encode(last)).decode("ascii")


def position(marker: str | None) -> Position | None:
    """What ``next_marker`` made. Raises InvalidParameterValue for anything else."""
    if not marker:
        return None
    try:
        return msgspec.json.decode(base64.b64decode(marker, altchars=b"-_", validate=True), type=Position)
    except (binascii.Error, msgspec.DecodeError, UnicodeError, ValueError):
        raise InvalidParameterValue(f"Invalid Marker: {marker}") from None
