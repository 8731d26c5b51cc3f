"""OpenTelemetry's own instrumentation of Lambda functions, for Python and Node.js, with a collector in a layer, as its layers for AWS have it."""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

import pytest

from tests.framework import clients, host
from tests.framework.engine import Engine, engine, zip_of
from tests.framework.wait import until

# What an OTLP collector does at its front: takes spans over HTTP, on the port that every exporter knows.
COLLECTOR = """#!{python} -IS
import base64, http.client, http.server, json, os, threading
class Spans(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = b""
        if self.headers["transfer-encoding"] == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size); self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["content-length"]))
        print("SPANS " + json.dumps([self.path, self.headers["content-type"], base64.b64encode(body).decode()]), flush=True)
        answer = b"{{}}" if "json" in self.headers["content-type"] else b""
        self.send_response(200); self.send_header("Content-Type", self.headers["content-type"])
        self.send_header("Content-Length", str(len(answer))); self.end_headers(); self.wfile.write(answer)
    def log_message(self, *what): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 4318), Spans)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
api.request("POST", "/2020-01-01/extension/register", json.dumps({{"events": ["SHUTDOWN"]}}), {{"Lambda-Extension-Name": "collector"}})
answer = api.getresponse(); answer.read()
api.request("GET", "/2020-01-01/extension/event/next", headers={{"Lambda-Extension-Identifier": answer.headers["Lambda-Extension-Identifier"]}})
api.getresponse().read()
"""


def layer(running: Engine) -> str:
    package = zip_of({"extensions/collector": COLLECTOR.format(python=os.path.realpath(sys.executable))})
    return str(running.client().publish_layer_version(LayerName="collector", Content={"ZipFile": package})["LayerVersionArn"])


def invoke(running: Engine, name: str, event: Any) -> tuple[Any, str | None, str]:
    answer = running.client().invoke(FunctionName=name, Payload=json.dumps(event))
    return json.loads(answer["Payload"].read()), answer.get("FunctionError"), answer["ResponseMetadata"]["RequestId"]


def spans(running: Engine, name: str) -> list[tuple[str, str, bytes]]:
    """(path, content type, body) of everything that has reached the collector."""
    found = []
    for file in running.data_dir.glob(f"logs/**/*{name}*"):
        for line in file.read_text().splitlines():
            if "\tSPANS " in line:
                path, kind, body = json.loads(line.partition("\tSPANS ")[2])
                found.append((path, kind, base64.b64decode(body)))
    return found


def arrived(running: Engine, name: str, *words: str) -> list[tuple[str, str, bytes]]:
    """All spans, once each of ``words`` is in one of them."""

    def everything() -> list[tuple[str, str, bytes]]:
        got = spans(running, name)
        whole = b"".join(body for _, _, body in got)
        return got if all(word.encode() in whole for word in words) else []

    return until(everything, f"spans with {words}", 60.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_python(shared: Engine) -> None:
    shared.deploy("otel-python", clients.traced_python(), "m.handler", Layers=[layer(shared)], Timeout=30, MemorySize=512)
    payload, error, request_id = invoke(shared, "otel-python", {"a": 1})
    assert (payload, error) == ({"a": 1}, None)
    arn = "arn:aws:lambda:us-east-1:000000000000:function:otel-python"
    path, kind, _ = arrived(shared, "otel-python", "span-of-the-function", request_id, arn)[0]
    assert (path, kind) == ("/v1/traces", "application/x-protobuf")
    payload, error, _ = invoke(shared, "otel-python", "fail")
    assert (payload["errorMessage"], error) == ("on purpose", "Unhandled")
    arrived(shared, "otel-python", "ValueError")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_node() -> None:
    host.require("no Node.js with npm")
    with engine(runtimes={"nodejs22.x": str(clients.node_program(22))}, pool_size=1) as running:
        settings = {"Environment": {"Variables": {"NODE_OPTIONS": "--require /var/task/otel.js"}}, "Timeout": 30, "MemorySize": 512}
        running.deploy("otel-node", clients.traced_node(), "index.handler", Runtime="nodejs22.x", Layers=[layer(running)], **settings)
        payload, error, request_id = invoke(running, "otel-node", {"a": 1})
        assert (payload, error) == ({"a": 1}, None)
        _, kind, body = arrived(running, "otel-node", "span-of-the-function", request_id)[0]
        assert kind == "application/json"
        found = [s for r in json.loads(body)["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]
        by_name = {s["name"]: s for s in found}
        assert by_name["span-of-the-function"]["parentSpanId"] == by_name["otel-node"]["spanId"]
        attributes = {a["key"]: a["value"].get("stringValue") for a in by_name["otel-node"]["attributes"]}
        assert request_id in attributes.values()
        assert invoke(running, "otel-node", "fail")[1] == "Unhandled"
        arrived(running, "otel-node", "on purpose")
