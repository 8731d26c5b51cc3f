"""The agent: one process in the sandbox that stands between a runtime process and the supervisor.

Theory of operation. The agent is what a holder's worker becomes when the function does not speak frames. It is forked, locked down and
listening before anybody knows which function it will serve; INIT tells it. Then extensions start, register, and the runtime starts; its
first ``next``, with one from every extension, is NEXT. An INVOKE is handed to the runtime and to extensions; the runtime's answer goes
up at once, and NEXT follows when the runtime and every extension have asked for more. The runtime's end is the agent's end, with the
same status, so that the supervisor sees no difference between a worker of ours and a stranger's program.

The agent runs as the function's user and holds nothing but the function's own channel: a function that kills it or lies to it has
killed its own instance or lied about its own invocation. It is not dumpable, so other processes cannot read or change its memory.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import Any, Callable, NoReturn, Optional

from runtime_bootstrap import packing
from runtime_bootstrap.agent import link as frames
from runtime_bootstrap.agent import output as outputs
from runtime_bootstrap.agent import peers
from runtime_bootstrap.agent.http import Connection, Exchange, Sink
from runtime_bootstrap.agent.link import INVOKE, MAX_PAYLOAD, SHUTDOWN, Invoke, Link
from runtime_bootstrap.agent.loop import Loop
from runtime_bootstrap.agent.processes import Process, end_like, error_text
from runtime_bootstrap.agent.runtime import INVOCATION, Events, Runtime, platform_document

PORT = 9001
_BACKLOG = 64
# Error documents and subscriptions; a response has its own limit.
_MAX_CALL = 1024 * 1024
# After it has reported a failed init a runtime should end by itself.
_AFTER_INIT_ERROR_S = 0.5
_PR_SET_DUMPABLE = 4


class Agent(Events):
    """One instance. ``shared``: the network is not the sandbox's own."""

    def __init__(self, loop: Loop, sock: socket.socket, listener: socket.socket, init: "dict[str, Any]", *, shared: bool) -> None:
        self.loop = loop
        self.init = init
        self.env: "dict[str, str]" = init["env"]
        self.link = Link(loop, sock, self._on_frame)
        self.runtime = Runtime(self.link, self)
        self._shared = shared
        self._listener = listener
        self._process: Optional[Process] = None
        self._output: Optional[outputs.Output] = None
        self._least_level = 0
        self._failed_init = False
        listener.setblocking(False)
        loop.watch(listener.fileno(), lambda _mask: self._accept())

    # HTTP

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if self._shared and not peers.is_ours(sock, peers.descendants(os.getpid())):
            sock.close()
            return
        Connection(self.loop, sock, self._begin, self._whole, self._cap)

    def _begin(self, exchange: Exchange) -> Optional[Sink]:
        if exchange.method == b"POST" and exchange.path.startswith(INVOCATION) and exchange.path.endswith(b"/response"):
            return self.runtime.response(exchange)
        return None

    @staticmethod
    def _cap(exchange: Exchange) -> int:
        return MAX_PAYLOAD if exchange.path.startswith(INVOCATION) else _MAX_CALL

    def _whole(self, exchange: Exchange, body: bytes) -> None:
        path, method = exchange.path, exchange.method
        if path == b"/2018-06-01/runtime/invocation/next":
            if method == b"GET":
                self.runtime.next(exchange)
                return
        elif method == b"POST" and path.startswith(INVOCATION) and path.endswith(b"/error"):
            self.runtime.error(exchange, body)
            return
        elif path == b"/2018-06-01/runtime/init/error" and method == b"POST":
            self.runtime.init_error(exchange, body)
            return
        elif path == b"/2018-06-01/ping" and method == b"GET":
            exchange.reply(200, b"pong", "text/plain")
            return
        exchange.reply(404, b"404 page not found\n", "text/plain")

    # Frames

    def _on_frame(self, parts: "list[Any]") -> None:
        kind = parts[0]
        if kind == INVOKE:
            self.runtime.begin(Invoke(parts))
        elif kind == SHUTDOWN:
            self._shut_down()

    def _shut_down(self) -> NoReturn:
        """Without extensions a function gets no warning: the supervisor ends the sandbox."""
        self.link.settle()
        os._exit(0)

    # Life

    def start(self) -> None:
        """Start the runtime."""
        env = self.env
        if (self.init.get("log_format") or "") == "JSON":
            self._least_level = outputs.LEVELS.get((self.init.get("log_level") or "").upper(), 0)
            self._output = outputs.Output(self.loop, self._on_line)
        try:
            argv = self._command()
            writer = -1 if self._output is None else self._output.writer
            self._process = Process(self.loop, argv, env, writer, self._runtime_exited)
        except OSError as e:
            self._refuse("Runtime.InvalidEntrypoint", "fork/exec %s: %s" % (e.filename or "runtime", error_text(e)))
        except LookupError as e:
            self._refuse("Runtime.InvalidEntrypoint", str(e.args[0]))

    def _command(self) -> "list[str]":
        """The program to run. Raises LookupError with AWS's text when there is none."""
        command = self.init.get("command")
        if command:
            wrapper = self.env.get("AWS_LAMBDA_EXEC_WRAPPER")
            return [wrapper, *command] if wrapper else list(command)
        task_root = self.init.get("task_root") or "/var/task"
        opt_root = self.init.get("opt_root") or "/opt"
        for path in (task_root + "/bootstrap", opt_root + "/bootstrap"):
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return [path]
        raise LookupError("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]")

    def _refuse(self, error_type: str, text: str) -> NoReturn:
        """The function cannot start."""
        self.link.init_error(error_type, platform_document(error_type, self.init.get("request_id"), text))
        self.link.settle()
        os._exit(1)

    def _on_line(self, line: bytes) -> None:
        level = outputs.level_of(line)
        if level is not None and level < self._least_level:
            return
        invoke = self.runtime.invoke
        self.link.log(None if invoke is None else invoke.request_id, level or 0, line)

    def _runtime_exited(self, status: int) -> None:
        # What it sent before it ended counts.
        self.loop.drain()
        if self._output is not None:
            self._output.settle()
        self.link.settle()
        end_like(status)

    # What the runtime did

    def runtime_ready(self) -> None:
        self.link.next()

    def runtime_answered(self, invoke: Invoke, size: int, error_type: Optional[str]) -> None:
        if self._output is not None:
            self._output.drain()

    def runtime_done(self, invoke: Invoke) -> None:
        self.link.next()

    def runtime_init_error(self, error_type: str, document: bytes) -> None:
        if self._output is not None:
            self._output.drain()
        self.link.init_error(error_type, document)
        self.loop.later(_AFTER_INIT_ERROR_S, lambda: end_like(1 << 8))


