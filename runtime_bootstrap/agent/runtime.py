"""Runtime API 2018-06-01: what one runtime process may ask for and say, as a state machine.

Theory of operation. ``state`` has the names that AWS's agent prints: Started, then Ready at the first ``next``, Running once an event
is delivered, InvocationResponse while an answer is being sent, RuntimeResponseSentState after it, Ready again at the following ``next``.
What the table does not allow is a 403 that names both states. The invocation's answer goes to the supervisor the moment it is
complete; that the runtime is free again it learns only from the ``next`` after it.
Source: docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Optional

from runtime_bootstrap.agent.http import Exchange, Sink
from runtime_bootstrap.agent.link import MAX_PAYLOAD, Invoke, Link

INVOCATION = b"/2018-06-01/runtime/invocation/"
OK = b'{"status":"OK"}'
_TYPE = re.compile(r"(Runtime|Function)\.[A-Z][a-zA-Z]+")
_CAUSE = "application/vnd.aws.lambda.error.cause+json"
MODE = b"lambda-runtime-function-response-mode"
_TYPE_HEADER = b"lambda-runtime-function-error-type"
_BODY_HEADER = b"lambda-runtime-function-error-body"


def fault(error_type: str, message: str) -> bytes:
    """An error reply's body."""
    return json.dumps({"errorMessage": message, "errorType": error_type}, separators=(",", ":")).encode()


def platform_document(error_type: str, request_id: Optional[str], text: str) -> bytes:
    """What a caller is told of a failure that the runtime did not report itself."""
    prefix = "RequestId: %s " % request_id if request_id else ""
    return json.dumps({"errorType": error_type, "errorMessage": "%sError: %s" % (prefix, text)}, separators=(",", ":")).encode()


def error_type_of(header: str) -> str:
    """A reported error type as telemetry and metrics show it."""
    if _TYPE.search(header):
        return header
    return "Function.Unknown" if header.startswith("Function.") else "Runtime.Unknown"


class Discard(Sink):
    """The body of a request that is already answered."""

    def data(self, piece: bytes) -> None:
        pass

    def end(self, trailers: "dict[bytes, bytes]") -> None:
        pass


_DISCARD = Discard()


class Events:
    """What happens to the runtime, told to the agent."""

    def runtime_ready(self) -> None:
        """The first ``next``: the runtime has initialised."""

    def runtime_answered(self, invoke: Invoke, size: int, error_type: Optional[str]) -> None:
        """Before the answer goes out."""

    def runtime_done(self, invoke: Invoke) -> None:
        """The ``next`` after an answer."""

    def runtime_init_error(self, error_type: str, document: bytes) -> None:
        """``init/error``."""

    def runtime_logged(self, data: bytes) -> None:
        """A worker that speaks frames has sent a log event."""

    def runtime_streaming(self, invoke: Invoke) -> None:
        """The first bytes of an answer in pieces go out."""


