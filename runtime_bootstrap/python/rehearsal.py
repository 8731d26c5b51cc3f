"""A dress rehearsal of one cold start: in the zygote, so that what is made once is made there, and in the pool, where nobody waits for it.

A forked process pays for each page of its parent's memory that it writes to, and in Python even reading an object writes to it. The
first cold start in a process runs two to three times slower than the second for that reason alone. So a worker that has no function
yet goes through init and one invocation with a function of its own, over a socket pair, and puts everything back as it was, except for
the environment: what the function's has in common with it need not be set again. Where a kernel can copy the pages without (Linux 5.14), workers do
not rehearse, and what stands here is played in the zygote only.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Any, Callable

from runtime_bootstrap.python import libraries

_MODULE = "_rehearsed"
_REQUEST_ID = "00000000-0000-4000-8000-000000000000"
# Stands for the function's directory, at every level.
STAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stage")
_TAG = "python%d.%d" % sys.version_info[:2]
_MEMORY_MB = 128


def _init(name: str, mark: str) -> "dict[str, Any]":
    """As a function has it: what is made of it, in Python and in the C library, lies where the real one's will. ``mark``: a digit for what has no name."""
    stream, group = "2000/01/01/[$LATEST]" + 32 * mark, "/aws/lambda/" + name
    env = {
        "LANG": "en_US.UTF-8", "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
        "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
        "TZ": ":UTC", "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR", "AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1:2000",
        "_AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1", "_AWS_XRAY_DAEMON_PORT": "2000", "PYTHONPATH": "/var/runtime", "PWD": "/var/task",
        "SHLVL": "0", "LC_CTYPE": "C.UTF-8", "AWS_ENDPOINT_URL": "http://127.0.0.1:4566", "AWS_ACCESS_KEY_ID": "ASIA" + 16 * mark,
        "AWS_SECRET_ACCESS_KEY": 40 * mark, "AWS_SESSION_TOKEN": 64 * mark, "_HANDLER": name + ".handler", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_LAMBDA_FUNCTION_NAME": name, "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(_MEMORY_MB), "AWS_LAMBDA_LOG_GROUP_NAME": group,
        "AWS_LAMBDA_RUNTIME_API": "169.254.100.1:9001", "LAMBDA_TASK_ROOT": "/var/task", "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "AWS_EXECUTION_ENV": "AWS_Lambda_" + _TAG, "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_LOG_STREAM_NAME": stream,
    }  # fmt: skip
    return {
        "handler": _MODULE + ".handler", "env": env, "task_root": STAGE, "opt_root": "/nonexistent", "function_name": name,
        "function_version": "$LATEST", "memory_mb": _MEMORY_MB, "log_group": group, "log_stream": stream,
        "init_type": "on-demand", "log_format": "Text", "log_level": None, "features": ["stream", "imports"], "account_id": 12 * mark,
    }  # fmt: skip


def _packed(value: Any) -> bytes:
    """As an INIT's fields go over the wire."""
    if isinstance(value, str):
        raw = value.encode()
        return b"\xd9%c%b" % (len(raw), raw)
    if isinstance(value, dict):
        return b"\xde" + len(value).to_bytes(2, "big") + b"".join(_packed(k) + _packed(v) for k, v in value.items())
    if isinstance(value, list):
        return bytes((0x90 | len(value),)) + b"".join(map(_packed, value))
    return b"\xc0" if value is None else b"\xcd" + value.to_bytes(2, "big")


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def _frames(name: str, mark: str) -> "tuple[bytes, bytes]":
    """The INIT of a function and an event for it."""
    payload = b'{"key": "value", "list": [1, 2.5, null, true]}'
    arn = b"arn:aws:lambda:us-east-1:%b:function:%b" % (12 * mark.encode(), name.encode())
    trace = "Root=1-%s-%s;Parent=%s;Sampled=0" % (8 * mark, 24 * mark, 16 * mark)
    event = b"\x99\x04\xd9\x24%b\xcf%b\xda%b%b%b\xc0\xc0\xc0\xc6%b%b" % (
        _REQUEST_ID.encode(), (1 << 41).to_bytes(8, "big"), len(arn).to_bytes(2, "big"), arn, _packed(trace), len(payload).to_bytes(4, "big"), payload,
    )  # fmt: skip
    return _framed(b"\x92\x02" + _packed(_init(name, mark))), _framed(event)


_FRAMES = _frames("a-function-of-some-name", "0")
# Of another function: whoever has rehearsed has what the two have in common already.
OTHER_FRAMES = _frames("a-function", "1")


def rehearse(perform: "Callable[[socket.socket, Callable[[], None]], Any]") -> None:
    """Run ``perform(socket, invoke)``, which must become the function that the INIT waiting in the socket names, serve the event that
    is sent by ``invoke``, and undo its traces, but for the environment.

    What ``perform`` returns is kept until the variable of the trace is gone: the C library points into it.
    """
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    path, directory = sys.path[:], os.getcwd()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours, theirs = socket.socketpair()
    init, event = _FRAMES

    def invoke() -> None:
        theirs.send(event)

    try:
        theirs.send(init)
        kept = perform(ours, invoke)
    except (Exception, SystemExit):
        # It is only a head start: a worker that cannot rehearse still serves.
        kept = None
    finally:
        ours.close()
        theirs.close()
        sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]
        sys.path[:] = path
        sys.modules.pop(_MODULE, None)
        sys.path_importer_cache.pop(STAGE, None)
        root.handlers[:] = handlers
        root.setLevel(level)
        libraries.install("")
        # The others stay: the function's will mostly be the same, and whatever is not among its own goes.
        os.environ.pop("_X_AMZN_TRACE_ID", None)
        os.chdir(directory)
    del kept
