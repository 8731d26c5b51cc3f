"""The least Lambda Runtime API: invocations come in on one port, runtime clients poll ``next`` and post ``response`` on another.

Run by the peers' interpreter with the two ports as arguments. It does nothing but pass bodies on, which flatters the peer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable

import uvloop


class _Api:
    """Who waits for what."""

    def __init__(self) -> None:
        self.events: deque[tuple[Callable[[bytes], None], bytes]] = deque()
        self.idle: deque[_Runtime] = deque()
        self.open: dict[bytes, Callable[[bytes], None]] = {}
        self.n = 0

    def match(self) -> None:
        while self.events and self.idle:
            answer, body = self.events.popleft()
            self.n += 1
            request_id = b"%08d-0000-4000-8000-000000000000" % self.n
            self.open[request_id] = answer
            self.idle.popleft().give(request_id, body)


class _Http(asyncio.Protocol):
    """Requests with a content length or no body, one at a time."""

    def __init__(self) -> None:
        self.buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            at = head.lower().find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < size:
                return
            self.buffer = rest[size:]
            self.request(head.split(b" ", 2)[1], rest[:size])

    def request(self, path: bytes, body: bytes) -> None:
        raise NotImplementedError

    def answer(self, body: bytes, more: bytes = b"", status: bytes = b"200 OK") -> None:
        length = b"%d" % len(body)
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: " + length + b"\r\n" + more + b"\r\n" + body
        )


class _Caller(_Http):
    def __init__(self, api: _Api) -> None:
        super().__init__()
        self._api = api

    def request(self, path: bytes, body: bytes) -> None:
        self._api.events.append((self.answer, body))
        self._api.match()


class _Runtime(_Http):
    def __init__(self, api: _Api) -> None:
        super().__init__()
        self._api = api

    def request(self, path: bytes, body: bytes) -> None:
        if path.endswith(b"/next"):
            self._api.idle.append(self)
        else:
            self.answer(b'{"status":"OK"}', status=b"202 Accepted")
            answer = self._api.open.pop(path.split(b"/")[-2], None)
            if answer is not None:
                answer(body)
        self._api.match()

    def give(self, request_id: bytes, body: bytes) -> None:
        deadline = b"%d" % int(time.time() * 1000 + 60_000)
        arn = b"arn:aws:lambda:us-east-1:000000000000:function:echo"
        heads = (
            b"Lambda-Runtime-Aws-Request-Id: " + request_id,
            b"Lambda-Runtime-Deadline-Ms: " + deadline,
            b"Lambda-Runtime-Invoked-Function-Arn: " + arn,
        )
        self.answer(body, b"\r\n".join(heads) + b"\r\n")


async def main() -> None:
    """Serve until killed."""
    api = _Api()
    loop = asyncio.get_running_loop()
    caller = await loop.create_server(lambda: _Caller(api), "127.0.0.1", int(sys.argv[1]))
    runtime = await loop.create_server(lambda: _Runtime(api), "127.0.0.1", int(sys.argv[2]))
    async with caller, runtime:
        await asyncio.Event().wait()


uvloop.run(main())
