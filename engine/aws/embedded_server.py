"""The embedded AWS's process: ``python -m engine.aws.embedded_server PORT PARENT_PID``. Started by ``engine.aws.embedded`` only.

With a token in its environment it serves only requests that carry it, and answers ``GET /_lambda-engine/identity/KEY`` with what its IAM
knows of an access key. ``POST /_lambda-engine/time/SECONDS`` turns the hands of the clock that schedules go by.
"""

from __future__ import annotations

import hmac
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any
from xml.sax.saxutils import escape

from engine import turns
from engine.aws import entrance, not_there, targets
from engine.aws.embedded import ENFORCE_VARIABLE, IDENTITY_PATH, LANE_VARIABLE, TIME_PATH, TOKEN_VARIABLE
from engine.aws.push.installation import Sources, sources
from engine.parent import end_with

HOST = "127.0.0.1"
NICE = 5
# What makes moto's service fit for the engine, installed before its first request.
_IMPROVED = {
    "cloudformation": "engine.aws.stack_bridge",
    "ec2": "engine.aws.function_interfaces",
    "elasticfilesystem": "engine.aws.access_points",
    "apigateway": "engine.aws.gateway",
    "application-autoscaling": "engine.aws.scaling_targets",
    "sqs": "engine.aws.queues",
    "kinesis": "engine.aws.streams",
    "dynamodb": "engine.aws.streams",
    "pipes": "engine.aws.not_run",
    "states": "engine.aws.state_machines",
    "firehose": "engine.aws.not_run",
}
# In a request's environment: its token was right.
_INSIDE = "lambda_engine.inside"


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or until the parent ends; 2 for a wrong command line, 0 otherwise."""
    if len(argv) != 2 or not all(a.isdecimal() for a in argv):
        sys.stderr.write("usage: python -m engine.aws.embedded_server PORT PARENT_PID\n")
        return 2
    port, parent = map(int, argv)
    if not end_with(parent, signal.SIGKILL):
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

    # AttachRolePolicy of AWS's own policies, the first thing that most configurations ask of IAM, is refused without them.
    os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    not_there.install()
    application: Any = not_there.Named(DomainDispatcherApplication(create_backend_app))
    token = os.environ.pop(TOKEN_VARIABLE, "")
    application = Bridged(application)
    if token:
        application = Guarded(application, token)
    if os.environ.get(ENFORCE_VARIABLE):
        from engine.aws import enforcement  # noqa: PLC0415

        enforcement.install()
    # From here on behind the supervisor, as the control plane is: a queue that is drained or a table that is filled may wait a moment.
    os.nice(NICE)
    turns.long()
    lane = os.environ.pop(LANE_VARIABLE, "")
    if lane:
        from engine.aws import queue_lane  # noqa: PLC0415

        try:
            queue_lane.serve(lane)
        except OSError as e:
            logging.getLogger(__name__).warning("queues are polled by HTTP: %s: %s", lane, e)
    run_simple(HOST, port, application, threaded=True, request_handler=MotoRequestHandler)
    return 0


class Bridged:
    """A WSGI application that learns at the first request to a service what the engine needs of it: CloudFormation to make Lambda resources on
    the engine, SQS to give messages quickly, API Gateway to keep all that it is told, Kinesis and DynamoDB to have streams that end, and the
    services that push events to push them to the engine's functions.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._pending = dict(_IMPROVED)
        self._sources = sources()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        service = targets.service(environ.get("HTTP_AUTHORIZATION", ""), str(environ.get("QUERY_STRING", "")))
        if self._sources is not None:
            path = str(environ.get("PATH_INFO", ""))
            if path.startswith(TIME_PATH) and environ.get("REQUEST_METHOD") == "POST" and _is_engine(environ):
                return _answered(start_response, _advanced(self._sources, path.removeprefix(TIME_PATH)))
            self._sources.see(service or "s3")
        if service in self._pending:
            with self._lock:
                module = self._pending.get(service)
                if module is not None:
                    # The modules import moto's part of the service, which takes a moment.
                    importlib.import_module(module).install()
                    self._pending = {name: other for name, other in self._pending.items() if other != module}
        answer: Iterable[bytes] = self._application(environ, start_response)
        if self._sources is not None:
            self._sources.done(service)
        return answer


def _is_engine(environ: dict[str, Any]) -> bool:
    """Whether the engine itself asks: the supervisor lets no client's header of these names through, and names the client where it knows it."""
    return (_INSIDE in environ or "HTTP_X_LAMBDA_ENGINE_TOKEN" in environ) and entrance.CALLER not in environ


def _advanced(push: Sources, seconds: str) -> dict[str, Any]:
    try:
        return {"runs": push.advance(float(seconds)), "now_s": push.timekeeper.now()}
    except ValueError as e:
        return {"error": str(e)}


def _answered(start_response: Any, document: Any) -> list[bytes]:
    body = json.dumps(document).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


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
        environ[_INSIDE] = True
        path = str(environ.get("PATH_INFO", ""))
        if entrance.CALLER in environ:
            refusal = entrance.settle(environ)
            if refusal is not None:
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{escape(refusal)}</Message></Error></ErrorResponse>".encode()]
        elif path.startswith(IDENTITY_PATH):
            from engine.aws.identities import record_of  # noqa: PLC0415

            return _answered(start_response, record_of(path.removeprefix(IDENTITY_PATH)))
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer


def _terminate(_number: int, _frame: FrameType | None) -> None:
    # Its state is in memory and its threads hold nothing to flush: leaving at once is what stopping it means.
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
