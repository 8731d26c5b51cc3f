"""The agent's Runtime API: statuses, headers, error types and order, as docs/reference of AWS's own agent has them.

The agent is the real one; a forwarder that it starts as its "runtime" carries the test's bytes to it, because on a shared network it
lets in only what its own children send.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from tests.framework.agent import BASE, ID, Connection, Rig, agent, rigged

OTHER = "99999999-2222-4333-8444-555555555555"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rigged(tmp_path) as running:
        yield running


def test_an_event_has_its_headers(rig: Rig) -> None:
    headers, body = rig.running(b'{"a": 1}', trace_id="Root=1-2", client_context='{"a":\n1}', identity="{}", tenant_id="t")
    assert body == b'{"a": 1}'
    assert headers == {
        "content-type": "application/json",
        "content-length": "8",
        "lambda-runtime-aws-request-id": ID,
        "lambda-runtime-deadline-ms": "1900000000000",
        "lambda-runtime-invoked-function-arn": "arn:aws:lambda:x",
        "lambda-runtime-trace-id": "Root=1-2",
        "lambda-runtime-client-context": '{"a": 1}',
        "lambda-runtime-cognito-identity": "{}",
        "lambda-runtime-aws-tenant-id": "t",
    }


def test_absent_values_have_no_header(rig: Rig) -> None:
    headers, _ = rig.running()
    assert {h for h in headers if h.startswith("lambda-")} == {
        "lambda-runtime-aws-request-id", "lambda-runtime-deadline-ms", "lambda-runtime-invoked-function-arn",
    }  # fmt: skip


def test_a_response_goes_up_before_next(rig: Rig) -> None:
    rig.running()
    status, headers, body = rig.call("POST", f"{BASE}/invocation/{ID}/response", b'{"x":1}', content_type="application/json")
    assert (status, headers["content-type"], json.loads(body)) == (202, "application/json", {"status": "OK"})
    assert rig.agent.receive() == [m.RESPONSE, ID, False, None, b'{"x":1}']
    rig.ask_next()
    assert rig.agent.receive() == [m.NEXT]


def test_the_content_type_of_a_response_is_kept(rig: Rig) -> None:
    rig.running()
    rig.call("POST", f"{BASE}/invocation/{ID}/response", b"raw", content_type="text/x")
    assert rig.agent.receive() == [m.RESPONSE, ID, False, "text/x", b"raw"]


def test_next_while_running_gives_the_same_event_again(rig: Rig) -> None:
    rig.running(b"[1]")
    rig.ask_next()
    headers, body = rig.event()
    assert (headers["lambda-runtime-aws-request-id"], body) == (ID, b"[1]")


def test_a_wrong_request_id_is_refused(rig: Rig) -> None:
    rig.running()
    for path in ("response", "error"):
        assert rig.refused(400, "InvalidRequestID", rig.call("POST", f"{BASE}/invocation/{OTHER}/{path}", b"1")) == "Invalid request ID"
    rig.call("POST", f"{BASE}/invocation/{ID}/response", b"1")
    assert rig.agent.receive()[0] == m.RESPONSE


def test_a_second_answer_is_an_invalid_transition(rig: Rig) -> None:
    rig.running()
    rig.call("POST", f"{BASE}/invocation/{ID}/response", b"1")
    text = rig.refused(403, "InvalidStateTransition", rig.call("POST", f"{BASE}/invocation/{ID}/response", b"2"))
    assert text == (
        "State transition from RuntimeResponseSentState to InvocationResponse failed for runtime. Error: State transition is not allowed"
    )


def test_an_answer_to_the_former_event_is_no_running_invocation(rig: Rig) -> None:
    rig.running()
    rig.call("POST", f"{BASE}/invocation/{ID}/response", b"1")
    assert rig.agent.receive()[0] == m.RESPONSE
    rig.ask_next()
    assert rig.agent.receive() == [m.NEXT]
    rig.agent.invoke(OTHER)
    rig.event()
    rig.refused(400, "InvalidRequestID", rig.call("POST", f"{BASE}/invocation/{ID}/response", b"1"))


def test_a_response_over_the_limit(rig: Rig) -> None:
    rig.running()
    body = b"x" * 6_291_557
    text = rig.refused(413, "RequestEntityTooLarge", rig.call("POST", f"{BASE}/invocation/{ID}/response", body))
    assert text == "Exceeded maximum allowed payload size (6291556 bytes)."
    assert rig.agent.receive() == [m.TOO_LARGE, ID, 6_291_557, False]
    rig.refused(403, "InvalidStateTransition", rig.call("POST", f"{BASE}/invocation/{ID}/error", b"{}"))


def test_a_response_at_the_limit(rig: Rig) -> None:
    rig.running()
    assert rig.call("POST", f"{BASE}/invocation/{ID}/response", b"x" * 6_291_556)[0] == 202
    assert len(rig.agent.receive()[4]) == 6_291_556


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Runtime.Sad", "Runtime.Sad"),
        ("Function.Sad", "Function.Sad"),
        ("my Function.Sad", "my Function.Sad"),
        ("ValueError", "Runtime.Unknown"),
        ("Function.sad", "Function.Unknown"),
        ("", "Runtime.Unknown"),
    ],
)
def test_error_types(rig: Rig, header: str, told: str) -> None:
    rig.running()
    answer = rig.call("POST", f"{BASE}/invocation/{ID}/error", b"anything", lambda_runtime_function_error_type=header)
    assert answer[0] == 202
    assert rig.agent.receive() == [m.ERROR, ID, False, told, b"anything"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"errorMessage":"m","errorType":"t","stackTrace":[],"errorCause":"c"}', b'{"errorMessage":"m","errorType":"t","stackTrace":[]}'),
        (b"nonsense", b'"Invalid error body"'),
        (b"3", b'"Invalid error body"'),
    ],
)
def test_the_cause_of_an_error_is_not_the_callers(rig: Rig, body: bytes, told: bytes) -> None:
    rig.running()
    rig.call("POST", f"{BASE}/invocation/{ID}/error", body, content_type="application/vnd.aws.lambda.error.cause+json")
    assert rig.agent.receive()[4] == told


def test_an_init_error_ends_the_instance(rig: Rig) -> None:
    assert rig.call("POST", f"{BASE}/init/error", b'{"errorType":"x"}', lambda_runtime_function_error_type="Runtime.Xyz")[0] == 202
    assert rig.agent.receive() == [m.INIT_ERROR, "Runtime.Xyz", b'{"errorType":"x"}']
    text = rig.refused(403, "InvalidStateTransition", rig.call("POST", f"{BASE}/init/error", b"{}"))
    assert text.startswith("State transition from InitError to InitError failed for runtime.")
    rig.refused(403, "InvalidStateTransition", rig.call("GET", f"{BASE}/invocation/next"))
    assert rig.agent.process.wait(30) == 1


def test_an_init_error_after_init_is_refused(rig: Rig) -> None:
    rig.running()
    text = rig.refused(403, "InvalidStateTransition", rig.call("POST", f"{BASE}/init/error", b"{}"))
    assert text == "State transition from Running to InitError failed for runtime. Error: State transition is not allowed"


def chunked(rig: Rig, pieces: list[bytes], trailers: Any = None, **headers: str) -> None:
    """A response in pieces, as far as its last chunk and trailers."""
    http_connection = rig.http
    http_connection.putrequest("POST", f"{BASE}/invocation/{ID}/response")
    for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
        http_connection.putheader(name.replace("_", "-"), value)
    http_connection.endheaders()
    for piece in pieces:
        http_connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    if trailers is not None:
        lines = "".join(f"{k}: {v}\r\n" for k, v in trailers.items())
        http_connection.send(f"0\r\n{lines}\r\n".encode())


STREAMING = {"Lambda_Runtime_Function_Response_Mode": "streaming"}


def collect(rig: Rig, size: int) -> bytes:
    got = b""
    while len(got) < size:
        kind, request_id, data = rig.agent.receive()
        assert (kind, request_id) == (m.STREAM_CHUNK, ID)
        got += data
    return got


def test_a_stream_goes_up_as_it_is_written(rig: Rig) -> None:
    rig.running()
    chunked(rig, [b"one"], content_type="text/x", **STREAMING)
    assert rig.agent.receive() == [m.STREAM_START, ID, "text/x", None]
    assert collect(rig, 3) == b"one"
    big = os.urandom(3_000_000)
    rig.http.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big))
    assert collect(rig, len(big)) == big
    assert rig.agent.receive() == [m.STREAM_END, ID, False, None, None]
    assert rig.http.getresponse().read() == b'{"status":"OK"}'


def test_the_trailers_of_a_failed_stream(rig: Rig) -> None:
    rig.running()
    document = b'{"errorType":"x"}'
    trailers = {
        "Lambda-Runtime-Function-Error-Type": "Function.Half",
        "Lambda-Runtime-Function-Error-Body": base64.b64encode(document).decode(),
    }
    chunked(rig, [b"one"], trailers, **STREAMING)
    assert rig.agent.receive()[:3] == [m.STREAM_START, ID, None]
    assert collect(rig, 3) == b"one"
    assert rig.agent.receive() == [m.STREAM_END, ID, False, "Function.Half", document]
    assert rig.http.getresponse().status == 202


def test_a_stream_that_says_so_by_its_trailers_alone(rig: Rig) -> None:
    """As the client for Go writes an ``io.Reader``; its JSON it writes with the same trailers, and that is an ordinary answer."""
    announced = {"Trailer": "Lambda-Runtime-Function-Error-Body, Lambda-Runtime-Function-Error-Type"}
    rig.running()
    kind = "application/vnd.awslambda.http-integration-response"
    chunked(rig, [b"one"], {}, content_type=kind, **announced)
    assert rig.agent.receive() == [m.STREAM_START, ID, kind, None]
    assert collect(rig, 3) == b"one"
    assert rig.agent.receive() == [m.STREAM_END, ID, False, None, None]
    assert rig.http.getresponse().status == 202


def test_json_is_no_stream_whatever_its_trailers(rig: Rig) -> None:
    rig.running()
    chunked(rig, [b"1"], {}, content_type="application/json", Trailer="Lambda-Runtime-Function-Error-Type")
    assert rig.agent.receive()[0] == m.RESPONSE


def test_a_stream_that_breaks_off_is_truncated(rig: Rig) -> None:
    rig.running()
    chunked(rig, [b"one"], **STREAMING)
    rig.agent.receive()
    collect(rig, 3)
    rig.http.close()
    kind, request_id, then_next, error_type, document = rig.agent.receive()
    assert (kind, request_id, then_next, error_type) == (m.STREAM_END, ID, False, "Runtime.TruncatedResponse")
    assert json.loads(document)["errorType"] == "Runtime.TruncatedResponse"


def test_a_buffered_response_that_breaks_off_is_truncated(rig: Rig) -> None:
    rig.running()
    chunked(rig, [b"one"])
    rig.http.close()
    assert rig.agent.receive()[:4] == [m.ERROR, ID, False, "Runtime.TruncatedResponse"]


def test_a_chunked_response_that_is_not_streamed(rig: Rig) -> None:
    rig.running()
    chunked(rig, [b"one", b"two"], {})
    assert rig.agent.receive() == [m.RESPONSE, ID, False, None, b"onetwo"]


def test_an_unknown_response_mode(rig: Rig) -> None:
    rig.running()
    answer = rig.call("POST", f"{BASE}/invocation/{ID}/response", b"x", lambda_runtime_function_response_mode="Streaming")
    assert rig.refused(400, "InvalidFunctionResponseMode", answer) == "Invalid function response mode"
    assert rig.agent.receive()[:4] == [m.ERROR, ID, False, "Runtime.InvalidResponseModeHeader"]


def test_unknown_paths_and_nonsense(rig: Rig) -> None:
    assert rig.call("GET", "/2018-06-01/ping")[2] == b"pong"
    assert rig.call("GET", "/")[0] == 404
    assert rig.call("POST", f"{BASE}/invocation/next", b"")[0] == 404
    other = Connection(rig.path)
    other.connect()
    other.sock.sendall(b"nonsense\r\n\r\n")
    assert other.sock.recv(100).startswith(b"HTTP/1.1 400 Bad Request")
    other.close()
    rig.running()


def test_a_stranger_on_a_shared_network_is_not_let_in(rig: Rig, tmp_path: Path) -> None:
    """The test's own process is no child of the agent: its connection is closed unread."""
    rig.call("GET", "/2018-06-01/ping")
    environ = Path(f"/proc/{_child_of(rig.agent.process.pid)}/environ").read_bytes()
    api = next(v[23:] for v in environ.split(b"\0") if v.startswith(b"AWS_LAMBDA_RUNTIME_API="))
    host, port = api.decode().split(":")
    with socket.create_connection((host, int(port)), 30) as sock:
        sock.sendall(b"GET /2018-06-01/ping HTTP/1.1\r\n\r\n")
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass
    assert rig.call("GET", "/2018-06-01/ping")[0] == 200


