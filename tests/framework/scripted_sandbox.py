"""A sandbox whose workers do what the test says, over real sockets: the port of ``engine.sandbox.api`` without processes.

For faults and times that a real worker produces only slowly or by chance. Whatever can be shown with real processes is shown
with them elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from engine.sandbox.api import Cause, ExitCause, HolderFds, SandboxListener, SpecialiseSpec, ZygoteSpec
from engine.sandbox.freezer import SignalFreezer
from engine.wire import messages
from engine.wire.frames import FrameDecoder

Behaviour = Callable[["ScriptedWorker", messages.Invoke], None]


class ScriptedWorker:
    """The worker's end of one channel."""

    def __init__(self, sandbox: ScriptedSandbox, holder_id: int, sock: socket.socket, output: int) -> None:
        self.sandbox = sandbox
        self.holder_id = holder_id
        self.sock = sock
        self.output = output
        self.inits = 0
        self.decoder = FrameDecoder()
        sock.setblocking(False)
        sandbox.loop.add_reader(sock.fileno(), self._readable)
        self.send(messages.pack(messages.HELLO, messages.VERSION, {"runtime": "scripted"}))

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    def pending(self) -> int:
        """Bytes in its socket that it has not read yet."""
        return len(self.sock.recv(1 << 20, socket.MSG_PEEK))

    def respond(self, event: messages.Invoke, payload: bytes) -> None:
        self.send(messages.encode_reply(messages.RESPONSE, event.request_id, payload))

    def log(self, text: bytes) -> None:
        self.send(messages.pack(messages.LOG, None, 1_700_000_000_000_000, 0, text))

    def _readable(self) -> None:
        try:
            data = self.sock.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for body in self.decoder.feed(data):
            kind = messages.kind(body)
            if kind == messages.INIT:
                self.inits += 1
                self.sandbox.inits += 1
                self.sandbox.told.append(messages.unpack(body)[1])
                self.sandbox.on_init(self)
            elif kind == messages.RESTORE:
                self.sandbox.restores += 1
                self.sandbox.restored.append(messages.unpack(body)[1])
                self.sandbox.on_restore(self)
            elif kind == messages.INVOKE:
                self.sandbox.on_invoke(self, messages.decode_invoke(body))

    def die(self, cause: Cause = Cause.EXITED, status: int = 1) -> None:
        """End as a process would: the socket closes, then the broker tells."""
        self.close()
        self.sandbox.loop.call_soon(self.sandbox.listener.worker_exited, self.holder_id, ExitCause(cause, status))

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.sandbox.loop.remove_reader(self.sock.fileno())
            self.sock.close()
            os.close(self.output)


class ScriptedSandbox:
    """Implements ``Sandbox``. ``on_init`` and ``on_invoke`` are the script; by default a worker initialises and echoes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.listener: SandboxListener
        self.workers: dict[int, ScriptedWorker] = {}
        self.specialised: dict[int, SpecialiseSpec] = {}
        self.made: list[int] = []
        self.hurried: list[int] = []
        self.killed: list[int] = []
        self.resets: list[int] = []
        self.templates: dict[str, int] = {}
        self.dropped: list[str] = []
        self.capped: list[int] = []
        self.freezes: list[str] = []
        self.on_thaw: Callable[[ScriptedWorker], None] = lambda _worker: None
        self.inits = 0
        self.restores = 0
        self.told: list[Any] = []
        self.restored: list[Any] = []
        self.refuse: str | None = None
        self.zygote_fails: str | None = None
        self.on_init: Callable[[ScriptedWorker], None] = lambda w: w.send(messages.pack(messages.NEXT))
        self.on_restore: Callable[[ScriptedWorker], None] = lambda w: w.send(messages.pack(messages.NEXT))
        self.on_invoke: Behaviour = lambda w, e: w.respond(e, e.payload)

    def _fds(self, holder_id: int) -> HolderFds:
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        os.set_blocking(read, False)
        self.workers[holder_id] = ScriptedWorker(self, holder_id, theirs, write)
        return HolderFds(ours.detach(), read, -1, SignalFreezer(lambda frozen: self._freeze(holder_id, frozen)))

    def _freeze(self, holder_id: int, frozen: bool) -> None:
        self.freezes.append(f"{'freeze' if frozen else 'thaw'} {holder_id}")
        if not frozen:
            self.on_thaw(self.workers[holder_id])

    def add_zygote(self, spec: ZygoteSpec) -> None:
        if self.zygote_fails is not None:
            self.loop.call_soon(self.listener.zygote_failed, spec.key, self.zygote_fails)
        else:
            self.loop.call_soon(self.listener.zygote_ready, spec.key, 1)

    def declare_template(self, key: str, holder_id: int) -> None:
        self.templates[key] = holder_id
        self.loop.call_soon(self.listener.zygote_ready, key, 1)

    def drop_template(self, key: str) -> None:
        self.dropped.append(key)
        self.loop.call_soon(self.listener.zygote_failed, key, "dropped")

    def make(self, holder_id: int, zygote_key: str, network: str = "", *, template: bool = False, hurried: bool = False) -> None:
        self.made.append(holder_id)
        if hurried:
            self.hurried.append(holder_id)
        if self.refuse is not None:
            self.loop.call_soon(self.listener.holder_failed, holder_id, "clone", self.refuse)
            self.loop.call_soon(self.listener.holder_gone, holder_id)
            return
        self.loop.call_soon(lambda: self.listener.holder_ready(holder_id, self._fds(holder_id), os.getpid()))

    def vpc(self, name: str, document: dict[str, Any] | None, then: Callable[[dict[str, str], str], None]) -> None:
        self.loop.call_soon(then, {}, "")

    def specialise(self, holder_id: int, spec: SpecialiseSpec) -> None:
        self.specialised[holder_id] = spec

    def initialised(self, holder_id: int) -> None:
        self.capped.append(holder_id)

    def reset(self, holder_id: int) -> None:
        self.resets.append(holder_id)
        self.workers[holder_id].close()
        self.loop.call_soon(lambda: self.listener.worker_reset(holder_id, self._fds(holder_id), os.getpid()))

    def kill(self, holder_id: int) -> None:
        self.killed.append(holder_id)
        if holder_id in self.workers:
            self.workers.pop(holder_id).close()
        self.loop.call_soon(self.listener.holder_gone, holder_id)

    def lose(self, holder_id: int) -> None:
        """The whole sandbox ends by itself."""
        self.workers.pop(holder_id).close()
        self.loop.call_soon(self.listener.holder_gone, holder_id)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
