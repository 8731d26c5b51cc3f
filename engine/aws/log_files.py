"""Functions' logs as log events, read from the files that the supervisor writes.

Theory of operation. ``<account>/<function>.log`` holds the group ``/aws/lambda/<function>``; what a function writes to a group of another name is in
``<account>/<function>@<digest>.log``, whose ``.group`` file beside it says the name. Each has at most one older file (``.log.1``). A file is read once from its
beginning to its end and then only what was added; of each block of it is remembered where it is and which times are in it, so that a question about the last
minutes reads the last blocks. Nothing of an event is kept in memory but the figures of its stream.

A line is ``<epoch ms> TAB <stream> TAB <message>``; newlines inside a message are carriage returns in the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 256 * 1024
HEAD = 64
SETTLED_NS = 1_000_000_000
PREFIX = "/aws/lambda/"
ID_DIGITS = 56
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One log event. ``event_id`` has ID_DIGITS digits, and sorting by it sorts by time."""

    event_id: str
    at_ms: int = field(compare=False)
    stream: str = field(compare=False)
    message: str = field(compare=False)


def event_id(at_ms: int, where: int, offset: int) -> str:
    """An id that stays with the event: its time, the file it is in and where there."""
    return f"{at_ms:014d}{where % 10**22:022d}{offset % 10**20:020d}"


@dataclass(slots=True)
class Stream:
    """What is known of a log stream."""

    first_ms: int
    last_ms: int


@dataclass(slots=True)
class Block:
    """A part of a file and the times in it."""

    offset: int
    size: int = 0
    first_ms: int = _NEVER
    last_ms: int = -1


class LogFile:
    """One file on the disk, which somebody else goes on writing. It is known by what it is and not by its name, which changes."""

    def __init__(self, where: int) -> None:
        self.where = where
        self.head = b""
        self.streams: dict[str, Stream] = {}
        self._blocks: list[Block] = []
        self.size = 0

    def is_in(self, file: int) -> bool:
        """Whether the open file still is this one, and not another that got its number."""
        return os.fstat(file).st_size >= self.size and os.pread(file, len(self.head), 0) == self.head

    def look(self, file: int) -> None:
        """Learn of what was added to the open file. What has no end of line yet is left for the next time."""
        self.head = self.head or os.pread(file, HEAD, 0)
        while data := os.pread(file, BLOCK, self.size):
            end = data.rfind(b"\n") + 1
            if not end:
                # Longer than a block: a line may have up to 256 KiB of text, in up to four times as many bytes.
                data = os.pread(file, 8 * BLOCK, self.size)
                end = data.rfind(b"\n") + 1
                if not end:
                    return
            self._learn(data[:end])

    def _learn(self, data: bytes) -> None:
        if not self._blocks or self._blocks[-1].size >= BLOCK:
            self._blocks.append(Block(self.size))
        block = self._blocks[-1]
        for line in data.split(b"\n"):
            at, _, rest = line.partition(b"\t")
            if not at.isdigit():
                continue
            at_ms = int(at)
            block.first_ms, block.last_ms = min(block.first_ms, at_ms), max(block.last_ms, at_ms)
            name = rest.partition(b"\t")[0].decode("utf-8", "replace")
            known = self.streams.get(name)
            if known is None:
                self.streams[name] = Stream(at_ms, at_ms)
            else:
                known.first_ms, known.last_ms = min(known.first_ms, at_ms), max(known.last_ms, at_ms)
        block.size += len(data)
        self.size += len(data)

    def blocks(self, start_ms: int, end_ms: int) -> list[Block]:
        """Those in which there may be events of these times, ends included."""
        return [b for b in self._blocks if b.first_ms <= end_ms and b.last_ms >= start_ms]

    def events(self, file: int, block: Block, stream: str | None = None) -> Iterator[Event]:
        """The events of a block of the open file, in their order there; of one stream, if it is named."""
        data = os.pread(file, block.size, block.offset)
        wanted = None if stream is None else b"\t" + stream.encode() + b"\t"
        if wanted is not None and wanted not in data:
            return
        offset = block.offset
        for line in data.split(b"\n"):
            at, _, rest = line.partition(b"\t")
            if at.isdigit() and (wanted is None or line.startswith(wanted, len(at))):
                name, _, message = rest.decode("utf-8", "replace").partition("\t")
                yield Event(event_id(int(at), self.where, offset), int(at), name, message.replace("\r", "\n").rstrip("\n") + "\n")
            offset += len(line) + 1


