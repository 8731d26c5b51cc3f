"""``logs``: what functions of the engine on this host wrote, from its data directory."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Json
from engine.cli.output import CliError, data
from engine.cli.session import settings_of

POLL_S = 0.2
Line = tuple[int, str, str]


def parse(text: str) -> Line:
    """(epoch ms, log stream, message) of a line on disk; a line that is not in that form is shown whole."""
    parts = text.rstrip("\n").split("\t", 2)
    if len(parts) != 3 or not parts[0].isdecimal():
        return 0, "-", text.rstrip("\n")
    # Newlines inside an event are carriage returns on disk.
    return int(parts[0]), parts[1], parts[2].replace("\r", "\n").rstrip("\n")


def last_lines(path: Path, count: int) -> list[Line]:
    """The last ``count`` events, also from the rotated file when the current one holds fewer."""
    kept: deque[str] = deque(maxlen=count)
    for part in (path.with_suffix(".log.1"), path):
        if part.exists():
            with part.open(encoding="utf-8", errors="replace", newline="\n") as file:
                kept.extend(file)
    return [parse(line) for line in kept]


class Follower:
    """Reads what is appended to a log, across rotation and before the file exists. ``read`` never blocks."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self._file = path.open("rb") if path.exists() else None
        if self._file is not None:
            self._file.seek(offset)
        self._rest = b""

    def read(self) -> Iterator[Line]:
        """Every complete event that came since the last call."""
        if self._file is None and self._path.exists():
            self._file = self._path.open("rb")
        if self._file is None:
            return
        rotated = self._rotated()
        self._rest += self._file.read()
        if rotated:
            self._file.close()
            self._file = self._path.open("rb") if self._path.exists() else None
            self._rest += self._file.read() if self._file is not None else b""
        *complete, self._rest = self._rest.split(b"\n")
        for line in complete:
            yield parse(line.decode("utf-8", "replace"))

    def close(self) -> None:
        """Let the file go. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rotated(self) -> bool:
        # Asked before the read: what the old file got until its rename is then read before it is let go.
        assert self._file is not None  # noqa: S101 - the caller checked
        try:
            return os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return True


def show(line: Line, as_json: bool) -> None:
    """Print one event."""
    at_ms, stream, message = line
    if as_json:
        data(json.dumps({"timestamp": at_ms, "logStream": stream, "message": message}, ensure_ascii=False))
        return
    at = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    data(f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z {message}")


def logs(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Function name.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as new lines come, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to show.")] = 100,
    data_dir: Annotated[Path | None, typer.Option(help="The engine's data directory.")] = None,
    as_json: Json = False,
) -> None:
    """Show a function's log: its output and the START, END and REPORT lines."""
    settings = settings_of(data_dir=data_dir)
    key = os.environ.get("AWS_ACCESS_KEY_ID", "")
    account = key if len(key) == 12 and key.isdecimal() else settings.account_id
    folder = settings.data_dir / "logs" / account
    # What goes to log groups of other names is in files of its own.
    paths = [folder / f"{name}.log", *sorted(folder.glob(f"{name}@*.log"))]
    if not any(path.exists() for path in paths) and not follow:
        raise CliError(
            f"no log of {name} at {paths[0]}: it has not run yet, or the engine keeps its data elsewhere (--data-dir)"
        )
    offsets = [path.stat().st_size if path.exists() else 0 for path in paths]
    found = [line for path in paths for line in last_lines(path, lines)]
    if len(paths) > 1:
        found = sorted(found, key=lambda line: line[0])[len(found) - min(lines, len(found)) :]
    for line in found:
        show(line, as_json)
    if not follow:
        return
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        followers = [stack.enter_context(contextlib.closing(Follower(p, o))) for p, o in zip(paths, offsets, strict=True)]
        while True:
            for follower in followers:
                for line in follower.read():
                    show(line, as_json)
            time.sleep(POLL_S)
