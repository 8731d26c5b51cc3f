"""Pages of log events, from as many places as they are in. Pure.

Events have ids that sort like their times, so where a page ended is an id, whatever came or went since; tokens are made of it.
Source: docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference (GetLogEvents, FilterLogEvents).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.aws.log_files import ID_DIGITS, Event

MAX_EVENTS = 10_000
MAX_BYTES = 1024 * 1024
# What CloudWatch Logs counts for an event beside its message.
OVERHEAD = 26
FIRST, LAST = "0" * ID_DIGITS, "9" * ID_DIGITS
_TOKEN = re.compile(r"([fb])/(\d{56})")
FOREVER_MS = 1 << 53


@dataclass(frozen=True, slots=True)
class Chunk:
    """Events that are had together, and which times they are of."""

    first_ms: int
    last_ms: int
    load: Callable[[], Iterable[Event]]


def page(
    chunks: Iterable[Chunk], wanted: Callable[[Event], bool], *, after: str = FIRST, before: str = LAST, limit: int = MAX_EVENTS, newest: bool = False
) -> tuple[list[Event], bool]:
    """The first events with ids between two, or the ``newest`` of them, oldest first; and whether there are more.

    A page has at most ``limit`` events and MAX_BYTES, but at least one event if there is any.
    """
    order = sorted(chunks, key=lambda c: -c.last_ms if newest else c.first_ms)
    found: list[Event] = []
    for chunk in order:
        if len(found) > limit:
            # Nothing that comes now can be of this page.
            found.sort(reverse=newest)
            del found[limit + 1 :]
            edge_ms = found[-1].at_ms
            if chunk.last_ms < edge_ms if newest else chunk.first_ms > edge_ms:
                break
        found += [event for event in chunk.load() if after < event.event_id < before and wanted(event)]
    found.sort(reverse=newest)
    kept: list[Event] = []
    size = 0
    for event in found[:limit]:
        size += len(event.message.encode()) + OVERHEAD
        if kept and size > MAX_BYTES:
            break
        kept.append(event)
    more = len(kept) < len(found)
    if newest:
        kept.reverse()
    return kept, more


def token(direction: str, at: str) -> str:
    """The token of a place: what follows it (``f``) or comes before it (``b``)."""
    return f"{direction}/{at}"


def place(text: str) -> tuple[str, str] | None:
    """Direction and id of a token; None for what is none."""
    match = _TOKEN.fullmatch(text)
    return (match[1], match[2]) if match else None
