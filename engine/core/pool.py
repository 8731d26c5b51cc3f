"""The planner of one version's instances: who serves whom, when to start one more, which to let go.

Theory of operation. Requests and instances come in; what the shell has to do goes out as a value. The rules:
an idle instance is reused newest first (its caches are warm, and old ones can expire); a request without one waits in line,
and there are never fewer starting instances than waiting requests, unless a limit forbids it; whichever becomes ready first, a
freed instance or a new one, takes the head of the line. An instance is in at most one of ``idle`` and ``busy``, and no
request is ever in the line and on an instance at once. Nothing here knows what an instance is made of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from enum import Enum, auto
from typing import Generic, TypeVar

I = TypeVar("I", bound=Hashable)  # noqa: E741 - an instance
R = TypeVar("R")


class Plan(Enum):
    """What to do with a request that found no idle instance."""

    SPAWN = auto()
    WAIT = auto()


class VersionPool(Generic[I, R]):
    """State of one version's pool. Instances are any hashable handle, requests any object."""

    __slots__ = ("_idle", "busy", "draining", "starting", "waiting")

    def __init__(self) -> None:
        self._idle: dict[I, float] = {}
        self.busy: set[I] = set()
        self.starting: set[I] = set()
        self.waiting: deque[R] = deque()
        self.draining = False

    @property
    def idle(self) -> list[I]:
        """Idle instances, the one used longest ago first."""
        return list(self._idle)

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    @property
    def live(self) -> int:
        return len(self._idle) + len(self.busy) + len(self.starting)

    def peek(self) -> I | None:
        """The instance that ``reuse`` would take, left where it is."""
        return next(reversed(self._idle)) if self._idle else None

    def reuse(self) -> I | None:
        """Take the newest idle instance, which is busy from now on; None when there is none."""
        if not self._idle:
            return None
        instance, _ = self._idle.popitem()
        self.busy.add(instance)
        return instance

    def enqueue(self, request: R) -> Plan:
        """Put a request in line; says whether one more instance is needed for it."""
        self.waiting.append(request)
        return Plan.SPAWN if len(self.starting) < len(self.waiting) else Plan.WAIT

    def deficit(self) -> int:
        """How many instances are missing for the requests in line."""
        return max(0, len(self.waiting) - len(self.starting))

    def withdraw(self, request: R) -> bool:
        """Take a request out of the line; False when it is not in it (any more)."""
        try:
            self.waiting.remove(request)
        except ValueError:
            return False
        return True

    def started(self, instance: I) -> None:
        """A new instance is on its way."""
        self.starting.add(instance)

    def ready(self, instance: I, now_s: float) -> R | None:
        """An instance became free (new, or done with its request): the request it must serve now, or None: it is idle."""
        self.starting.discard(instance)
        if self.waiting:
            self.busy.add(instance)
            return self.waiting.popleft()
        self.busy.discard(instance)
        self._idle[instance] = now_s
        return None

    def finishing(self, instance: I) -> None:
        """Its request is answered and it is about to be free: it counts as starting, so that nobody starts another one for a moment's sake."""
        self.busy.discard(instance)
        self.starting.add(instance)

    def overrunning(self, instance: I) -> None:
        """It was about to be free and is not: it counts as busy again."""
        self.starting.discard(instance)
        self.busy.add(instance)

    def going_on(self, instance: I) -> None:
        """It was about to be free and has its next request already."""
        self.starting.discard(instance)
        self.busy.add(instance)

    def resetting(self, instance: I) -> None:
        """The instance lost its worker and gets a new one in the same sandbox: it counts as starting."""
        self.busy.discard(instance)
        self._idle.pop(instance, None)
        self.starting.add(instance)

    def lost(self, instance: I) -> None:
        """The instance is no more, whatever it was doing. Idempotent."""
        self.starting.discard(instance)
        self.busy.discard(instance)
        self._idle.pop(instance, None)

    def expired(self, now_s: float, keep_alive_s: float) -> list[I]:
        """Idle instances unused for ``keep_alive_s`` or longer, oldest first; they are no longer idle (the caller retires them)."""
        out: list[I] = []
        for instance, since in self._idle.items():
            if now_s - since < keep_alive_s:
                break
            out.append(instance)
        for instance in out:
            del self._idle[instance]
        return out

    def evict(self) -> I | None:
        """Give up the idle instance unused for longest, or None."""
        if not self._idle:
            return None
        instance = next(iter(self._idle))
        del self._idle[instance]
        return instance

    def newest_idle(self) -> Iterator[tuple[I, float]]:
        """Idle instances with since when, the one used last first. Do not change the pool while iterating."""
        return reversed(self._idle.items())

    def oldest_idle_since(self) -> float | None:
        """When the instance that ``evict`` would give up became idle."""
        return next(iter(self._idle.values())) if self._idle else None
