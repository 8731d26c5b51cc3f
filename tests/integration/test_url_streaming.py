"""Function URLs with InvokeMode RESPONSE_STREAM: the response reaches the client while the function writes it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from urllib.parse import urlsplit

import pytest

from tests.framework.engine import Engine, zip_of
from tests.integration.test_urls import Answer, ask, url_of

# A custom runtime in the standard library. The path says what to do.
BOOTSTRAP = r"""#!{python}
import http.client, json, os, time
host = os.environ["AWS_LAMBDA_RUNTIME_API"]
api = http.client.HTTPConnection(host)
base = "/2018-06-01/runtime/invocation/"
while True:
    api.request("GET", base + "next")
    answer = api.getresponse()
    event, request_id = json.loads(answer.read()), answer.headers["Lambda-Runtime-Aws-Request-Id"]
    kind = event["rawPath"].strip("/")
    if kind == "plain":
        api.request("POST", base + request_id + "/response", json.dumps({{"statusCode": 201, "body": "plain"}}), {{"Content-Type": "application/json"}})
        api.getresponse().read()
        continue
    if kind == "refuse":
        api.request("POST", base + request_id + "/error", json.dumps({{"errorType": "T", "errorMessage": "m"}}), {{"Lambda-Runtime-Function-Error-Type": "T"}})
        api.getresponse().read()
        continue
    out = http.client.HTTPConnection(host)
    out.putrequest("POST", base + request_id + "/response")
    out.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
    out.putheader("Transfer-Encoding", "chunked")
    out.putheader("Content-Type", "text/x-raw" if kind == "raw" else "application/vnd.awslambda.http-integration-response")
    out.endheaders()

    def send(data):
        out.send(b"%x\r\n%b\r\n" % (len(data), data))

    described = {{"statusCode": 207, "headers": {{"X-Mine": "yes", "Content-Type": "text/plain"}}, "cookies": ["a=1", "b=2"]}}
    prelude = json.dumps(described).encode() + bytes(8)
    if kind == "broken-prelude":
        send(b"no json" + bytes(8) + b"rest")
    elif kind == "unfinished-prelude":
        send(prelude[:10])
    elif kind == "empty":
        send(json.dumps({{"statusCode": 204}}).encode() + bytes(8))
    elif kind != "raw":
        send(prelude[:20])
        send(prelude[20:] + b"head ")
    if kind in ("prelude", "raw"):
        send(b"one ")
        send(b"two")
    if kind == "wait":
        time.sleep(60)
    if kind == "big":
        for _ in range(320):
            send(b"x" * 65536)
    if kind == "die":
        send(b"half")
        time.sleep(0.2)
        os._exit(3)
    out.send(b"0\r\n\r\n")
    out.getresponse().read()
    out.close()
"""


@pytest.fixture(scope="module")
def streamer(shared: Engine) -> str:
    """The host of a URL that streams."""
    text = BOOTSTRAP.format(python=os.path.realpath(sys.executable))
    shared.deploy("url-streamer", {"bootstrap": text}, Runtime="provided.al2023", Timeout=30, MemorySize=256)
    return url_of(shared, "url-streamer", InvokeMode="RESPONSE_STREAM")


def opened(shared: Engine, host: str, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(shared.url).port, timeout=60)
    connection.request("GET", path, headers={"Host": host})
    return connection, connection.getresponse()


def test_a_prelude_describes_the_response(shared: Engine, streamer: str) -> None:
    answer = ask(shared, streamer, path="/prelude")
    assert (answer.status, answer.body) == (207, b"head one two")
    assert (answer.headers["x-mine"], answer.headers["content-type"]) == ("yes", "text/plain")
    assert [value for name, value in answer.pairs if name == "set-cookie"] == ["a=1", "b=2"]
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["x-amzn-requestid"]
    raw = ask(shared, streamer, path="/raw")
    assert (raw.status, raw.body, raw.headers["content-type"]) == (200, b"one two", "text/x-raw")
    empty = ask(shared, streamer, path="/empty")
    assert (empty.status, empty.body) == (204, b"")
    assert ask(shared, streamer, "HEAD", "/prelude").body == b""


def test_the_first_bytes_come_before_the_function_is_done(shared: Engine) -> None:
    """The function only ends by its timeout, after which nothing whole can come any more."""
    shared.deploy("url-waiter", {"bootstrap": BOOTSTRAP.format(python=os.path.realpath(sys.executable))}, Runtime="provided.al2023", Timeout=4)
    connection, answer = opened(shared, url_of(shared, "url-waiter", InvokeMode="RESPONSE_STREAM"), "/wait")
    assert (answer.status, answer.read(5)) == (207, b"head ")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        answer.read()
    answer.close()
    connection.close()


def test_what_does_not_stream_and_what_fails(shared: Engine, streamer: str) -> None:
    plain = ask(shared, streamer, path="/plain")
    assert (plain.status, plain.json()) == (200, {"statusCode": 201, "body": "plain"}), "in this mode the payload is the body"
    for path in ("/refuse", "/broken-prelude", "/unfinished-prelude"):
        failed = ask(shared, streamer, path=path)
        assert (failed.status, failed.body) == (502, b"Internal Server Error"), path
    connection, answer = opened(shared, streamer, "/die")
    assert answer.status == 207
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        answer.read()
    answer.close()
    connection.close()
    assert ask(shared, streamer, path="/prelude").status == 207


def test_a_connection_goes_on_after_a_stream_and_a_slow_reader_gets_all(shared: Engine, streamer: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(shared.url).port, timeout=60)
    for _ in range(2):
        connection.request("GET", "/prelude", headers={"Host": streamer})
        assert Answer(connection.getresponse()).body == b"head one two"
    connection.close()
    with socket.create_connection(("127.0.0.1", urlsplit(shared.url).port), timeout=60) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.sendall(f"GET /big HTTP/1.1\r\nHost: {streamer}\r\nConnection: close\r\n\r\n".encode())
        size = 0
        while data := client.recv(1 << 16):
            size += len(data)
    assert size > 320 * 65536


def test_a_client_that_goes_away_does_no_harm(shared: Engine, streamer: str) -> None:
    for _ in range(3):
        connection, answer = opened(shared, streamer, "/big")
        answer.read(100)
        answer.close()
        connection.close()
    assert ask(shared, streamer, path="/prelude").status == 207


def test_the_mode_can_be_changed(shared: Engine) -> None:
    shared.deploy("url-mode", zip_of({"m.py": "def f(e, c): return {'statusCode': 202, 'body': 'x'}\n"}))
    host = url_of(shared, "url-mode", InvokeMode="RESPONSE_STREAM")
    assert ask(shared, host).status == 200
    shared.client().update_function_url_config(FunctionName="url-mode", InvokeMode="BUFFERED")
    answer = ask(shared, host)
    assert (answer.status, answer.body) == (202, b"x")
    assert json.loads(json.dumps(answer.headers))["content-length"] == "1"
