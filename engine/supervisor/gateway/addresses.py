"""Which API a request is for, by its host name or by its path.

``<api-id>.execute-api.<region>.<any name>`` is AWS's own form; ``/_api/<api-id>/<stage>/…`` needs no name to be resolved, and the two path
forms that users of LocalStack have in their settings are understood as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head

MARK = b".execute-api."
PATHS = (b"/_api/", b"/_aws/execute-api/")
RESTAPIS = b"/restapis/"
USER_REQUEST = b"/_user_request_"


class Address(NamedTuple):
    """``host`` belongs to the API and has no port; ``port`` may be empty; ``target``: path and query below the host."""

    api_id: str
    host: str
    port: str
    target: bytes


def of(head: Head, region: str) -> Address | None:
    """The address a request has; None when it is not an API's."""
    host = (head.header(b"host") or b"").lower()
    name, port = _split(host)
    if MARK in host:
        return Address(host.partition(b".")[0].decode("latin-1"), name, port, head.url)
    url = head.url
    for prefix in PATHS:
        if url.startswith(prefix):
            return _below(url[len(prefix) :], region, port)
    if url.startswith(RESTAPIS) and USER_REQUEST in url:
        path, mark, query = url[len(RESTAPIS) :].partition(b"?")
        before, found, rest = path.partition(USER_REQUEST)
        if found and before.count(b"/") == 1 and (not rest or rest.startswith(b"/")):
            return _below(before + rest + mark + query, region, port)
    return None


def _below(text: bytes, region: str, port: str) -> Address:
    api_id, slash, rest = text.partition(b"/")
    if not slash:
        api_id, mark, query = api_id.partition(b"?")
        rest = mark + query
    name = api_id.decode("latin-1").lower()
    return Address(name, f"{name}.execute-api.{region}.localhost", port, b"/" + rest)


def _split(host: bytes) -> tuple[str, str]:
    name, colon, port = host.rpartition(b":")
    return (name.decode("latin-1"), port.decode("ascii")) if colon and port.isdigit() else (host.decode("latin-1"), "")
