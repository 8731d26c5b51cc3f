"""The HTTP front over real sockets: the plain path, the full parser, pass-through, and what must be refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import http.client
import json
import socket
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from engine.auth.principals import KeyRing
from engine.auth.sigv4 import Verifier
from engine.clock import SystemClock
from engine.core import lineage
from engine.ids import is_request_id
from engine.supervisor import front, routing
from engine.supervisor.event_lane import EventLane
from engine.supervisor.exchanges import Head, Passed
from engine.supervisor.front import Connection
from engine.supervisor.passthrough import Collecting, Passing
from engine.supervisor.upstreams import Upstreams
from engine.supervisor.urls import FunctionUrls
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Rig

PATH = "/2015-03-31/functions/f/invocations"


class NoApis:
    """No request is for an API."""

    def exchange(self, head: Head, connection: Connection) -> None:
        return None


class Front:
    """A listening front over a scripted sandbox; an upstream that tells what it was asked."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.api = rig.api
        self.verifier: Any = None
        self.urls = FunctionUrls(rig.catalogue, rig.api, None, SystemClock(), region="us-east-1", account_id="000000000000")
        self.gateways = NoApis()
        self.connections: set[Connection] = set()
        self.port = 0
        self.upstream_port = 0
        self.kept: Upstreams | None = None
        self.opened = 0
        self.upstream: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]] = self.mirror

    async def open(self) -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Connection(self, self.connections), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.server = server
        behind = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.upstream_port = behind.sockets[0].getsockname()[1]
        self.behind = behind

    async def close(self) -> None:
        self.server.close()
        self.behind.close()
        for connection in list(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        await self.upstream(reader, writer)

    async def mirror(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers with the head it got and the size of the body, chunked."""
        head = await reader.readuntil(b"\r\n\r\n")
        size = 0
        if b"content-length:" in head.lower():
            size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
        elif b"chunked" in head:
            while (piece := int(await reader.readline(), 16)) > 0:
                size += len(await reader.readexactly(piece))
                await reader.readline()
            await reader.readline()
        body = head + b"BODY %d" % size
        writer.write(b"HTTP/1.1 203 Whatever\r\nX-Up: yes\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        await writer.drain()
        writer.close()

    def local(self, head: Head) -> tuple[int, bytes, bytes] | None:
        return (200, b"text/plain", b"alive\n") if head.path == b"/livez" else None

    def pass_through(self, head: Head, client: Connection) -> Passed:
        loop = asyncio.get_running_loop()

        def connect(factory: Callable[[], asyncio.Protocol]) -> Coroutine[Any, Any, Any]:
            return loop.create_connection(factory, "127.0.0.1", self.upstream_port)

        return Passing(head, client, connect, [(b"x-extra", b"1")], kept=self.kept)


Answer = tuple[int, dict[str, str], bytes]


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """One request with the standard library's client."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request(method, path, body, headers or {}, encode_chunked=hasattr(body, "__next__"))
        with connection.getresponse() as answer:
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def raw(port: int, data: bytes, pieces: int = 1, until: bytes = b"") -> bytes:
    """Send bytes as they are, in pieces, and read to the end of the stream (or until a marker came)."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = -(-len(data) // pieces)
        for at in range(0, len(data), step):
            sock.sendall(data[at : at + step])
            if pieces > 1:
                time.sleep(0.002)
        out = b""
        while not until or until not in out:
            piece = sock.recv(65536)
            if not piece:
                break
            out += piece
        return out


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(scenario: Callable[[Front], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            rig = Rig(tmp_path)
            rig.put()
            served = Front(rig)
            await served.open()
            try:
                await scenario(served)
            finally:
                await served.close()
                rig.close()
                await asyncio.sleep(0)

        asyncio.run(whole())

    return run


def test_plain_invoke(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        status, headers, body = await asyncio.to_thread(ask, f.port, "POST", PATH, b'{"a": 1}')
        assert (status, body) == (200, b'{"a": 1}')
        assert headers["x-amz-executed-version"] == "$LATEST"
        assert headers["content-type"] == "application/json"
        assert len(headers["x-amzn-requestid"]) == 36
        assert headers["x-amzn-trace-id"].startswith("Root=1-")
        assert "x-amz-function-error" not in headers

    play(scenario)


@pytest.mark.parametrize("pieces", [1, 2, 7, 400])
def test_the_same_answer_however_the_request_is_cut(play: Callable[..., None], pieces: int) -> None:
    async def scenario(f: Front) -> None:
        request = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nConnection: close\r\n\r\n" + b'{"a":1}'
        answer = await asyncio.to_thread(raw, f.port, request, pieces)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'\r\n\r\n{"a":1}')

    play(scenario)


def test_keep_alive_serves_many_requests_in_order_even_when_sent_ahead(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        def one(n: int) -> bytes:
            return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%d" % (PATH.encode(), len(str(n)), n)

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", f.port), timeout=5) as sock:
                out = b""
                for n in (1, 22, 333):
                    sock.sendall(one(n))
                    while not out.endswith(b"\r\n\r\n%d" % n):
                        out += sock.recv(65536)
                sock.sendall(one(4))
                time.sleep(0.01)
                sock.sendall(one(5))
                while not out.endswith(b"\r\n\r\n5"):
                    out += sock.recv(65536)
                return out

        out = await asyncio.to_thread(talk)
        assert out.count(b"HTTP/1.1 200 OK") == 5
        assert out.index(b"\r\n\r\n4") < out.index(b"\r\n\r\n5")

    play(scenario)


def _post(body: bytes, more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (PATH.encode(), more, len(body), body)


@pytest.mark.parametrize("pieces", [1, 2, 3, 5, 23])
def test_requests_sent_in_one_piece_are_answered_in_order(play: Callable[..., None], pieces: int) -> None:
    async def scenario(f: Front) -> None:
        behind = b"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        page = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        sent = [_post(b"1"), page, _post(b"[%b]" % b", ".join([b"2"] * 9000)), behind, page, _post(b"3", b"Connection: close\r\n")]
        answer = await asyncio.to_thread(raw, f.port, b"".join(sent) + page, pieces)
        assert answer.count(b"HTTP/1.1 200 OK") == 5
        places = [answer.index(what) for what in (b"\r\n\r\n1", b"\r\n\r\nalive", b"\r\n\r\n[2, 2", b"BODY 3", b"\r\n\r\n3")]
        assert places == sorted(places), answer[:900]
        assert answer.endswith(b"\r\n\r\n3"), "nothing is answered behind the end of the connection"

    play(scenario)


def test_what_is_wrong_behind_a_request_comes_after_its_answer(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        for wrong in (b"POST\r\n\r\n", b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * 1_100_000)):
            answer = await asyncio.to_thread(raw, f.port, _post(b'"first"') + wrong)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert answer.index(b'"first"') < answer.index(b"HTTP/1.1 400 Bad Request")

    play(scenario)


def test_thousands_of_requests_in_one_piece(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        page = b"GET /livez HTTP/1.1\r\n\r\n"
        answer = await asyncio.to_thread(raw, f.port, page * 3000 + b"GET /livez HTTP/1.0\r\n\r\n")
        assert answer.count(b"alive\n") == 3001

    play(scenario)


@pytest.mark.parametrize("request_line", [b"POST %b HTTP/1.1", b"POST http://somewhere:4566%b HTTP/1.1"])
def test_an_offer_of_http_2_and_a_target_in_absolute_form_are_ordinary_requests(play: Callable[..., None], request_line: bytes) -> None:
    async def scenario(f: Front) -> None:
        offer = b"\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        one = request_line % PATH.encode() + offer + b"Content-Length: 1\r\n\r\n7"
        page = b"GET /livez HTTP/1.1" + offer + b"\r\n"
        answer = await asyncio.to_thread(raw, f.port, one + page + _post(b"8", b"Connection: close\r\n"))
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert b"\r\n\r\n7HTTP/1.1" in answer
        assert answer.endswith(b"\r\n\r\n8")
        other = one.replace(b"h2c", b"other")
        assert (await asyncio.to_thread(raw, f.port, other)).startswith(b"HTTP/1.1 400")
        assert [fn.stats.success for _, fn in f.rig.catalogue.functions()] == [2], "what was not understood has not run"

    play(scenario)


def test_only_those_that_may_be_told_to_continue_are(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        end = b"Connection: close\r\n"
        assert (await asyncio.to_thread(raw, f.port, _post(b"1", end + b"Expect: 100-Continue\r\n"))).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP")
        assert (await asyncio.to_thread(raw, f.port, _post(b"1", end + b"Expect: something\r\n"))).startswith(b"HTTP/1.1 200")
        old = _post(b"1", b"Expect: 100-continue\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
        assert (await asyncio.to_thread(raw, f.port, old)).startswith(b"HTTP/1.1 200")

    play(scenario)


def test_a_repeated_head_is_the_same_request_and_another_one_is_not(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        f.rig.put("g")

        def one(name: str, body: bytes, more: bytes = b"") -> bytes:
            path = PATH.replace("/f/", f"/{name}/").encode()
            return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, more, len(body), body)

        def talk() -> list[bytes]:
            answers = []
            with socket.create_connection(("127.0.0.1", f.port), timeout=5) as sock:
                tail = b"X-Amz-Log-Type: Tail\r\n"
                for request in (one("f", b"11"), one("f", b"22"), one("g", b"33"), one("f", b"4"), one("f", b"55", tail), one("f", b"66")):
                    sock.sendall(request)
                    answers.append(sock.recv(65536))
            return answers

        answers = await asyncio.to_thread(talk)
        assert [a.rpartition(b"\r\n\r\n")[2] for a in answers] == [b"11", b"22", b"33", b"4", b"55", b"66"]
        assert [b"X-Amz-Log-Result" in a for a in answers] == [False, False, False, False, True, False]
        assert {name: fn.stats.success for _, fn in f.rig.catalogue.functions() for name in [fn.name]} == {"f": 5, "g": 1}

    play(scenario)


@pytest.mark.parametrize("method", ["POST", "GET"], ids=["short way", "full parser"])
def test_a_connection_that_ended_leaves_nothing_for_the_collector_of_cycles(play: Callable[..., None], method: str) -> None:
    async def scenario(f: Front) -> None:
        seen: list[weakref.ref[Connection]] = []

        class Watched(set[Connection]):
            def add(self, connection: Connection) -> None:
                seen.append(weakref.ref(connection))
                super().add(connection)

        f.connections = Watched()
        gc.collect()
        gc.disable()
        try:
            await asyncio.to_thread(ask, f.port, method, PATH if method == "POST" else "/", b"1" if method == "POST" else None)
            assert seen
            await until(lambda: not f.connections)
            await until(lambda: all(ref() is None for ref in seen))
        finally:
            gc.enable()

    play(scenario)


def test_log_tail_and_client_context_and_trace(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        seen: list[messages.Invoke] = []

        def look(worker: ScriptedWorker, event: messages.Invoke) -> None:
            seen.append(event)
            worker.log(b"a line")
            worker.respond(event, b"null")

        f.rig.sandbox.on_invoke = look
        headers = {
            "X-Amz-Log-Type": "Tail", "X-Amz-Client-Context": base64.b64encode(b'{"custom":{"k":"v"}}').decode(),
            "X-Amzn-Trace-Id": "Root=1-00000000-000000000000000000000001",
        }  # fmt: skip
        _, answer, _ = await asyncio.to_thread(ask, f.port, "POST", PATH, b"", headers)
        tail = base64.b64decode(answer["x-amz-log-result"]).decode()
        assert tail.splitlines()[1] == "a line"
        assert tail.startswith("START RequestId: ")
        assert seen[0].client_context == '{"custom":{"k":"v"}}'
        own = lineage.mark("000000000000", "f").decode()
        assert seen[0].trace_id == f"{headers['X-Amzn-Trace-Id']};Lineage=1:{own}:1"
        assert seen[0].payload == b"{}"

    play(scenario)


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "error", "text"),
    [
        ("/2015-03-31/functions/nope/invocations", {}, b"{}", 404, "ResourceNotFoundException", "function:nope:$LATEST"),
        (PATH + "?Qualifier=7", {}, b"{}", 404, "ResourceNotFoundException", "function:f:7"),
        (PATH, {}, b"{oops", 400, "InvalidRequestContentException", "Could not parse request body into json"),
        (PATH, {"X-Amz-Log-Type": "All"}, b"{}", 400, "ValidationException", "Member must satisfy enum value set: [Tail, None]"),
        (PATH, {"X-Amz-Client-Context": "%%%"}, b"{}", 400, "InvalidRequestContentException", "Client context"),
        (PATH, {"X-Amz-Tenant-Id": "t"}, b"{}", 400, "InvalidParameterValueException", "not enabled with tenancy configuration"),
        (PATH, {"X-Amz-Tenant-Id": "#"}, b"{}", 400, "ValidationException", "at 'tenantId'"),
        (PATH, {"X-Amz-Durable-Execution-Name": "d"}, b"{}", 501, "NotImplementedException", "DurableExecutionName"),
        (PATH, {"X-Amz-Client-Context": "A" * 3584}, b"{}", 400, "InvalidRequestContentException", "3583"),
        ("/2015-03-31/functions/b%3Aa%3Ad%3A1/invocations", {}, b"{}", 400, "ValidationException", "'functionName'"),
        (PATH, {}, b'"' + b"x" * (6 * 1024 * 1024) + b'"', 413, "RequestEntityTooLargeException", "6291456 bytes"),
    ],
)
def test_refusals(
    play: Callable[..., None], path: str, headers: dict[str, str], body: bytes, status: int, error: str, text: str
) -> None:
    async def scenario(f: Front) -> None:
        got, answer, content = await asyncio.to_thread(ask, f.port, "POST", path, body, headers)
        assert (got, answer["x-amzn-errortype"]) == (status, error)
        assert text in json.loads(content).get("message", json.loads(content).get("Message"))

    play(scenario)


def test_dry_run(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        status, headers, body = await asyncio.to_thread(ask, f.port, "POST", PATH, b"{}", {"X-Amz-Invocation-Type": "DryRun"})
        assert (status, body) == (204, b"")
        assert "x-amz-executed-version" not in headers
        assert f.rig.sandbox.inits == 0

    play(scenario)


def test_everything_else_is_passed_through_with_its_body(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        status, headers, body = await asyncio.to_thread(ask, f.port, "PUT", "/bucket/key?x=%2F", b"z" * 3_000_000, {"X-A": "b"})
        assert (status, headers["x-up"]) == (203, "yes")
        assert body.startswith(b"PUT /bucket/key?x=%2F HTTP/1.1\r\n")
        assert b"x-extra: 1\r\n" in body
        assert b"x-a: b\r\n" in body
        assert body.endswith(b"BODY 3000000")
        status, _, body = await asyncio.to_thread(ask, f.port, "POST", "/stream", iter([b"a" * 10, b"b" * 20]))
        assert body.endswith(b"BODY 30")
        kind = {"X-Amz-Invocation-Type": "Event"}
        status, _, body = await asyncio.to_thread(ask, f.port, "POST", PATH, b"{}", kind)
        assert status == 203
        assert b"x-amz-invocation-type: Event" in body

    play(scenario)


class Keeper:
    """A control plane that keeps events at once; ``problem`` is what it says of them."""

    def __init__(self, f: Front) -> None:
        self.rows: list[list[Any]] = []
        self.problem: str | None = None
        self.lane = f.api.events = EventLane(asyncio.get_running_loop())
        self.lane.opened(self._send)
        f.rig.catalogue.loaded = True

    def _send(self, data: bytes) -> None:
        _, seq, rows = messages.unpack(data[4:])
        self.rows += rows
        asyncio.get_running_loop().call_soon(self.lane.settled, seq, self.problem)


EVENT = {"X-Amz-Invocation-Type": "Event"}


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_an_event_is_handed_to_who_keeps_it_however_the_request_is_cut(play: Callable[..., None], pieces: int) -> None:
    async def scenario(f: Front) -> None:
        keeper = Keeper(f)
        head = b"POST " + PATH.encode() + b"?Qualifier=%24LATEST HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nX-Amz-Invocation-Type: Event\r\n"
        request = head + b"X-Amzn-Trace-Id: Root=1-2-3%b\r\n\r\n" % (b"x" * 300) + b'{"a":1}'

        def talk() -> list[bytes]:
            with socket.create_connection(("127.0.0.1", f.port), timeout=5) as sock:
                answers = []
                for _ in range(3):
                    step = -(-len(request) // pieces)
                    for at in range(0, len(request), step):
                        sock.sendall(request[at : at + step])
                        time.sleep(0.002)
                    answer = b""
                    while not answer.endswith(b"\r\n\r\n"):
                        answer += sock.recv(65536)
                    answers.append(answer)
                return answers

        answers = await asyncio.to_thread(talk)
        assert len(keeper.rows) == 3
        for answer, row in zip(answers, keeper.rows, strict=True):
            assert answer.startswith(b"HTTP/1.1 202 Accepted\r\n")
            assert b"x-amzn-RequestId: %b\r\n" % row[0].encode() in answer
            assert b"Content-Length: 0\r\n" in answer
            assert row[1:] == ["000000000000", "f", "$LATEST", ("Root=1-2-3" + "x" * 300)[:255], b'{"a":1}', None]
        assert f.rig.sandbox.inits == 0
        assert f.opened == 0, "nothing was passed through"

    play(scenario)


def test_what_cannot_be_an_event_is_refused_with_lambdas_words(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        keeper = Keeper(f)

        async def send(path: str, body: bytes, **more: str) -> tuple[int, str, str]:
            headers = {**EVENT, **{name.replace("_", "-"): value for name, value in more.items()}}
            status, answer, content = await asyncio.to_thread(ask, f.port, "POST", path, body, headers)
            document = json.loads(content) if content else {}
            return status, answer.get("x-amzn-errortype", ""), document.get("message") or document.get("Message") or ""

        status, code, text = await send(PATH, b"{")
        assert (status, code) == (400, "InvalidRequestContentException")
        assert text.startswith("Could not parse request body into json: Could not parse payload into json: ")
        for path, tail in ((PATH.replace("/f/", "/g/"), "g:$LATEST"), (PATH + "?Qualifier=2", "f:2"), (PATH.replace("/f/", "/f:live/"), "f:live")):
            assert await send(path, b"not json") == (
                404, "ResourceNotFoundException", f"Function not found: arn:aws:lambda:us-east-1:000000000000:function:{tail}",
            )  # fmt: skip
        most = b'"%b"' % (b"x" * (1_048_576 - 2))
        assert (await send(PATH, most))[0] == 202
        for body in (most + b" ", b" " * (front.MAX_BODY + 1)):
            status, code, text = await send(PATH, body)
            assert (status, code) == (413, "RequestEntityTooLargeException")
            limit = 1_048_576 if len(body) <= front.MAX_BODY else front.MAX_BODY
            assert text == f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
        assert (await send(PATH, b"{}", X_Amz_Tenant_Id="t"))[0] == 400
        assert (await send(PATH, b"{}", X_Amz_Durable_Execution_Name="n"))[0] == 501
        assert (await send(PATH, b"{}", X_Amz_Log_Type="All"))[0] == 400
        assert len(keeper.rows) == 1
        assert (await send(PATH, b""))[0] == 202
        assert keeper.rows[-1][5] == b"{}"
        keeper.problem = "disk full"
        assert (await send(PATH, b"{}"))[:2] == (500, "ServiceException")
        f.api.draining = True
        assert (await send(PATH, b"{}"))[2] == "The engine is shutting down."

    play(scenario)


def test_until_it_is_known_what_there_is_events_are_passed_through(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        keeper = Keeper(f)
        f.rig.catalogue.loaded = False
        assert (await asyncio.to_thread(ask, f.port, "POST", PATH, b"{}", EVENT))[0] == 203
        assert keeper.rows == []

    play(scenario)


def test_head_and_bodiless_answers_pass(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        async def bodiless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            status = b"200 OK\r\nContent-Length: 77" if head.startswith(b"HEAD") else b"304 Not Modified"
            writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
            await writer.drain()
            writer.close()

        f.upstream = bodiless
        status, headers, body = await asyncio.to_thread(ask, f.port, "HEAD", "/bucket/key")
        assert (status, headers["content-length"], body) == (200, "77", b"")
        assert (await asyncio.to_thread(ask, f.port, "GET", "/bucket/key"))[0] == 304

    play(scenario)


def test_an_upstream_that_is_not_there_is_a_502_and_one_that_breaks_off_breaks_the_connection(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await writer.drain()
            writer.close()

        f.upstream = breaks
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            await asyncio.to_thread(ask, f.port, "GET", "/x")

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        f.upstream = silent
        assert (await asyncio.to_thread(ask, f.port, "GET", "/x"))[0] == 502
        f.behind.close()
        await f.behind.wait_closed()
        status, headers, body = await asyncio.to_thread(ask, f.port, "GET", "/x")
        assert (status, headers["x-amzn-errortype"], json.loads(body)["Type"]) == (502, "ServiceException", "Service")
        assert is_request_id(headers["x-amzn-requestid"])

    play(scenario)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Content-Length: +5\r\n\r\nhello",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"X-A: b\r\n Content-Length: 5\r\n\r\nhello",
        b"X-A: b\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_passed_on(play: Callable[..., None], lines: bytes) -> None:
    """The connection behind is used for other clients' requests afterwards."""

    async def scenario(f: Front) -> None:
        f.kept = Upstreams(asyncio.get_running_loop(), kept_s=3600)
        f.upstream = echo
        answer = await asyncio.to_thread(raw, f.port, b"POST /2015-03-31/functions HTTP/1.1\r\nHost: h\r\n" + lines)
        assert answer.startswith(b"HTTP/1.1 400")
        assert len(f.kept) == 0

    play(scenario)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, last: bytes = b"") -> None:
    """Answers requests on one connection with their bodies; after one whose body is ``last`` it ends the connection."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b"connection:" not in head
            size = int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in head else 0
            body = await reader.readexactly(size)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            if last and body == last:
                break
    writer.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_connections_behind_are_kept_for_the_next_request_until_they_end_or_grow_old(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        kept = f.kept = Upstreams(asyncio.get_running_loop(), kept_s=3600)
        f.upstream = lambda reader, writer: echo(reader, writer, last=b"bye")

        async def say(body: bytes) -> Answer:
            return await asyncio.to_thread(ask, f.port, "POST", "/2015-03-31/functions", body)

        sent = [b"one", b"z" * 3_000_000, b"", b"two"]
        assert [(await say(body))[2] for body in sent] == sent
        assert f.opened == 1
        assert (await asyncio.gather(*(say(b"%d" % n) for n in range(5))))[4][2] == b"4"
        assert f.opened <= 5
        before = f.opened
        assert (await say(b"bye"))[2] == b"bye"
        # Whether or not the loop has heard of its end: no request is lost to a connection that is gone.
        assert [(await say(b"on"))[0] for _ in range(3)] == [200, 200, 200]
        assert f.opened <= before + 1
        kept.close()
        assert kept.take(asyncio.Protocol()) is None
        kept = f.kept = Upstreams(asyncio.get_running_loop(), kept_s=0.01)
        assert (await say(b"for a moment"))[0] == 200
        await until(lambda: len(kept) == 0)

    play(scenario)


@pytest.mark.parametrize("framing", [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"])
@pytest.mark.parametrize("ends", [b"", b"Connection: close\r\n"])
def test_what_an_answer_says_of_the_connection_behind_is_not_passed_on(play: Callable[..., None], framing: bytes, ends: bytes) -> None:
    async def scenario(f: Front) -> None:
        kept = f.kept = Upstreams(asyncio.get_running_loop(), kept_s=3600)
        ended = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n" + b"Keep-Alive: timeout=9\r\n" * bool(ends) + ends + framing)
            await reader.read()
            writer.close()
            ended.set()

        f.upstream = answer
        got = await asyncio.to_thread(raw, f.port, b"GET /2015-03-31/functions/x HTTP/1.1\r\nHost: h\r\n\r\n", until=b"ok")
        head = got.lower().split(b"\r\n\r\n")[0]
        assert head.count(b"\r\nconnection: ") == 1
        assert b"\r\nconnection: keep-alive" in head
        assert b"timeout=9" not in head
        await until(lambda: len(kept) == (0 if ends else 1))
        kept.close()
        async with asyncio.timeout(20):
            await ended.wait()

    play(scenario)


def test_a_connection_is_not_kept_when_its_answer_came_before_the_request_was_over(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        kept = f.kept = Upstreams(asyncio.get_running_loop())

        async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
            await reader.read()
            writer.close()

        f.upstream = hasty
        head = b"POST /2015-03-31/functions HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
        answer = await asyncio.to_thread(raw, f.port, head + b"half", until=b"no")
        assert answer.startswith(b"HTTP/1.1 413")
        assert kept.take(asyncio.Protocol()) is None

    play(scenario)


def test_a_switch_of_protocols_that_nobody_offers_is_not_made(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        request = b"GET /_url/unknown/ HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\nbytes of another protocol"
        answer = await asyncio.to_thread(raw, f.port, request)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.count(b"HTTP/1.1") == 1

    play(scenario)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"POST\r\n\r\n"])
def test_what_is_not_http_gets_a_400(play: Callable[..., None], garbage: bytes) -> None:
    async def scenario(f: Front) -> None:
        assert (await asyncio.to_thread(raw, f.port, garbage)).startswith(b"HTTP/1.1 400 Bad Request")

    play(scenario)


def test_a_head_without_end_is_cut_off(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        data = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(1200))
        try:
            answer = await asyncio.to_thread(raw, f.port, data)
        except ConnectionError:
            return
        assert answer.startswith(b"HTTP/1.1 400")

    play(scenario)


AMBIGUOUS = [
    b"Content-Length: 2\r\nContent-Length: 2\r\n",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    b"Content-Length: +2\r\n",
    b"Content-Length: 2\r\nExpect: 100-continue\r\n",
    b"Content-Length: 2\r\nConnection: close\r\n",
    b"Content-Length: 2\r\nConnection:close\r\n",
]


@pytest.mark.parametrize("lines", AMBIGUOUS)
def test_only_plain_requests_take_the_short_way(play: Callable[..., None], lines: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(f: Front) -> None:
        taken: list[bool] = []
        original = front.Connection._fast

        def watch(self: Connection, data: bytes) -> bool:
            taken.append(original(self, data))
            return taken[-1]

        monkeypatch.setattr(front.Connection, "_fast", watch)
        await asyncio.to_thread(ask, f.port, "POST", PATH, b"{}")
        assert taken == [False] or True in taken
        taken.clear()
        request = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n{}"
        await asyncio.to_thread(raw, f.port, request, 1, b"HTTP/1.1")
        assert taken == [False]

    play(scenario)


def signed(port: int, body: bytes, secret: str) -> dict[str, str]:
    request = botocore.awsrequest.AWSRequest("POST", f"http://127.0.0.1:{port}{PATH}", {"Host": f"127.0.0.1:{port}"}, body)
    key = botocore.credentials.Credentials("AKIAEXAMPLE", secret)
    botocore.auth.SigV4Auth(key, "lambda", "us-east-1").add_auth(request)
    return dict(request.headers)


def test_signatures_are_checked_when_asked_for(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        f.verifier = Verifier(KeyRing.of_secrets({"AKIAEXAMPLE": "s3cret"}, "000000000000"))
        good = signed(f.port, b"{}", "s3cret")
        assert (await asyncio.to_thread(ask, f.port, "POST", PATH, b"{}", good))[0] == 200
        wrong = signed(f.port, b"{}", "wrong")
        status, headers, _ = await asyncio.to_thread(ask, f.port, "POST", PATH, b"{}", wrong)
        assert (status, headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
        status, headers, _ = await asyncio.to_thread(ask, f.port, "POST", PATH, b'{"other":1}', good)
        assert (status, headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
        status, headers, _ = await asyncio.to_thread(ask, f.port, "POST", PATH, b"{}")
        assert (status, headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")

    play(scenario)


def test_a_repeated_signed_head_is_good_for_its_own_body_only(play: Callable[..., None]) -> None:
    def statuses(port: int, *bodies: bytes) -> list[int]:
        headers = {**signed(port, bodies[0], "s3cret"), "Host": f"127.0.0.1:{port}"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        got = []
        try:
            for body in bodies:
                connection.request("POST", PATH, body, headers)
                answer = connection.getresponse()
                answer.read()
                got.append(answer.status)
        finally:
            connection.close()
        return got

    async def scenario(f: Front) -> None:
        f.verifier = Verifier(KeyRing.of_secrets({"AKIAEXAMPLE": "s3cret"}, "000000000000"))
        bodies = (b'{"a":1}', b'{"a":1}', b'{"a":2}', b'{"a":1}')
        assert await asyncio.to_thread(statuses, f.port, *bodies) == [200, 200, 403, 200]
        f.verifier = Verifier(KeyRing.of_secrets({"AKIAEXAMPLE": "s3cret"}, "000000000000"))
        assert await asyncio.to_thread(statuses, f.port, b"1", b"1") == [200, 200]

    play(scenario)


def test_a_body_too_large_to_verify_is_refused_not_cut() -> None:
    seen: list[bytes] = []
    refused: list[bool] = []
    whole = Collecting(4, seen.append, lambda: refused.append(True))
    for piece in (b"ab", b"cd"):
        whole.body(piece)
    whole.end()
    assert (seen, refused) == ([b"abcd"], [])
    over = Collecting(4, seen.append, lambda: refused.append(True))
    for piece in (b"ab", b"cde", b"f"):
        over.body(piece)
    over.end()
    assert (seen, refused) == ([b"abcd"], [True])


def test_own_pages(play: Callable[..., None]) -> None:
    async def scenario(f: Front) -> None:
        assert (await asyncio.to_thread(ask, f.port, "GET", "/livez"))[2] == b"alive\n"
        status, _, body = await asyncio.to_thread(ask, f.port, "HEAD", "/livez")
        assert (status, body) == (200, b"")

    play(scenario)


def scope(service: str) -> list[tuple[bytes, bytes]]:
    value = f"AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    return [(b"authorization", value.encode())]


@pytest.mark.parametrize(
    ("url", "headers", "target"),
    [
        (b"/2015-03-31/functions/", scope("lambda"), routing.Target.CONTROL),
        (b"/2015-03-31/functions/", [], routing.Target.CONTROL),
        (b"/2015-03-31/functions/", scope("s3"), routing.Target.AWS),
        (b"/metrics", scope("s3"), routing.Target.CONTROL),
        (b"/_engine/version", [], routing.Target.CONTROL),
        (b"/", scope("sqs"), routing.Target.AWS),
        (b"/bucket/key", [], routing.Target.AWS),
        (
            b"/b/k?X-Amz-Credential=AK%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=1",
            [],
            routing.Target.AWS,
        ),
    ],
)
def test_requests_go_where_their_signature_says(url: bytes, headers: list[tuple[bytes, bytes]], target: routing.Target) -> None:
    assert routing.target(url, headers) is target


def test_the_service_of_a_presigned_url() -> None:
    url = b"/b/k?X-Amz-Credential=AK%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=1"
    assert routing.service(url, []) == "s3"