def _listen() -> "tuple[socket.socket, bool]":
    """The API's socket and whether strangers can reach it: AWS's port where the network is our own, any where it is not."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    shared = os.readlink("/proc/self/ns/net") == _host_network
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0 if shared else PORT))
    listener.listen(_BACKLOG)
    return listener, shared


# This module is imported in the zygote, which lives in the host's network; a worker that finds itself elsewhere has one of its own.
_host_network = os.readlink("/proc/self/ns/net") if sys.platform == "linux" else ""


def serve(sock: socket.socket, wait_ready: "Callable[[], None]") -> None:
    """Become the agent of the function that INIT names. ``wait_ready`` returns when its code is in place. Returns only without an INIT."""
    listener, shared = _listen()
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    sock.set_inheritable(False)
    sock.setblocking(True)
    sock.sendall(frames.framed(b"\x93\x01\x01\x82" + b"".join(map(frames.str8, ("runtime", "provided", "version", "%d.%d" % sys.version_info[:2])))))
    init = _receive_init(sock)
    if init is None:
        return
    wait_ready()
    env = init["env"]
    env["AWS_LAMBDA_RUNTIME_API"] = "%s:%d" % listener.getsockname()[:2]
    loop = Loop()
    Agent(loop, sock, listener, init, shared=shared).start()
    loop.run()


def _receive_init(sock: socket.socket) -> "Optional[dict[str, Any]]":
    """INIT's map; None when the channel ended first."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        piece = sock.recv(65536)
        if not piece:
            return None
        data += piece
    parts = packing.unpack(data[4:])
    return parts[1] if parts[0] == frames.INIT else None
