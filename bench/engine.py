"""An engine to measure: started for the occasion with its own data directory and port, or one that already runs."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config

from engine.config import load as load_settings
from engine.errors import ConfigurationError

ACCESS_KEY = "AKIDBENCHBENCHBENCH0"
SECRET = "bench-secret-key-that-guards-nothing"
REGION = "us-east-1"
ROLE = "arn:aws:iam::000000000000:role/bench"
# The engine is what is measured here: with less, the CPU quota of the function would be.
ONE_VCPU = 1769
_ROOT = Path(__file__).parents[1]
_START_S = 90.0
_STOP_S = 40.0

ECHO = {"app.py": b"def handler(event, context):\n    return event\n"}
# Answers 1 in an instance that was never used before, so that a sample can prove it was cold.
COUNT = {
    "app.py": b"N = 0\n\n\ndef handler(event, context):\n    global N\n    N += 1\n    return N\n",
}
SLEEP = {
    "app.py": b"import time\n\nN = 0\n\n\ndef handler(event, context):\n    global N\n    N += 1\n    time.sleep(event)\n    return N\n",
}


def zipped(files: dict[str, bytes]) -> bytes:
    """A deployment package of these files; the same bytes each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return out.getvalue()


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Engine:
    """A running engine. ``host`` is host:port of HTTP, ``binary`` the Unix socket or host:port of the frame protocol.

    ``pid`` and ``data_dir`` are the server's when this process started it. ``runtime`` is the Lambda runtime the functions use.
    """

    host: str
    binary: str | None
    auth: bool
    pid: int | None
    runtime: str = ""
    data_dir: Path | None = None
    _names: set[str] = field(default_factory=set)

    def client(self) -> Any:
        """A boto3 Lambda client."""
        config = Config(retries={"max_attempts": 1}, read_timeout=120, max_pool_connections=16)
        return boto3.client(
            "lambda",
            endpoint_url=f"http://{self.host}",
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
            config=config,
        )

    def path(self, function: str) -> str:
        """URL path that invokes ``function``."""
        return f"/2015-03-31/functions/{function}/invocations"

    def deploy(self, name: str, package: bytes | str, **settings: Any) -> None:
        """Create a function from a zip, or from an imported image by its address, and wait until it is active."""
        self.deploy_many([name], package, **settings)

    def deploy_many(self, names: list[str], package: bytes | str, **settings: Any) -> None:
        """Create many functions of one package; waits for the last only."""
        client = self.client()
        if not self.runtime:
            self.runtime = self._pick_runtime()
        given: dict[str, Any] = {"Timeout": 60, "MemorySize": ONE_VCPU}
        if isinstance(package, str):
            given |= {"PackageType": "Image", "Code": {"ImageUri": package}}
        else:
            given |= {"Handler": "app.handler", "Runtime": self.runtime, "Code": {"ZipFile": package}}
        for name in names:
            client.create_function(FunctionName=name, Role=ROLE, **{**given, **settings})
            self._names.add(name)
        client.get_waiter("function_active_v2").wait(FunctionName=names[-1], WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    def clean(self) -> None:
        """Delete every function this object created."""
        client = self.client()
        for name in self._names:
            with contextlib.suppress(client.exceptions.ResourceNotFoundException):
                client.delete_function(FunctionName=name)
        self._names.clear()

    def get(self, path: str) -> tuple[int, bytes]:
        """Plain GET on the HTTP port."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        """The engine's own dump."""
        document: dict[str, Any] = json.loads(self.get("/_engine/state")[1])
        return document

    def settle(self, *, instances: int | None = None, stock: bool = True, timeout_s: float = 60.0) -> None:
        """Wait until the pool is full and no zygote or holder is being made (and, when given, until so many instances are left).

        ``stock`` False: it is an engine that keeps none.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            state = self.state()
            pools = state.get("pool", {}).values()
            calm = all(not p.get("making") for p in pools) and (not stock or any(p.get("ready") for p in pools))
            if calm and (instances is None or len(state.get("instances", [])) <= instances):
                return
            time.sleep(0.05)
        raise TimeoutError(f"the engine did not settle in {timeout_s} s: {self.get('/_engine/state')[1][:400]!r}")

    def processes(self) -> list[psutil.Process]:
        """The server and everything under it; empty for an engine this process did not start."""
        if self.pid is None:
            return []
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far of the supervisor alone, and of the whole tree now alive."""
        own = total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
                if process.pid == self.pid:
                    own = times.user + times.system
        return own, total

    def _pick_runtime(self) -> str:
        """The runtime of this interpreter's version if the engine has it, else any it has."""
        status, body = self.get("/_engine/version")
        known = json.loads(body).get("runtimes", {}) if status == http.HTTPStatus.OK else {}
        own = f"python3.{sys.version_info.minor}"
        pythons = [name for name in known if name.startswith("python")]
        return own if own in pythons or not pythons else max(pythons, key=lambda name: int(name.rpartition(".")[2]))


@contextlib.contextmanager
def started(directory: Path, *, auth: bool = False, root: Path = _ROOT, **settings: object) -> Iterator[Engine]:
    """An engine of our own on a free port, gone afterwards. Settings are passed through its environment; ``root`` holds its code.

    Raises RuntimeError with the end of its log when it does not become ready.
    """
    port = free_port()
    data_dir = directory / f"data-{port}"
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAMBDA_ENGINE_")}
    # Without Lambda's ten requests per second and unit of concurrency, which would be all that is measured.
    given: dict[str, object] = {"port": port, "data_dir": data_dir, "log_level": "warning", "request_rate": 0, **settings}
    if auth:
        given |= {"auth": "sigv4", "access_keys": json.dumps({ACCESS_KEY: SECRET})}
    env.update({f"LAMBDA_ENGINE_{k.upper()}": str(v) for k, v in given.items()})
    log_path = directory / f"engine-{port}.log"
    words = [sys.executable, "-c", "from engine.cli.main import main; main()", "serve"]
    with log_path.open("wb") as log:
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log, cwd=root, start_new_session=True)
    try:
        engine = Engine(f"127.0.0.1:{port}", str(load_settings(data_dir=data_dir, port=port).run_dir() / "engine.sock"), auth, process.pid)
        engine.data_dir = data_dir
        _wait_ready(engine, process, log_path)
        yield engine
    finally:
        _stop(process)


def attached(endpoint: str, binary: str | None, *, auth: bool) -> Engine:
    """An engine that already runs at ``endpoint`` (http://host:port). Raises ConfigurationError when it does not answer."""
    engine = Engine(endpoint.removeprefix("http://").rstrip("/"), binary, auth, None)
    try:
        status, _ = engine.get("/readyz")
    except OSError as e:
        raise ConfigurationError(f"--endpoint {endpoint}: {e}") from e
    if status != http.HTTPStatus.OK:
        raise ConfigurationError(f"--endpoint {endpoint}: /readyz answers {status}")
    return engine


def _wait_ready(engine: Engine, process: subprocess.Popen[bytes], log_path: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if engine.get("/readyz")[0] == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        time.sleep(0.05)
    tail = log_path.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"the engine did not become ready (exit status {process.poll()}):\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
