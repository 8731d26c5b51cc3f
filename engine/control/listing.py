"""Pages of listings: how many items, and the opaque marker of the last one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

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


def page_of(keys: Sequence[str], params: Mapping[str, Any], *, largest: int = MAX_PAGE) -> tuple[list[str], str | None]:
    """The page that ``Marker`` and ``MaxItems`` of a request ask for out of sorted ``keys``, and the marker of the next one.

    Raises InvalidParameterValue for a marker that no page had.
    """
    after = position(params.get("Marker"))
    limit = min(params.get("MaxItems") or largest, largest)
    rest = [key for key in keys if after is None or key > after.name]
    page = rest[:limit]
    return page, next_marker(Position(page[-1], 0)) if len(rest) > limit else None
