"""What programs write to their standard output, line by line, where somebody here must see it: JSON levels, telemetry."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Optional

from runtime_bootstrap.agent.loop import Loop

# CloudWatch Logs takes no longer event.
MAX_EVENT = 256 * 1024
LEVELS = {"TRACE": 1, "DEBUG": 2, "INFO": 3, "WARN": 4, "WARNING": 4, "ERROR": 5, "FATAL": 6, "CRITICAL": 6}


class Output:
    """One pipe. ``writer`` is the end that programs get; ``on_line(bytes)`` gets each line without its newline."""

    def __init__(self, loop: Loop, on_line: "Callable[[bytes], Any]") -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._on_line = on_line
        self._partial = b""
        loop.watch(self._reader, lambda _mask: self.read())

    def read(self) -> bool:
        """Take what is there; whether there was something."""
        try:
            data = os.read(self._reader, 65536)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            return False
        *lines, rest = (self._partial + data).split(b"\n")
        for line in lines:
            self._on_line(line)
        while len(rest) > MAX_EVENT:
            self._on_line(rest[:MAX_EVENT])
            rest = rest[MAX_EVENT:]
        self._partial = rest
        return True

    def drain(self) -> None:
        """Everything written so far."""
        while self.read():
            pass

    def settle(self) -> None:
        """Everything, the line without a newline included: the writers have ended."""
        self.drain()
        if self._partial:
            rest, self._partial = self._partial, b""
            self._on_line(rest)


def level_of(line: bytes) -> Optional[int]:
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
