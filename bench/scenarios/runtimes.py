"""Runtimes side by side: warm echoes over native frames and over the HTTP Runtime API, cold starts, streams.

The functions are an echo in the managed runtimes and on AWS's own runtime clients (those of tests/clients whose toolchain is here).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import http1, native
from bench.context import Context
from bench.engine import ECHO, Engine, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Latencies, Row, row
from engine.core.runtimes import CUSTOM
from engine.sandbox import toolchains
from tests.framework import clients, images
from tests.framework.engine import zip_of

SIZE = 100
STREAM_BYTES = 20 * 1024 * 1024
_NODE = "exports.handler = async (event) => event"
_RUBY = "def handler(event:, context:) = event"
# Streams what it is told; each piece of a paced stream is the time of its writing.
_STREAMER = """#!{python} -IS
import http.client, json, os, time
host = os.environ["AWS_LAMBDA_RUNTIME_API"]
api = http.client.HTTPConnection(host)
base = "/2018-06-01/runtime/invocation/"
block = b"x" * 262144
while True:
    api.request("GET", base + "next")
    answer = api.getresponse()
    event, request_id = json.loads(answer.read()), answer.headers["Lambda-Runtime-Aws-Request-Id"]
    out = http.client.HTTPConnection(host)
    out.putrequest("POST", base + request_id + "/response")
    out.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
    out.putheader("Transfer-Encoding", "chunked")
    out.endheaders()
    for _ in range(event.get("pieces", 0)):
        time.sleep(0.01)
        piece = b"%d;" % time.time_ns()
        out.send(b"%x\\r\\n%b\\r\\n" % (len(piece), piece))
    for _ in range(event.get("size", 0) // len(block)):
        out.send(b"%x\\r\\n%b\\r\\n" % (len(block), block))
    out.send(b"0\\r\\n\\r\\n")
    out.getresponse().read()
    out.close()
"""


def run(context: Context) -> list[Row]:
    """Warm and cold for each runtime, then streams."""
    rows: list[Row] = []
    settings: dict[str, object] = {}
    if shutil.which("node") or shutil.which("npm"):
        settings["runtimes"] = json.dumps({"nodejs22.x": str(clients.node_program(22))})
    with context.engine(**settings) as engine:
        for subject, runtime, handler, package in _functions():
            context.say(subject)
            about = {"Runtime": runtime, "Handler": handler} if runtime else {}
            rows.append(_warm(context, engine, subject, package(), about))
            rows.append(_cold(context, engine, subject, package(), about))
        rows += _image(context, engine)
        context.say("streams")
        rows += _streams(context, engine)
    return rows


def _functions() -> list[tuple[str, str, str, Callable[[], bytes]]]:
    """(subject, runtime, handler, package) of what can be had here; "" stands for the bench's own Python."""
    python = os.path.realpath(sys.executable)
    found: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("python, native frames", "", "", lambda: zipped(ECHO)),
        ("python, awslambdaric over HTTP", CUSTOM[0], "client.echo", lambda: clients.python(python)),
    ]
    if shutil.which("node") or shutil.which("npm"):
        found.append(("nodejs22.x, native frames", "nodejs22.x", "index.handler", lambda: zip_of({"index.js": _NODE})))
    found += [
        (f"{runtime} over HTTP", runtime, "app.handler", lambda: zip_of({"app.rb": _RUBY}))
        for runtime in toolchains.discover()
        if runtime.startswith("ruby")
    ]
    if shutil.which("go"):
        found.append(("go, aws-lambda-go over HTTP", CUSTOM[0], "bootstrap", clients.go))
    if shutil.which("cargo"):
        found.append(("rust, lambda_runtime over HTTP", CUSTOM[0], "bootstrap", lambda: clients.rust("buffered")))
    if shutil.which("mvn"):
        found.append(("java, official client over HTTP", CUSTOM[0], "client.Handler", clients.java))
    return found


def _image(context: Context, engine: Engine) -> list[Row]:
    """The same function of AWS's Python client in a container image; none where the engine was not started here or its level has none."""
    if engine.data_dir is None or json.loads(engine.get("/_engine/state")[1])["sandbox"]["level"] == "process":
        return []
    subject = "container image, awslambdaric over HTTP"
    with tempfile.TemporaryDirectory(prefix="bench-image-", dir=context.work) as folder:
        layers, config = images.python_layers()
        images.oci(Path(folder), layers, config, "bench:1")
        command = [sys.executable, "-c", "from engine.cli.main import main; main()", "image", "import", folder, "--data-dir", str(engine.data_dir)]
        subprocess.run(command, check=True, capture_output=True)
    context.say(subject)
    return [_warm(context, engine, subject, "bench:1", {}), _cold(context, engine, subject, "bench:1", {})]


