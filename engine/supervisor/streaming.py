"""An answer in pieces, on its way from an instance to whoever asked.

Theory of operation. STREAM_START opens one, STREAM_CHUNKs follow, STREAM_END closes it and becomes the invocation's outcome. A caller
that takes streams gets each piece as it comes; while it does not keep up, the instance's channel is not read, so the function's own
writes block in the end; the same while an answer is faster than the bandwidth that is set (``Pacing``). For a caller of plain Invoke the pieces are put together, up to the limit of a buffered response.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from engine.core import invocation as inv
from engine.core.bandwidth import Bucket
from engine.core.invocation import Outcome
from engine.errors import WireError
from engine.wire import messages
from engine.wire.frames import MAX_PAYLOAD

if TYPE_CHECKING:
    from engine.supervisor.channel import Channel
    from engine.supervisor.request import Request

MAX_STREAM = 200 * 1024 * 1024
PRELUDE_TYPE = "application/vnd.awslambda.http-integration-response"
_PRELUDE_END = bytes(8)


@runtime_checkable
class StreamTo(Protocol):
    """Who takes an answer in pieces. ``answered`` or ``failed`` of its ReplyTo side ends it."""

    def begin(self, request: Request, content_type: str, resume: Callable[[], None]) -> None:
        """The first bytes are about to come. ``resume`` is to be called when pieces are wanted again."""

    def piece(self, data: bytes) -> bool:
        """The next bytes; False when no more are wanted for now."""


class Streams(Protocol):
    """An instance that runs one invocation, or one invocation's seat in an instance that runs several."""

    response: ResponseStream | None

    @property
    def channel(self) -> Channel | None: ...


class Pacing(NamedTuple):
    """Streams are limited to ``rate_mib_s``; ``now_s`` is monotonic, ``later`` makes a call after seconds."""

    rate_mib_s: float
    now_s: Callable[[], float]
    later: Callable[[float, Callable[[], object]], object]


class ResponseStream:
    """The state of one answer. Raises WireError for malformed messages."""

    __slots__ = ("_bucket", "_held", "_instance", "_limit", "_pacing", "_pieces", "_request", "_size", "_to")

    def __init__(self, instance: Streams, request: Request, parts: list[Any], pacing: Pacing | None) -> None:
        if len(parts) != 4 or not isinstance(parts[2], str | None) or not isinstance(parts[3], bytes | None):
            raise WireError("STREAM_START has 4 elements")
        _, _, content_type, prelude = parts
        self._instance = instance
        self._request = request
        self._size = 0
        self._pieces: list[bytes] | None = []
        to = request.reply_to
        self._to = to if isinstance(to, StreamTo) else None
        self._limit = MAX_PAYLOAD
        self._pacing = pacing
        self._bucket = None if pacing is None else Bucket(pacing.rate_mib_s, pacing.now_s())
        # Too fast: nothing is read until a timer says so.
        self._held = False
        if self._to is not None:
            self._limit = MAX_STREAM
            kind = PRELUDE_TYPE if prelude is not None else content_type or "application/octet-stream"
            self._to.begin(request, kind, self._resume)
        if prelude is not None:
            self._take(prelude + _PRELUDE_END)

    def _resume(self) -> None:
        if self._instance.channel is not None and not self._held:
            self._instance.channel.resume()

    def _release(self) -> None:
        self._held = False
        # Where it is over by now, the channel may be another's, who pauses it again if need be.
        self._resume()

    def _pace(self, pacing: Pacing, bucket: Bucket, size: int) -> None:
        wait_s = bucket.spend(size, pacing.now_s())
        if wait_s > 0 and not self._held and self._instance.channel is not None:
            self._held = True
            self._instance.channel.pause()
            pacing.later(wait_s, self._release)

    def chunk(self, parts: list[Any]) -> None:
        """STREAM_CHUNK."""
        if len(parts) != 3 or type(parts[2]) is not bytes:
            raise WireError("STREAM_CHUNK has 3 elements")
        self._take(parts[2])

    def _take(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._pieces = None
        elif self._to is None:
            if self._pieces is not None:
                self._pieces.append(data)
        else:
            if not self._to.piece(data) and self._instance.channel is not None:
                self._instance.channel.pause()
            if self._pacing is not None and self._bucket is not None:
                self._pace(self._pacing, self._bucket, len(data))

    def end(self, parts: list[Any]) -> Outcome:
        """STREAM_END: the invocation's outcome. A stream's own payload is what has not been sent yet, so it is empty then."""
        if len(parts) != 5 or not isinstance(parts[3], str | None) or not isinstance(parts[4], bytes | None):
            raise WireError("STREAM_END has 5 elements")
        _, _, _, error_type, document = parts
        # Nobody says any more that the client has caught up; and whatever the worker sends next is for somebody else.
        if self._instance.channel is not None:
            self._instance.channel.resume()
        if error_type is not None:
            return inv.reported_error(error_type, document or b"")
        if self._pieces is None:
            return inv.response_too_large(self._limit)
        return inv.success(b"".join(self._pieces))


def take(
    instance: Streams, request: Request, parts: list[Any], pacing: Pacing | None = None
) -> tuple[Outcome, bool] | None:
    """One of the three messages; at STREAM_END the outcome and whether the worker is ready for more. Raises WireError out of order."""
    response = instance.response
    if parts[0] == messages.STREAM_START:
        if response is not None:
            raise WireError("a second stream for one invocation")
        instance.response = ResponseStream(instance, request, parts, pacing)
    elif response is None:
        raise WireError("a piece of a stream that was not opened")
    elif parts[0] == messages.STREAM_CHUNK:
        response.chunk(parts)
    else:
        instance.response = None
        return response.end(parts), parts[2] is True
    return None
