"""Control groups of sandboxes that have ended: on to the next one, or removed, off the path of everything else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from engine.sandbox.cgroups import Groups
from engine.sandbox.group import Group
from engine.sandbox.peers import Loop

_REMOVE_EVERY_S = 0.01
_REMOVE_AT_ONCE = 16
# How often it is looked which control groups nobody needed in between; all are gone after twice this time without a new holder.
_SPARE_S = 0.5


class Leavings:
    """``gone`` is told whose holders have nothing left."""

    def __init__(self, loop: Loop, groups: Groups, gone: Callable[[list[int]], None]) -> None:
        self._loop = loop
        self._groups = groups
        self._gone = gone
        # By holder; -1 for those that were nobody's.
        self._removals: deque[tuple[int, Group, bool]] = deque()
        self._counting_spare = False

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return bool(self._removals)

    def add(self, group: Group, holder_id: int, *, usable: bool) -> None:
        """``usable``: the next holder may have them. Not when a sandbox ended by itself: the supervisor may still have its hand on the freezer."""
        self._begin()
        self._removals.append((holder_id, group, usable))

    def _begin(self) -> None:
        if not self._removals:
            self._loop.later(_REMOVE_EVERY_S, self._remove_some)

    def _remove_some(self) -> None:
        gone: list[int] = []
        for _ in range(min(_REMOVE_AT_ONCE, len(self._removals))):
            holder_id, group, usable = self._removals.popleft()
            if (usable and self._pass_on(group)) or group.remove():
                if holder_id >= 0:
                    gone.append(holder_id)
            else:
                self._removals.append((holder_id, group, usable))
        if gone:
            self._gone(gone)
        if self._removals:
            self._loop.later(_REMOVE_EVERY_S, self._remove_some)

    def _pass_on(self, group: Group) -> bool:
        """Whether the next holder gets these."""
        if not self._groups.give_back(group):
            return False
        if not self._counting_spare:
            self._counting_spare = True
            self._loop.later(_SPARE_S, self._count_spare)
        return True

    def _count_spare(self) -> None:
        unneeded = self._groups.unneeded()
        if unneeded:
            self._begin()
        self._removals.extend((-1, group, False) for group in unneeded)
        self._counting_spare = self._groups.spare > 0
        if self._counting_spare:
            self._loop.later(_SPARE_S, self._count_spare)

    def close(self) -> None:
        """Remove what can be removed; the broker ends."""
        for _, group, _ in self._removals:
            group.remove()
