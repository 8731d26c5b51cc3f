"""What is looked after again and again, on one timer for all of it: a timer each would wake an idle engine two and a half times as often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

BEAT_S = 0.05


class Rounds:
    """Calls each chore every so often, in the order in which they were added, beginning with the first beat."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._chores: list[tuple[int, Callable[[], None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._beats = 0

    def add(self, every_s: float, chore: Callable[[], None]) -> None:
        """Have ``chore`` called every ``every_s``, as near as beats come to it and at most once a beat."""
        self._chores.append((max(1, round(every_s / BEAT_S)), chore))

    def begin(self) -> None:
        """Call everything, and again from now on."""
        # First, so that what goes wrong in one chore ends neither it nor the others for good.
        self._timer = self._loop.call_later(BEAT_S, self.begin)
        beat = self._beats
        self._beats += 1
        for every, chore in self._chores:
            if beat % every == 0:
                chore()

    def end(self) -> None:
        """Call nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
