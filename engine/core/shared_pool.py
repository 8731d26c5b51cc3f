"""The planner for instances that run several invocations at once.

As ``pool``, but for one thing: an instance has ``capacity`` places. Instances that are at work already are filled first, the one that got
work last before the others, so that those above the need fall idle and expire; then comes the newest idle one. A starting instance counts
for as many waiting requests as it has places.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from engine.core.pool import Plan, VersionPool

I = TypeVar("I", bound=Hashable)  # noqa: E741 - an instance
R = TypeVar("R")


class SharedPool(VersionPool[I, R]):
    """``busy`` holds every instance with at least one place taken."""

    __slots__ = ("_load", "_open", "capacity")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("an instance has at least one place")
        super().__init__()
        self.capacity = capacity
        self._load: dict[I, int] = {}
        # At work, with places left.
        self._open: dict[I, None] = {}

    def load(self, instance: I) -> int:
        """How many of its places are taken."""
        return self._load.get(instance, 0)

    def peek(self) -> I | None:
        """Nobody takes one of these instances for itself."""
        return None

    def reuse(self) -> I | None:
        """Take a place, of an instance at work if there is one."""
        if self._open:
            instance = next(reversed(self._open))
        elif self._idle:
            instance, _ = self._idle.popitem()
            self.busy.add(instance)
        else:
            return None
        self._take(instance)
        return instance

    def _take(self, instance: I) -> None:
        taken = self._load[instance] = self._load.get(instance, 0) + 1
        if taken < self.capacity:
            self._open[instance] = None
        else:
            self._open.pop(instance, None)

    def enqueue(self, request: R) -> Plan:
        self.waiting.append(request)
        return Plan.SPAWN if len(self.starting) * self.capacity < len(self.waiting) else Plan.WAIT

    def deficit(self) -> int:
        short = len(self.waiting) - len(self.starting) * self.capacity
        return max(0, -(-short // self.capacity))

    def ready(self, instance: I, now_s: float) -> R | None:
        """A new instance is there, or a place of one at work is free: who takes it, or None. Call ``join`` for a new one's other places."""
        if instance in self.starting:
            self.starting.discard(instance)
        elif self._load.get(instance):
            self._load[instance] -= 1
        if self.waiting:
            self.busy.add(instance)
            self._take(instance)
            return self.waiting.popleft()
        if self._load.get(instance):
            if instance in self.busy:
                self._open[instance] = None
            return None
        self.busy.discard(instance)
        self._open.pop(instance, None)
        self._load.pop(instance, None)
        self._idle[instance] = now_s
        return None

    def join(self, instance: I) -> R | None:
        """The next in line for a further place of an instance at work; None when there is neither."""
        if not self.waiting or instance not in self._open:
            return None
        self._take(instance)
        return self.waiting.popleft()

    def shut(self, instance: I) -> None:
        """It gets no more work; what it has it may finish."""
        self._open.pop(instance, None)
        self._idle.pop(instance, None)

    def lost(self, instance: I) -> None:
        super().lost(instance)
        self._open.pop(instance, None)
        self._load.pop(instance, None)
