"""The root logger's handler: text or JSON records as AWS's Python runtime writes them, each one log event.

Source: docs.aws.amazon.com/lambda/latest/dg/python-logging.html and the published runtime interface client.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import Any, Optional

from runtime_bootstrap.python.channel import Channel
from runtime_bootstrap.python.streams import LEVELS, MAX_EVENT

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_NUMBERS = {0: 0, 10: 2, 20: 3, 30: 4, 40: 5, 50: 6}
# Attributes of a record that are not the user's ``extra``.
_OWN = frozenset(
    (
        "name", "msg", "args", "levelname", "levelno", "pathname", "filename", "module", "exc_info", "exc_text", "stack_info",
        "lineno", "funcName", "created", "msecs", "relativeCreated", "thread", "threadName", "processName", "process",
        "aws_request_id", "tenant_id",
    )
)  # fmt: skip
_encode = json.JSONEncoder(ensure_ascii=False).encode


# Times are UTC in all logs, as on AWS.
logging.Formatter.converter = time.gmtime


class Sink:
    """Where log events go. ``request_id`` and ``tenant_id`` are those of the last invocation, empty and None before the first."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.request_id = ""
        self.tenant_id: Optional[str] = None

    def log(self, text: str, level: int = 0) -> None:
        """One event, however many lines; one newline at its end is not part of it. Longer than MAX_EVENT bytes: several."""
        raw = text.encode("utf-8", "backslashreplace")
        if raw.endswith(b"\n"):
            raw = raw[:-1]
        if self._channel.foreign:
            print(raw.decode(), flush=True)
        elif len(raw) <= MAX_EVENT:
            self._channel.log([raw], level)
        else:
            self._channel.log([raw[at : at + MAX_EVENT] for at in range(0, len(raw), MAX_EVENT)], level)


class LambdaLoggerHandler(logging.Handler):
    """Sends records to ``log_sink``. An error in formatting one is raised in the code that logged it, as on AWS."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.log_sink = sink
        self.addFilter(LambdaLoggerFilter(sink))

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.log_sink.log(text, _NUMBERS[_step(record.levelno)])


class LambdaLoggerFilter(logging.Filter):
    """Gives each record the request it belongs to; formatters that users set rely on ``aws_request_id``."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def filter(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = self._sink.request_id
        record.tenant_id = self._sink.tenant_id
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object per record; members without a value are left out."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelno = _step(record.levelno)
        record.levelname = logging.getLevelName(record.levelno)
        members: "dict[str, Any]" = {
            "timestamp": self.formatTime(record, _TIME),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        error = record.exc_info
        if error and error[0] is not None:
            members["stackTrace"] = traceback.format_tb(error[2])
            members["errorType"] = error[0].__name__
            members["errorMessage"] = str(error[1])
        members["requestId"] = getattr(record, "aws_request_id", None)
        if error:
            members["location"] = "%s:%s:%s" % (record.pathname, record.funcName, record.lineno)
        members["tenantId"] = getattr(record, "tenant_id", None)
        for key, value in record.__dict__.items():
            if key not in _OWN and key not in members:
                members[key] = value
        return _encode({k: v for k, v in members.items() if v is not None}) + "\n"


_JSON = JsonFormatter()
_TEXT = logging.Formatter("[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n", "%Y-%m-%dT%H:%M:%S")


def _step(levelno: int) -> int:
    return min(50, max(0, levelno)) // 10 * 10


def install(handler: LambdaLoggerHandler, json_format: bool, level: str) -> None:
    """Give the root logger its handler and, when ``level`` is one, its level."""
    handler.setFormatter(_JSON if json_format else _TEXT)
    root = logging.getLogger()
    root.addHandler(handler)
    wanted = {"TRACE": "DEBUG"}.get(level.upper(), level.upper())
    if wanted in LEVELS:
        root.setLevel(wanted)