class GroupFiles:
    """The files of one log group, as they are now."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._lock = threading.Lock()
        self._known: dict[int, LogFile] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[list[tuple[LogFile, int]]]:
        """Each file with all that is in it known, and a descriptor of it."""
        found: list[tuple[LogFile, int]] = []
        with self._lock, contextlib.ExitStack() as stack:
            for path in self.paths:
                # The older one last: what is renamed meanwhile is then met twice and not never.
                for each in (path, path.with_suffix(".log.1")):
                    try:
                        file = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
                    except FileNotFoundError:
                        continue
                    stack.callback(os.close, file)
                    where = os.fstat(file).st_ino
                    if any(where == log.where for log, _ in found):
                        continue
                    log = self._known.get(where)
                    if log is None or not log.is_in(file):
                        log = LogFile(where)
                    log.look(file)
                    found.append((log, file))
            self._known = {log.where: log for log, _ in found}
            yield found

    def figures(self) -> tuple[int, int | None]:
        """Bytes in all files, and the time of the first event."""
        with self.opened() as files:
            begun = [block.first_ms for log, _ in files for block in log.blocks(0, _NEVER)]
            return sum(log.size for log, _ in files), min(begun, default=None)

    def ends(self) -> dict[int, int]:
        """How far each file goes, by what it is."""
        with self.opened() as files:
            return {log.where: log.size for log, _ in files}

    def added(self, ends: dict[int, int]) -> list[Event]:
        """What came since ``ends``, which are brought up to date."""
        found: list[Event] = []
        with self.opened() as files:
            for log, file in files:
                begin = min(ends.get(log.where, 0), log.size)
                found += log.events(file, Block(begin, log.size - begin))
            ends.clear()
            ends.update({log.where: log.size for log, _ in files})
        return sorted(found)

    def streams(self) -> dict[str, Stream]:
        """All log streams by name."""
        result: dict[str, Stream] = {}
        with self.opened() as files:
            for log, _ in files:
                for name, about in log.streams.items():
                    known = result.get(name)
                    first_ms = about.first_ms if known is None else min(known.first_ms, about.first_ms)
                    last_ms = about.last_ms if known is None else max(known.last_ms, about.last_ms)
                    result[name] = Stream(first_ms, last_ms)
        return result

    def remove(self) -> None:
        """Delete the files. Idempotent; the supervisor begins them anew when there is something to write."""
        for path in self.paths:
            for each in (path.with_suffix(".log.1"), path):
                each.unlink(missing_ok=True)


class LogDirectory:
    """All log groups of functions, by account and name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._groups: dict[tuple[str, str], GroupFiles] = {}
        self._seen: dict[str, tuple[int, dict[str, GroupFiles]]] = {}
        self._names: dict[Path, str] = {}

    def groups(self, account: str) -> dict[str, GroupFiles]:
        """The groups of an account that have files, by name."""
        folder = self._root / account
        try:
            changed_ns = folder.stat().st_mtime_ns
            seen = self._seen.get(account)
            if seen is not None and seen[0] == changed_ns:
                return seen[1]
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found: dict[str, list[Path]] = {}
        for entry in entries:
            function, dot, rest = entry.name.partition(".")
            if dot and rest in ("log", "log.1"):
                path = Path(entry.path).with_name(f"{function}.log")
                name = self._name(path, function)
                if name is not None and path not in found.setdefault(name, []):
                    found[name].append(path)
        result = {}
        for name, paths in found.items():
            files = result[name] = self._groups.setdefault((account, name), GroupFiles())
            files.paths = sorted(paths)
        # What changes within one tick of the file system's clock does not change the time.
        if time.time_ns() - changed_ns > SETTLED_NS:
            self._seen[account] = changed_ns, result
        return result

    def _name(self, path: Path, function: str) -> str | None:
        """The group that a file is of; None while its name is not written yet."""
        if "@" not in function:
            return PREFIX + function
        name = self._names.get(path)
        if name is None:
            with contextlib.suppress(OSError):
                name = self._names[path] = path.with_suffix(".group").read_text().strip()
        return name or None
