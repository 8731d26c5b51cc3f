"""An engine in a child process: a free port, a directory of its own, gone at the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config import ENV_PREFIX, load

START_S = 120.0
STOP_S = 40.0
ASK_S = 300.0
# What suits tests: sandboxes for a few functions, mappings that change quickly, no waiting for a retry, whole processors.
DEFAULTS: dict[str, Any] = {"port": 0, "pool_size": 2, "event_poll_s": 1, "async_retry_base_s": 0.1, "cpu_quota": False, "drain_s": 1}


class EngineFailed(RuntimeError):
    """The engine did not start, or did not do what it was asked; with the end of its log."""


class Server:
    """A running engine. ``settings`` are the engine's, by their names."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "engine.log"
        self.url = ""
        self._settings = {**DEFAULTS, **settings}
        self._port_file = folder / "url"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it takes invocations. Raises EngineFailed."""
        env = {k: v for k, v in os.environ.items() if not k.startswith((ENV_PREFIX, "AWS_"))}
        given = {**self._settings, "data_dir": self.data_dir, "port_file": self._port_file}
        env |= {f"{ENV_PREFIX}{k.upper()}": json.dumps(v) if isinstance(v, dict) else str(v) for k, v in given.items()}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.cli.main", "serve"], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None:
                raise EngineFailed(f"the engine ended with {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise EngineFailed(f"the engine was not ready within {START_S:g} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_tail(self) -> str:
        """The end of what the engine logged."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def ask(self, method: str, path: str, document: Any = None) -> dict[str, Any]:
        """A request over the engine's own socket. Raises EngineFailed with its reason."""
        connection = _Socket(str(load(data_dir=self.data_dir).run_dir() / "http.sock"))
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            answer = connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise EngineFailed(str(found.get("message", found)))
        return found

    def _ready(self) -> bool:
        if not self._port_file.exists() or not (url := self._port_file.read_text().strip()):
            return False
        self.url = url
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:  # noqa: S310 - the engine's own URL
                return bool(answer.status == 200)
        except urllib.error.HTTPError as e:
            e.close()
            return False
        except OSError:
            return False


class _Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=ASK_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ASK_S)
        self.sock.connect(self._path)


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Server]:
    """A started engine in a temporary directory, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="lambda-engine-") as folder:
        server = Server(Path(folder), **settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()
