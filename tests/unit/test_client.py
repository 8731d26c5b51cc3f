"""The binary clients against a real socket server: the same promises for both, then what each has of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.client import (
    ApiError,
    AsyncClient,
    BadArgument,
    CallTimeout,
    Client,
    ConnectionLost,
    FunctionError,
    Result,
    ServerRefused,
    raise_for_function_error,
)
from engine.client.address import Address, parse
from engine.errors import Fault
from tests.framework.frame_server import RID, FrameServer

Invoke = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "e.sock")


@pytest.fixture
def server(path: str) -> Iterator[FrameServer]:
    with FrameServer(path) as running:
        yield running


class Both:
    """One call through either client, so that each promise is tested on both."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def invoke(self, address: str, *args: Any, client: dict[str, Any] | None = None, **more: Any) -> Result:
        if self.kind == "blocking":
            with Client(address, **(client or {})) as blocking:
                return blocking.invoke(*args, **more)

        async def run() -> Result:
            async with AsyncClient(address, **(client or {})) as aio:
                return await aio.invoke(*args, **more)

        return asyncio.run(run())


@pytest.fixture(params=["blocking", "asyncio"])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


def test_an_answer_has_everything_the_invoke_api_would_give(both: Both, server: FrameServer, path: str) -> None:
    got = both.invoke(
        path, "echo", b'{"a":1}', qualifier="live", request_id=RID, client_context='{"custom":{}}', trace_id="Root=1-2-3", log_tail=True
    )
    assert got == Result(got.call_id, 200, None, "live", None, RID, b"tail", b'{"a":1}')
    (call,) = server.calls
    assert call[1:] == ("echo", "live", 1, RID, '{"custom":{}}', "Root=1-2-3", b'{"a":1}', None)


def test_defaults_are_an_empty_object_and_no_options(both: Both, server: FrameServer, path: str) -> None:
    assert both.invoke(path, "echo").log_tail is None
    assert server.calls[0][1:] == ("echo", None, 0, None, None, None, b"{}", None)
    both.invoke(path, "echo", dry_run=True)
    assert server.calls[1].flags == 2


