"""Function logs on disk: one file per function (and log group, where it writes to another than its own), written in batches off the hot path.

A line is ``<epoch ms> TAB <log stream> TAB <message>``; whoever writes an event has turned newlines inside it into carriage
returns, as AWS's runtimes do. Events are queued as they happen and written by ``flush``, which the supervisor calls a few times a second; what a function prints
never blocks an invocation. A file over its size is renamed to ``.1`` (replacing the former one) and begun anew.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol


class Renders(Protocol):
    """Text that is made when the log is written, so that formatting stays off the hot path. None: nothing to write."""

    def render(self) -> str | None: ...


class Batch(Protocol):
    """Lines in a row that are made into text when the log is written; its owner may add to it while it is ``FunctionLog.batch``."""

    def __len__(self) -> int: ...

    def render(self) -> str:
        """All of them, each with its newline."""


Line = tuple[int, str, "str | Renders"]
MAX_EVENT = 256 * 1024
MAX_QUEUED = 200_000
MAX_QUEUED_CHARACTERS = 16 * 1024 * 1024


class FunctionLog:
    """The log of one function. ``write`` is cheap; nothing reaches the disk before ``flush``."""

    def __init__(self, path: Path | str, max_bytes: int, dirty: list[FunctionLog] | None = None, group: str = "") -> None:
        """``path`` may be text: most functions' logs are not written for a long time, and a path object costs more than all else here.

        ``group``: the log group, where it is not the function's own; it is written beside the file. ``dirty``: where the log puts itself when it has something to write, so that nobody must look through all logs.
        """
        self._path = path
        self.max_bytes = max_bytes
        self.dropped = 0
        self._dirty = [] if dirty is None else dirty
        self._group = group
        self._dropped_ms = 0
        # What was written last, when it is a batch.
        self.batch: Batch | None = None
        self._lines: list[Line | Batch] = []
        self._batched = 0
        self._characters = 0
        self._begun = False

    @property
    def path(self) -> Path:
        return Path(self._path)

    def write(self, at_ms: int, stream: str, text: str | Renders) -> None:
        """Queue one event. Beyond MAX_QUEUED events or their characters between two flushes the rest is counted and dropped."""
        if self.batch is not None:
            self._close_batch()
        if len(self._lines) + self._batched >= MAX_QUEUED:
            self._drop(at_ms)
            return
        if isinstance(text, str):
            if self._characters + len(text) > MAX_QUEUED_CHARACTERS:
                self._drop(at_ms)
                return
            self._characters += len(text)
        if not self._lines:
            self._dirty.append(self)
        self._lines.append((at_ms, stream, text))

    def begin(self, batch: Batch, at_ms: int) -> bool:
        """Queue a batch, to which may be added until something else is written; False, and its first line is dropped, as in ``write``."""
        if self.batch is not None:
            self._close_batch()
        if len(self._lines) + self._batched >= MAX_QUEUED:
            self._drop(at_ms)
            return False
        if not self._lines:
            self._dirty.append(self)
        self._lines.append(batch)
        self.batch = batch
        return True

    def _drop(self, at_ms: int) -> None:
        self.dropped += 1
        self._dropped_ms = at_ms

    def _close_batch(self) -> None:
        if self.batch is not None:
            self._batched += len(self.batch)
            self.batch = None

    def flush(self) -> None:
        """Append what is queued. Raises OSError when the disk refuses; the lines are then lost, the engine goes on."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        self._characters = self._batched = 0
        self.batch = None
        out: list[str] = []
        if self.dropped:
            out.append(f"{self._dropped_ms}\t-\t[engine] {self.dropped} log events dropped: more than {MAX_QUEUED}, or 16 MiB, at once\n")
            self.dropped = 0
        for line in lines:
            if not isinstance(line, tuple):
                out.append(line.render())
                continue
            at_ms, stream, text = line
            shown = text if isinstance(text, str) else text.render()
            if shown is None:
                continue
            out.append(f"{at_ms}\t{stream}\t{shown}\n")
        if not out:
            return
        data = "".join(out).encode("utf-8", "replace")
        fd = self._open()
        try:
            # Whoever deletes the log group deletes the file; what is written here may not be all that changes its size.
            size = os.fstat(fd).st_size
            if size and size + len(data) > self.max_bytes:
                os.close(fd)
                fd = -1
                self.path.replace(self.path.with_suffix(".log.1"))
                fd = self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            if fd >= 0:
                os.close(fd)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        if not self._begun:
            path = self.path
            self._path = str(path)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._group:
                path.with_suffix(".group").write_text(f"{self._group}\n")
            self._begun = True
        return os.open(self._path, flags, 0o600)


class LogStore:
    """All function logs below one directory."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.errors = 0
        self._logs: dict[tuple[str, str, str], FunctionLog] = {}
        self._dirty: list[FunctionLog] = []

    def of(self, account: str, name: str, group: str = "") -> FunctionLog:
        """The log of a function; the name has been validated, so it is safe as a file name. ``group``: another log group than its own."""
        key = self._key(account, name, group)
        log = self._logs.get(key)
        if log is None:
            group = key[2]
            file = f"{name}@{hashlib.sha256(group.encode()).hexdigest()[:16]}" if group else name
            log = self._logs[key] = FunctionLog(f"{self.root}/{account}/{file}.log", self.max_bytes, self._dirty, group)
        return log

    @staticmethod
    def _key(account: str, name: str, group: str) -> tuple[str, str, str]:
        return account, name, "" if group == f"/aws/lambda/{name}" else group

    def forget(self, account: str, name: str, group: str = "") -> None:
        """The function is gone: what its last instances have to say is still written, the file stays. Idempotent."""
        self._logs.pop(self._key(account, name, group), None)

    def flush(self) -> str | None:
        """Write everything queued; the last error's text when a disk refused, else None."""
        error = None
        dirty = self._dirty[:]
        self._dirty.clear()
        for log in dirty:
            try:
                log.flush()
            except OSError as e:
                self.errors += 1
                error = f"{log.path}: {e.strerror}"
        return error
