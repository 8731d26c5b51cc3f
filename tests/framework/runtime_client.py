"""AWS's own Python runtime interface client, run against a toy Runtime API: what it answers and logs is what ours must.

The client is installed from PyPI once, into the tests' cache.
"""

from __future__ import annotations

import http.client
import os
import queue
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.framework.packages import cache_dir
from tests.framework.python_worker import ARN, DEADLINE_MS, REQUEST

VERSION = "4.0.1"
# Frame types of its log descriptor: format and level. 0 is text without a level.
_LEVELS = {0x03: 0, 0x02: 0, 0x0B: 2, 0x0A: 2, 0x0F: 3, 0x0E: 3, 0x13: 4, 0x12: 4, 0x17: 5, 0x16: 5, 0x1B: 6, 0x1A: 6}


def installed() -> Path:
    """The directory that holds the client and what it needs."""
    target = cache_dir() / f"awslambdaric-{VERSION}-{sys.implementation.cache_tag}"
    if not target.is_dir():
        building = target.with_name(f"{target.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(building)]
        subprocess.run([*command, f"awslambdaric=={VERSION}"], check=True, timeout=300)
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


@dataclass(frozen=True)
class Said:
    """One call to the Runtime API: ``response``, ``error`` or ``init/error``."""

    kind: str
    error_type: str | None
    content_type: str | None
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """Everything a run left: calls, log events (level, text), what was printed, and the exit status (None: killed waiting)."""

    said: list[Said]
    events: list[tuple[int, str]]
    printed: str
    status: int | None


# The client sends whole stacks in one header line, of up to 1 MiB.
http.client._MAXLINE = 1 << 21  # type: ignore[attr-defined]


class _Api(ThreadingHTTPServer):
    daemon_threads = True
    said: list[Said]
    events: list[tuple[bytes, dict[str, str]]]
    idle: queue.SimpleQueue[None]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Api

    def do_GET(self) -> None:
        if not self.server.events:
            self.server.idle.put(None)
            threading.Event().wait(60)
            return
        body, headers = self.server.events.pop(0)
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length")
        body = self.rfile.read(int(size)) if size else self._chunks()
        kind = "init/error" if self.path.endswith("init/error") else self.path.rsplit("/", 1)[1]
        self.server.said.append(
            Said(kind, self.headers.get("Lambda-Runtime-Function-Error-Type"), self.headers.get("Content-Type"), body)
        )
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _chunks(self) -> bytes:
        out = b""
        while size := int(self.rfile.readline(), 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def log_message(self, format: str, *args: Any) -> None:
        pass


def run(folder: Path, handler: str, events: list[tuple[bytes, dict[str, str]]], env: dict[str, str]) -> Outcome:
    """Run the function in ``folder`` for ``events`` (body, context headers) and end it when it waits for more."""
    api = _Api(("127.0.0.1", 0), _Handler)
    api.said = []
    api.idle = queue.SimpleQueue()
    api.events = [(body, _headers(context)) for body, context in events]
    thread = threading.Thread(target=api.serve_forever, daemon=True)
    thread.start()
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "awslambdaric", handler],
        cwd=folder,
        pass_fds=[writing],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **env,
            "PYTHONPATH": f"{folder}:{installed()}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_address[1]}",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python3.{sys.version_info.minor}",
            "_LAMBDA_TELEMETRY_LOG_FD": str(writing),
        },
    )
    os.close(writing)
    ended = threading.Thread(target=lambda: (process.wait(), api.idle.put(None)), daemon=True)
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()))
    frames: list[bytes] = []
    framer = threading.Thread(target=lambda: frames.append(_drain(reading)))
    for helper in (ended, reader, framer):
        helper.start()
    api.idle.get(timeout=60)
    status = process.poll()
    process.kill()
    process.wait()
    reader.join()
    framer.join()
    process.stdout.close()
    api.shutdown()
    api.server_close()
    return Outcome(api.said, _events(frames[0]), output[0].decode("utf-8", "replace"), status)


def _drain(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _headers(context: dict[str, str]) -> dict[str, str]:
    names = {
        "trace_id": "Lambda-Runtime-Trace-Id",
        "client_context": "Lambda-Runtime-Client-Context",
        "identity": "Lambda-Runtime-Cognito-Identity",
        "tenant_id": "Lambda-Runtime-Aws-Tenant-Id",
    }
    return {
        "Lambda-Runtime-Aws-Request-Id": REQUEST,
        "Lambda-Runtime-Deadline-Ms": str(DEADLINE_MS),
        "Lambda-Runtime-Invoked-Function-Arn": ARN,
        "Content-Type": "application/json",
        **{names[k]: v for k, v in context.items()},
    }


def _events(data: bytes) -> list[tuple[int, str]]:
    out = []
    while data:
        assert data[:3] == b"\xa5\x5a\x00"
        size = int.from_bytes(data[4:8], "big")
        out.append((_LEVELS[data[3]], data[16 : 16 + size].decode()))
        data = data[16 + size :]
    return out


def plain(text: str) -> str:
    """``text`` without what differs between any two runs: times, depths and what was done there, and the name and lines of the runtime's own files."""
    text = re.sub(r"repeated \d+ more times", "repeated", text)
    text = re.sub(r"(recursion depth exceeded) while \w+ing an? \w+ object", r"\1", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", "TIME", text)
    return re.sub(r'File (\\?")[^"]*/(bootstrap|worker|handler)\.py\1, line \d+, in \w+(\\n|\n)[^\n"]*', "File RUNTIME", text)
