"""sys.stdout and sys.stderr of the function: each printed line becomes one log event on the channel, in order with all others.

File descriptors 1 and 2 stay what they are, a pipe that the supervisor reads apart, for subprocesses and C code; ``fileno()`` tells
them. In a process that the function forked, prints go straight there.
"""

from __future__ import annotations

import io
import json
import os
import threading
from typing import Any, Optional

from runtime_bootstrap.python.channel import Channel

# CloudWatch Logs takes no longer event; it also bounds what an endless line without newline may occupy.
MAX_EVENT = 256 * 1024
LEVELS = {"TRACE": 1, "DEBUG": 2, "INFO": 3, "WARN": 4, "WARNING": 4, "ERROR": 5, "FATAL": 6, "CRITICAL": 6}


class Lines(io.BufferedIOBase):
    """The binary side of one stream: whole lines are sent at once, an unfinished one waits for its rest or for ``settle``.

    With ``least_level`` set, lines that are JSON objects with a lower ``level`` are dropped, as AWS does with JSON logging.
    """

    def __init__(self, channel: Channel, fd: int, least_level: int = 0) -> None:
        super().__init__()
        self.name = "<stdout>" if fd == 1 else "<stderr>"
        self.mode = "wb"
        self._channel = channel
        self._fd = fd
        self.least_level = least_level
        self._held: "list[bytes]" = []
        self._held_size = 0
        # Whether the line that goes on was already sent in part for its length.
        self._cut = False
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """What is held is the parent's to print."""
        self._lock = threading.RLock()
        self._held = []
        self._held_size = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        raw = bytes(data)
        if not raw:
            # What print(..., end="") ends with, from Python 3.13 on also in tracebacks, is no line of its own.
            return 0
        if self._channel.foreign:
            self._write_through(raw)
            return len(raw)
        with self._lock:
            end = raw.rfind(b"\n")
            if end < 0:
                self._hold(raw)
                return len(raw)
            # In one step: a signal handler that prints may come between any two calls.
            held, self._held = self._held, []
            self._held_size = 0
            text = b"".join((*held, raw[:end])) if held else raw[:end]
            lines = text.split(b"\n")
            if self._cut:
                self._cut = False
                if not lines[0]:
                    del lines[0]
            if lines:
                self._emit(lines)
            if end + 1 < len(raw):
                self._hold(raw[end + 1 :])
        return len(raw)

    @property
    def unfinished(self) -> bool:
        """Whether something waits for its newline."""
        return bool(self._held)

    def settle(self) -> None:
        """Send what has no newline yet: the invocation or the process ends here."""
        with self._lock:
            held, self._held = self._held, []
            self._held_size = 0
            self._cut = False
            if held:
                self._emit([b"".join(held)])

    def _hold(self, raw: bytes) -> None:
        self._held.append(raw)
        self._held_size += len(raw)
        if self._held_size >= MAX_EVENT:
            self.settle()
            self._cut = True

    def _emit(self, lines: "list[bytes]") -> None:
        if max(map(len, lines)) > MAX_EVENT:
            lines = [line[at : at + MAX_EVENT] for line in lines for at in range(0, len(line) or 1, MAX_EVENT)]
        if not self.least_level:
            self._channel.log(lines, 0)
            return
        for line in lines:
            level = _level_of(line)
            if level is None:
                self._channel.log([line], 0)
            elif level >= self.least_level:
                self._channel.log([line], level)

    def _write_through(self, raw: bytes) -> None:
        view = memoryview(raw)
        while view:
            view = view[os.write(self._fd, view) :]


def _level_of(line: bytes) -> Optional[int]:
    """The level a JSON line gives itself, INFO when it gives none that is known; None when it is no JSON object with a level."""
    if not line.startswith(b"{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or "level" not in record:
        return None
    return LEVELS.get(str(record["level"]).upper(), LEVELS["INFO"])


class Stream(io.TextIOWrapper):
    """The text side; nothing is buffered in it."""

    def __init__(self, lines: Lines, errors: str) -> None:
        super().__init__(lines, encoding="utf-8", errors=errors, newline="\n", write_through=True)
        self.mode = "w"  # type: ignore[misc]
