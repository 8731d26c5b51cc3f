"""A real engine as a child process, on a free port and in a directory of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from engine.config import load

ROLE = "arn:aws:iam::000000000000:role/lambda"
SYSTEM_PYTHON = "/usr/bin/python3"
OWN_RUNTIME = f"python3.{sys.version_info.minor}"


def zip_of(files: Mapping[str, str | bytes], *, executable: bool = False) -> bytes:
    """A deployment package of the given files, each of them ``executable`` or none; scripts (``#!``) always are."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            script = content[:2] in ("#!", b"#!")
            info.external_attr = (0o755 if executable or script else 0o644) << 16
            archive.writestr(info, content)
    return out.getvalue()


def url_host(url: str) -> str:
    """The ``Host`` by which a request anywhere is for this function URL, which names it by its host or by its path."""
    parts = urlsplit(url)
    named = re.fullmatch(r"/_url/(\w{32})/", parts.path)
    return f"{named[1]}.lambda-url.us-east-1.localhost:{parts.port}" if named else parts.netloc


class Engine:
    """One running engine. ``settings`` are the engine's, by their names. ``uid``: whom it runs as, if not who runs the tests. ``descriptors``: how many
    a process of it has and may have.
    """

    def __init__(self, data_dir: Path, *, uid: int | None = None, descriptors: tuple[int, int] | None = None, **settings: Any) -> None:
        self.data_dir = data_dir
        self.uid = uid
        self.descriptors = descriptors
        # Functions of the default size get a fourteenth of a core; what that does is tested where it is the subject.
        self.settings = {"port": 0, "pool_size": 2, "cpu_quota": False, **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.log = data_dir.parent / f"{data_dir.name}.stderr"

    def start(self, timeout_s: float = 60.0) -> Engine:
        """Start and wait until it is ready."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LAMBDA_ENGINE_", "AWS_"))}
        env["LAMBDA_ENGINE_DATA_DIR"] = str(self.data_dir)
        for name, value in self.settings.items():
            env[f"LAMBDA_ENGINE_{name.upper()}"] = json.dumps(value) if isinstance(value, dict) else str(value)
        ports = self.data_dir.parent / f"{self.data_dir.name}.port"
        ports.unlink(missing_ok=True)
        env["LAMBDA_ENGINE_PORT_FILE"] = str(ports)
        python = sys.executable
        who: dict[str, Any] = {}
        if self.uid is not None:
            python, who = self._as_user(env)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._limited(), python, "-m", "engine.cli.main", "serve"], env=env, stdout=log, stderr=log, start_new_session=True, **who
            )
        deadline_s = time.monotonic() + timeout_s
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"the engine ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
            if ports.exists() and (text := ports.read_text().strip()):
                self.url = text
                if self.get("/readyz")[0] == 200:
                    return self
            if time.monotonic() > deadline_s:
                raise AssertionError(f"the engine is not ready: {self.ready_text()}\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def _limited(self) -> list[str]:
        """What starts the engine's program with its limit of descriptors."""
        if self.descriptors is None:
            return []
        set_it = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2]))); os.execv(sys.argv[3], sys.argv[3:])"
        return [sys.executable, "-c", set_it, *map(str, self.descriptors)]

    def _as_user(self, env: dict[str, str]) -> tuple[str, dict[str, Any]]:
        """The system's interpreter with this one's packages, since root's home is closed to others; and whom to become."""
        assert self.uid is not None
        home = self.data_dir.parent
        os.chown(home, self.uid, self.uid)
        env["HOME"] = str(home)
        packages = [str(Path(__file__).parent.parent.parent), *(p for p in sys.path if "site-packages" in p)]
        env["PYTHONPATH"] = os.pathsep.join(packages)
        return SYSTEM_PYTHON, {"user": self.uid, "group": self.uid, "extra_groups": [], "cwd": "/"}

    def run_dir(self) -> Path:
        """Where its sockets are: elsewhere than in the data directory when that has a long name, as below a long TMPDIR."""
        return load(data_dir=self.data_dir).run_dir()

    def ready_text(self) -> str:
        return self.get("/readyz")[1].decode() if self.url else "no port yet"

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET; status 0 while nothing answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()
        except OSError:
            return 0, b""

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/_engine/state")[1]))

    def client(self, service: str = "lambda", **options: Any) -> Any:
        """A boto3 client for this engine; no retries, so that tests see what the engine answers."""
        config = Config(retries={"total_max_attempts": 1}, read_timeout=120, max_pool_connections=128, **options.pop("config", {}))
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", **options}
        # Any: the stubs have one overload per service, and the service is a variable.
        make: Any = boto3.client
        return make(service, endpoint_url=self.url, region_name="us-east-1", config=config, **keys)

    def deploy(self, name: str, files: Mapping[str, str | bytes] | bytes, handler: str = "m.f", **settings: Any) -> dict[str, Any]:
        """Create a function and wait until it is active."""
        client = self.client()
        code = files if isinstance(files, bytes) else zip_of(files)
        settings = {"Runtime": OWN_RUNTIME, **settings}
        answer = client.create_function(FunctionName=name, Role=ROLE, Handler=handler, Code={"ZipFile": code}, **settings)
        client.get_waiter("function_active_v2").wait(FunctionName=name)
        return dict(answer)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 40.0) -> int:
        """Signal the engine and wait for its end; the exit status. Idempotent."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the engine did not end:\n{self.log.read_text()[-4000:]}") from None
        self.process = None
        return status


@contextlib.contextmanager
def engine(*, uid: int | None = None, descriptors: tuple[int, int] | None = None, **settings: Any) -> Iterator[Engine]:
    """A ready engine in a temporary directory, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="le-") as folder:
        running = Engine(Path(folder) / "data", uid=uid, descriptors=descriptors, **settings)
        try:
            yield running.start()
        finally:
            running.stop()
