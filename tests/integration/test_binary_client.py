"""The binary clients against a real engine: the promises its docstrings make, over the Unix socket and over TCP with a key."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.client import ApiError, AsyncClient, CallTimeout, Client, ConnectionLost, FunctionError, ServerRefused, raise_for_function_error
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, engine, zip_of

CODE: dict[str, str | bytes] = {
    "m.py": """import json, time

def f(event, context):
    if event == "boom":
        raise ValueError("no")
    if isinstance(event, dict) and "sleep" in event:
        time.sleep(event["sleep"])
    if isinstance(event, dict) and event.get("context"):
        return {"id": context.aws_request_id, "custom": context.client_context.custom, "arn": context.invoked_function_arn}
    print("said", flush=True)
    return event
"""
}


def socket_of(running: Engine) -> Path:
    return running.run_dir() / "engine.sock"


@pytest.fixture(scope="module")
def binary(shared: Engine) -> Path:
    shared.deploy("bin", CODE, Timeout=30)
    return socket_of(shared)


def test_a_call_and_its_log(binary: Path) -> None:
    with Client(binary) as client:
        result = client.invoke("bin", b'{"a": "\xc3\xa9"}', log_tail=True)
        assert (result.status, result.executed_version, result.function_error) == (200, "$LATEST", None)
        assert json.loads(result.payload) == {"a": "é"}
        assert b"said\n" in (result.log_tail or b"")
        assert f"START RequestId: {result.request_id} ".encode() in (result.log_tail or b"")
        assert client.invoke("bin").log_tail is None


def test_the_context_carries_what_the_call_gave(binary: Path) -> None:
    rid = "8f507cfc-4697-455f-9f0e-2d1a1b0c7a55"
    with Client(binary) as client:
        result = client.invoke("bin", b'{"context": 1}', request_id=rid, client_context='{"custom":{"k":"v"}}', qualifier="$LATEST")
    got = json.loads(result.payload)
    assert (result.request_id, got["id"], got["custom"]) == (rid, rid, {"k": "v"})
    assert got["arn"].endswith(":function:bin:$LATEST")


def test_refusals_carry_awss_code_and_leave_the_connection_usable(binary: Path) -> None:
    with Client(binary, keep=1) as client:
        for call, code, status in (
            (lambda: client.invoke("nobody"), "ResourceNotFoundException", 404),
            (lambda: client.invoke("bin", b"{not json"), "InvalidRequestContentException", 400),
            (lambda: client.invoke("bin", b'"' + b"x" * (6 << 20) + b'"'), "RequestEntityTooLargeException", 413),
        ):
            with pytest.raises(ApiError) as caught:
                call()
            assert (caught.value.code, caught.value.status) == (code, status)
        with pytest.raises(FunctionError, match="ValueError: no"):
            raise_for_function_error(client.invoke("bin", b'"boom"'))
        assert client.invoke("bin", dry_run=True).status == 204


def test_the_largest_payload_both_ways(binary: Path) -> None:
    body = b'"' + b"x" * (6 * 1024 * 1024 - 2) + b'"'

    async def main() -> bytes:
        async with AsyncClient(binary) as client:
            return (await client.invoke("bin", body, timeout_s=60)).payload

    assert asyncio.run(main()) == body


def test_many_in_flight_each_with_its_own_answer(binary: Path) -> None:
    async def main() -> list[Any]:
        async with AsyncClient(binary) as client:
            results = await asyncio.gather(*(client.invoke("bin", b"%d" % n) for n in range(60)))
            return [json.loads(r.payload) for r in results]

    assert asyncio.run(main()) == list(range(60))


def test_a_late_answer_does_not_disturb_the_next_call(binary: Path) -> None:
    async def main() -> None:
        async with AsyncClient(binary) as client:
            with pytest.raises(CallTimeout):
                await client.invoke("bin", b'{"sleep": 1}', timeout_s=0.2)
            results = await asyncio.gather(client.invoke("bin", b'{"sleep": 1.2}'), client.invoke("bin", b"2"))
            assert [json.loads(r.payload) for r in results] == [{"sleep": 1.2}, 2]

    asyncio.run(main())


def test_tcp_wants_the_configured_key_and_survives_a_restart() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    keys = {"AKIDTEST": "s3cret"}
    signed = {"aws_access_key_id": "AKIDTEST", "aws_secret_access_key": "s3cret"}
    with engine(auth="sigv4", access_keys=keys, binary_address=address) as running:
        client = running.client(**signed)
        _create(client)
        with Client(address, access_key="AKIDTEST", secret_key="s3cret", connect_timeout_s=60) as caller:
            assert caller.invoke("bin", b"1").payload == b"1"
            for key, secret in ((None, None), ("AKIDTEST", "guess")):
                with pytest.raises(ServerRefused), Client(address, access_key=key, secret_key=secret) as stranger:
                    stranger.invoke("bin")
            lost: list[BaseException] = []

            def doomed() -> None:
                try:
                    caller.invoke("bin", b'{"sleep": 20}')
                except ConnectionLost as e:
                    lost.append(e)

            thread = threading.Thread(target=doomed)
            thread.start()
            _until_busy(running)
            assert running.process is not None
            running.process.send_signal(signal.SIGKILL)
            thread.join(20)
            assert isinstance(lost[0], ConnectionLost)
            assert lost[0].sent, "it may have run: the client must not say that a retry is safe"
            running.process.wait()
            running.start()
            assert caller.invoke("bin", b"2").payload == b"2"


def _create(client: Any) -> None:
    client.create_function(FunctionName="bin", Runtime=OWN_RUNTIME, Role=ROLE, Handler="m.f", Code={"ZipFile": zip_of(CODE)}, Timeout=30)
    client.get_waiter("function_active_v2").wait(FunctionName="bin")


def _until_busy(running: Engine) -> None:
    end = time.monotonic() + 20
    while not any(i["state"] == "busy" for i in running.state()["instances"]):
        assert time.monotonic() < end, running.state()["instances"]
        time.sleep(0.02)