def _child_of(pid: int) -> int:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1] == str(pid):
                    return int(name)
            except OSError:
                continue
    raise AssertionError("the agent has no child")


def test_what_the_runtime_ends_with_the_agent_ends_with(tmp_path: Path) -> None:
    for command, status in ((["/bin/sh", "-c", "exit 7"], 7), (["/bin/sh", "-c", "kill -11 $$"], -11)):
        with agent(tmp_path, command=command) as process:
            assert process.process.wait(30) == status


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    with agent(tmp_path, request_id=ID) as process:
        kind, error_type, document = process.receive()
        assert (kind, error_type) == (m.INIT_ERROR, "Runtime.InvalidEntrypoint")
        text = f"RequestId: {ID} Error: Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"
        assert json.loads(document) == {"errorType": "Runtime.InvalidEntrypoint", "errorMessage": text}
        assert process.process.wait(30) == 1


def test_json_lines_below_the_level_are_dropped(tmp_path: Path) -> None:
    script = """echo '{"level":"debug","m":1}'; echo plain; echo '{"level":"WARN"}'; echo '{"level":"odd"}'; printf rest"""
    with agent(tmp_path, command=["/bin/sh", "-c", script], log_format="JSON", log_level="INFO") as process:
        lines = [process.receive() for _ in range(4)]
    assert [(line[0], line[1], line[3], line[4]) for line in lines] == [
        (m.LOG, None, 0, b"plain"),
        (m.LOG, None, 4, b'{"level":"WARN"}'),
        (m.LOG, None, 3, b'{"level":"odd"}'),
        (m.LOG, None, 0, b"rest"),
    ]
