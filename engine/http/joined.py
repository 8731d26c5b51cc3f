"""Answers written at once: head and beginning of the body reach the other side together.

uvicorn writes an answer's head, then its body, and uvloop each with a system call of its own. Whoever waits for the answer woke for the head,
passed it on and woke again for the body: a third of what an operation woke the supervisor for.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine import turns

_HEAD, _END = b"HTTP/1.1 ", b"\r\n\r\n"


class JoinedWrites:
    """A transport that keeps what looks like a head until the next write, or until the loop's next turn if there is none."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
            turns.give_way()
        elif data.startswith(_HEAD) and data.endswith(_END):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        # The other side may have gone meanwhile: uvloop raises for a connection that is closed.
        if head and not self._transport.is_closing():
            self._transport.write(head)


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's protocol, on such a transport."""

    def data_received(self, data: bytes) -> None:
        turns.give_way()
        super().data_received(data)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