class Runtime:
    """The runtime's side of the API."""

    def __init__(self, link: Link, events: Events) -> None:
        self._link = link
        self._events = events
        self.state = "Started"
        self.invoke: Optional[Invoke] = None
        self._polls: "list[Exchange]" = []
        self.streaming: "Optional[_Streamed]" = None

    def _forbidden(self, exchange: Exchange, wanted: str) -> None:
        text = "State transition from %s to %s failed for runtime. Error: State transition is not allowed" % (self.state, wanted)
        exchange.reply(403, fault("InvalidStateTransition", text))

    # next

    def next(self, exchange: Exchange) -> None:
        """``GET /runtime/invocation/next``: now, or when there is an event."""
        state = self.state
        if state == "RuntimeResponseSentState":
            done = self.invoke
            self.state = "Ready"
            self.invoke = None
            self._link.release()
            self._wait(exchange)
            if done is not None:
                self._events.runtime_done(done)
            return
        if state == "Running" and self.invoke is not None:
            self._deliver(exchange, self.invoke)
        elif state == "Started":
            self.state = "Ready"
            self._wait(exchange)
            self._events.runtime_ready()
        elif state == "Ready" and self.invoke is not None:
            # Its event came while no poll was open.
            self._deliver(exchange, self.invoke)
        elif state == "Ready":
            self._wait(exchange)
        else:
            self._forbidden(exchange, "Ready")

    @property
    def polls(self) -> "list[Exchange]":
        """Requests for the next event that wait."""
        return self._polls

    def resume(self, invoke: Invoke, *, answered: bool) -> None:
        """The event was handed to the one open poll elsewhere, and perhaps answered."""
        for exchange in self._polls:
            exchange.answered = True
        self._polls = []
        self.invoke = invoke
        self.state = "RuntimeResponseSentState" if answered else "Running"

    def _wait(self, exchange: Exchange) -> None:
        polls = [e for e in self._polls if not e.connection.closed]
        polls.append(exchange)
        self._polls = polls

    def begin(self, invoke: Invoke, body: bytes) -> None:
        """An event for the runtime. The supervisor sends one only when the runtime waits for it."""
        self.invoke = invoke
        while self._polls:
            exchange = self._polls.pop()
            if not exchange.connection.closed:
                self._deliver(exchange, invoke)
                return

    def _deliver(self, exchange: Exchange, invoke: Invoke) -> None:
        self.state = "Running"
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: %s\r\n"
            "Lambda-Runtime-Deadline-Ms: %d\r\nLambda-Runtime-Invoked-Function-Arn: %s\r\nContent-Length: %d\r\n"
            % (invoke.request_id, invoke.deadline_ms, invoke.arn, len(invoke.payload))
        )
        if invoke.trace_id:
            head += "Lambda-Runtime-Trace-Id: %s\r\n" % invoke.trace_id
        if invoke.client_context or invoke.identity or invoke.tenant_id:
            for name, value in (
                ("Lambda-Runtime-Client-Context", invoke.client_context),
                ("Lambda-Runtime-Cognito-Identity", invoke.identity),
                ("Lambda-Runtime-Aws-Tenant-Id", invoke.tenant_id),
            ):
                if value:
                    head += "%s: %s\r\n" % (name, " ".join(value.splitlines()))
        exchange.reply_raw(head.encode("utf-8", "replace"), invoke.payload)

    # response

    def response(self, exchange: Exchange) -> Sink:
        """``POST /runtime/invocation/{id}/response``: where its body goes."""
        invoke = self._answering(exchange, exchange.path[len(INVOCATION) : -len(b"/response")], "InvocationResponse")
        if invoke is None:
            return _DISCARD
        mode = exchange.value(MODE)
        if mode is None and not _is_stream(exchange):
            self.state = "InvocationResponse"
            return _Buffered(self, exchange, invoke)
        if mode not in (b"streaming", None):
            exchange.reply(400, fault("InvalidFunctionResponseMode", "Invalid function response mode"))
            kind = "Runtime.InvalidResponseModeHeader"
            self._fail(invoke, kind, platform_document(kind, invoke.request_id, "Invalid function response mode"))
            return _DISCARD
        self.state = "InvocationResponse"
        self.streaming = _Streamed(self, exchange, invoke)
        return self.streaming

    def _answering(self, exchange: Exchange, request_id: bytes, wanted: str) -> Optional[Invoke]:
        """The running invocation if ``request_id`` is its id and it may be answered; else the request has been refused."""
        invoke = self.invoke
        if invoke is None or request_id != invoke.request_id.encode():
            exchange.reply(400, fault("InvalidRequestID", "Invalid request ID"))
            return None
        if self.state != "Running":
            self._forbidden(exchange, wanted)
            return None
        return invoke

    def _fail(self, invoke: Invoke, error_type: str, document: bytes, *, logged: bool = True) -> None:
        self._events.runtime_answered(invoke, len(document), error_type)
        self._link.error(invoke.request_id, error_type, document, logged=logged)
        self.state = "RuntimeResponseSentState"

    def answer(self, exchange: Exchange, invoke: Invoke, body: bytes) -> None:
        """The whole answer is here."""
        self._events.runtime_answered(invoke, len(body), None)
        self._link.response(invoke.request_id, exchange.header(b"content-type"), body)
        self.state = "RuntimeResponseSentState"
        exchange.accept()

    def refuse_big(self, exchange: Exchange, invoke: Invoke, size: int) -> None:
        """The answer is over the limit."""
        self._events.runtime_answered(invoke, 0, "Function.ResponseSizeTooLarge")
        self._link.too_large(invoke.request_id, size)
        self.state = "RuntimeResponseSentState"
        message = "Exceeded maximum allowed payload size (%d bytes)." % MAX_PAYLOAD
        exchange.reply(413, fault("RequestEntityTooLarge", message))

    def truncated(self, invoke: Invoke) -> None:
        """The runtime's connection broke in the middle of an answer."""
        kind = "Runtime.TruncatedResponse"
        self._fail(invoke, kind, platform_document(kind, invoke.request_id, "HTTP request detected as truncated"))

    # error

    def error(self, exchange: Exchange, body: bytes) -> None:
        """``POST /runtime/invocation/{id}/error``."""
        invoke = self._answering(exchange, exchange.path[len(INVOCATION) : -len(b"/error")], "InvocationErrorResponse")
        if invoke is None:
            return
        self._fail(invoke, error_type_of(exchange.header(_TYPE_HEADER)), _document(exchange, body), logged=False)
        exchange.accept()

    def init_error(self, exchange: Exchange, body: bytes) -> None:
        """``POST /runtime/init/error``."""
        if self.state != "Started":
            self._forbidden(exchange, "InitError")
            return
        self.state = "InitError"
        self._events.runtime_init_error(error_type_of(exchange.header(_TYPE_HEADER)), _document(exchange, body))
        exchange.accept()