def _name(subject: str, n: object = "") -> str:
    return "".join(c if c.isalnum() else "-" for c in subject) + f"-{n}"


def _warm(context: Context, engine: Engine, subject: str, package: bytes | str, about: dict[str, str]) -> Row:
    name = _name(subject)
    engine.deploy(name, package, **about)
    body = json.dumps({"op": "", "x": "y" * (SIZE - 20)}).encode()
    raw = http1.request(engine.host, engine.path(name), body)
    binary = context.limit()
    native.load(binary, "http", engine.host, raw, connections=1, seconds=1.0)
    own, total = engine.cpu_s()
    got = native.load(binary, "http", engine.host, raw, connections=1, seconds=context.seconds)
    own_after, total_after = engine.cpu_s()
    n = max(1, len(got.latencies))
    return row(
        "runtimes",
        subject,
        "warm, 1 in flight",
        generator="C",
        latencies=got.latencies,
        seconds=got.seconds,
        errors=got.errors,
        in_flight=1,
        payload=SIZE,
        supervisor_cpu_us=round((own_after - own) / n * 1e6, 1),
        engine_cpu_us=round((total_after - total) / n * 1e6, 1),
    )


def _cold(context: Context, engine: Engine, subject: str, package: bytes | str, about: dict[str, str]) -> Row:
    """First invocations of functions that nobody has called, one at a time."""
    names = [_name(subject, n) for n in range(4 if context.quick else 12)]
    engine.deploy_many(names, package, **about)
    engine.settle()
    # A prepared interpreter needs a moment more than the sandbox around it.
    time.sleep(1.0)
    raw = [http1.request(engine.host, engine.path(name), b'{"op":""}') for name in names]
    plan = Plan(engine.host, Http(), lambda n: (raw[n % len(raw)], None), connections=1, count=len(raw), seconds=120, rate=1.0)
    outcome = Generator(plan).run()
    return row(
        "runtimes",
        subject,
        "cold start, client to answer",
        generator="Python, open loop",
        latencies=outcome.latencies(),
        seconds=outcome.seconds,
        errors=outcome.errors,
        in_flight=1,
        payload=2,
    )


def _streams(context: Context, engine: Engine) -> list[Row]:
    text = _STREAMER.format(python=os.path.realpath(sys.executable)).replace("\\\\", "\\")
    engine.deploy("streamer", zip_of({"bootstrap": text}), Runtime=CUSTOM[0])
    _read(engine, {"pieces": 1})
    pieces = 50 if context.quick else 200
    delays = Latencies()
    began = time.monotonic()
    for at_ns, data in _read(engine, {"pieces": pieces}):
        # Two numbers in one read: the older one waited longest.
        written = data.split(b";")[0].rpartition(b"octet-stream")[2]
        if written.isdigit():
            delays.add(at_ns - int(written))
    rows = [
        row(
            "runtimes", "stream, custom runtime", "from the function's write to the client's read", generator="Python", latencies=delays,
            seconds=time.monotonic() - began, errors=0, in_flight=1, payload=20,
        )
    ]  # fmt: skip
    whole = Latencies()
    began = time.monotonic()
    runs = 3 if context.quick else 10
    for _ in range(runs):
        start = time.perf_counter_ns()
        size = sum(len(data) for _, data in _read(engine, {"size": STREAM_BYTES}))
        assert size > STREAM_BYTES
        whole.add(time.perf_counter_ns() - start)
    megabytes = STREAM_BYTES / 1e6 / (whole.us(50) / 1e6)
    rows.append(
        row(
            "runtimes", "stream, custom runtime", f"20 MiB, {megabytes:.0f} MB/s", generator="Python", latencies=whole,
            seconds=time.monotonic() - began, errors=0, in_flight=1, payload=STREAM_BYTES,
        )
    )  # fmt: skip
    return rows


def _read(engine: Engine, event: dict[str, int]) -> list[tuple[int, bytes]]:
    """(epoch nanoseconds, bytes) of every read of one streamed answer's body."""
    host, port = engine.host.split(":")
    with socket.create_connection((host, int(port))) as sock:
        body = json.dumps(event).encode()
        path = "/2021-11-15/functions/streamer/response-streaming-invocations"
        head = f"POST {path} HTTP/1.1\r\nHost: {engine.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        reads: list[tuple[int, bytes]] = []
        while True:
            data = sock.recv(1 << 20)
            reads.append((time.time_ns(), data))
            if not data:
                raise http.client.IncompleteRead(b"")
            if data.endswith(b"0\r\n\r\n"):
                return reads
