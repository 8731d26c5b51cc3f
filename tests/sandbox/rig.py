"""Drives a real broker: calls of ``api.Sandbox``, waiting for its events with a deadline, and running source inside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Self

from engine.config import Settings
from engine.sandbox.api import ExitCause, HolderFds, SandboxReport, SpecialiseSpec, ZygoteSpec
from engine.sandbox.interpreters import discover
from engine.sandbox.link import BrokerLink

BOOTSTRAP = Path(__file__).parent / "bootstrap" / "runtime_bootstrap"
DEADLINE_S = 60.0


class Failed(Exception):
    """Source run inside a sandbox raised: ``args`` are type, errno, text."""

    @property
    def errno(self) -> int | None:
        return self.args[1]


class Box:
    """One worker, its channel and its output."""

    def __init__(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        self.id, self.pid, self.peak_file, self.cpu_file = holder_id, pid, fds.peak_file, fds.cpu_file
        self.cpu_before_s = fds.cpu_before_s
        self.endpoint = None if fds.endpoint < 0 else socket.socket(fileno=fds.endpoint)
        self.freezer = fds.freezer
        self.attach(fds, pid)

    def attach(self, fds: HolderFds, pid: int) -> None:
        self.pid = pid
        self.channel, self.output_fd = socket.socket(fileno=fds.channel), fds.output_fd
        self.channel.settimeout(DEADLINE_S)
        self._stream = self.channel.makefile("rwb", buffering=0)
        assert self._line() == "hello"

    def _line(self) -> Any:
        line = self._stream.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def send(self, source: str, *, wait: bool = True) -> None:
        self._stream.write(json.dumps({"source": source, "wait": wait}).encode() + b"\n")

    def run(self, source: str, *, wait: bool = True) -> Any:
        """The value of ``result`` after the source has run inside; with ``wait`` only once the code is mounted."""
        self.send(source, wait=wait)
        answer = self._line()
        if "error" in answer:
            raise Failed(answer["error"], answer["errno"], answer["text"])
        return answer["result"]

    def output(self) -> bytes:
        """What it has printed so far."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.output_fd, 65536)
        return b""

    def detach(self) -> None:
        self._stream.close()
        self.channel.close()
        os.close(self.output_fd)

    def close(self) -> None:
        self.detach()
        if self.endpoint is not None:
            self.endpoint.close()
        if self.freezer is not None:
            self.freezer.close()


class Rig:
    """A broker with one zygote; also the listener. Use as a context manager."""

    def __init__(
        self,
        data_dir: Path,
        level: str = "full",
        *,
        network: str = "isolated",
        bootstrap: Path | None = BOOTSTRAP,
        runtime: str | None = None,
        interpreter: str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        file_systems: dict[str, Any] | None = None,
    ) -> None:
        self.settings = Settings(data_dir=data_dir, sandbox=level, network=network, file_systems=file_systems or {})
        self.events: list[tuple[Any, ...]] = []
        self.loop = loop or asyncio.new_event_loop()
        self.link = BrokerLink(self.loop, self.settings, self, bootstrap_dir=bootstrap)
        known = discover()
        self.key = runtime or ("python3.12" if "python3.12" in known else next(iter(known)))
        self.spec = ZygoteSpec(self.key, self.key, interpreter or known[self.key].path, files=bool(file_systems))
        self.boxes: list[Box] = []
        self.last_id = 0
        self.report: SandboxReport | None = None
        # Whether templates fork by the compiled part, where it was built.
        self.compiled = True

    def __enter__(self) -> Self:
        try:
            self.report = self.loop.run_until_complete(self.link.start())
            self.link.add_zygote(self.spec)
            self.wait("zygote_ready", self.key, also="zygote_failed")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for box in self.boxes:
            with contextlib.suppress(OSError):
                box.close()
        self.loop.run_until_complete(self.link.close())
        self.loop.close()

    def wait(self, kind: str, subject: object = None, *, also: str = "", deadline_s: float = DEADLINE_S) -> tuple[Any, ...]:
        """Remove and return the first such event, running the loop until it is there. An event ``also`` is a failure."""
        until = time.monotonic() + deadline_s
        while True:
            assert not [e for e in self.events if e[0] == also], self.events
            for event in self.events:
                if event[0] == kind and (subject is None or event[1] == subject):
                    self.events.remove(event)
                    return event
            if time.monotonic() > until:
                raise AssertionError(f"no {kind} of {subject}; seen: {self.events}")
            self.loop.run_until_complete(asyncio.sleep(0.002))

    def turn(self, seconds: float) -> None:
        """Let events arrive for a while: only for showing that none does."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def make(self, network: str = "", *, key: str | None = None, template: bool = False) -> Box:
        """An empty holder, in a VPC when a network is named; with a template's key a copy of it."""
        holder_id = self.next_id()
        self.link.make(holder_id, key or self.key, network, template=template)
        _, _, fds, pid = self.wait("holder_ready", holder_id)
        box = Box(holder_id, fds, pid)
        self.boxes.append(box)
        return box

    def instance(self, *, where: str = "", **spec: Any) -> Box:
        """A specialised holder; by default of an empty function without a VPC."""
        box = self.make(where)
        spec.setdefault("code_dir", str(self.code("empty", {})))
        self.link.specialise(box.id, SpecialiseSpec(**spec))
        return box

    def vpc(self, name: str, document: dict[str, Any] | None) -> dict[str, str]:
        """Have a VPC made; what could not be attached."""
        done: list[tuple[dict[str, str], str]] = []
        self.link.vpc(name, document, lambda problems, reason: done.append((problems, reason)))
        end = time.monotonic() + DEADLINE_S
        while not done and time.monotonic() < end:
            self.turn(0.002)
        problems, reason = done[0]
        assert not reason, reason
        return problems

    def code(self, name: str, files: dict[str, str]) -> Path:
        """A code directory with these files."""
        directory = self.settings.data_dir / "code" / name
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text)
        return directory

    def end(self, box: Box) -> None:
        """Kill and wait until it is gone."""
        self.link.kill(box.id)
        self.wait("holder_gone", box.id)
        self.boxes.remove(box)
        box.close()

    def zygote_ready(self, key: str, pid: int) -> None:
        self.events.append(("zygote_ready", key, pid))

    def zygote_failed(self, key: str, reason: str) -> None:
        self.events.append(("zygote_failed", key, reason))

    def holder_ready(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        self.events.append(("holder_ready", holder_id, fds, pid))

    def holder_failed(self, holder_id: int, step: str, reason: str) -> None:
        self.events.append(("holder_failed", holder_id, step, reason))

    def worker_exited(self, holder_id: int, cause: ExitCause) -> None:
        self.events.append(("worker_exited", holder_id, cause))

    def worker_reset(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        self.events.append(("worker_reset", holder_id, fds, pid))

    def holder_gone(self, holder_id: int) -> None:
        self.events.append(("holder_gone", holder_id))

    def broker_lost(self, reason: str) -> None:
        self.events.append(("broker_lost", reason))


def until(condition: Any, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll a condition that no event announces."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0] != b"Z"
    except OSError:
        return False


def free_listener() -> socket.socket:
    """A service of the host on 127.0.0.1."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(DEADLINE_S)
    return sock
