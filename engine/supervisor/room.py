"""How many instances the host has room for: a number, a memory budget, and what the machine has left, also of file descriptors.

The budget is in MemorySize, which most functions never use up: it promises, where it is set, that no instance is killed because others
grew. Without one the machine's own memory decides, looked at once a second and every few instances in a burst.

This process sees its own file descriptors. The broker sees its own, and turns away what it has none for: then there is room for no more than there were, and
for one more every second, in case there is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.sandbox.descriptors import shortage

_LOOK_EVERY = 16


def available_mib() -> int | None:
    """Memory the kernel could give out without swapping, in MiB; None where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


class Room:
    """``budget_mib`` 0: no budget. ``reserve_mib``: what the machine must have left for one more instance to start."""

    def __init__(
        self,
        max_instances: int,
        budget_mib: int = 0,
        reserve_mib: int = 0,
        available: Callable[[], int | None] = available_mib,
        own_shortage: Callable[[], str] = shortage,
    ) -> None:
        self._max = max_instances
        self._budget_mib = budget_mib
        self._reserve_mib = reserve_mib
        self._available = available
        self._own_shortage = own_shortage
        # What the broker had room for, and what it was short of.
        self._had_room_for: int | None = None
        self._short_of = ""
        self._since_look = 0
        self._short = False
        self.instances = 0
        self.committed_mib = 0

    def fits(self, memory_mib: int) -> bool:
        """Whether one more instance of this MemorySize may start now."""
        if self.instances >= self._max or self._turns_away() or self._own_shortage():
            return False
        if self._budget_mib and self.committed_mib + memory_mib > self._budget_mib:
            return False
        return not self._short

    def _turns_away(self) -> bool:
        return self._had_room_for is not None and self.instances >= self._had_room_for

    def turned_away(self, why: str) -> None:
        """The broker has no room for one that was started; it is given back next."""
        self._short_of = why
        others = self.instances - 1
        self._had_room_for = others if self._had_room_for is None else min(self._had_room_for, others)

    def take(self, memory_mib: int) -> None:
        """An instance starts."""
        self.instances += 1
        self.committed_mib += memory_mib
        self._since_look += 1
        if self._since_look >= _LOOK_EVERY:
            self.look()

    def give_back(self, memory_mib: int) -> None:
        """An instance is told to go."""
        self.instances -= 1
        self.committed_mib -= memory_mib
        if self._short:
            self.look()

    def look(self) -> None:
        """See how much memory the machine has left."""
        self._since_look = 0
        if self._reserve_mib:
            left = self._available()
            self._short = left is not None and left < self._reserve_mib

    def try_more(self) -> None:
        """Once a second: what the broker had no room for it may have room for now."""
        if self._had_room_for is not None:
            self._had_room_for = None if self.instances < self._had_room_for // 2 else self._had_room_for + 1

    def why_full(self) -> str:
        """What is exhausted, in words."""
        if self.instances >= self._max:
            return f"{self.instances} instances, which is all it may hold"
        if self._turns_away():
            return self._short_of
        if short_of := self._own_shortage():
            return short_of
        if self._short:
            return f"less than {self._reserve_mib} MiB of memory left"
        return f"instances with {self.committed_mib} MiB of memory in all, of {self._budget_mib} MiB it may give"
