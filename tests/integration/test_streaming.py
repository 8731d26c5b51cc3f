"""InvokeWithResponseStream, read with botocore: pieces as they are written, failures in the middle, limits, plain functions."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
from typing import Any

import pytest

from tests.framework import clients, host
from tests.framework.engine import Engine

# A custom runtime in Python's standard library: it streams what the event says.
BOOTSTRAP = """#!{python}
import base64, http.client, json, os, time
host = os.environ["AWS_LAMBDA_RUNTIME_API"]
api = http.client.HTTPConnection(host)
base = "/2018-06-01/runtime/invocation/"
while True:
    api.request("GET", base + "next")
    answer = api.getresponse()
    event, request_id = json.loads(answer.read()), answer.headers["Lambda-Runtime-Aws-Request-Id"]
    print("streaming", event.get("name"), flush=True)
    if event.get("plain"):
        api.request("POST", base + request_id + "/response", json.dumps(event), {{"Content-Type": "application/json"}})
        api.getresponse().read()
        continue
    out = http.client.HTTPConnection(host)
    out.putrequest("POST", base + request_id + "/response")
    for name, value in {{"Lambda-Runtime-Function-Response-Mode": "streaming", "Transfer-Encoding": "chunked",
                        "Trailer": "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"}}.items():
        out.putheader(name, value)
    out.endheaders()
    size = event.get("size", 0)
    for piece in [*event.get("pieces", ()), *(["x" * 65536] * (size // 65536))]:
        data = piece.encode()
        out.send(b"%x\\r\\n%b\\r\\n" % (len(data), data))
        if event.get("gate"):
            while not os.path.exists("/tmp/gate"):
                time.sleep(0.01)
    if event.get("crash"):
        os._exit(4)
    if event.get("sleep"):
        time.sleep(event["sleep"])
    if event.get("fail"):
        document = base64.b64encode(json.dumps({{"errorType": "Half", "errorMessage": "way"}}).encode())
        out.send(b"0\\r\\nLambda-Runtime-Function-Error-Type: Function.Half\\r\\nLambda-Runtime-Function-Error-Body: " + document + b"\\r\\n\\r\\n")
    else:
        out.send(b"0\\r\\n\\r\\n")
    out.getresponse().read()
    out.close()
"""


@pytest.fixture(scope="module")
def streamer(shared: Engine) -> str:
    text = BOOTSTRAP.format(python=os.path.realpath(sys.executable))
    shared.deploy("streamer", {"bootstrap": text}, Runtime="provided.al2023", Timeout=30, MemorySize=256)
    return "streamer"


def stream(engine: Engine, name: str, event: Any, **options: Any) -> Any:
    return engine.client().invoke_with_response_stream(FunctionName=name, Payload=json.dumps(event), **options)


def read(answer: Any) -> tuple[bytes, dict[str, Any]]:
    """All chunks joined, and InvokeComplete, which must be the one last event."""
    with contextlib.closing(answer["EventStream"]) as opened:
        events = list(opened)
    assert [("InvokeComplete" in e) for e in events] == [False] * (len(events) - 1) + [True]
    return b"".join(e["PayloadChunk"]["Payload"] for e in events[:-1]), events[-1]["InvokeComplete"]


def test_pieces_and_the_end(shared: Engine, streamer: str) -> None:
    answer = stream(shared, streamer, {"pieces": ["one", "two", "é"]}, LogType="Tail")
    assert answer["StatusCode"] == 200
    assert answer["ExecutedVersion"] == "$LATEST"
    assert answer["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    payload, complete = read(answer)
    assert payload == "onetwoé".encode()
    log = base64.b64decode(complete.pop("LogResult")).decode()
    assert "streaming None" in log
    assert "REPORT RequestId" in log
    assert complete == {}


def test_the_first_piece_is_there_before_the_function_has_finished(shared: Engine, streamer: str) -> None:
    """The function's end would need a file that nobody makes."""
    shared.deploy("gated", {"bootstrap": BOOTSTRAP.format(python=os.path.realpath(sys.executable))}, Runtime="provided.al2023", Timeout=4)
    answer = stream(shared, "gated", {"pieces": ["first"], "gate": True})
    events = iter(answer["EventStream"])
    assert next(events) == {"PayloadChunk": {"Payload": b"first"}}
    complete = next(events)["InvokeComplete"]
    assert complete["ErrorCode"] == "Sandbox.Timedout"
    assert json.loads(complete["ErrorDetails"])["errorMessage"].endswith("Task timed out after 4.00 seconds")
    answer["EventStream"].close()


def test_a_failure_half_way(shared: Engine, streamer: str) -> None:
    payload, complete = read(stream(shared, streamer, {"pieces": ["one"], "fail": True}))
    assert payload == b"one"
    assert complete["ErrorCode"] == "Function.Half"
    assert json.loads(complete["ErrorDetails"]) == {"errorType": "Half", "errorMessage": "way"}


def test_a_crash_half_way(shared: Engine, streamer: str) -> None:
    payload, complete = read(stream(shared, streamer, {"pieces": ["one"], "crash": True}))
    assert payload == b"one"
    assert complete["ErrorCode"] in ("Runtime.ExitError", "Runtime.TruncatedResponse")
    assert read(stream(shared, streamer, {"pieces": ["again"]}))[0] == b"again"


def test_a_buffered_answer_is_one_piece(shared: Engine, streamer: str) -> None:
    payload, complete = read(stream(shared, streamer, {"plain": True}))
    assert json.loads(payload) == {"plain": True}
    assert complete == {}
    shared.deploy("no-stream", {"m.py": "def f(e, c):\n    if e == 1: raise ValueError('x')\n    return e"})
    assert read(stream(shared, "no-stream", {"a": 1}))[0] == b'{"a": 1}'
    payload, complete = read(stream(shared, "no-stream", 1))
    assert payload == b""
    assert complete["ErrorCode"] == "ValueError"
    assert json.loads(complete["ErrorDetails"])["errorMessage"] == "x"


def test_a_stream_may_be_longer_than_a_buffered_answer(shared: Engine, streamer: str) -> None:
    size = 20 * 1024 * 1024
    payload, complete = read(stream(shared, streamer, {"size": size}))
    assert (len(payload), complete) == (size, {})


def test_a_caller_of_plain_invoke_gets_up_to_its_limit(shared: Engine, streamer: str) -> None:
    client = shared.client()
    answer = client.invoke(FunctionName=streamer, Payload=json.dumps({"pieces": ["a", "b"]}))
    assert answer["Payload"].read() == b"ab"
    answer = client.invoke(FunctionName=streamer, Payload=json.dumps({"size": 8 << 20}))
    assert answer["FunctionError"] == "Unhandled"
    assert json.loads(answer["Payload"].read())["errorType"] == "Function.ResponseSizeTooLarge"


def test_a_client_that_leaves_does_not_disturb_the_function(shared: Engine, streamer: str) -> None:
    answer = stream(shared, streamer, {"size": 50 << 20})
    assert "PayloadChunk" in next(iter(answer["EventStream"]))
    answer["EventStream"].close()
    assert read(stream(shared, streamer, {"pieces": ["next"]}))[0] == b"next"


def test_errors_before_the_stream_are_ordinary_ones(shared: Engine, streamer: str) -> None:
    client = shared.client()
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.invoke_with_response_stream(FunctionName="nobody")
    with pytest.raises(client.exceptions.InvalidRequestContentException):
        client.invoke_with_response_stream(FunctionName=streamer, Payload=b"{")
    dry = client.invoke_with_response_stream(FunctionName=streamer, InvocationType="DryRun")
    dry["EventStream"].close()
    assert dry["StatusCode"] == 204


PYTHON = """
import awslambda, os, time
@awslambda.streamify_response
def f(event, stream, context):
    print('streaming')
    if event.get('early'): raise KeyError('early')
    if event.get('http'): stream = awslambda.HttpResponseStream.from_stream(stream, {'statusCode': 201, 'headers': {'a': 'b'}})
    for piece in event.get('pieces', ()):
        stream.write(piece)
        if event.get('gate'): time.sleep(30)
    if event.get('size'): stream.write(bytes(event['size']))
    if event.get('fail'): raise ValueError('half ' + context.aws_request_id)
"""


def test_python_functions_stream_too(shared: Engine) -> None:
    shared.deploy("python-stream", {"m.py": PYTHON}, Timeout=20, MemorySize=1769)
    answer = stream(shared, "python-stream", {"pieces": ["one", "two"]}, LogType="Tail")
    payload, complete = read(answer)
    assert payload == b"onetwo"
    assert "streaming" in base64.b64decode(complete["LogResult"]).decode()
    assert read(stream(shared, "python-stream", {}))[0] == b""
    payload, complete = read(stream(shared, "python-stream", {"early": 1}))
    assert (payload, complete["ErrorCode"]) == (b"", "KeyError")
    payload, complete = read(stream(shared, "python-stream", {"pieces": ["x"], "fail": 1}))
    assert (payload, complete["ErrorCode"]) == (b"x", "ValueError")
    assert json.loads(complete["ErrorDetails"])["errorMessage"].startswith("half ")
    payload, _ = read(stream(shared, "python-stream", {"http": 1, "pieces": ["x"]}))
    assert payload == b'{"statusCode": 201, "headers": {"a": "b"}}' + bytes(8) + b"x"
    assert len(read(stream(shared, "python-stream", {"size": 8 << 20}))[0]) == 8 << 20
    answer = shared.client().invoke(FunctionName="python-stream", Payload=b'{"pieces":["q"]}')
    assert answer["Payload"].read() == b"q"


def test_the_first_piece_of_a_python_function_does_not_wait_for_the_last(shared: Engine) -> None:
    shared.deploy("python-gate", {"m.py": PYTHON}, Timeout=4)
    answer = stream(shared, "python-gate", {"pieces": ["first"], "gate": 1})
    with contextlib.closing(answer["EventStream"]) as opened:
        events = iter(opened)
        assert next(events) == {"PayloadChunk": {"Payload": b"first"}}
        assert next(events)["InvokeComplete"]["ErrorCode"] == "Sandbox.Timedout"


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_stream_of_the_official_rust_client(shared: Engine) -> None:
    host.require("no Rust 1.85 or newer")
    shared.deploy("rust-stream", clients.rust("streaming"), "bootstrap", Runtime="provided.al2023", MemorySize=256, Timeout=3)
    payload, complete = read(stream(shared, "rust-stream", {"pieces": ["one", "two", "é"]}))
    # Its streams are answers to HTTP requests, and begin with their heads.
    head, _, rest = payload.partition(bytes(8))
    assert (json.loads(head)["statusCode"], rest, complete) == (200, "onetwoé".encode(), {})
    # The second piece would come after the function's time.
    answer = stream(shared, "rust-stream", {"pieces": ["first", "never"], "pause": 60})
    events = iter(answer["EventStream"])
    begun = b""
    while not begun.endswith(b"first"):
        begun += next(events)["PayloadChunk"]["Payload"]
    assert next(events)["InvokeComplete"]["ErrorCode"] == "Sandbox.Timedout"
    answer["EventStream"].close()
    payload, complete = read(stream(shared, "rust-stream", {"pieces": ["half"], "fail": True}))
    # This client writes its trailers into the body, for whoever reads it.
    assert b"half" in payload
    assert "Runtime.StreamError" in payload.decode("latin-1") + json.dumps(complete)
    big = ["x" * 65536] * 80
    assert read(stream(shared, "rust-stream", {"pieces": big}))[0].count(b"x") == 80 * 65536
