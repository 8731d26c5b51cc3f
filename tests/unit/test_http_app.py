"""The control plane's application behind real uvicorn, spoken to by boto3 and by plain sockets."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
import uvicorn
from botocore.config import Config
from botocore.exceptions import ClientError

from engine.auth.principals import KeyRing
from engine.auth.sigv4 import Verifier
from engine.config import Settings
from engine.errors import ConfigurationError, ResourceNotFound
from engine.http.app import DISCARDED, App, build_app
from engine.http.joined import JoinedWrites, JoiningProtocol
from engine.http.operations import MAX_BODY, MAX_INVOKE_BODY, Registry, RequestContext
from engine.ids import is_request_id
from engine.protocol.model import load

KEY, SECRET = "AKIDEXAMPLE", "secret"
DEADLINE_S = 10.0


class Served:
    """An application served by uvicorn in a thread, on a Unix socket and on loopback."""

    def __init__(self, app: App, directory: Path) -> None:
        self.path = directory / f"{id(self):x}.sock"
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(self.path))
        self.tcp = socket.socket()
        self.tcp.bind(("127.0.0.1", 0))
        self.port: int = self.tcp.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, http=JoiningProtocol, log_level="critical", lifespan="on"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.unix, self.tcp]}, daemon=True)
        self.thread.start()
        until = time.monotonic() + DEADLINE_S
        while not self.server.started:
            assert time.monotonic() < until, "uvicorn did not start"
            time.sleep(0.005)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        self.unix.close()
        self.tcp.close()

    def client(self, key: str = KEY, secret: str = SECRET) -> Any:
        return boto3.client(
            "lambda",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"max_attempts": 1}, parameter_validation=False),
        )

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("localhost", timeout=DEADLINE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.path))
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


class Handlers:
    """Handlers that note what they were told."""

    def __init__(self) -> None:
        self.contexts: list[RequestContext] = []
        self.threads: list[str] = []

    def create(self, context: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        self.contexts.append(context)
        self.threads.append(threading.current_thread().name)
        return {"FunctionName": params["FunctionName"], "CodeSize": len(params["Code"]["ZipFile"])}

    async def get(self, context: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        self.contexts.append(context)
        if params["FunctionName"] == "bug":
            raise KeyError("the secret of the engine")
        if params["FunctionName"] == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise ResourceNotFound(f"Function not found: {params['FunctionName']}")

    def invoke(self, context: RequestContext, params: dict[str, Any]) -> dict[str, Any]:
        self.contexts.append(context)
        return {"StatusCode": 202, "ExecutedVersion": "1", "Payload": params.get("Payload", b"")}

    def registry(self) -> Registry:
        registry = Registry(load())
        registry.add("CreateFunction", self.create)
        registry.add("GetFunction", self.get)
        registry.add("Invoke", self.invoke)
        registry.add("DeleteFunction", lambda _context, _params: None)
        registry.add("GetAccountSettings", lambda _context, _params: {"Nonsense": 1})
        return registry


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(data_dir=tmp_path, **changes)


@pytest.fixture
def served(handlers: Handlers, tmp_path: Path) -> Iterator[Served]:
    package = tmp_path / "big.zip"
    package.write_bytes(b"0123456789" * 100_000)
    empty = tmp_path / "empty.zip"
    empty.write_bytes(b"")
    codes: dict[str, Path | bytes] = {"bytes": b"PK", "file": package, "empty": empty, "lost": tmp_path / "lost.zip"}

    async def mounted(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    app = build_app(
        handlers.registry(),
        settings(tmp_path),
        metrics=lambda accept: (accept.encode(), "text/plain; x=y"),
        code=codes.get,
        runtimes=lambda: {"python3.12": "3.12.1"},
        extra_routes={"/console": mounted},
    )
    server = Served(app, tmp_path)
    yield server
    server.close()


@pytest.fixture
def signed(handlers: Handlers, tmp_path: Path) -> Iterator[Served]:
    configured = settings(tmp_path, auth="sigv4", access_keys={KEY: SECRET})
    verifier = Verifier(KeyRing.of_secrets({KEY: SECRET, "123456789012": SECRET}, configured.account_id))
    server = Served(build_app(handlers.registry(), configured, verifier), tmp_path)
    yield server
    server.close()


def test_boto3_creates_deletes_and_reads_errors(served: Served, handlers: Handlers) -> None:
    client = served.client()
    created = client.create_function(FunctionName="f", Role="arn:aws:iam::000000000000:role/r", Code={"ZipFile": b"abc"})
    assert (created["FunctionName"], created["CodeSize"]) == ("f", 3)
    assert created["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert created["ResponseMetadata"]["RequestId"] == handlers.contexts[0].request_id
    assert is_request_id(handlers.contexts[0].request_id)
    assert handlers.threads[0].startswith("operation")
    assert client.delete_function(FunctionName="f")["StatusCode"] == 204
    arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
    with pytest.raises(client.exceptions.ResourceNotFoundException, match=f"Function not found: {arn}"):
        client.get_function(FunctionName=arn)


def test_params_are_validated_before_the_handler(served: Served, handlers: Handlers) -> None:
    with pytest.raises(ClientError, match="2 validation errors detected: Value null at 'role'"):
        served.client().create_function(FunctionName="f")
    assert handlers.contexts == []


def test_the_context_tells_account_region_headers_and_peer(served: Served, handlers: Handlers) -> None:
    served.client(key="123456789012").invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")
    context = handlers.contexts[0]
    assert (context.account, context.region, context.operation) == ("123456789012", "us-east-1", "Invoke")
    assert (context.principal.access_key_id, context.principal.verified) == ("123456789012", False)
    assert (context.method, context.raw_path) == ("POST", "/2015-03-31/functions/f/invocations")
    assert (context.headers["x-amz-invocation-type"], context.body, context.peer) == ("Event", b"{}", "")
    path = "/2015-03-31/functions/f/invocations?Qualifier=1"
    status, headers, body = served.request("POST", path, b"[1]", x_lambda_engine_peer="10.0.0.9")
    assert (status, body, headers["x-amz-executed-version"]) == (202, b"[1]", "1")
    assert (handlers.contexts[1].peer, handlers.contexts[1].account) == ("10.0.0.9", "000000000000")
    assert (handlers.contexts[1].raw_query, handlers.contexts[1].principal.access_key_id) == ("Qualifier=1", "")


def test_an_operation_without_a_handler_is_501_and_names_itself(served: Served) -> None:
    with pytest.raises(ClientError) as caught:
        served.client().list_functions()
    assert caught.value.response["Error"] == {
        "Code": "NotImplementedException",
        "Message": "Lambda Engine does not implement the operation ListFunctions.",
    }
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


def test_an_unknown_route_is_404_with_a_request_id(served: Served) -> None:
    status, headers, body = served.request("GET", "/nothing")
    assert (status, headers["x-amzn-errortype"]) == (404, "UnknownOperationException")
    assert json.loads(body) == {"message": "No operation of Lambda is reached by GET /nothing"}
    assert is_request_id(headers["x-amzn-requestid"])


@pytest.mark.parametrize("call", [lambda c: c.get_function(FunctionName="bug"), lambda c: c.get_account_settings()])
def test_a_bug_is_a_service_exception_that_tells_nothing(served: Served, call: Any) -> None:
    with pytest.raises(ClientError) as caught:
        call(served.client())
    error = caught.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("ServiceException", 500)
    assert error["Error"]["Message"] == "An error occurred and the request cannot be processed."


def test_a_full_disk_is_one_line_in_the_log_and_no_business_of_the_caller(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ClientError, match="the request cannot be processed") as caught:
        served.client().get_function(FunctionName="full")
    assert caught.value.response["Error"]["Message"] == "An error occurred and the request cannot be processed."
    records = [r for r in caplog.records if r.name == "engine.http.operations"]
    assert records
    for record in records:
        assert record.getMessage().endswith("No space is left on the disk of the engine's data directory.")
        assert record.exc_info is None


def test_a_request_far_too_large_is_413_before_it_is_sent(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S) as peer:
        peer.sendall(f"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY + DISCARDED + 1}\r\n\r\n".encode())
        answer = b""
        while b"operation" not in answer:
            chunk = peer.recv(65536)
            assert chunk, answer
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"Request must be smaller than 70167211 bytes for the CreateFunction operation" in answer


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit_is_read_to_its_end_so_that_the_client_sees_413(served: Served, handlers: Handlers, chunked: bool) -> None:
    path = "/2015-03-31/functions/f/invocations"
    body: Any = iter([b"x" * (1 << 20)] * 7) if chunked else b"x" * (7 << 20)
    status, answered, answer = served.request("POST", path, body)  # an iterator is sent in chunks
    assert (status, answered["x-amzn-errortype"]) == (413, "RequestEntityTooLargeException")
    assert json.loads(answer)["message"] == "Request must be smaller than 6291456 bytes for the InvokeFunction operation"
    assert handlers.contexts == []


def test_a_body_of_exactly_the_limit_passes(served: Served) -> None:
    status, _, body = served.request("POST", "/2015-03-31/functions/f/invocations", b"1" * MAX_INVOKE_BODY)
    assert (status, len(body)) == (202, MAX_INVOKE_BODY)


def test_a_client_that_leaves_half_way_harms_nobody(served: Served, handlers: Handlers) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=DEADLINE_S) as peer:
        peer.sendall(b"POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
    assert served.request("GET", "/_engine/version")[0] == 200
    assert handlers.contexts == []


def test_blocking_handlers_do_not_block_others(tmp_path: Path) -> None:
    release, entered = threading.Event(), threading.Event()

    def block(_context: RequestContext, _params: dict[str, Any]) -> None:
        entered.set()
        assert release.wait(DEADLINE_S)

    registry = Registry(load())
    registry.add("DeleteFunction", block)
    server = Served(build_app(registry, settings(tmp_path)), tmp_path)
    waiting = threading.Thread(target=server.client().delete_function, kwargs={"FunctionName": "f"})
    waiting.start()
    try:
        assert entered.wait(DEADLINE_S)
        assert server.request("GET", "/_engine/version")[0] == 200
    finally:
        release.set()
        waiting.join(DEADLINE_S)
        server.close()


def test_signed_requests_pass_and_carry_a_verified_principal(signed: Served, handlers: Handlers) -> None:
    signed.client().invoke(FunctionName="arn:aws:lambda:us-east-1:000000000000:function:f", Payload=b"{}", Qualifier="$LATEST")
    signed.client(key="123456789012").invoke(FunctionName="f")
    assert [c.principal.verified for c in handlers.contexts] == [True, True]
    assert [c.account for c in handlers.contexts] == ["000000000000", "123456789012"]


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [(KEY, "wrong", "InvalidSignatureException"), ("AKIDSTRANGER", SECRET, "UnrecognizedClientException")],
)
def test_a_wrong_signature_is_refused_before_the_handler(signed: Served, handlers: Handlers, key: str, secret: str, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        signed.client(key, secret).invoke(FunctionName="f")
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert handlers.contexts == []


def test_an_unsigned_request_is_refused(signed: Served) -> None:
    status, headers, body = signed.request("GET", "/2015-03-31/functions")
    assert (status, headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")
    assert json.loads(body) == {"message": "Missing Authentication Token"}


def test_authentication_without_a_verifier_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="auth=sigv4 needs a verifier"):
        build_app(Registry(load()), settings(tmp_path, auth="sigv4", access_keys={KEY: SECRET}))


def test_metrics_negotiates_by_accept(served: Served) -> None:
    status, headers, body = served.request("GET", "/metrics", accept="application/openmetrics-text")
    assert (status, headers["content-type"], body) == (200, "text/plain; x=y", b"application/openmetrics-text")


def test_code_is_downloaded_by_token_from_bytes_or_file(served: Served) -> None:
    status, headers, body = served.request("GET", "/_engine/code/bytes")
    assert (status, headers["content-type"], body) == (200, "application/zip", b"PK")
    status, headers, body = served.request("GET", "/_engine/code/file")
    assert (status, headers["content-length"], body) == (200, "1000000", b"0123456789" * 100_000)
    assert served.request("GET", "/_engine/code/empty")[2] == b""
    status, headers, body = served.request("HEAD", "/_engine/code/file")
    assert (status, headers["content-length"], body) == (200, "1000000", b"")
    status, _, body = served.request("GET", "/_engine/code/unknown")
    assert (status, json.loads(body)["message"].startswith("Not found")) == (404, True)


def test_a_code_file_that_vanished_is_a_500_that_names_the_request(served: Served) -> None:
    status, headers, body = served.request("GET", "/_engine/code/lost")
    assert status == 500
    assert json.loads(body)["requestId"] == headers["x-amzn-requestid"]


def test_version_unknown_admin_paths_and_methods(served: Served, signed: Served) -> None:
    about = json.loads(served.request("GET", "/_engine/version")[2])
    assert (about["name"], about["runtimes"]) == ("lambda-engine", {"python3.12": "3.12.1"})
    status, headers, body = served.request("GET", "/_engine/nothing")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(body) == {"message": "Not found: /_engine/nothing"}
    status, headers, _ = served.request("POST", "/metrics", b"x")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert signed.request("GET", "/metrics")[0] == 404  # nobody gave a source


def test_a_mounted_application_gets_its_prefix_only(served: Served) -> None:
    assert served.request("GET", "/console/x")[2] == b"/console/x"
    assert served.request("GET", "/console")[2] == b"/console"
    assert served.request("GET", "/consoles")[0] == 404


def test_the_registry_knows_the_model() -> None:
    registry = Registry(load())
    with pytest.raises(ValueError, match="no operation Nonsense"):
        registry.add("Nonsense", lambda _c, _p: None)
    registry.add("GetFunction", lambda _c, _p: None)
    with pytest.raises(ValueError, match="GetFunction has a handler already"):
        registry.add("GetFunction", lambda _c, _p: None)
    assert registry.implemented() == ["GetFunction"]


@pytest.mark.parametrize(("over", "read"), [(1, 3), (DISCARDED + 1, 0)])
def test_how_much_of_a_declared_body_is_read_before_413(handlers: Handlers, tmp_path: Path, over: int, read: int) -> None:
    """Straight at the ASGI callable: a little over the limit is read to its end, far over it not at all."""
    app = build_app(handlers.registry(), settings(tmp_path))
    size = MAX_INVOKE_BODY + over
    pieces = [{"type": "http.request", "body": b"x" * (size // 3 + 1), "more_body": n < 2} for n in range(3)]
    sent: list[MutableMapping[str, Any]] = []
    taken = []

    async def receive() -> dict[str, Any]:
        assert not sent, "answered before the body was read"
        taken.append(1)
        return pieces[len(taken) - 1]

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    path = b"/2015-03-31/functions/f/invocations"
    scope = {"type": "http", "method": "POST", "path": path.decode(), "raw_path": path, "query_string": b""}
    asyncio.run(app({**scope, "headers": [(b"content-length", str(size).encode())]}, receive, send))
    app.close()
    assert (sent[0]["status"], len(taken)) == (413, read)


def test_head_and_body_are_one_write_and_a_head_alone_waits_for_nobody() -> None:
    class Written:
        """What of a transport is asked here."""

        def __init__(self) -> None:
            self.seen: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.seen.append(data)

        def close(self) -> None:
            self.seen.append(b"closed")

        def is_closing(self) -> bool:
            return b"closed" in self.seen

    async def scenario() -> None:
        head, below = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", Written()
        transport = JoinedWrites(cast("asyncio.Transport", below), asyncio.get_running_loop())
        transport.write(head)
        transport.write(b"body")
        transport.write(b"more")
        assert below.seen == [head + b"body", b"more"]
        below.seen.clear()
        transport.write(head)
        await asyncio.sleep(0)
        assert below.seen == [head]
        below.seen.clear()
        transport.write(head)
        transport.close()
        await asyncio.sleep(0)
        assert below.seen == [head, b"closed"]
        assert transport.is_closing()
        # The other side may go before the loop's next turn.
        below.seen.clear()
        transport.write(head)
        below.close()
        await asyncio.sleep(0)
        assert below.seen == [b"closed"]

    asyncio.run(scenario())
