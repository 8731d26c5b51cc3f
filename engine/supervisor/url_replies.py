"""How a function URL answers: whole (``UrlReply``) or as the function writes (``UrlStream``).

A stream of the HTTP integration begins with a prelude that describes the response; until it is complete nothing is sent, so a function
that fails before still gives a 502. Afterwards a failure can only break the connection off.
Source: docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html and configuration-response-streaming.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from engine.core.invocation import Outcome, Status
from engine.core.stats import FunctionStats
from engine.errors import AwsError, TooManyRequests
from engine.protocol import cors
from engine.protocol.function_url import JSON_TYPE, MalformedResponse, UrlResponse, prelude, response
from engine.supervisor import replies
from engine.supervisor.streaming import PRELUDE_TYPE

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection
    from engine.supervisor.request import Request

MAX_PRELUDE = 1024 * 1024
_PRELUDE_END = bytes(8)
_LAST_CHUNK = b"0\r\n\r\n"


class UrlReply:
    """The answer to one request. ``rules``: the URL's cross-origin rules; ``stats``: where it is counted, if the URL is known."""

    def __init__(
        self, connection: Connection, head: Head, rules: Mapping[str, Any] | None, trace: bytes, stats: FunctionStats | None
    ) -> None:
        self._connection = connection
        self._head = head
        self._rules = rules
        self._trace = trace
        self._stats = stats

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        """The function's answer as HTTP; 502 when it failed or is no HTTP response."""
        if outcome.status is not Status.SUCCESS:
            self.internal_error(request.request_id)
            return
        try:
            answer = response(outcome.payload)
        except MalformedResponse:
            self.internal_error(request.request_id)
            return
        self.send(answer, request.request_id)

    def failed(self, request: Request, error: AwsError) -> None:
        """It did not run: throttled, or the platform's fault."""
        if isinstance(error, TooManyRequests):
            self.refuse(error, request.request_id)
        else:
            self.internal_error(request.request_id)

    def refuse(self, error: AwsError, request_id: str) -> None:
        """An error of the API's."""
        self._count(error.status)
        head, end, body = replies.error(error, request_id=request_id, keep_alive=self._head.keep_alive).partition(b"\r\n\r\n")
        self._connection.answer(head + end, b"" if self._head.method == b"HEAD" else body)

    def internal_error(self, request_id: str) -> None:
        """502, for whatever the function did wrong."""
        self.send(UrlResponse(502, [("content-type", JSON_TYPE)], b"Internal Server Error"), request_id)

    def send(self, answer: UrlResponse, request_id: str) -> None:
        """A whole response."""
        bodiless = answer.status in (204, 304)
        head = self._described(answer, request_id, None if bodiless else len(answer.body), chunked=False)
        self._connection.answer(head, b"" if bodiless or self._head.method == b"HEAD" else answer.body)

    def _described(self, answer: UrlResponse, request_id: str, length: int | None, *, chunked: bool) -> bytes:
        self._count(answer.status)
        headers = answer.headers
        if self._rules and self._head.method != b"OPTIONS":
            origin = self._head.header(b"origin")
            headers = cors.apply(self._rules, None if origin is None else origin.decode("latin-1"), headers)
        if chunked:
            headers = [*headers, ("Transfer-Encoding", "chunked")]
        return replies.of_url(
            answer.status, headers, length, request_id=request_id, trace=self._trace, keep_alive=self._head.keep_alive
        )

    def _count(self, status: int) -> None:
        if self._stats is not None:
            self._stats.count_url(status)


class UrlStream(UrlReply):
    """The answer of a URL with InvokeMode RESPONSE_STREAM. It stands in for a passed-through request on its connection, to hear of
    back-pressure and of the client's going away.
    """

    def __init__(
        self, connection: Connection, head: Head, rules: Mapping[str, Any] | None, trace: bytes, stats: FunctionStats | None
    ) -> None:
        super().__init__(connection, head, rules, trace, stats)
        self._request_id = ""
        self._gathered: bytearray | None = None
        self._begun = False
        self._silent = False
        self._gone = False
        self._full = False
        self._resume: Callable[[], None] | None = None

    # StreamTo

    def begin(self, request: Request, content_type: str, resume: Callable[[], None]) -> None:
        """The function streams."""
        self._request_id = request.request_id
        self._resume = resume
        if content_type == PRELUDE_TYPE:
            self._gathered = bytearray()
        elif content_type.isprintable():
            self._open(UrlResponse(200, [("content-type", content_type)], b""))
        else:
            # It would end the header, and the function would write the next one.
            self._spoilt()

    def piece(self, data: bytes) -> bool:
        if self._gathered is not None:
            self._gathered += data
            end = self._gathered.find(_PRELUDE_END)
            if end < 0 and len(self._gathered) <= MAX_PRELUDE:
                return True
            gathered, self._gathered = bytes(self._gathered), None
            try:
                if end < 0:
                    raise MalformedResponse("the prelude does not end")
                self._open(prelude(gathered[:end]))
            except MalformedResponse:
                self._spoilt()
                return True
            data = gathered[end + len(_PRELUDE_END) :]
        if data and not self._gone and not self._silent:
            self._connection.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        return not self._full

    def _spoilt(self) -> None:
        """Nothing has been sent yet, and nothing of what the function writes can be."""
        self.internal_error(self._request_id)
        self._gone = True

    def _open(self, answer: UrlResponse) -> None:
        self._begun = True
        self._silent = self._head.method == b"HEAD" or answer.status in (204, 304)
        if not self._gone:
            self._connection.transport.write(self._described(answer, self._request_id, None, chunked=not self._silent))

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        """The end of the stream; of a function that did not stream, its payload as it is."""
        if self._gone:
            return
        if outcome.status is not Status.SUCCESS or self._gathered is not None:
            if self._begun:
                self._gone = True
                self._connection.broken()
            else:
                self.internal_error(request.request_id)
            return
        if not self._begun:
            self._request_id = request.request_id
            self._open(UrlResponse(200, [("content-type", JSON_TYPE)], b""))
            self.piece(outcome.payload)
        if not self._silent:
            self._connection.transport.write(_LAST_CHUNK)
        self._connection.done()

    def failed(self, request: Request, error: AwsError) -> None:
        if not self._gone:
            super().failed(request, error)

    # Passed: what the connection tells whatever is writing to it

    def body(self, data: bytes) -> None:
        """The request's body has been read before."""

    def end(self) -> None:
        """As ``body``."""

    def abort(self) -> None:
        """The client has gone: the function goes on, nobody listens."""
        self._gone = True
        self.resume()

    def pause(self) -> None:
        self._full = True

    def resume(self) -> None:
        self._full = False
        if self._resume is not None:
            self._resume()
