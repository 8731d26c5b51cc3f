"""The worker: one process, one function, one invocation at a time.

``serve`` runs in a process that is already locked down and has no function yet. This module is imported in a zygote before any fork:
importing it does nothing but import, and all that a cold start needs is imported here.

Life: HELLO, INIT (what it says is done while the code is brought), code in place, import of the handler, NEXT (or INIT_ERROR and exit 1), then events one after another. What ends the
process on AWS ends it here with the same status: SystemExit in the handler, half a surrogate pair in a result, a crash.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import site
import socket
import sys
import threading
import tokenize  # noqa: F401 - linecache wants it for the first stack trace
from typing import Any, Callable, NoReturn, Optional

from runtime_bootstrap.python import crew, environment, errors, handler, imports, logs, marshal, rehearsal, snapstart, streaming, streams
from runtime_bootstrap.python.channel import INIT, RESTORE, SHUTDOWN, Channel, Closed, Frame, event_of, message_of
from runtime_bootstrap.python.context import Function, LambdaContext
from runtime_bootstrap.python.faults import Fault

# Interpreters here are started without ``site``, on AWS they are not: functions end themselves with ``exit()``.
site.setquit()
site.setcopyright()
site.sethelper()

_TAG = "python%d.%d" % sys.version_info[:2]
_VERSION = "%d.%d.%d" % sys.version_info[:3]
# Kept: to take them apart would be on the way of a cold start.
_FORMER_OUTPUTS = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
# AWS's runtime exits with these when a SnapStart hook fails.
_BEFORE_SNAPSHOT_FAILED = 64
_AFTER_RESTORE_FAILED = 65


class Worker:
    """One function in one process."""

    def __init__(self, channel: Channel) -> None:
        """Everything that is the same for all functions: this is done before the process has its own, in a zygote for all that it forks."""
        self._channel = channel
        # In a template: what forks copies of this process (``findings``, ``wait_for_copy``).
        self._copies: Any = None
        self._lines = (streams.Lines(channel, 1), streams.Lines(channel, 2))
        self._outputs = (streams.Stream(self._lines[0], "surrogateescape"), streams.Stream(self._lines[1], "backslashreplace"))
        self._sink = logs.Sink(channel)
        self._log_handler = logs.LambdaLoggerHandler(self._sink)
        self._trace = environment.TraceVariable()
        self._handler: Optional[handler.Handler] = None
        snapstart.provide()
        streaming.provide()

    def connect(self, sock: socket.socket, copies: Any = None) -> None:
        """The process is the worker's, and ``sock`` its connection: it may have been made in the process that this one was forked from."""
        self._copies = copies
        self._channel.adopt(sock)
        environment.renew_randomness()

    def become(self, init: "dict[str, Any]") -> None:
        """The function of ``init``, as far as that takes none of its files: they may still be on their way. Raises SystemExit after a
        failure, which has been reported.
        """
        env: "dict[str, str]" = init["env"]
        self._init = init
        self._json = (env.get("AWS_LAMBDA_LOG_FORMAT") or init.get("log_format") or "").upper() == "JSON"
        level = env.get("AWS_LAMBDA_LOG_LEVEL") or init.get("log_level") or ""
        if self._json:
            self._lines[0].least_level = self._lines[1].least_level = streams.LEVELS.get(level.upper(), 0)
        self._function = Function(init, env)
        # Learns what is imported, when it was asked to; tells it after the first event, which should not wait for it.
        self._watch = imports.Watch() if "imports" in (init.get("features") or ()) else None
        self._before = (sys.path[:], logging.getLogger().handlers[:])
        sys.stdout = sys.__stdout__ = self._outputs[0]  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._outputs[1]  # type: ignore[misc]
        logs.install(self._log_handler, self._json, level)
        try:
            environment.settle(init.get("task_root") or "/var/task", init.get("opt_root") or "/opt", env)
        except Exception as e:
            self._refuse_to_start(e, None, 1)

    def initialise(self) -> None:
        """The rest of AWS's init phase, in the function's directory. Raises SystemExit after a failure, which has been reported."""
        init = self._init
        try:
            self._enter()
            if self._watch is None:
                self._handler = handler.load(init["handler"])
            else:
                with self._watch:
                    self._handler = handler.load(init["handler"])
            if streaming.is_streaming(self._handler):
                self._invoke = self._stream  # type: ignore[method-assign]
        except Exception as e:
            self._refuse_to_start(e, None, 1)
        if self._channel.foreign:
            raise SystemExit(0)
        if "restore" in (init.get("features") or ()):
            self._become_template()
        self.settle_output()
        self._channel.ready()

    def _enter(self) -> None:
        environment.enter(self._init.get("task_root") or "/var/task")

    def preload(self) -> "dict[str, Any]":
        """Become the template of instances that need not import ``preload`` any more; returns in those, with their INIT."""
        self._enter()
        init = imports.preload(self._channel, self._init, self._copies)
        sys.path[:], logging.getLogger().handlers[:] = self._before
        return init

    def _refuse_to_start(self, error: BaseException, error_type: Optional[str], status: int) -> NoReturn:
        """Report a failed init as AWS's runtime does. Raises SystemExit."""
        if self._channel.foreign:
            raise error
        document = errors.document(error, "")
        if error_type is None:
            logging.getLogger().warning(errors.WARNING)
        self._log_error(document)
        self._channel.init_error(error_type or document["errorType"], errors.encode(document))
        raise SystemExit(status)

    def _become_template(self) -> None:
        """Run the hooks, wait until this process is a copy, run the other hooks. Raises SystemExit when a hook fails."""
        try:
            snapstart.run_before_snapshot()
        except BaseException as e:
            self._refuse_to_start(e, "Runtime.BeforeSnapshotError", _BEFORE_SNAPSHOT_FAILED)
        self.settle_output()
        self._be_copied()
        message = message_of(self._channel.receive())
        if message[0] != RESTORE:
            raise Closed
        copy: "dict[str, Any]" = message[1]
        environment.renew_randomness()
        os.environ.update(copy.get("env") or {})
        self._function = Function({**self._init, **copy}, dict(os.environ))
        try:
            snapstart.run_after_restore()
        except BaseException as e:
            document = errors.document(e, "")
            self._log_error(document)
            self._channel.restore_error("Runtime.AfterRestoreError", errors.encode(document))
            raise SystemExit(_AFTER_RESTORE_FAILED) from None

    def _be_copied(self) -> None:
        """Tell that init is over. In a template this returns in copies only; one that a fork would not leave whole is none: NEXT says so,
        and nothing but its end follows.
        """
        copies = self._copies
        if copies is None:
            self._channel.restore_next()
            return
        threads, sockets = copies.findings(self._channel.fileno())
        if sockets:
            self._sink.log(snapstart.SOCKETS % len(sockets), 4)
        if threads > 1:
            self._channel.ready()
            return
        # What is collected here is not copied, and what stays is not touched by the collections of copies.
        gc.collect()
        gc.freeze()
        loop = environment.event_loop()
        self._channel.restore_next()
        self._channel.adopt(copies.wait_for_copy())
        environment.keep_event_loop(loop)

    def _log_error(self, document: "dict[str, Any]") -> None:
        self.settle_output()
        self._sink.log(errors.log_json(document) if self._json else errors.log_text(document), 5)

    def settle_output(self) -> None:
        """Send what was printed without a newline."""
        out, err = self._lines
        if out.unfinished or err.unfinished:
            out.settle()
            err.settle()

    def loop(self, places: int = 1) -> None:
        """Serve events until SHUTDOWN. Raises Closed at the end of the channel."""
        if places > 1:
            self._serve_several(places)
            return
        receive = self._channel.receive
        if self._watch is not None:
            self._learn()
        while True:
            frame = receive()
            # 99: an array of nine, so an INVOKE.
            if frame[4] != 0x99 and message_of(frame)[0] == SHUTDOWN:
                return
            self._invoke(frame)
            del frame

    def _serve_several(self, places: int) -> None:
        """Serve up to so many events at once, until SHUTDOWN. Raises Closed at the end of the channel."""
        channel, sink = self._channel, self._sink
        crew.share(channel, sink, self._lines)
        self._trace = crew.NoTrace()  # type: ignore[assignment]
        if crew.is_coroutine(self._handler):
            crew.Loop(channel, self._invoke_soon, channel.fileno()).run()
        else:
            crew.Threads(channel, self._invoke, self.end, places).run()

    async def _invoke_soon(self, frame: Frame) -> None:
        """An event for a handler that is a coroutine function."""
        channel, sink = self._channel, self._sink
        request_id, deadline_ms, arn, _, client, identity, tenant, payload = event_of(frame)
        sink.request_id = channel.request_id = request_id
        sink.tenant_id = tenant
        try:
            context = LambdaContext(self._function, request_id, deadline_ms, arn, client, identity, tenant)
            result = await self._handler(marshal.event_from(payload), context)  # type: ignore[misc]
            answer, content_type = marshal.payload_from(result)
        except Exception as e:
            self._fail(request_id, e)
            return
        self.settle_output()
        channel.respond(request_id, answer.encode() if isinstance(answer, str) else answer, content_type)

    def _learn(self) -> None:
        """The first event, and then what was learnt."""
        frame = self._channel.receive()
        if frame[4] != 0x99 and message_of(frame)[0] == SHUTDOWN:
            raise Closed
        self._invoke(frame)
        watch, self._watch = self._watch, None
        if watch is not None:
            self._channel.imports(watch.document(sys.path[:3]))

    def _invoke(self, frame: Frame) -> None:
        request_id, deadline_ms, arn, trace_id, client, identity, tenant, payload = event_of(frame)
        del frame
        channel, sink = self._channel, self._sink
        sink.request_id = request_id
        sink.tenant_id = tenant
        channel.request_id = request_id
        self._trace.set(trace_id)
        try:
            context = LambdaContext(self._function, request_id, deadline_ms, arn, client, identity, tenant)
            event = marshal.event_from(payload)
            del payload
            result = self._handler(event, context)  # type: ignore[misc]
        except Exception as e:
            self._fail(request_id, e)
            return
        if channel.foreign:
            raise SystemExit(0)
        try:
            answer, content_type = marshal.payload_from(result)
        except Fault as e:
            self._fail(request_id, e)
            return
        # Half a surrogate pair cannot be sent; the error for it ends the process, as on AWS.
        payload = answer.encode() if isinstance(answer, str) else answer
        self.settle_output()
        channel.respond(request_id, payload, content_type)
        channel.request_id = None

    def _stream(self, frame: Frame) -> None:
        """An event for a handler that streams its answer."""
        request_id, deadline_ms, arn, trace_id, client, identity, tenant, payload = event_of(frame)
        channel, sink = self._channel, self._sink
        sink.request_id = channel.request_id = request_id
        sink.tenant_id = tenant
        self._trace.set(trace_id)
        stream = streaming.ResponseStream(channel, request_id)
        try:
            context = LambdaContext(self._function, request_id, deadline_ms, arn, client, identity, tenant)
            self._handler(marshal.event_from(payload), stream, context)  # type: ignore[misc,call-arg]
        except Exception as e:
            if channel.foreign or not stream.started:
                self._fail(request_id, e)
                return
            document = errors.document(e, request_id)
            self._log_error(document)
            stream.finish(document["errorType"], errors.encode(document))
        else:
            if channel.foreign:
                raise SystemExit(0)
            self.settle_output()
            stream.finish()
        channel.request_id = None

    def _fail(self, request_id: str, error: Exception) -> None:
        """Answer with an error. In a process that the handler forked the error is nobody's answer and passes on."""
        if self._channel.foreign:
            raise error
        document = errors.document(error, request_id)
        self._log_error(document)
        self._channel.error(request_id, document["errorType"], errors.encode(document))
        self._channel.request_id = None

    def end(self, error: BaseException) -> None:
        """End the process as the interpreter would after ``error``: threads, exit functions, output, status. Never returns."""
        status = 1
        try:
            status = _status_of(error)
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            self.settle_output()
            if isinstance(error, KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            sys.__excepthook__(*sys.exc_info())
            self.settle_output()
        finally:
            os._exit(status)


def _status_of(error: BaseException) -> int:
    """The exit status for ``error``, which is printed unless it is a SystemExit without a text."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _perform(sock: socket.socket, invoke: Callable[[], None]) -> Worker:
    """One init and one event, for the rehearsal."""
    channel = Channel()
    worker = Worker(channel)
    worker.connect(sock)
    worker.become(message_of(channel.receive())[1])
    worker.initialise()
    invoke()
    worker._invoke(channel.receive())
    return worker


# For zygotes: a function's INIT and event, and where it lies.
REHEARSAL = (*rehearsal.OTHER_FRAMES, rehearsal.STAGE)


# What runs often, the interpreter makes faster by writing to it: in the zygote once, or else in every worker.
_REHEARSALS = 20
# What ``warm_up`` has made for the next to take.
_made: "list[Worker]" = []


def warm_up() -> None:
    """Go once, in the zygote, through what every worker goes through: what is only made when it is first needed is then there for all of them."""
    for _ in range(_REHEARSALS):
        rehearsal.rehearse(_perform)
    _made[:] = [Worker(Channel())]


def serve(
    sock: socket.socket, wait_ready: Callable[[], None], copies: Any = None, *, own_env: bool = False, rehearsed: bool = True
) -> None:
    """Become the function that INIT names and serve its events. ``wait_ready`` returns when its code is in place; ``copies`` makes a
    worker that can be copied (``engine.sandbox.copier``).

    ``own_env``: the process's environment is the function's, not INIT's. ``rehearsed``: whether there is time for a rehearsal.
    Returns only when the channel ended before an INIT came; otherwise it ends the process.
    """
    env = dict(os.environ) if own_env else None
    if rehearsed:
        rehearsal.rehearse(_perform)
    worker = _made.pop() if _made else Worker(Channel())
    worker.connect(sock, copies)
    channel = worker._channel
    channel.hello(_TAG, _VERSION)
    try:
        message = message_of(channel.receive())
    except Closed:
        return
    if message[0] != INIT:
        return
    if env is not None:
        message[1].update(env=env, handler=env.get("_HANDLER") or message[1]["handler"])
    try:
        worker.become(message[1])
        wait_ready()
        if "preload" in message[1]:
            init = worker.preload()
            environment.renew_randomness()
            worker = Worker(channel)
            worker.become(init)
        worker.initialise()
        worker.loop(message[1].get("max_concurrency", 1))
    except Closed:
        pass
    except BaseException as e:
        worker.end(e)
    # As on AWS, where a function without extensions is killed at once: no exit functions.
    worker.settle_output()
    os._exit(0)


def serve_at_once(sock: socket.socket, wait_ready: Callable[[], None]) -> None:
    """``serve`` without a rehearsal: its pages have been copied already, or somebody waits, on whose way it would cost more than it saves them."""
    serve(sock, wait_ready, rehearsed=False)
