"""Where words go: data to stdout, talk to stderr; colour and progress only on a terminal and never with NO_COLOR."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO


class CliError(Exception):
    """A command cannot go on; the message says why and what to do. ``status`` is the exit status: 1 failed, 2 misused."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` may carry escape sequences."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def data(text: str) -> None:
    """One line of the answer."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def document(value: Any) -> None:
    """The answer as JSON."""
    data(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def say(text: str) -> None:
    """One line of talk."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def complain(text: str) -> None:
    """Why the command failed."""
    say(f"\x1b[31merror:\x1b[0m {text}" if coloured(sys.stderr) else f"error: {text}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, headed; plain text so that ``grep`` and ``awk`` can read it."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        data("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Show that ``text`` is going on: a spinner on a terminal, nothing elsewhere."""
    if not coloured(sys.stderr):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
