"""A dress rehearsal of one cold start, in the pool, where nobody waits for it.

A forked process pays for each page of its parent's memory that it writes to, and in Python even reading an object writes to it. The
first cold start in a process runs two to three times slower than the second for that reason alone. So a worker that has no function
yet goes through init and one invocation with a function of its own, over a socket pair, and puts everything back as it was.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Any, Callable

from runtime_bootstrap.python import libraries

_MODULE = "runtime_bootstrap.python._stage"
_REQUEST_ID = "00000000-0000-4000-8000-000000000000"
_ENV = {"AWS_LAMBDA_FUNCTION_NAME": "rehearsal", "TZ": ":UTC", "LANG": "en_US.UTF-8", "PATH": "/usr/bin:/bin"}
# A directory that exists at every level and in which no file has a module's name.
_TASK_ROOT = "/proc/self/fdinfo"
_INIT = {"handler": _MODULE + ".handler", "env": _ENV, "task_root": _TASK_ROOT, "opt_root": "/nonexistent", "log_format": "Text"}


def _invoke_frame() -> bytes:
    payload = b'{"key": "value", "list": [1, 2.5, null, true]}'
    arn = b"arn:aws:lambda:us-east-1:000000000000:function:rehearsal"
    body = b"\x99\x04\xd9\x24%b\xcf%b\xda%b%b\xd9\x06Root=1\xc0\xc0\xc0\xc6%b%b" % (
        _REQUEST_ID.encode(), (1 << 41).to_bytes(8, "big"), len(arn).to_bytes(2, "big"), arn, len(payload).to_bytes(4, "big"), payload,
    )  # fmt: skip
    return len(body).to_bytes(4, "big") + body


def rehearse(perform: "Callable[[socket.socket, dict[str, Any]], Any]") -> None:
    """Run ``perform(socket, init)``, which must initialise and serve the one event waiting in the socket, and undo its traces.

    What ``perform`` returns is kept until the environment is restored: the C library may still point into it.
    """
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    path, environment, directory = sys.path[:], dict(os.environ), os.getcwd()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours, theirs = socket.socketpair()
    try:
        theirs.send(_invoke_frame())
        kept = perform(ours, _INIT)
    except (Exception, SystemExit):
        # It is only a head start: a worker that cannot rehearse still serves.
        kept = None
    finally:
        ours.close()
        theirs.close()
        sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]
        sys.path[:] = path
        sys.modules.pop(_MODULE, None)
        root.handlers[:] = handlers
        root.setLevel(level)
        libraries.install("")
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
    del kept
