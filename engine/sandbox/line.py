"""Holders that wait for the zygote or template that they are to come from, and how many each is at.

A source is asked for a few at once. Nothing is begun that this process would not have the descriptors for (``descriptors``): while sandboxes are ending,
which gives some back, it waits for a moment; then the holder in question is told to have failed, and it alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from engine.sandbox.api import NO_ROOM
from engine.sandbox.descriptors import shortage
from engine.sandbox.peers import Loop
from engine.sandbox.record import Holder
from engine.sandbox.sources import Source

# Forks a source is asked for at once: enough to keep it busy, few enough that a kill or an urgent make is not stuck behind.
_IN_FLIGHT = 8
# Descriptors that this process has for a holder until it is made, at most.
_EACH = 10
_PATIENCE_S = 1.0


class Refuse(Protocol):
    """Tell that a holder cannot be made, and forget it."""

    def __call__(self, holder: Holder, step: str, reason: str) -> None: ...


class Line:
    """``start`` has one made, and raises OSError when it cannot be; ``began`` and ``done`` are called around what that takes. ``holders`` is the
    broker's table, which belongs to somebody else.
    """

    def __init__(self, loop: Loop, holders: Mapping[int, Holder], start: Callable[[Holder], None], refuse: Refuse) -> None:
        self._loop = loop
        self._holders = holders
        self._start = start
        self._refuse = refuse
        self._waiting: dict[str, deque[Holder]] = {}
        # The holders that a source is at, by their ids.
        self._making: dict[str, set[int]] = {}
        # Whose turn it was when there was no room, and until when it is waited for some.
        self._held: dict[str, Source] = {}
        self._until_s = 0.0
        self._looking = False

    def join(self, holder: Holder) -> None:
        """The last one. It is started at once, when its source has caught up, or when there is room."""
        self._waiting.setdefault(holder.zygote.key, deque()).append(holder)
        self.advance(holder.zygote)

    def advance(self, source: Source) -> None:
        """Start what has been waiting for it."""
        waiting = self._waiting.get(source.key)
        while waiting and source.ready and len(self._making.get(source.key, ())) < _IN_FLIGHT:
            if waiting[0].dying:
                waiting.popleft()
                continue
            why = shortage(_EACH * (1 + sum(map(len, self._making.values()))))
            if why and self._worth_waiting():
                self._held[source.key] = source
                return
            holder = waiting.popleft()
            if why:
                self._refuse(holder, NO_ROOM, why)
                continue
            try:
                self._start(holder)
            except OSError as e:
                self._refuse(holder, "prepare the sandbox", str(e))

    def _worth_waiting(self) -> bool:
        """Whether some of what is there is about to end."""
        if not any(holder.dying for holder in self._holders.values()):
            return False
        now_s = time.monotonic()
        if not self._looking:
            self._looking = True
            self._until_s = now_s + _PATIENCE_S
            self._loop.later(_PATIENCE_S, self._look)
        return now_s < self._until_s

    def freed(self, holder: Holder) -> None:
        """It has given back what it had, and is not waited for, should its source have ended in the middle of it."""
        self._making.get(holder.zygote.key, set()).discard(holder.id)
        if self._held:
            self._until_s = time.monotonic() + _PATIENCE_S
            # Not from within what ends one: others may be next to end.
            self._loop.later(0.0, self._go_on)

    def _look(self) -> None:
        self._go_on()
        self._looking = bool(self._held)
        if self._looking:
            self._loop.later(self._until_s - time.monotonic(), self._look)

    def _go_on(self) -> None:
        held, self._held = self._held, {}
        for source in held.values():
            self.advance(source)

    def began(self, holder: Holder) -> None:
        """Its source has been asked for it."""
        self._making.setdefault(holder.zygote.key, set()).add(holder.id)

    def done(self, holder: Holder) -> None:
        """It has been made, or could not be."""
        self._making.get(holder.zygote.key, set()).discard(holder.id)
        self.advance(holder.zygote)

    def asked(self, key: str) -> bool:
        """Whether it has been asked for anything since it began."""
        return key in self._making

    def drop(self, key: str) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(key, None)

    def ended(self, key: str) -> None:
        """There is no such source any more."""
        self._making.pop(key, None)
        self._waiting.pop(key, None)
        self._held.pop(key, None)
