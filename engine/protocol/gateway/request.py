"""A request as events are made of it, and the parts that both payload formats share. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from engine.protocol.gateway.definition import Api, Route, Stage

# They say how one connection is used, and end at it.
HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"})


class ApiRequest(NamedTuple):
    """One request. ``path``: below the stage; ``full_path``: with it, if the URL has it. Both percent-encoded as sent, as is ``query``.
    ``headers``: names as sent, without those of the connection, with what a proxy says of the client.
    """

    method: str
    path: str
    full_path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    peer: str


class Connected(NamedTuple):
    """A WebSocket connection as events name it."""

    connection_id: str
    connected_ms: int


class ApiContext(NamedTuple):
    """Where a request is, and what is known of its caller. ``authorizer``: the event's ``requestContext.authorizer``.
    ``iam``: who has signed, None when nobody had to.
    """

    api: Api
    stage: Stage
    route: Route
    parameters: Mapping[str, str]
    request_id: str
    extended_id: str
    epoch_ms: int
    domain: str
    authorizer: Mapping[str, Any] | None = None
    iam: Mapping[str, Any] | None = None
    api_key: tuple[str, str] | None = None
    connected: Connected | None = None


def forwarded(headers: Sequence[tuple[str, str]], peer: str, port: str, trace_id: str) -> list[tuple[str, str]]:
    """A request's headers as API Gateway hands them on."""
    ours = {"x-amzn-trace-id", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-for"}
    kept = [(n, v) for n, v in headers if (low := n.lower()) not in HOP_BY_HOP and low not in ours]
    before = ", ".join(v for n, v in headers if n.lower() == "x-forwarded-for")
    return [
        *kept,
        ("X-Amzn-Trace-Id", trace_id),
        ("X-Forwarded-For", f"{before}, {peer}" if before else peer),
        ("X-Forwarded-Port", port),
        ("X-Forwarded-Proto", "http"),
    ]


def header(headers: Sequence[tuple[str, str]], name: str) -> str | None:
    """The value of a header, all of them joined; None when it was not sent. ``name`` in lower case."""
    values = [value for key, value in headers if key.lower() == name]
    return ",".join(values) if values else None


def parameters(query: str) -> list[tuple[str, str]]:
    """The decoded parameters of a query, in order."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def missing(required: Sequence[str], request: ApiRequest) -> list[str]:
    """Which required parameters a request does not have, by name. Those of the path are there, or it would be another route."""
    query = {name for name, _ in parameters(request.query)}
    sent = {name.lower() for name, _ in request.headers}
    found = (one.partition(".") for one in required)
    return [name for kind, _, name in found if (kind == "querystring" and name not in query) or (kind == "header" and name.lower() not in sent)]


def grouped(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """All values by name. Names of different case are one name, in the case that came first."""
    found: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(spelled.setdefault(name.lower(), name), []).append(value)
    return found


def multiple(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """All values by name, where case matters."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


@functools.lru_cache(maxsize=1)
def clf_time(epoch_s: int) -> str:
    """``12/Mar/2020:19:03:58 +0000``; a second's requests share it."""
    return f"{datetime.fromtimestamp(epoch_s, UTC):%d/%b/%Y:%H:%M:%S +0000}"
