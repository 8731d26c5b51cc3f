"""The agent in a process of its own, without a sandbox: frames on one side, HTTP on the other, whatever program as the runtime."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from engine.wire import messages as m
from engine.wire.frames import FrameDecoder

ROOT = Path(__file__).resolve().parents[2]
_BOOT = (
    "import socket, sys; sys.path.insert(0, sys.argv[1]); from runtime_bootstrap.agent import agent; "
    "import os; os.chdir(sys.argv[3]); agent.serve(socket.socket(fileno=int(sys.argv[2])), lambda: None)"
)
ID = "11111111-2222-4333-8444-555555555555"
BASE = "/2018-06-01/runtime"
# Takes connections on a Unix socket and carries each to the API.
FORWARD = """
import ctypes, os, socket, sys, threading
ctypes.CDLL(None).prctl(1, 9)
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
def copy(a, b):
    try:
        while data := a.recv(1 << 18): b.sendall(data)
    except OSError: pass
    try: b.shutdown(socket.SHUT_WR)
    except OSError: pass
while True:
    client, _ = listener.accept()
    api = socket.create_connection((host, int(port)))
    threading.Thread(target=copy, args=(client, api), daemon=True).start()
    threading.Thread(target=copy, args=(api, client), daemon=True).start()
"""


class AgentProcess:
    """The supervisor's end of one agent."""

    def __init__(self, task_root: Path, init: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        self.sock = ours
        self.sock.settimeout(30)
        command = [sys.executable, "-I", "-S", "-c", _BOOT, str(ROOT), str(theirs.fileno()), str(task_root)]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
        theirs.close()
        self._decoder = FrameDecoder()
        self._frames: list[bytes] = []
        assert self.receive()[0] == m.HELLO
        env = {"PATH": os.environ["PATH"], **init.pop("env", {})}
        self.send(m.pack(m.INIT, {"env": env, "task_root": str(task_root), "opt_root": str(task_root / "opt"), **init}))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> list[Any]:
        """The next message's parts. Raises EOFError at the end."""
        while not self._frames:
            data = self.sock.recv(1 << 20)
            if not data:
                raise EOFError
            self._frames = self._decoder.feed(data)
        return m.unpack(self._frames.pop(0))

    def invoke(self, request_id: str, payload: bytes = b"{}", **options: Any) -> None:
        self.send(m.encode_invoke(request_id, 1_900_000_000_000, m.invoke_tail("arn:aws:lambda:x", **options), payload))

    def close(self) -> int:
        """End the agent and what it started; outside a sandbox nobody else does."""
        started = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.sock.close()
        self.process.kill()
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return self.process.wait()


@contextlib.contextmanager
def agent(task_root: Path, **init: Any) -> Iterator[AgentProcess]:
    """A running agent, told its function."""
    running = AgentProcess(task_root, init)
    try:
        yield running
    finally:
        running.close()


class Connection(http.client.HTTPConnection):
    """HTTP to the agent, through the forwarder."""

    def __init__(self, path: Path) -> None:
        super().__init__("api", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        deadline_s = time.monotonic() + 30
        while True:
            try:
                self.sock.connect(str(self.path))
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)
            else:
                return


class Rig:
    """The agent and one client of its API."""

    def __init__(self, process: AgentProcess, path: Path) -> None:
        self.agent = process
        self.path = path
        self.http = Connection(path)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        self.http.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = self.http.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def ask_next(self) -> None:
        self.http.request("GET", f"{BASE}/invocation/next")

    def event(self) -> tuple[dict[str, str], bytes]:
        answer = self.http.getresponse()
        assert answer.status == 200
        return {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def running(self, payload: bytes = b"{}", **options: Any) -> tuple[dict[str, str], bytes]:
        """As far as a delivered event."""
        self.ask_next()
        assert self.agent.receive() == [m.NEXT]
        self.agent.invoke(ID, payload, **options)
        return self.event()

    def refused(self, status: int, error_type: str, answer: tuple[int, dict[str, str], bytes]) -> str:
        assert answer[0] == status
        assert answer[1]["content-type"] == "application/json"
        body = json.loads(answer[2])
        assert body["errorType"] == error_type
        return str(body["errorMessage"])


@contextlib.contextmanager
def rigged(folder: Path, **init: Any) -> Iterator[Rig]:
    """An agent whose runtime is the forwarder, and a client of its API."""
    path = folder / "s"
    command = [os.path.realpath(sys.executable), "-I", "-S", "-c", FORWARD, str(path)]
    with agent(folder, command=command, **init) as process:
        rig = Rig(process, path)
        yield rig
        rig.http.close()
