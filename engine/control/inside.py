"""Small HTTP handlers for the engine's own Unix socket, which only its user can open. Nobody reaches them through its port.

What came through the port carries the peer's header, which the front sets and nobody can leave out.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_PEER = b"x-lambda-engine-peer"


async def refused(scope: MutableMapping[str, Any], send: Send) -> bool:
    """Whether the request came through the port; it has had its answer then."""
    if any(name.lower() == _PEER for name, _ in scope["headers"]):
        await reply_json(send, 403, {"message": "Only the engine's own user may do this, on its host: lambda-engine has a command for it."})
        return True
    return False


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises ValueError past ``limit`` bytes."""
    data = bytearray()
    while True:
        message = await receive()
        data += message.get("body", b"")
        if len(data) > limit:
            raise ValueError(f"more than {limit} bytes")
        if not message.get("more_body"):
            return bytes(data)


async def reply_json(send: Send, status: int, document: Any) -> None:
    await reply(send, status, json.dumps(document).encode(), b"application/json")


async def reply(send: Send, status: int, body: bytes, kind: bytes) -> None:
    headers = [(b"Content-Type", kind), (b"Content-Length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
