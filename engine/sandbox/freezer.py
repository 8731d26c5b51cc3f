"""Stopping an idle sandbox and letting it go on: by its control group's own file, or by signals through the broker.

Freezing the group is one write of 3 to 20 microseconds on v2 (about 100 on v1), which the supervisor makes itself with a descriptor it was
given, so that thawing never waits for another process. Signals reach every process of the sandbox too, but a function can see them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from engine.sandbox.group import FREEZE_FILES


class Freezer(Protocol):
    """Of one sandbox. No call blocks or raises."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def close(self) -> None:
        """Give up what it holds; the sandbox stays as it is. Idempotent."""


class GroupFreezer:
    """By a control group. Owns the descriptor."""

    __slots__ = ("_fd", "_freeze", "_thaw")

    def __init__(self, version: int, fd: int) -> None:
        _, self._freeze, self._thaw = FREEZE_FILES[version]
        self._fd = fd

    def freeze(self) -> None:
        self._write(self._freeze)

    def thaw(self) -> None:
        self._write(self._thaw)

    def _write(self, word: bytes) -> None:
        # ENODEV: the sandbox has ended; its end is reported in any case.
        try:
            os.pwrite(self._fd, word, 0)
        except OSError:
            pass

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SignalFreezer:
    """By SIGSTOP and SIGCONT from the sandbox's init: ``send(frozen)`` asks for it."""

    __slots__ = ("_send",)

    def __init__(self, send: Callable[[bool], None]) -> None:
        self._send = send

    def freeze(self) -> None:
        self._send(True)

    def thaw(self) -> None:
        self._send(False)

    def close(self) -> None:
        """Nothing is held."""
