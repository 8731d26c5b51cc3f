"""The function's output: prints, logging records and errors become log events on the channel, in order.

A print line is one event; a logging record or an error is one event however many lines it has. In a child process that the function
forked, output goes to the plain descriptors, which the engine reads too.
Source: docs.aws.amazon.com/lambda/latest/dg/python-logging.html
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
import traceback
from typing import Any, Optional

from runtime_bootstrap.python.channel import Channel

_LEVELS = {"TRACE": 1, "DEBUG": 2, "INFO": 3, "WARN": 4, "WARNING": 4, "ERROR": 5, "FATAL": 6, "CRITICAL": 6}
_OWN_FIELDS = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName", "aws_request_id"}


class Sink:
    """Where all output goes. ``request_id`` is that of the running invocation, None during init."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.request_id: Optional[str] = None

    def event(self, text: str, level: int = 0) -> None:
        """One event, whatever it contains."""
        data = text.encode("utf-8", "backslashreplace")
        if self._channel.foreign:
            os.write(1, data + b"\n")
        else:
            self._channel.log(self.request_id, level, data)

    def line(self, data: bytes, fd: int) -> None:
        """One printed line, without its newline."""
        if self._channel.foreign:
            os.write(fd, data + b"\n")
        else:
            self._channel.log(self.request_id, 0, data)


class _Lines(io.BufferedIOBase):
    """The binary side of stdout or stderr: whole lines are sent at once, the rest waits for ``flush_partial``."""

    def __init__(self, sink: Sink, fd: int) -> None:
        self._sink = sink
        self._fd = fd
        self._partial = b""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        raw = bytes(data)
        if b"\n" not in raw:
            self._partial += raw
            return len(raw)
        *lines, self._partial = (self._partial + raw).split(b"\n")
        for line in lines:
            self._sink.line(line, self._fd)
        return len(raw)

    def flush_partial(self) -> None:
        """Send what has no newline yet: the invocation ends here."""
        if self._partial:
            line, self._partial = self._partial, b""
            self._sink.line(line, self._fd)


class Stream(io.TextIOWrapper):
    """sys.stdout and sys.stderr."""

    def __init__(self, sink: Sink, fd: int) -> None:
        self._lines = _Lines(sink, fd)
        super().__init__(self._lines, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        self.mode = "w"

    def flush_partial(self) -> None:
        self._lines.flush_partial()


class _Handler(logging.Handler):
    """The root logger's only handler."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        record.aws_request_id = self._sink.request_id or ""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self._sink.event(text[:-1] if text.endswith("\n") else text, _LEVELS.get(record.levelname, 0))


class _JsonFormatter(logging.Formatter):
    """One JSON object per record; members without a value are left out."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        error_type = error_message = trace = location = None
        if record.exc_info and record.exc_info[0] is not None:
            error_type = record.exc_info[0].__name__
            error_message = str(record.exc_info[1])
            trace = traceback.format_tb(record.exc_info[2])
            location = "%s:%s:%s" % (record.pathname, record.funcName, record.lineno)
        members = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
            "stackTrace": trace,
            "errorType": error_type,
            "errorMessage": error_message,
            "requestId": getattr(record, "aws_request_id", None),
            "location": location,
        }
        members.update({k: v for k, v in record.__dict__.items() if k not in _OWN_FIELDS and k not in members})
        return json.dumps({k: v for k, v in members.items() if v is not None}, default=str, ensure_ascii=False)


def install(sink: Sink, log_format: str, level: Optional[str]) -> None:
    """Give the root logger its handler and, when set, its level."""
    handler = _Handler(sink)
    if log_format == "JSON":
        handler.setFormatter(_JsonFormatter())
    else:
        text = logging.Formatter("[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n", "%Y-%m-%dT%H:%M:%S")
        text.converter = time.gmtime
        handler.setFormatter(text)
    root = logging.getLogger()
    root.handlers = [handler]
    if level:
        root.setLevel("DEBUG" if level == "TRACE" else "CRITICAL" if level == "FATAL" else level)