@pytest.mark.parametrize("size", [0, 1, 32 * 1024 - 1, 32 * 1024, 1_000_000, 6 * 1024 * 1024])
def test_payloads_of_every_size_come_back_whole(both: Both, server: FrameServer, path: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert both.invoke(path, "echo", data[:size]).payload == data[:size]


def test_a_refusal_is_an_error_with_awss_code(both: Both, server: FrameServer, path: str) -> None:
    with pytest.raises(ApiError, match=r"TooManyRequestsException \(429\): Rate Exceeded\.") as caught:
        both.invoke(path, "refuse")
    error = caught.value
    assert (error.code, error.status, error.reason) == ("TooManyRequestsException", 429, "ConcurrentInvocationLimitExceeded")
    assert error.retryable
    assert error.fault is Fault.CLIENT


def test_a_function_that_fails_is_an_answer_and_can_be_raised(both: Both, server: FrameServer, path: str) -> None:
    result = both.invoke(path, "fail")
    assert result.status == 200
    assert result.function_error == "Unhandled"
    with pytest.raises(FunctionError, match="Boom: no") as caught:
        raise_for_function_error(result)
    assert caught.value.stack == ["line 1"]
    assert caught.value.fault is Fault.FUNCTION
    fine = both.invoke(path, "echo")
    assert raise_for_function_error(fine) is fine


def test_a_connection_that_breaks_after_sending_is_never_retried(both: Both, server: FrameServer, path: str) -> None:
    with pytest.raises(ConnectionLost, match="may have run") as caught:
        both.invoke(path, "drop")
    assert caught.value.sent
    assert not caught.value.retryable
    assert len(server.calls) == 1


@pytest.mark.parametrize("name", ["garbage", "stray"])
def test_a_server_that_breaks_the_protocol_loses_the_connection(both: Both, server: FrameServer, path: str, name: str) -> None:
    with pytest.raises(ConnectionLost):
        both.invoke(path, name)


def test_no_answer_in_time(both: Both, server: FrameServer, path: str) -> None:
    with pytest.raises(CallTimeout, match=r"within 0\.05 s") as caught:
        both.invoke(path, "never", timeout_s=0.05)
    assert caught.value.sent


def test_nobody_listens(both: Both, path: str) -> None:
    with pytest.raises(ConnectionLost, match="no connection to") as caught:
        both.invoke(path, "echo", client={"connect_timeout_s": 0.1})
    assert not caught.value.sent
    assert caught.value.retryable


def test_nobody_listens_and_the_call_has_less_time(both: Both, path: str) -> None:
    with pytest.raises(CallTimeout) as caught:
        both.invoke(path, "echo", timeout_s=0.05)
    assert not caught.value.sent


def test_a_call_waits_for_a_server_that_starts_late(both: Both, path: str) -> None:
    server = FrameServer(path)
    starter = threading.Timer(0.1, server.__enter__)
    starter.start()
    try:
        assert both.invoke(path, "echo", b"1").payload == b"1"
    finally:
        starter.join()
        server.__exit__(None, None, None)


def test_arguments_that_cannot_be_sent(both: Both, server: FrameServer, path: str) -> None:
    cases: list[dict[str, Any]] = [{"qualifier": "x" * 256}, {"client_context": "x" * 65536}, {"trace_id": "\ud800"}]
    for more in cases:
        with pytest.raises(BadArgument):
            both.invoke(path, "echo", **more)
    assert server.connections == 0
    with pytest.raises(BadArgument, match="go together"):
        both.invoke(path, "echo", client={"access_key": "AK"})


def test_a_server_that_declines(both: Both, path: str) -> None:
    with FrameServer(path, refusal="draining"), pytest.raises(ServerRefused, match="draining"):
        both.invoke(path, "echo")
    with FrameServer(path, version=9), pytest.raises(ServerRefused, match="protocol version 9"):
        both.invoke(path, "echo")


def test_something_else_listens(both: Both, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def web_server() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.recv(100)

        thread = threading.Thread(target=web_server)
        thread.start()
        with pytest.raises(ServerRefused, match="no engine answers"):
            both.invoke(path, "echo")
        thread.join(5)


def test_tcp_with_a_key(both: Both) -> None:
    with FrameServer(("127.0.0.1", 0), keys={"AK": "s3cret"}) as server:
        address = f"127.0.0.1:{server.port}"
        good = {"access_key": "AK", "secret_key": "s3cret"}
        assert both.invoke(address, "echo", b"5", client=good).payload == b"5"
        with pytest.raises(ServerRefused, match="wrong token"):
            both.invoke(address, "echo", client={**good, "secret_key": "guess"})
        with pytest.raises(ServerRefused, match="give access_key"):
            both.invoke(address, "echo")
        assert len(server.calls) == 1


def test_a_key_for_a_server_that_asks_for_none(both: Both) -> None:
    with FrameServer(("127.0.0.1", 0)) as server, pytest.raises(ServerRefused, match="leave access_key out"):
        both.invoke(
            f"127.0.0.1:{server.port}", "echo", client={"access_key": "AK", "secret_key": "s", "connect_timeout_s": 0.1}
        )


def test_a_server_that_never_greets(both: Both, path: str) -> None:
    with FrameServer(path, silent=True), pytest.raises(ConnectionLost) as caught:
        both.invoke(path, "echo", client={"connect_timeout_s": 0.1})
    assert not caught.value.sent


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/run/e.sock", Address("/run/e.sock", "", 0)),
        ("unix:e.sock", Address("e.sock", "", 0)),
        ("127.0.0.1:9000", Address(None, "127.0.0.1", 9000)),
        ("[::1]:9000", Address(None, "::1", 9000)),
    ],
)
def test_addresses(text: str, want: Address) -> None:
    assert parse(text) == want
    assert str(want) == text.removeprefix("unix:")
    assert parse(Path("e.sock")) == Address("e.sock", "", 0)


@pytest.mark.parametrize("text", ["localhost", "host:", ":80", "host:http", "host:0", "host:65536", ""])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(BadArgument, match="host:port"):
        parse(text)
