"""``/_engine/vpc``: attaching private servers to subnets. Only through the engine's own Unix socket, never through its port.

Attaching gives a namespace or an interface of the host to a VPC; whoever can reach the port, functions among them, must not. The socket can be
opened by the engine's user only. What came through the port carries the peer's header, which the front sets and nobody can leave out.
``GET`` lists, ``POST`` attaches (JSON: subnet, ip, netns or interface, groups, name), ``DELETE /_engine/vpc/ID`` detaches.
``GET /_engine/vpc/interfaces`` is for the embedded EC2: behind which addresses functions are.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from engine.control.vpcs import AttachmentRefused, Vpcs
from engine.errors import AwsError

PATH = "/_engine/vpc"
INTERFACES = "interfaces"
_PEER = b"x-lambda-engine-peer"
_MEMBERS = {"subnet": str, "ip": str, "netns": str, "interface": str, "name": str, "groups": list}
_MAX_BODY = 65536
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class VpcRoutes:
    """The ASGI callable. ``account``: in whose name EC2 is asked."""

    def __init__(self, vpcs: Vpcs, account: str) -> None:
        self._vpcs = vpcs
        self._account = account

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        if any(name.lower() == _PEER for name, _ in scope["headers"]):
            await _reply(send, 403, {"message": "Servers are attached on the engine's host, by its user: lambda-engine vpc attach."})
            return
        try:
            status, document = await self._answer(scope["method"], scope["path"], receive)
        except AttachmentRefused as e:
            status, document = 400, {"message": str(e)}
        except AwsError as e:
            status, document = e.status, {"message": e.message}
        await _reply(send, status, document)

    async def _answer(self, method: str, path: str, receive: _Receive) -> tuple[int, dict[str, Any]]:
        name = path[len(PATH) + 1 :]
        if method == "GET" and not name:
            return 200, {"attachments": self._vpcs.attachments()}
        if method == "GET" and name == INTERFACES:
            return 200, {"interfaces": self._vpcs.interfaces()}
        if method == "POST" and not name:
            return 200, {"id": await self._vpcs.attach(_server(await _body(receive)), self._account)}
        if method == "DELETE":
            await self._vpcs.detach(name)
            return 200, {"id": name}
        return 404, {"message": f"Not found: {method} {path}"}


def _server(body: bytes) -> dict[str, Any]:
    """Raises AttachmentRefused for anything but the members, each of its type, and exactly one of netns and interface."""
    try:
        given = json.loads(body)
        server = {name: given.get(name) or kind() for name, kind in _MEMBERS.items()}
    except (ValueError, AttributeError) as e:
        raise AttachmentRefused(f"not an attachment: {e}") from e
    if unknown := given.keys() - _MEMBERS.keys():
        raise AttachmentRefused(f"not members of an attachment: {', '.join(sorted(unknown))}")
    for name, kind in _MEMBERS.items():
        if not isinstance(server[name], kind):
            raise AttachmentRefused(f"{name} must be a {kind.__name__}")
    if not all(isinstance(group, str) for group in server["groups"]):
        raise AttachmentRefused("groups must be a list of ids")
    if bool(server["netns"]) == bool(server["interface"]):
        raise AttachmentRefused("name a network namespace or an interface, one of the two")
    return server


async def _body(receive: _Receive) -> bytes:
    data = bytearray()
    while True:
        message = await receive()
        data += message.get("body", b"")
        if len(data) > _MAX_BODY:
            raise AttachmentRefused(f"more than {_MAX_BODY} bytes")
        if not message.get("more_body"):
            return bytes(data)


async def _reply(send: _Send, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"Content-Type", b"application/json"), (b"Content-Length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
