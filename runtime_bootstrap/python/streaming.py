"""Response streaming for Python functions, which AWS offers for Node.js only: the same interface in Python's words.

    import awslambda

    @awslambda.streamify_response
    def handler(event, response_stream, context):
        response_stream.write("first")
        response_stream.write(b"second")

``awslambda`` is a module that this runtime brings along, unless the function ships one of that name. Nothing is sent before the first byte,
so a handler that fails before it gives an ordinary error. The stream is closed when the handler returns.
"""

from __future__ import annotations

import json
import sys
import types
from typing import Any, Callable, Optional

from runtime_bootstrap.python.channel import Channel

_NAME = "awslambda"
_MARK = "__aws_lambda_streaming__"
HTTP = "application/vnd.awslambda.http-integration-response"
# A bigger piece goes in several frames: the supervisor takes none over Lambda's limit for a whole answer.
_PIECE = 1024 * 1024


def provide() -> None:
    """Make ``import awslambda`` work."""
    module = types.ModuleType(_NAME, "Response streaming.")

    def streamify_response(function: "Callable[..., Any]") -> "Callable[..., Any]":
        """Mark a handler that takes (event, response_stream, context)."""
        setattr(function, _MARK, True)
        return function

    module.streamify_response = streamify_response  # type: ignore[attr-defined]
    module.HttpResponseStream = HttpResponseStream  # type: ignore[attr-defined]
    sys.modules[_NAME] = module


def is_streaming(handler: Any) -> bool:
    """Whether a handler was marked."""
    return getattr(handler, _MARK, False) is True


class ResponseStream:
    """What a streaming handler writes to. Writing waits while the caller does not keep up."""

    def __init__(self, channel: Channel, request_id: str) -> None:
        self._channel = channel
        self._request_id = request_id
        self._content_type: Optional[str] = None
        self._prelude: Optional[bytes] = None
        self.started = False
        self.closed = False

    def set_content_type(self, content_type: str) -> None:
        """Before the first byte. Raises ValueError after it."""
        if self.started:
            raise ValueError("Cannot set content-type, too late.")
        self._content_type = content_type

    def set_prelude(self, prelude: "dict[str, Any]") -> None:
        """Status, headers and cookies of an HTTP response, for function URLs. Raises ValueError after the first byte."""
        self.set_content_type(HTTP)
        self._prelude = json.dumps(prelude).encode()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Send text or bytes; how many bytes it was. Raises ValueError once closed."""
        if self.closed:
            raise ValueError("write to a closed response stream")
        raw = data.encode() if isinstance(data, str) else bytes(data)
        self._start()
        for at in range(0, len(raw), _PIECE):
            self._channel.stream_chunk(self._request_id, raw[at : at + _PIECE])
        return len(raw)

    def flush(self) -> None:
        """Everything written is already on its way."""

    def close(self) -> None:
        """Nothing more comes. Idempotent."""
        self.closed = True

    end = close

    def _start(self) -> None:
        if not self.started:
            self.started = True
            self._channel.stream_start(self._request_id, self._content_type, self._prelude)

    def finish(self, error_type: Optional[str] = None, document: Optional[bytes] = None) -> None:
        """The runtime's: the handler has returned, or failed."""
        self._start()
        self.closed = True
        self._channel.stream_end(self._request_id, error_type, document)


class HttpResponseStream:
    """As in Node.js: gives a stream the head of an HTTP response."""

    @staticmethod
    def from_stream(stream: ResponseStream, prelude: "dict[str, Any]") -> ResponseStream:
        """``prelude``: ``statusCode``, ``headers``, ``cookies``."""
        stream.set_prelude(prelude)
        return stream
