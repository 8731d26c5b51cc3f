"""A supervisor's end of the control link that records what it is told, on a real socket in its own thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any, Self

import msgspec

from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.connection import CONTROL_LINK, SUPERVISOR, Order, catalogue_event
from engine.wire.frames import MAX_CONTROL_FRAME, FrameDecoder

FUNCTION_KEY = ["000000000000", "s" * 40, "t" * 32]


class LinkPeer:
    """``catalogue`` is what a supervisor would hold by (account, name), None before the first commit; ``log`` every change as (op, name).

    ``accepted``: what was said of EVENTS. ``refusal`` chooses the error of an ACK from (op, value). ``mute`` leaves questions unanswered, ``drop_next`` closes the
    connection at the next single change. ``about`` is the hello.
    """

    def __init__(self, path: str | os.PathLike[str], runtimes: dict[str, dict[str, str]] | None = None, **about: Any) -> None:
        self.path = os.fspath(path)
        self.about: dict[str, Any] = {
            "runtimes": runtimes or {},
            "endpoint_url": "http://127.0.0.1:9",
            "function_key": FUNCTION_KEY,
            "region": "us-east-1",
            "account_id": "000000000000",
            **about,
        }
        self.version = m.VERSION
        self.catalogue: dict[tuple[str, str], dict[str, Any]] | None = None
        self.log: list[tuple[str, str]] = []
        self.vpcs: dict[str, dict[str, Any] | None] = {}
        self.refusal: Callable[[str, Any], str | None] = lambda _op, _value: None
        self.mute = False
        self.drop_next = False
        self.stats: dict[str, Any] = {}
        self.accepted: list[tuple[int, str | None]] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def listen(self) -> None:
        """Accept connections (again)."""

        async def start() -> None:
            self._server = await asyncio.start_unix_server(self._client, self.path)

        self._do(start)

    def hang_up(self) -> None:
        """Close all connections and stop listening."""

        async def stop() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            self.drop_all()
            await asyncio.sleep(0)

        self._do(stop)
        if os.path.exists(self.path):
            os.unlink(self.path)

    def send_raw(self, data: bytes) -> None:
        """Say something out of turn on every connection."""

        async def send() -> None:
            for writer in self._writers:
                writer.write(data)

        self._do(send)

    def drop_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _do(self, make: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(make(), self._loop).result(5)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        decoder, order = FrameDecoder(MAX_CONTROL_FRAME), Order(CONTROL_LINK, SUPERVISOR)
        pending: dict[tuple[str, str], dict[str, Any]] | None = None
        try:
            while data := await reader.read(65536):
                for body in decoder.feed(data):
                    parts = shapes.read(body)
                    order.received(catalogue_event(parts[2]) if parts[0] == m.CATALOGUE else parts[0])
                    if parts[0] == m.CLIENT_HELLO:
                        assert parts[2] == {"role": "control"}
                        order.sent(m.SERVER_HELLO)
                        writer.write(m.pack(m.SERVER_HELLO, self.version, self.about))
                        continue
                    if parts[0] == m.ACCEPTED:
                        self.accepted.append((parts[1], parts[2]))
                        continue
                    if self.mute:
                        continue
                    if parts[0] == m.QUERY:
                        writer.write(m.pack(m.ANSWER, parts[1], msgspec.msgpack.encode(self.stats)))
                        continue
                    if self.drop_next and pending is None and parts[2] in ("put", "delete"):
                        self.drop_next = False
                        writer.transport.abort()
                        return
                    pending = self._change(parts, pending, writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _change(self, parts: list[Any], pending: Any, writer: asyncio.StreamWriter) -> Any:
        _, seq, op, value = parts
        if op == "puts":
            assert pending is not None
            problems = []
            for entry in value:
                self.log.append(("put", entry["name"]))
                problem = self.refusal("put", entry)
                if problem is None:
                    pending[entry["account"], entry["name"]] = entry
                else:
                    problems.append(f"{entry['account']}:{entry['name']}: {problem}")
            writer.write(m.pack(m.ACK, seq, "\n".join(problems) or None))
            return pending
        self.log.append((op, (value.get("name") or value["vpc"]) if value else ""))
        problem = self.refusal(op, value)
        if op == "begin":
            pending = {}
        elif op == "commit":
            self.catalogue, pending = pending, None
        elif op == "vpc":
            self.vpcs[value["vpc"]] = value["document"]
        elif problem is None:
            target = pending if pending is not None else self.catalogue
            assert target is not None
            key = (value["account"], value["name"])
            if op == "put":
                target[key] = value
            else:
                target.pop(key, None)
        writer.write(m.pack(m.ACK, seq, problem))
        return pending
