"""The agent: one process in the sandbox that stands between a runtime process and the supervisor.

Theory of operation. The agent is what a holder's worker becomes when the function does not speak frames, or has extensions. It is forked,
locked down and listening before anybody knows which function it will serve; INIT tells it. Then extensions start, register, and the
runtime starts; its first ``next``, with one from every extension, is NEXT. An INVOKE is handed to the runtime and to extensions; the
runtime's answer goes up at once, and NEXT follows when the runtime and every extension have asked for more. The runtime's end is the
agent's end, with the same status, so that the supervisor sees no difference between a worker of ours and a stranger's program.

The agent runs as the function's user and holds nothing but the function's own channel: a function that kills it or lies to it has
killed its own instance or lied about its own invocation. It is not dumpable, so other processes cannot read or change its memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from functools import partial, reduce
from typing import Any, Callable, NoReturn, Optional, Union

from runtime_bootstrap import packing
from runtime_bootstrap.agent import chronicle, container, peers, warm
from runtime_bootstrap.agent import extensions as ext
from runtime_bootstrap.agent import link as frames
from runtime_bootstrap.agent import output as outputs
from runtime_bootstrap.agent.http import Connection, Exchange, Sink
from runtime_bootstrap.agent.link import INVOKE, MAX_PAYLOAD, SHUTDOWN, Invoke, Link
from runtime_bootstrap.agent.loop import Loop
from runtime_bootstrap.agent.processes import Process, end_like, error_text, exit_text
from runtime_bootstrap.agent.relay import Bystander, Relay, library_root
from runtime_bootstrap.agent.runtime import INVOCATION, Events, Runtime, platform_document
from runtime_bootstrap.agent.several import Several
from runtime_bootstrap.agent.telemetry import Subscription, Telemetry

PORT = 9001
_BACKLOG = 64
# Error documents and subscriptions; a response has its own limit.
_MAX_CALL = 1024 * 1024
# After it has reported a failed init a runtime should end by itself.
_AFTER_INIT_ERROR_S = 0.5
# What a runtime gets of the time to end, before the extensions get the rest.
_RUNTIME_SHARE = 0.3
_FAILURE_MS = 2000
# All the time that there is where extensions are within the runtime's own process.
_INTERNAL_MS = 500
_PR_SET_DUMPABLE = 4
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class Agent(Events, ext.Told):
    """One instance. ``shared``: the network is not the sandbox's own."""

    def __init__(
        self, loop: Loop, sock: socket.socket, listener: socket.socket, init: "dict[str, Any]", init_frame: bytes, *, shared: bool
    ) -> None:
        self.loop = loop
        self.init = init
        self.env: "dict[str, str]" = init["env"]
        self._task_root = init.get("task_root") or "/var/task"
        self._opt_root = init.get("opt_root") or "/opt"
        self._json = (init.get("log_format") or "") == "JSON"
        self.link = Link(loop, sock, self._on_frame)
        self._relay = Relay(loop, self.link, self, init_frame) if init.get("native") else None
        self._several = init.get("max_concurrency", 1) > 1
        self._http: "Union[Runtime, Several]"
        if self._relay is not None:
            self._http = Bystander(self.link, self._relay)
        else:
            self._http = Several(self.link, self) if self._several else Runtime(self.link, self)
        self.runtime: "Union[Runtime, Several, Relay]" = self._relay or self._http
        self.extensions = ext.Extensions(init, self)
        self.telemetry = Telemetry(loop, self.extensions, json_format=self._json, on_subscribed=self._subscribed)
        self._chronicle = chronicle.Chronicle(self.telemetry, init)
        self._shared = shared
        self._listener = listener
        self._process: Optional[Process] = None
        self._output: Optional[outputs.Output] = None
        self._least_level = outputs.LEVELS.get((init.get("log_level") or "").upper(), 0) if self._json else 0
        # The runtime waits for an event and has not been told to have one; the invocation that is not over.
        self._runtime_ready = False
        self._started = False
        self._open: Optional[Invoke] = None
        self._ending = False
        self.warm: Optional[warm.Warm] = None
        if _warm_run is not None and isinstance(self._http, Runtime) and self._relay is None:
            self.warm = warm.Warm(self, self._http, _warm_run)
            loop.before = self.warm.run
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
            return self._http.response(exchange)
        return None

    @staticmethod
    def _cap(exchange: Exchange) -> int:
        return MAX_PAYLOAD if exchange.path.startswith(INVOCATION) else _MAX_CALL

    def _whole(self, exchange: Exchange, body: bytes) -> None:
        path, method = exchange.path, exchange.method
        if self._relay is not None and not self._relay.greeted and path.startswith(b"/2018-06-01/runtime/"):
            self._replaced()
        if path == b"/2018-06-01/runtime/invocation/next":
            if method == b"GET":
                self._http.next(exchange)
                return
        elif method == b"POST" and path.startswith(INVOCATION) and path.endswith(b"/error"):
            self._http.error(exchange, body)
            return
        elif path == b"/2018-06-01/runtime/init/error" and method == b"POST":
            self._http.init_error(exchange, body)
            return
        elif path == b"/2018-06-01/ping" and method == b"GET":
            exchange.reply(200, b"pong", "text/plain")
            return
        elif path.startswith(ext.BASE):
            if self.extensions.serve(exchange, body):
                return
        elif self.telemetry.serve(exchange, body):
            return
        exchange.reply(404, b"404 page not found\n", "text/plain")

    def _replaced(self) -> None:
        """What the wrapper has started is no worker of ours: whoever asks for events is the runtime."""
        if self._relay is not None:
            self._relay.end()
        self._relay = None
        self.runtime = self._http = Runtime(self.link, self)

    # Frames

    def _on_frame(self, parts: "list[Any]", body: bytes) -> None:
        kind = parts[0]
        if kind == INVOKE:
            invoke = Invoke(parts)
            if self._several:
                self.runtime.begin(invoke, body)
                return
            self._open = invoke
            self._runtime_ready = False
            if self.extensions.all:
                self._chronicle.started(invoke)
                self.extensions.invoke(invoke)
            self.runtime.begin(invoke, body)
        elif kind == SHUTDOWN:
            self.link.release()
            if not self._ending and parts[1] != "spindown":
                self._out_of_time(parts[1])
            self._shut_down(parts[1], parts[2])

    # Life

    def start(self) -> None:
        """Start the extensions; the runtime follows when all of them have registered."""
        paths = ext.programs(self._opt_root)
        if self._json or paths:
            self._output = outputs.Output(self.loop, self._on_line)
        if len(paths) > ext.MOST:
            self._fatal("Extension.LaunchError", "Extension limit (10) reached")
        self._launch(paths)
        self._start_runtime()

    def _launch(self, paths: "list[str]") -> None:
        env = ext.environment_of(self.env)
        for path in paths:
            name = os.path.basename(path)
            said = outputs.Output(self.loop, self._on_extension_line)
            extension = self.extensions.launched(name)
            try:
                extension.process = Process(self.loop, [path], env, said.writer, partial(self._extension_exited, name, said))
            except OSError as e:
                self._fatal("Extension.LaunchError", "fork/exec %s: %s" % (path, error_text(e)))
            os.close(said.writer)

    def _start_runtime(self) -> None:
        if self._process is not None or self.extensions.missing():
            return
        try:
            argv = self._command()
            keep = {3: self._relay.theirs.fileno()} if self._relay is not None else {}
            writer = -1 if self._output is None else self._output.writer
            self._process = Process(self.loop, argv, self.env, writer, self._runtime_exited, keep)
            if self._relay is not None:
                self._relay.theirs.close()
        except container.LaunchError as e:
            self._unlaunched(e.kind, str(e))
        except OSError as e:
            self._unlaunched("Runtime.InvalidEntrypoint", "fork/exec %s: %s" % (e.filename or "runtime", error_text(e)))
        except LookupError as e:
            self._fatal("Runtime.InvalidEntrypoint", str(e.args[0]))

    def _unlaunched(self, kind: str, text: str) -> NoReturn:
        image = self.init.get("image")
        if image is not None and not self._json:
            self._log(0, container.line(image, text))
        self._fatal(kind, text)

    def _command(self) -> "list[str]":
        """The program to run. Raises LookupError with AWS's text when there is none, LaunchError for a container image's."""
        if self.init.get("image") is not None:
            return container.prepare(self.init["image"], self.env)
        command = self.init.get("command")
        if command:
            roots = {"{runtime}": library_root(), "{task}": self._task_root, "{opt}": self._opt_root}
            argv = [reduce(lambda text, name: text.replace(name, roots[name]), roots, arg) for arg in command]
            wrapper = self.env.get("AWS_LAMBDA_EXEC_WRAPPER")
            if not wrapper:
                return argv
            # As AWS's start script, a shell: what cannot be run is its exit status 127.
            return ["/bin/sh", "-c", 'exec "$@"', "sh", wrapper, *argv]
        for path in (self._task_root + "/bootstrap", self._opt_root + "/bootstrap"):
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return [path]
        raise LookupError("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]")

    def _fatal(self, error_type: str, text: str) -> NoReturn:
        """Something that the instance cannot survive, and nobody has been told of yet."""
        request_id = self.init.get("request_id") if not self._started else None if self._open is None else self._open.request_id
        document = platform_document(error_type, request_id, text)
        if not self._started:
            self._chronicle.initialised("error", error_type)
            self.link.init_error(error_type, document)
        elif self.runtime.invoke is not None and not self._answered():
            self.link.error(self.runtime.invoke.request_id, error_type, document)
        self.link.settle()
        os._exit(1)

    def _answered(self) -> bool:
        """Whether the invocation's answer has gone up."""
        return self._relay is None and self._http.state == "RuntimeResponseSentState"

    def _on_line(self, line: bytes) -> None:
        self.telemetry.emit("function", line.decode("utf-8", "replace"))
        level = outputs.level_of(line) if self._json else None
        if level is not None and level < self._least_level:
            return
        self._log(level or 0, line)

    def _on_extension_line(self, line: bytes) -> None:
        self.telemetry.emit("extension", line.decode("utf-8", "replace"))
        self._log(0, line)

    def _log(self, level: int, line: bytes) -> None:
        self.link.log(None if self._open is None else self._open.request_id, level, line)

    def _runtime_exited(self, status: int) -> None:
        # What it sent before it ended counts.
        self.loop.drain()
        if self._output is not None:
            self._output.settle()
        self.link.release()
        if self._ending:
            return
        if not self.extensions.alive():
            self.link.settle()
            end_like(status)
        kind = "Runtime.ExitError"
        text = "Runtime exited without providing a reason" if status == 0 else "Runtime exited with error: %s" % exit_text(status)
        if not self._started:
            self._chronicle.initialised("error", kind)
        invoke = self.runtime.invoke
        if invoke is not None and not self._answered():
            self._chronicle.done("error", kind)
            self.link.error(invoke.request_id, kind, platform_document(kind, invoke.request_id, text))
        self._report()
        self._shut_down("failure", int(time.time() * 1000) + _FAILURE_MS, lambda: end_like(status))

    # The end

    def _out_of_time(self, reason: str) -> None:
        """The supervisor has ended an init, whose reason is then a failure, or an invocation; extensions hear of it before their own end."""
        if not self._started:
            self._chronicle.initialised("timeout", "Runtime.Unknown")
        elif reason == "timeout":
            self._chronicle.done("timeout")
            self._report()

    def _shut_down(self, reason: str, deadline_ms: int, end: "Callable[[], Any]" = lambda: os._exit(0)) -> None:
        """Without extensions a function gets no warning. With some, first the runtime ends, then they do."""
        if self._ending:
            return
        self._ending = True
        if not self.extensions.registered:
            self.link.settle()
            end()
        share = _RUNTIME_SHARE
        if not self.extensions.external:
            share, deadline_ms = 1.0, min(deadline_ms, int(time.time() * 1000) + _INTERNAL_MS)
        budget_s = max(0.0, deadline_ms / 1000.0 - time.time())
        self.loop.later(budget_s, lambda: self._end(end))
        runtime = self._process
        if runtime is None or runtime.status is not None:
            self._end_extensions(reason, deadline_ms, end)
            return
        runtime.signal(signal.SIGTERM)
        give_up_s = self.loop.now() + budget_s * share

        def look() -> None:
            if runtime.status is None and self.loop.now() < give_up_s:
                self.loop.later(0.01, look)
                return
            runtime.signal(signal.SIGKILL)
            self._end_extensions(reason, deadline_ms, end)

        look()

    def _end_extensions(self, reason: str, deadline_ms: int, end: "Callable[[], Any]") -> None:
        self.telemetry.flush()
        self.extensions.shut_down(reason, deadline_ms)

        def look() -> None:
            if self.extensions.alive():
                self.loop.later(0.01, look)
            else:
                self._end(end)

        look()

    def _end(self, end: "Callable[[], Any]") -> None:
        if self._process is not None and self._process.status is None:
            # Else it would find nobody to ask, and say so in the log.
            self._process.signal(signal.SIGKILL)
        self.link.settle()
        end()

    # Rounds without Python

    @property
    def quiet(self) -> bool:
        """Whether nothing but a plain invocation is to be expected."""
        return self._started and not self._ending and self._output is None and not self.loop.timed

    def opened(self, body: bytes) -> Invoke:
        """An event came, and has been handed to the runtime."""
        invoke = self._open = Invoke(frames.message(body))
        self._runtime_ready = False
        return invoke

    # What the runtime did

    def runtime_ready(self) -> None:
        self._runtime_ready = True
        self.extensions.closed = True
        if self._ending:
            return
        if self.extensions.settled():
            self._initialised()

    def _initialised(self) -> None:
        self._started = True
        self._chronicle.initialised()
        self.telemetry.close()
        self.link.next()

    def runtime_answered(self, invoke: Invoke, size: int, error_type: Optional[str]) -> None:
        if self._output is not None:
            self._output.drain()
        if self.extensions.all:
            self._chronicle.answered(size, error_type)

    def runtime_streaming(self, invoke: Invoke) -> None:
        self._chronicle.first_byte()

    def runtime_logged(self, data: bytes) -> None:
        self.telemetry.emit("function", data.decode("utf-8", "replace"))

    def runtime_done(self, invoke: Invoke) -> None:
        if not self.extensions.all:
            self._open = None
            if not self._ending:
                self.link.next()
            return
        self._runtime_ready = True
        self._chronicle.done()
        self._settle()

    def _settle(self) -> None:
        """The invocation is over when the runtime and every extension are through with it."""
        if self._ending:
            return
        if self._runtime_ready and self._started and self._open is not None and self.runtime.invoke is None and self.extensions.idle():
            self._report()
            self._open = None
            self.link.next()

    def _report(self) -> None:
        pids = [p.pid for p in (self._process, *(e.process for e in self.extensions.all.values())) if p is not None]
        self._chronicle.reported(chronicle.peak_mib(pids))

    def runtime_init_error(self, error_type: str, document: bytes) -> None:
        if self._output is not None:
            self._output.drain()
        self._chronicle.initialised("error", error_type)
        if self._relay is None:
            self.link.init_error(error_type, document)
            self.loop.later(_AFTER_INIT_ERROR_S, lambda: end_like(1 << 8))

    # What extensions did

    def extension_registered(self, extension: ext.Extension) -> None:
        self._start_runtime()

    def extension_ready(self, extension: ext.Extension, first: bool) -> None:
        if first:
            events = list(extension.events)
            self._platform("extension", {"name": extension.name, "state": "Ready", "events": events}, "Events", events)
            if self._runtime_ready and not self._started and self.extensions.settled():
                self._initialised()
            return
        self._settle()

    def _subscribed(self, subscription: Subscription) -> None:
        kind = "logsSubscription" if subscription.old else "telemetrySubscription"
        record = {"name": subscription.name, "state": "Subscribed", "types": subscription.types}
        self._platform(kind, record, "Types", [t.capitalize() for t in subscription.types])

    def _platform(self, kind: str, record: "dict[str, Any]", title: str, names: "list[str]") -> None:
        """An event of ours, in the log too."""
        self.telemetry.emit("platform." + kind, record)
        if not self._json:
            word = {"extension": "EXTENSION", "logsSubscription": "LOGS"}.get(kind, "TELEMETRY")
            line = "%s\tName: %s\tState: %s\t%s: [%s]" % (word, record["name"], record["state"], title, ", ".join(names))
            self._log(0, line.encode())

    def extension_failed(self, extension: ext.Extension, error_type: str, text: str) -> None:
        if not self._ending:
            self.loop.later(0.0, lambda: self._fatal(error_type, text))

    def _extension_exited(self, name: str, said: outputs.Output, status: int) -> None:
        self.loop.drain()
        said.settle()
        self.telemetry.forget(name)
        extension = self.extensions.ended(name)
        if not self._ending and extension.state == "Exited":
            self._fatal("Extension.Crash", exit_text(status))


