"""Pages of listings: how many items, and the opaque marker of the last one, which is of use in its own listing only."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engine.control.api import Caller
from engine.errors import InvalidParameterValue
from engine.store.api import Position

MAX_PAGE = 50


def page_size(wanted: int | None) -> int:
    """How many items to give: a larger wish is accepted and capped."""
    return min(wanted or MAX_PAGE, MAX_PAGE)


def listing(caller: Caller, of: str = "") -> str:
    """The name of a listing: the caller's operation, and whose list it is (``of``) when there is one for each function, layer or the like."""
    return f"{caller.account} {caller.operation} {of}"


def next_marker(name: str, last: Position) -> str:
    """The marker behind which the next page of the listing ``name`` begins."""
    return base64.urlsafe_b64encode(msgspec.json.encode((name, *last))).decode("ascii")


def position(name: str, marker: str | None) -> Position | None:
    """What ``next_marker`` made for this listing. Raises InvalidParameterValue for anything else."""
    if not marker:
        return None
    try:
        own, key, ordinal = msgspec.json.decode(base64.b64decode(marker, altchars=b"-_", validate=True), type=tuple[str, str, int])
    except (binascii.Error, msgspec.DecodeError, UnicodeError, ValueError):
        own, key, ordinal = "", "", 0
    if own != name:
        raise InvalidParameterValue(f"Invalid Marker: {marker}")
    return Position(key, ordinal)


def page_of(name: str, keys: Sequence[str], params: Mapping[str, Any], *, largest: int = MAX_PAGE) -> tuple[list[str], str | None]:
    """The page of the listing ``name`` that ``Marker`` and ``MaxItems`` of a request ask for out of sorted ``keys``, and the next one's marker.

    Raises InvalidParameterValue for a marker that no page had.
    """
    after = position(name, params.get("Marker"))
    limit = min(params.get("MaxItems") or largest, largest)
    rest = [key for key in keys if after is None or key > after.name]
    page = rest[:limit]
    return page, next_marker(name, Position(page[-1], 0)) if len(rest) > limit else None
