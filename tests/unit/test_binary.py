"""The binary protocol's server side with the real client, and the control plane's link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.client import AsyncClient
from engine.client.errors import ApiError, ServerRefused
from engine.sandbox.wishes import VpcDone
from engine.supervisor.binary import ClientConnection, LinkConnection
from engine.wire import messages
from engine.wire.frames import MAX_CONTROL_FRAME, FrameDecoder
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import ACCOUNT, Rig, entry


class Server:
    """Client and link listeners over a scripted sandbox."""

    def __init__(self, rig: Rig, tmp: Path) -> None:
        self.rig = rig
        self.catalogue = rig.catalogue
        self.clients: set[asyncio.Protocol] = set()
        self.links: list[LinkConnection] = []
        self.accepted_events: list[tuple[int, str | None]] = []
        self.path = tmp / "engine.sock"
        self.link_path = tmp / "control.sock"

    def link_hello(self) -> dict[str, Any]:
        return {"runtimes": {"python3.11": {"interpreter": "/x", "version": "3.11.7"}}}

    def vpc(self, name: str, document: dict[str, Any] | None, then: VpcDone) -> None:
        problems = {"eniattach-1": "there is no interface x (ip link)"} if document else {}
        asyncio.get_running_loop().call_later(0.01, then, problems, "" if name == "vpc-1" else "no such thing\nhere")

    def accepted(self, seq: int, problem: str | None) -> None:
        self.accepted_events.append((seq, problem))

    def queries(self) -> dict[str, Callable[[], Any]]:
        return {"stats": self._stats}

    @staticmethod
    def _stats() -> dict[str, Any]:
        return {"uptime_s": 1.5}

    def identity(self, access_key: str, answer: Callable[[dict[str, Any] | None], None]) -> None:
        answer({"access_key": access_key} if access_key == "AKIAKNOWN" else None)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        api = self.rig.api
        self.servers = [
            await loop.create_unix_server(lambda: ClientConnection(api, ACCOUNT, self.clients, None), self.path),
            await loop.create_unix_server(lambda: LinkConnection(self, self.links.append), self.link_path),
            await loop.create_server(lambda: ClientConnection(api, ACCOUNT, self.clients, {"AKIA": "s3cret"}), "127.0.0.1", 0),
        ]
        self.port = self.servers[2].sockets[0].getsockname()[1]

    async def close(self) -> None:
        for server in self.servers:
            server.close()
        for client in list(self.clients):
            client.transport.abort()  # type: ignore[attr-defined]
        for link in self.links:
            link.close()
        await asyncio.sleep(0.01)


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(scenario: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            rig = Rig(tmp_path / "logs")
            rig.put()
            server = Server(rig, tmp_path)
            await server.open()
            try:
                async with asyncio.timeout(20):
                    await scenario(server)
            finally:
                await server.close()
                rig.close()
                await asyncio.sleep(0)

        asyncio.run(whole())

    return run


def test_pipelined_calls_come_back_to_their_callers(play: Callable[..., None]) -> None:
    async def scenario(s: Server) -> None:
        async with AsyncClient(s.path) as client:
            results = await asyncio.gather(*(client.invoke("f", b"%d" % n) for n in range(9)))
            assert [r.payload for r in results] == [b"%d" % n for n in range(9)]
            assert {(r.status, r.executed_version, r.function_error) for r in results} == {(200, "$LATEST", None)}

    play(scenario)


def test_request_id_tail_and_context_are_honoured(play: Callable[..., None]) -> None:
    async def scenario(s: Server) -> None:
        seen: list[messages.Invoke] = []

        def look(worker: ScriptedWorker, event: messages.Invoke) -> None:
            seen.append(event)
            worker.respond(event, b"1")

        s.rig.sandbox.on_invoke = look
        wanted = "12345678-1234-4234-8234-123456789abc"
        async with AsyncClient(s.path) as client:
            result = await client.invoke("f", b"{}", request_id=wanted, client_context="{}", log_tail=True)
        assert result.request_id == wanted
        assert result.log_tail is not None
        assert result.log_tail.startswith(b"START RequestId: " + wanted.encode())
        assert (seen[0].request_id, seen[0].client_context) == (wanted, "{}")

    play(scenario)


@pytest.mark.parametrize(
    ("function", "options", "payload", "status", "code"),
    [
        ("nope", {}, b"{}", 404, "ResourceNotFoundException"),
        ("f", {"qualifier": "9"}, b"{}", 404, "ResourceNotFoundException"),
        ("a b", {}, b"{}", 400, "ValidationException"),
        ("f", {}, b"{oops", 400, "InvalidRequestContentException"),
        ("f", {}, b'"' + b"x" * (6 * 1024 * 1024) + b'"', 413, "RequestEntityTooLargeException"),
    ],
)
def test_refusals_carry_aws_codes(
    play: Callable[..., None], function: str, options: dict[str, Any], payload: bytes, status: int, code: str
) -> None:
    async def scenario(s: Server) -> None:
        async with AsyncClient(s.path) as client:
            with pytest.raises(ApiError) as caught:
                await client.invoke(function, payload, **options)
        assert (caught.value.status, caught.value.code) == (status, code)

    play(scenario)


def test_dry_run(play: Callable[..., None]) -> None:
    async def scenario(s: Server) -> None:
        async with AsyncClient(s.path) as client:
            result = await client.invoke("f", dry_run=True)
        assert (result.status, result.payload) == (204, b"")
        assert s.rig.sandbox.inits == 0

    play(scenario)


def test_a_key_must_be_proved_over_tcp(play: Callable[..., None]) -> None:
    async def scenario(s: Server) -> None:
        async with AsyncClient(f"127.0.0.1:{s.port}", access_key="AKIA", secret_key="s3cret") as client:
            assert (await client.invoke("f", b"1")).payload == b"1"
        async with AsyncClient(f"127.0.0.1:{s.port}", access_key="AKIA", secret_key="wrong") as client:
            with pytest.raises(ServerRefused):
                await client.invoke("f", b"1")

    play(scenario)


@pytest.mark.parametrize(
    "first",
    [
        b"\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        messages.pack(messages.CALL, 1, "f"),
        messages.pack(messages.CLIENT_HELLO, 99, {}),
        messages.pack(messages.CLIENT_HELLO, messages.VERSION, {"role": "control"}),
        messages.pack(messages.CLIENT_HELLO, messages.VERSION, {}) + messages.pack(messages.NEXT),
        messages.pack(messages.CLIENT_HELLO, messages.VERSION, {}) + messages.pack(messages.CALL, "x", 1, 2, 3, 4, 5, 6, b""),
    ],
)
def test_what_breaks_the_protocol_loses_its_connection_and_nobody_elses(play: Callable[..., None], first: bytes) -> None:
    async def scenario(s: Server) -> None:
        def talk() -> bytes:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(s.path))
                sock.sendall(first)
                out = b""
                try:
                    while piece := sock.recv(65536):
                        out += piece
                except ConnectionError:
                    pass
                return out

        await asyncio.to_thread(talk)
        async with AsyncClient(s.path) as client:
            assert (await client.invoke("f", b"1")).payload == b"1"

    play(scenario)


class Link:
    """The control plane's end, frame by frame."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(path))
        self.decoder = FrameDecoder(MAX_CONTROL_FRAME)

    def ask(self, *parts: Any) -> list[Any]:
        self.sock.sendall(messages.pack(*parts))
        while True:
            for body in self.decoder.feed(self.sock.recv(1 << 20)):
                return messages.unpack(body)

    def hello(self) -> list[Any]:
        return self.ask(messages.CLIENT_HELLO, messages.VERSION, {"role": "control"})


