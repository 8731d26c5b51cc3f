"""The real Python worker as a child process on a socket pair, without a sandbox: what is sent and what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.wire import messages as m
from engine.wire.frames import FrameDecoder

ROOT = Path(__file__).resolve().parents[2]
REQUEST = "8f507cfc-4697-455f-9f0e-2d1a1b0c7a55"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:greet"
DEADLINE_MS = 4_102_444_800_000


@dataclass
class Answer:
    """One answer of the worker and the log events before it, as (request id, level, text)."""

    kind: int
    detail: str | None
    payload: bytes
    logs: list[tuple[str | None, int, str]] = field(default_factory=list)
    size: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def lines(self) -> list[str]:
        return [text for _, _, text in self.logs]


class PythonWorker:
    """A worker for the function in ``folder``. ``settings`` go into INIT; ``env`` are the function's variables.

    With ``runtime_dir`` (see ``runtime_directory``) the worker runs as in a sandbox: isolated, from that directory alone.
    """

    def __init__(
        self,
        folder: Path,
        files: dict[str, str | bytes],
        handler: str = "m.f",
        *,
        interpreter: str = sys.executable,
        env: dict[str, str] | None = None,
        preload: tuple[str, ...] = (),
        runtime_dir: Path | None = None,
        **settings: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.folder = folder
        self._decoder = FrameDecoder()
        self._messages: list[list[Any]] = []
        self.socket, theirs = socket.socketpair()
        self.process = self._spawn(interpreter, theirs, preload, runtime_dir)
        theirs.close()
        self.hello = self.read()
        variables = {"PATH": os.environ["PATH"], "TZ": ":UTC", "LANG": "en_US.UTF-8", **(env or {})}
        self._init = {
            "handler": handler, "env": variables, "task_root": str(folder), "opt_root": str(folder / "opt"),
            "function_name": "greet", "function_version": "$LATEST", "memory_mb": 128, "log_group": "/aws/lambda/greet",
            "log_stream": "stream", "init_type": "on-demand", "log_format": "Text", "log_level": None, **settings,
        }  # fmt: skip

    def _spawn(
        self, interpreter: str, theirs: socket.socket, preload: tuple[str, ...], runtime_dir: Path | None
    ) -> subprocess.Popen[bytes]:
        ahead = f"import {', '.join(preload)}; " if preload else ""
        program = (
            f"import sys, socket; sys.path[0] = {str(ROOT)!r}; {ahead}from runtime_bootstrap.python import worker; "
            f"worker.serve(socket.socket(fileno={theirs.fileno()}), lambda: None)"
        )
        if runtime_dir is None:
            command = [interpreter, "-c", program]
        else:
            entry = str(runtime_dir / "runtime_bootstrap" / "python")
            command = [interpreter, "-I", "-S", entry, "--fd", str(theirs.fileno()), "--path", str(runtime_dir)]
        return subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def read(self, timeout_s: float = 30.0) -> list[Any]:
        """The next message. Raises AssertionError when the worker ends or says nothing."""
        self.socket.settimeout(timeout_s)
        while not self._messages:
            data = self.socket.recv(1 << 20)
            if not data:
                status = self.process.wait(10)
                raise AssertionError(f"the worker ended with {status}: {self.process.stderr and self.process.stderr.read()!r}")
            self._messages += [m.unpack(bytes(f)) for f in self._decoder.feed(data)]
        return self._messages.pop(0)

    def start(self) -> Answer:
        """Send INIT; the answer is NEXT or INIT_ERROR."""
        self.socket.sendall(m.pack(m.INIT, self._init))
        return self.answer()

    def answer(self) -> Answer:
        """The next message that is no log event."""
        logs: list[tuple[str | None, int, str]] = []
        while True:
            kind, *rest = self.read()
            if kind == m.LOG:
                request_id, _, level, data = rest
                logs.append((request_id, level, data.decode("utf-8", "replace")))
            elif kind == m.NEXT:
                return Answer(kind, None, b"", logs)
            elif kind == m.INIT_ERROR:
                return Answer(kind, rest[0], rest[1], logs)
            elif kind == m.TOO_LARGE:
                return Answer(kind, None, b"", logs, size=rest[1])
            else:
                request_id, then_next, detail, payload = rest
                assert request_id == REQUEST
                assert then_next is True
                return Answer(kind, detail, payload, logs)

    def send(self, payload: Any = None, *, raw: bytes | None = None, deadline_ms: int = DEADLINE_MS, **context: Any) -> None:
        """Send an INVOKE: ``payload`` as JSON, or ``raw``; ``context``: trace_id, client_context, identity, tenant_id."""
        body = json.dumps(payload).encode() if raw is None else raw
        self.socket.sendall(m.encode_invoke(REQUEST, deadline_ms, m.invoke_tail(ARN, **context), body))

    def invoke(self, payload: Any = None, **options: Any) -> Answer:
        self.send(payload, **options)
        return self.answer()

    def ended(self, timeout_s: float = 20.0) -> int:
        """Wait for the process; its exit status, negative for a signal."""
        return self.process.wait(timeout_s)

    def rest(self) -> list[list[Any]]:
        """Every message until the end of the channel."""
        self.socket.settimeout(20)
        while data := self.socket.recv(1 << 20):
            self._messages += [m.unpack(bytes(f)) for f in self._decoder.feed(data)]
        out, self._messages = self._messages, []
        return out

    def output(self, count: int, timeout_s: float = 10.0) -> bytes:
        """At least ``count`` bytes written to descriptor 1 or 2 behind the worker's streams."""
        pipes = (self.process.stdout, self.process.stderr)
        got = b""
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            for pipe in pipes:
                assert pipe is not None
                selector.register(pipe, selectors.EVENT_READ)
            while len(got) < count and time.monotonic() < deadline_s:
                for key, _ in selector.select(0.1):
                    got += os.read(key.fd, 65536)
        return got

    def close(self) -> None:
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def runtime_directory(target: Path) -> Path:
    """A runtime directory as a sandbox has it: the bootstrap, and in it a private msgpack that any interpreter can import."""
    import msgpack

    leave = shutil.ignore_patterns("__pycache__", "*.so", "_vendor")
    shutil.copytree(ROOT / "runtime_bootstrap", target / "runtime_bootstrap", ignore=leave)
    shutil.copytree(Path(msgpack.__file__).parent, target / "runtime_bootstrap" / "_vendor" / "msgpack", ignore=leave)
    return target


Make = Callable[..., PythonWorker]


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Make]:
    """A maker of workers below ``folder``: ``make(source of m.py or files, handler, ...)``. All are ended at the end."""
    made: list[PythonWorker] = []

    def make(files: dict[str, str | bytes] | str, handler: str = "m.f", **options: Any) -> PythonWorker:
        files = {"m.py": files} if isinstance(files, str) else files
        made.append(PythonWorker(folder / str(len(made)), files, handler, **options))
        return made[-1]

    try:
        yield make
    finally:
        for worker in made:
            worker.close()
