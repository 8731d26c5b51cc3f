"""The embedded AWS's process: ``python -m engine.aws.embedded_server PORT PARENT_PID``. Started by ``engine.aws.embedded`` only.

With a token in its environment it serves only requests that carry it, and answers ``GET /_lambda-engine/identity/KEY`` with what its IAM
knows of an access key.
"""

from __future__ import annotations

import ctypes
import hmac
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

from engine.aws.embedded import ENFORCE_VARIABLE, IDENTITY_PATH, TOKEN_VARIABLE

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

    application: Any = DomainDispatcherApplication(create_backend_app)
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if token:
        application = Guarded(application, token)
    if os.environ.get(ENFORCE_VARIABLE):
        from engine.aws import enforcement  # noqa: PLC0415

        enforcement.install()
    run_simple(HOST, port, Bridged(application), threaded=True, request_handler=MotoRequestHandler)
    return 0


class Bridged:
    """A WSGI application that learns at the first request to CloudFormation to make Lambda resources on the engine, at the first one to SQS
    to give messages quickly, and at the first one to API Gateway to keep all that it is told.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._done = False
        self._quick = False
        self._keeping = False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not self._done and "/cloudformation/aws4_request" in environ.get("HTTP_AUTHORIZATION", ""):
            with self._lock:
                if not self._done:
                    from engine.aws import stack_bridge  # noqa: PLC0415 - it imports all of moto

                    stack_bridge.install()
                    self._done = True
        if not self._quick and "/sqs/aws4_request" in environ.get("HTTP_AUTHORIZATION", ""):
            with self._lock:
                if not self._quick:
                    from engine.aws import queues  # noqa: PLC0415 - it imports moto's SQS

                    queues.install()
                    self._quick = True
        if not self._keeping and "/apigateway/aws4_request" in environ.get("HTTP_AUTHORIZATION", ""):
            with self._lock:
                if not self._keeping:
                    from engine.aws import gateway  # noqa: PLC0415 - it imports moto's API Gateway

                    gateway.install()
                    self._keeping = True
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer


class Guarded:
    """A WSGI application that serves only who knows the token."""

    def __init__(self, application: Any, token: str) -> None:
        self._application = application
        self._token = token.encode()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = environ.pop("HTTP_X_LAMBDA_ENGINE_TOKEN", "")
        if not hmac.compare_digest(given.encode("latin-1", "replace"), self._token):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"Ask the engine's own port: this one serves nobody else.\n"]
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith(IDENTITY_PATH):
            from engine.aws.identities import record_of  # noqa: PLC0415

            body = json.dumps(record_of(path.removeprefix(IDENTITY_PATH))).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
            return [body]
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer


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
