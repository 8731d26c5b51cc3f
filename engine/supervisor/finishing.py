"""Instances whose request is answered and whose worker is not yet ready for another: the time between an answer and its NEXT.

Workers of ours say both at once. Behind the agent a runtime asks for its next event a moment after it has answered, and the caller, who
has the answer already, may be back by then. For that moment the instance counts as about to be free, so that no cold start is caused by
the race; a worker that takes longer counts as busy again.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.clock import Clock
from engine.supervisor.catalogue import Version
from engine.supervisor.instance import Instance

GRACE_S = 0.02


class Finishing:
    """``spawn_deficit(version)`` starts what the version's line is short of."""

    def __init__(self, clock: Clock, spawn_deficit: Callable[[Version], None]) -> None:
        self._monotonic = clock.monotonic
        self._spawn_deficit = spawn_deficit
        self._until_s: dict[Instance, float] = {}

    def begin(self, instance: Instance) -> None:
        """It has answered."""
        instance.answered = True
        if not instance.provisioned:
            instance.pool.finishing(instance)
            self._until_s[instance] = self._monotonic() + GRACE_S

    def end(self, instance: Instance) -> None:
        """It is ready, or it is no more. Idempotent."""
        if instance.answered:
            instance.answered = False
            self._until_s.pop(instance, None)
            _release(instance)

    def sweep(self, now_s: float) -> None:
        """Whoever waits for one that takes too long gets another."""
        for instance in [i for i, until_s in self._until_s.items() if until_s <= now_s]:
            del self._until_s[instance]
            instance.pool.overrunning(instance)
            _release(instance)
            self._spawn_deficit(instance.version)


def _release(instance: Instance) -> None:
    """Whoever waits for it in the lane waits for it no longer."""
    if instance.worker is not None:
        instance.worker.release()
