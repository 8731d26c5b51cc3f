"""The worker: one process, one function, one invocation at a time.

``serve`` is called in a process that is already locked down and has no function yet. Imported in a zygote before any fork, this module
does nothing on import but import.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import time
import traceback
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import Any, Callable, Optional

from runtime_bootstrap import packing
from runtime_bootstrap.python import errors, handler, logs, marshal
from runtime_bootstrap.python.channel import INIT, INVOKE, SHUTDOWN, Channel, Closed, event_of
from runtime_bootstrap.python.context import LambdaContext

_RUNTIME_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TAG = "python%d.%d" % sys.version_info[:2]
_VERSION = "%d.%d.%d" % sys.version_info[:3]


class Worker:
    """State of the running function."""

    def __init__(self, channel: Channel, init: "dict[str, Any]") -> None:
        self._channel = channel
        self._init = init
        self._env: "dict[str, str]" = init["env"]
        self._json = init.get("log_format") == "JSON"
        self._sink = logs.Sink(channel)
        self._out = logs.Stream(self._sink, 1)
        self._err = logs.Stream(self._sink, 2)
        self._handler: Optional[handler.Handler] = None

    def initialise(self) -> bool:
        """AWS's init phase; False after an error, which has been reported."""
        init = self._init
        os.environ.clear()
        os.environ.update(self._env)
        time.tzset()
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[misc]
        logs.install(self._sink, init.get("log_format") or "Text", self._env.get("AWS_LAMBDA_LOG_LEVEL"))
        try:
            os.chdir(init["task_root"])
            self._paths(init["task_root"], init.get("opt_root") or "/opt")
            self._handler = handler.load(init["handler"])
        except Exception as e:
            error_type, document = errors.document_of(e, "")
            self._sink.event(errors.WARNING, 4)
            self._report(document)
            self._channel.init_error(error_type, errors.encode(document))
            return False
        self._flush()
        self._channel.next()
        return True

    def _paths(self, task_root: str, opt_root: str) -> None:
        """The function's own directories first, then its layers', then the runtime's."""
        first = [task_root]
        if os.path.isdir(opt_root + "/python"):
            first += ["%s/python/lib/%s/site-packages" % (opt_root, _TAG), opt_root + "/python"]
        sys.path[:0] = first
        brought = [n for n in preloaded() if any(_has(d, n) for d in first)]
        for name in [m for m in sys.modules if m.split(".", 1)[0] in brought]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def _report(self, document: "dict[str, Any]") -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._sink.event(errors.log_text(document, self._json, stamp), 5)

    def _flush(self) -> None:
        self._out.flush_partial()
        self._err.flush_partial()

    def loop(self) -> None:
        """Serve events until the channel closes or SHUTDOWN comes."""
        channel = self._channel
        while True:
            body = channel.read()
            if body[1] == INVOKE:
                self._invoke(body)
            elif body[1] == SHUTDOWN:
                return

    def _invoke(self, body: Any) -> None:
        event = event_of(body)
        del body
        request_id = self._sink.request_id = event.request_id
        if event.trace_id is not None:
            os.environ["_X_AMZN_TRACE_ID"] = event.trace_id
        else:
            os.environ.pop("_X_AMZN_TRACE_ID", None)
        try:
            context = LambdaContext(*event[:3], *event[4:7], self._env, self._sink.event)
            argument = marshal.event_from(event.payload)
            payload, content_type = marshal.payload_from(self._handler(argument, context))  # type: ignore[misc]
        except Exception as e:
            error_type, document = errors.document_of(e, request_id)
            self._leave_if_foreign()
            self._flush()
            self._report(document)
            self._channel.error(request_id, error_type, errors.encode(document))
        else:
            self._leave_if_foreign()
            self._flush()
            self._channel.response(request_id, payload, content_type)

    def _leave_if_foreign(self) -> None:
        """A child that the handler forked and that came back here must not answer in its parent's place."""
        if self._channel.foreign:
            os._exit(0)

    def leave(self, status: int) -> None:
        """End the process as an interpreter would: exit functions run, output is out."""
        try:
            atexit._run_exitfuncs()
            self._flush()
        finally:
            os._exit(status)


def preloaded() -> "set[str]":
    """Top-level names of what was imported from the runtime's directory ahead of the function, other than the runtime itself."""
    names = set()
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and path.startswith(_RUNTIME_DIR + os.sep):
            names.add(name.split(".", 1)[0])
    names.discard("runtime_bootstrap")
    return names


def _has(directory: str, name: str) -> bool:
    return os.path.exists("%s/%s" % (directory, name)) or os.path.exists("%s/%s.py" % (directory, name))


def _exit_status(error: SystemExit) -> int:
    """What the interpreter would exit with."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write("%s\n" % error.code)
    return 1


def serve(sock: socket, wait_ready: Callable[[], None]) -> None:
    """Become the function that INIT names and serve it. Ends the process; returns only when there never was an INIT."""
    channel = Channel(sock)
    channel.hello(_TAG, _VERSION)
    try:
        body = channel.read()
    except (Closed, OSError):
        return
    message = packing.unpack(bytes(body))
    if not isinstance(message, list) or message[0] != INIT:
        return
    wait_ready()
    gc.enable()
    worker = Worker(channel, message[1])
    status = 1
    try:
        if worker.initialise():
            worker.loop()
            status = 0
    except Closed:
        status = 0
    except OSError as e:
        status = 0 if not sys.exc_info()[2] or isinstance(e, (BrokenPipeError, ConnectionResetError)) else 1
    except SystemExit as e:
        status = _exit_status(e)
    except BaseException:
        traceback.print_exc()
    worker.leave(status)


def main() -> None:
    """``python -I -S worker.py FD``: serve on an inherited socket, without a sandbox (tests)."""
    serve(socket(AF_UNIX, SOCK_STREAM, 0, fileno=int(sys.argv[1])), lambda: None)


if __name__ == "__main__":
    main()
