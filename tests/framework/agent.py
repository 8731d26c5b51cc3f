"""The agent in a process of its own, without a sandbox: frames on one side, HTTP on the other, whatever program as the runtime."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
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
