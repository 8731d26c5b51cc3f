"""InvokeWithResponseStream's answer: event-stream messages in an HTTP response of chunks.

Errors before the first byte are ordinary API errors; everything after it, the function's failure included, is told inside the stream by
its last message, InvokeComplete.
Source: docs.aws.amazon.com/lambda/latest/api/API_InvokeWithResponseStream.html
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.core.invocation import Outcome, Status
from engine.errors import AwsError
from engine.protocol import eventstream
from engine.supervisor import replies

if TYPE_CHECKING:
    from engine.supervisor.front import Connection
    from engine.supervisor.request import Request

_CHUNK_HEAD = eventstream.head(
    {":message-type": "event", ":event-type": "PayloadChunk", ":content-type": "application/octet-stream"}
)
_COMPLETE_HEAD = eventstream.head({":message-type": "event", ":event-type": "InvokeComplete", ":content-type": "application/json"})
_LAST_CHUNK = b"0\r\n\r\n"


class StreamReply:
    """One streamed answer on one connection. It stands in for a passed-through request there, to hear of back-pressure and of the
    client's going away.
    """

    def __init__(self, connection: Connection, *, keep_alive: bool) -> None:
        self._connection = connection
        self.peer = connection.peer
        self._keep_alive = keep_alive
        self._begun = False
        self._gone = False
        self._full = False
        self._resume: Callable[[], None] | None = None

    # StreamTo

    def begin(self, request: Request, content_type: str, resume: Callable[[], None]) -> None:
        """The function streams. ``content_type`` is the function's own and not the response's."""
        self._resume = resume
        self._start(request)

    def _start(self, request: Request) -> None:
        if not self._begun and not self._gone:
            self._begun = True
            self._connection.transport.write(replies.streamed(request, keep_alive=self._keep_alive))

    def piece(self, data: bytes) -> bool:
        if self._gone:
            return True
        head, tail = eventstream.message(_CHUNK_HEAD, data)
        size = b"%x\r\n" % (len(head) + len(data) + 4)
        transport = self._connection.transport
        if len(data) < 16384:
            transport.write(b"".join((size, head, data, tail, b"\r\n")))
        else:
            transport.writelines((size + head, data, tail + b"\r\n"))
        return not self._full

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        """The end of the stream, or the whole of it when the function did not stream."""
        self._start(request)
        if outcome.status is Status.SUCCESS and outcome.payload:
            self.piece(outcome.payload)
        members: dict[str, str] = {}
        if outcome.status is not Status.SUCCESS:
            members["ErrorCode"] = outcome.error_type or "Runtime.Unknown"
            members["ErrorDetails"] = outcome.payload.decode("utf-8", "replace")
        tail = request.log_tail()
        if tail is not None:
            members["LogResult"] = base64.b64encode(tail).decode()
        body = json.dumps(members, separators=(",", ":")).encode()
        head, end = eventstream.message(_COMPLETE_HEAD, body)
        if not self._gone:
            size = b"%x\r\n" % (len(head) + len(body) + 4)
            self._connection.transport.write(b"".join((size, head, body, end, b"\r\n", _LAST_CHUNK)))
            self._connection.done()

    def failed(self, request: Request, error: AwsError) -> None:
        """It never ran."""
        if not self._gone:
            self._connection.answer(replies.error(error, request_id=request.request_id, keep_alive=self._keep_alive))

    def dry_run(self, request_id: str) -> None:
        self._connection.answer(replies.no_content(request_id, keep_alive=self._keep_alive))

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
