"""A request whose caller is known: what an operation's handler is told beside the parsed members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.auth.principals import Principal


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One API request as its handler sees it, beside the parsed members.

    ``headers`` have lower-case names, repeated ones joined by commas. ``peer`` is the client's address where the
    supervisor gave it, else empty.
    """

    operation: str
    request_id: str
    account: str
    region: str
    principal: Principal
    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    body: bytes
    peer: str
