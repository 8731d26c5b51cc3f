"""A server that speaks the client protocol over real sockets, for the clients' tests.

What it does with a call is chosen by the function's name:

    echo      answers with the payload            batch-N   holds calls until N are there, answers the last first
    refuse    429 with a reason                   fail      a function error
    drop      closes the connection unanswered    never     answers nothing
    garbage   sends bytes that are no frame       stray     answers a call nobody made
    twice     answers two times
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.connection import CLIENT_CONNECTION, SUPERVISOR, Order
from engine.wire.dialogue import proof
from engine.wire.frames import FrameDecoder

RID = "8f507cfc-4697-455f-9f0e-2d1a1b0c7a55"
NONCE = "0123456789abcdef0123456789abcdef"


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for ``condition``; AssertionError when it has not come true in ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not reached in time"
        time.sleep(0.002)


def result(call: m.Call, payload: bytes, *, tail: bytes | None = None, failed: str | None = None) -> bytes:
    """A framed RESULT of status 200."""
    rid = call.request_id or RID
    return m.encode_result(m.Result(call.call_id, 200, None, call.qualifier or "$LATEST", failed, rid, tail, payload))


class FrameServer:
    """Listens on ``address`` while in ``with``, in a thread of its own. ``keys`` turns the challenge on.

    ``calls`` are all calls that arrived, ``connections`` counts accepted connections, ``refusal`` answers every hello with an error.
    """

    def __init__(
        self,
        address: str | tuple[str, int],
        *,
        keys: dict[str, str] | None = None,
        refusal: str | None = None,
        version: int = m.VERSION,
        silent: bool = False,
    ) -> None:
        self._address = address
        self.keys = keys
        self.refusal = refusal
        self.version = version
        self.silent = silent
        self.calls: list[m.Call] = []
        self.connections = 0
        self.port = 0
        self.open: set[_Peer] = set()
        self._held: list[tuple[_Peer, m.Call]] = []
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._server: asyncio.AbstractServer | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join(5)
        if isinstance(self._address, str) and os.path.exists(self._address):
            os.unlink(self._address)
        self._loop.close()

    async def _start(self) -> None:
        if isinstance(self._address, str):
            self._server = await self._loop.create_unix_server(lambda: _Peer(self), self._address)
        else:
            self._server = await self._loop.create_server(lambda: _Peer(self), *self._address)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in list(self.open):
            peer.transport.abort()
        await asyncio.sleep(0)

    def drop_all(self) -> None:
        """Close every connection; returns when it is done."""
        done: Future[None] = Future()

        def close() -> None:
            for peer in list(self.open):
                peer.transport.abort()
            self._loop.call_soon(done.set_result, None)

        self._loop.call_soon_threadsafe(close)
        done.result(5)

    def handle(self, peer: _Peer, call: m.Call) -> None:
        self.calls.append(call)
        name = call.function
        if name.startswith("batch-"):
            self._held.append((peer, call))
            if len(self._held) == int(name.removeprefix("batch-")):
                for other, held in reversed(self._held):
                    other.send(result(held, held.payload))
                self._held.clear()
            return
        actions: dict[str, Callable[[], None]] = {
            "echo": lambda: peer.send(result(call, call.payload, tail=b"tail" if call.flags & m.FLAG_TAIL else None)),
            "refuse": lambda: peer.send(_refused(call)),
            "fail": lambda: peer.send(
                result(call, b'{"errorMessage":"no","errorType":"Boom","stackTrace":["line 1"]}', failed="Unhandled")
            ),
            "drop": peer.transport.abort,
            "never": lambda: None,
            "garbage": lambda: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "stray": lambda: peer.send(result(call._replace(call_id=call.call_id + 77), b"")),
            "twice": lambda: peer.send(result(call, b"1") * 2),
        }
        actions[name]()


def _refused(call: m.Call) -> bytes:
    body = b'{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}'
    return m.encode_result(m.Result(call.call_id, 429, "TooManyRequestsException", None, None, RID, None, body))


class _Peer(asyncio.Protocol):
    def __init__(self, server: FrameServer) -> None:
        self._server = server
        self._decoder = FrameDecoder()
        self._order = Order(CLIENT_CONNECTION, SUPERVISOR)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections += 1
        self._server.open.add(self)
        if self._server.keys is not None:
            self._hello({"nonce": NONCE})

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self)

    def send(self, raw: bytes) -> None:
        self.transport.write(raw)

    def _hello(self, about: dict[str, str]) -> None:
        self._order.sent(m.SERVER_HELLO)
        self.send(m.pack(m.SERVER_HELLO, self._server.version, about))

    def data_received(self, data: bytes) -> None:
        for body in self._decoder.feed(data):
            kind = m.kind(body)
            self._order.received(kind)
            if kind == m.CALL:
                self._server.handle(self, m.decode_call(body))
            elif not self._server.silent:
                self._greet(shapes.read(body, m.CLIENT_HELLO)[2])

    def _greet(self, about: dict[str, str]) -> None:
        server = self._server
        assert about["role"] == "client"
        refusal = server.refusal
        if server.keys is not None:
            secret = server.keys.get(about.get("access_key", ""))
            if secret is None or about.get("token") != proof(secret, NONCE):
                refusal = "unknown access key or wrong token"
        if refusal is not None:
            self._hello({"error": refusal})
            self.transport.close()
        else:
            self._hello({"engine": "test"})
