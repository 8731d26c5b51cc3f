"""The embedded AWS's process: ``python -m engine.aws.embedded_server PORT PARENT_PID``. Started by ``engine.aws.embedded`` only."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
HOST = "127.0.0.1"


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or until the parent ends; 2 for a wrong command line, 0 otherwise."""
    if len(argv) != 2 or not all(a.isdecimal() for a in argv):
        sys.stderr.write("usage: python -m engine.aws.embedded_server PORT PARENT_PID\n")
        return 2
    port, parent = map(int, argv)
    if not _end_with(parent):
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    # Ctrl-C reaches the whole foreground group; functions in flight may need this server until the supervisor stops it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415 - a second of imports, after the signals are in place
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import run_simple  # noqa: PLC0415

    run_simple(HOST, port, DomainDispatcherApplication(create_backend_app), threaded=True, request_handler=MotoRequestHandler)
    return 0


def _end_with(parent: int) -> bool:
    """Ask the kernel for SIGKILL when the parent ends; False when it has already ended."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def _terminate(_number: int, _frame: FrameType | None) -> None:
    # Its state is in memory and its threads hold nothing to flush: leaving at once is what stopping it means.
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
