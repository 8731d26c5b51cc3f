"""The compiled lane for plain warm invocations: whether it is there, and what it offers.

``_lane`` is built from ``_lane.pyx`` at installation where a C compiler and Python's headers are; without it the engine does the same
in Python, at about a third of the rate. Both are held to the same tests.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from engine.supervisor.catalogue import Version
    from engine.supervisor.request import ReplyTo, Request


class LaneWorker(Protocol):
    """A worker's channel as the lane sees it.

    ``usable``: the worker is initialised, not frozen, and its raw output needs no reading. ``clean``: no part of a frame is held.
    ``started_s``: when its invocation under way began.
    """

    usable: bool
    clean: bool
    started_s: float

    def readable(self) -> None:
        """The loop's callback: the worker sent something."""

    def request(self) -> Request:
        """Turn the lane's invocation under way into an ordinary one."""

    def release(self) -> None:
        """It is not about to be free any more: see ``finishing``. Idempotent."""

    def close(self) -> None:
        """The channel is closed. Idempotent."""


class Caller(Protocol):
    """A connection whose plain invocations may take the lane."""

    def deliver(self, reply: bytes) -> None:
        """Write a whole answer."""

    def reply_to(self, call_id: int) -> ReplyTo:
        """Who answers an invocation that has left the lane."""


class Lane(Protocol):
    """One function's lane for one caller's way of naming it."""

    def run(self, caller: Caller, body: bytes) -> bool:
        """Start a plain invocation; False, and nothing has happened, when it is not for the lane."""


class LaneCalls(Protocol):
    """The frames of one binary connection."""

    def feed(self, data: bytes) -> bytes: ...

    def learn(self, call: bytes, make: Callable[[], Lane | None]) -> None: ...


class Lanes(Protocol):
    """The compiled module."""

    def Worker(self, instance: Any, channel: Any, fd: int) -> LaneWorker: ...  # noqa: N802 - a class

    def Lane(self, api: Any, invoker: Any, version: Version, arn: bytes) -> Lane: ...  # noqa: N802 - a class

    def Calls(self, connection: Caller) -> LaneCalls: ...  # noqa: N802 - a class

    def set_date(self, make: Callable[[], bytes]) -> None: ...


def load(date_line: Callable[[], bytes] | None = None) -> Lanes | None:
    """The compiled module, or None where it was not built (or was built for another interpreter).

    ``date_line`` makes the ``Date`` header of its answers, which it asks for once a second.
    """
    try:
        module = cast("Lanes", importlib.import_module("engine.supervisor._lane"))
    except ImportError:
        return None
    if date_line is not None:
        module.set_date(date_line)
    return module