def _listen() -> "tuple[socket.socket, bool]":
    """The API's socket and whether strangers can reach it: AWS's port where the network is our own, any where it is not."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    shared = os.readlink("/proc/self/ns/net") == _host_network
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0 if shared else PORT))
    listener.listen(_BACKLOG)
    return listener, shared


# This module is imported in the zygote, which lives in the host's network; a worker that finds itself elsewhere has one of its own.
_warm_run = warm.load()
_host_network = os.readlink("/proc/self/ns/net") if sys.platform == "linux" else ""


def serve(sock: socket.socket, wait_ready: "Callable[[], None]") -> None:
    """Become the agent of the function that INIT names. ``wait_ready`` returns when its code is in place. Returns only without an INIT."""
    listener, shared = _listen()
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if hasattr(libc, "mallopt"):
        # What a stream is read into comes from the heap and stays there, within bounds: it is the function's memory.
        libc.mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * 1024 * 1024)
    sock.set_inheritable(False)
    sock.setblocking(True)
    about = ("runtime", "provided", "version", "%d.%d" % sys.version_info[:2])
    sock.sendall(frames.framed(b"\x93\x01\x01\x82" + b"".join(map(frames.str8, about))))
    data = _receive_init(sock)
    if data is None:
        return
    parts = packing.unpack(data[4:])
    init: "dict[str, Any]" = parts[1]
    wait_ready()
    init["env"]["AWS_LAMBDA_RUNTIME_API"] = "%s:%d" % listener.getsockname()[:2]
    loop = Loop()
    Agent(loop, sock, listener, init, data, shared=shared).start()
    loop.run()


def _receive_init(sock: socket.socket) -> Optional[bytes]:
    """INIT's frame; None when the channel ended first."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        piece = sock.recv(65536)
        if not piece:
            return None
        data += piece
    return data if data[5:6] == bytes((frames.INIT,)) else None
