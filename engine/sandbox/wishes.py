"""The VPCs that the broker should keep, remembered at the supervisor's end so that a broker's successor gets them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# Told which attachments could not be made and why (by id), and why nothing could be done, or an empty text.
VpcDone = Callable[[dict[str, str], str], None]


class Wishes:
    """Documents by VPC, and who waits for which order."""

    def __init__(self) -> None:
        self._documents: dict[str, dict[str, Any]] = {}
        self._waiting: dict[int, VpcDone] = {}
        self._last = 0

    def order(self, name: str, document: dict[str, Any] | None, then: VpcDone) -> list[Any]:
        """The request to the broker; ``then`` is called with its answer, or that it was lost. None: the VPC is not wanted any more."""
        if document is None:
            self._documents.pop(name, None)
        else:
            self._documents[name] = document
        self._last += 1
        self._waiting[self._last] = then
        return ["vpc", self._last, name, document]

    def again(self) -> Iterator[list[Any]]:
        """Everything that is wanted, for a new broker."""
        for name, document in self._documents.items():
            yield ["vpc", 0, name, document]

    def answered(self, token: int, problems: dict[str, str], reason: str) -> None:
        """The broker has done, or not done, what an order asked."""
        then = self._waiting.pop(token, None)
        if then is not None:
            then(problems, reason)

    def lost(self) -> None:
        """No answer will come; what is wanted is told to the next broker."""
        waiting, self._waiting = self._waiting, {}
        for then in waiting.values():
            then({}, "the sandbox broker was lost; its successor is told")
