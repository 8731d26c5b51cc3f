"""``/_engine/images``: importing container images. Only through the engine's own Unix socket, never through its port.

What is imported becomes the whole file system of functions, and takes as much of the disk as it likes up to Lambda's limit; whoever can reach
the port, functions among them, must not do that. See ``vpcs`` for how the two are told apart.
``GET`` lists, ``POST ?name=NAME`` imports the archive that is its body, ``DELETE ?name=NAME`` forgets a name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from engine.control.images import Images, ImportRefused

PATH = "/_engine/images"
_PEER = b"x-lambda-engine-peer"
# Archives of images that are just within the limit, badly compressed.
MAX_ARCHIVE = 12 << 30
_BATCH = 4 << 20
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ImageRoutes:
    """The ASGI callable."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        if any(name.lower() == _PEER for name, _ in scope["headers"]):
            await _reply(send, 403, {"message": "Images are imported on the engine's host, by its user: lambda-engine image import."})
            return
        name = parse_qs(scope["query_string"].decode("latin-1")).get("name", [""])[0]
        try:
            status, document = await self._answer(scope["method"], name, receive)
        except ImportRefused as e:
            status, document = 400, {"message": str(e)}
        await _reply(send, status, document)

    async def _answer(self, method: str, name: str, receive: _Receive) -> tuple[int, dict[str, Any]]:
        if method == "GET":
            return 200, {"images": self._images.listed()}
        if method == "DELETE":
            await self._images.remove(name)
            return 200, {"name": name}
        if method != "POST":
            return 405, {"message": f"{method} is not allowed on {PATH}"}
        archive = self._images.spool()
        try:
            await _save(receive, archive)
            return 200, await self._images.take(archive, name)
        finally:
            archive.unlink(missing_ok=True)


async def _save(receive: _Receive, path: Path) -> None:
    """Write a request's body to a file. Raises ImportRefused when it is too big or ends early."""
    size, batch = 0, bytearray()
    with path.open("wb") as file:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ImportRefused("the archive ended early")
            batch += message.get("body", b"")
            more = bool(message.get("more_body"))
            if len(batch) >= _BATCH or not more:
                size += len(batch)
                if size > MAX_ARCHIVE:
                    raise ImportRefused(f"the archive has more than {MAX_ARCHIVE} bytes")
                await asyncio.to_thread(file.write, bytes(batch))
                batch.clear()


async def _reply(send: _Send, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"Content-Type", b"application/json"), (b"Content-Length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