def _is_stream(exchange: Exchange) -> bool:
    """Whether an answer without a mode is written in pieces all the same: the client for Go says so only by announcing the error trailers, which
    it does for JSON as well.
    """
    announced = exchange.value(b"trailer")
    if announced is None or _TYPE_HEADER not in announced.lower():
        return False
    return not exchange.header(b"content-type").startswith("application/json")


def _document(exchange: Exchange, body: bytes) -> bytes:
    """What the caller gets of an error's body: all of it, but of one with a cause only its known members."""
    if exchange.header(b"content-type") != _CAUSE:
        return body
    try:
        whole = json.loads(body)
        return json.dumps({k: whole[k] for k in ("errorMessage", "errorType", "stackTrace") if k in whole}, separators=(",", ":")).encode()
    except (ValueError, TypeError):
        return b'"Invalid error body"'


class _Buffered(Sink):
    """A whole answer, up to Lambda's limit."""

    __slots__ = ("_exchange", "_invoke", "_pieces", "_runtime", "_size")

    def __init__(self, runtime: Runtime, exchange: Exchange, invoke: Invoke) -> None:
        self._runtime = runtime
        self._exchange = exchange
        self._invoke = invoke
        self._pieces: "list[bytes]" = []
        self._size = 0

    def data(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= MAX_PAYLOAD:
            self._pieces.append(piece)
        elif self._pieces:
            self._pieces.clear()

    def end(self, trailers: "dict[bytes, bytes]") -> None:
        pieces = self._pieces
        if self._size > MAX_PAYLOAD:
            self._runtime.refuse_big(self._exchange, self._invoke, self._size)
        else:
            self._runtime.answer(self._exchange, self._invoke, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def broken(self) -> None:
        self._runtime.truncated(self._invoke)


class _Streamed(Sink):
    """An answer in pieces: each goes to the supervisor as it comes, and the connection waits while the supervisor does not keep up."""

    def __init__(self, runtime: Runtime, exchange: Exchange, invoke: Invoke) -> None:
        self._runtime = runtime
        self._exchange = exchange
        self._invoke = invoke
        self._size = 0
        link: Link = runtime._link
        runtime._events.runtime_streaming(invoke)
        link.stream_start(invoke.request_id, exchange.header(b"content-type"))
        link.on_drained = self._drained

    def _drained(self) -> None:
        self._exchange.connection.resume()

    def data(self, piece: bytes) -> None:
        link: Link = self._runtime._link
        self._size += len(piece)
        link.stream_chunk(self._invoke.request_id, piece)
        if link.held:
            self._exchange.connection.pause()

    def end(self, trailers: "dict[bytes, bytes]") -> None:
        kind = trailers.get(_TYPE_HEADER)
        if kind is None:
            self._close(None, None)
        else:
            try:
                document = base64.b64decode(trailers.get(_BODY_HEADER, b""))
            except (binascii.Error, ValueError):
                document = b""
            self._close(kind.decode("latin-1"), document)
        self._exchange.accept()

    def broken(self) -> None:
        kind = "Runtime.TruncatedResponse"
        self._close(kind, platform_document(kind, self._invoke.request_id, "HTTP request detected as truncated"))

    def _close(self, error_type: Optional[str], document: Optional[bytes]) -> None:
        runtime = self._runtime
        link: Link = runtime._link
        link.on_drained = None
        runtime.streaming = None
        runtime._events.runtime_answered(self._invoke, self._size, error_type)
        link.stream_end(self._invoke.request_id, error_type, document)
        runtime.state = "RuntimeResponseSentState"