def test_the_link_feeds_the_catalogue_and_answers_queries(play: Callable[..., None]) -> None:
    async def scenario(s: Server) -> None:
        def talk() -> None:
            link = Link(s.link_path)
            assert link.hello()[2]["runtimes"]["python3.11"]["version"] == "3.11.7"
            assert link.ask(messages.CATALOGUE, 1, "begin", None) == [messages.ACK, 1, None]
            assert link.ask(messages.CATALOGUE, 2, "put", entry("g")) == [messages.ACK, 2, None]
            assert link.ask(messages.CATALOGUE, 3, "commit", None) == [messages.ACK, 3, None]
            bad = link.ask(messages.CATALOGUE, 4, "put", {"name": "half"})
            assert bad[:2] == [messages.ACK, 4]
            assert "account" in bad[2]
            doc = {"vpc": "vpc-1", "document": {"cidrs": []}}
            assert link.ask(messages.CATALOGUE, 8, "vpc", doc) == [messages.ACK, 8, "eniattach-1: there is no interface x (ip link)"]
            assert link.ask(messages.CATALOGUE, 9, "vpc", {"vpc": "vpc-1", "document": None}) == [messages.ACK, 9, None]
            assert link.ask(messages.CATALOGUE, 10, "vpc", {"vpc": "vpc-2", "document": None}) == [messages.ACK, 10, "no such thing\nhere"]
            assert "unknown operation" in link.ask(messages.CATALOGUE, 5, "jump", None)[2]
            link.sock.sendall(messages.pack(messages.ACCEPTED, 3, None) + messages.pack(messages.ACCEPTED, 4, "disk full"))
            kind, seq, raw = link.ask(messages.QUERY, 6, "stats")
            assert (kind, seq, msgspec.msgpack.decode(raw)) == (messages.ANSWER, 6, {"uptime_s": 1.5})
            assert link.ask(messages.CATALOGUE, 7, "delete", {"account": ACCOUNT, "name": "g"})[2] is None
            assert s.accepted_events == [(3, None), (4, "disk full")]
            link.sock.close()

        await asyncio.to_thread(talk)
        assert s.catalogue.loaded
        assert s.catalogue.functions() == [], "the snapshot dropped what it did not name"
        assert len(s.links) == 1

    play(scenario)


def test_a_client_on_the_link_is_turned_away(play: Callable[..., None]) -> None:
    async def scenario(s: Server) -> None:
        def talk() -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(s.link_path))
                sock.sendall(messages.pack(messages.CLIENT_HELLO, messages.VERSION, {"role": "client"}))
                try:
                    assert sock.recv(100) == b""
                except ConnectionResetError:
                    pass

        await asyncio.to_thread(talk)
        assert s.links == []

    play(scenario)
