"""The provisioned instances of one version: apart from its on-demand ones, in a pool of their own that shares the line of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.core.concurrency import RequestRate
from engine.core.pool import VersionPool
from engine.core.provisioning import Have

if TYPE_CHECKING:
    from engine.supervisor.instance import Instance
    from engine.supervisor.request import Request


class Provision:
    """``held`` are initialised and wait for the others; ``serving`` says that requests may have what is idle in ``pool``.

    ``failures`` counts inits that failed in a row; nothing is started before ``retry_s`` (monotonic).
    """

    __slots__ = ("failures", "held", "pool", "rate", "retry_s", "serving", "target")

    def __init__(self, line: VersionPool[Instance, Request]) -> None:
        self.pool: VersionPool[Instance, Request] = VersionPool()
        self.pool.waiting = line.waiting
        self.held: dict[Instance, None] = {}
        self.serving = False
        self.target = 0
        self.rate: RequestRate | None = None
        self.failures = 0
        self.retry_s = 0.0

    def take(self, now_s: float) -> Instance | None:
        """The newest idle instance for a request that came now, which is busy from then on; None: it spills over."""
        if not self.pool.idle_count or (self.rate is not None and not self.rate.take(now_s)):
            return None
        return self.pool.reuse()

    def have(self) -> Have:
        """What there is, as the planner of provisioned concurrency counts it."""
        pool = self.pool
        return Have(pool.idle_count + len(pool.busy) + len(self.held), len(pool.starting), self.serving)

    def hold(self, instance: Instance) -> None:
        """An initialised instance waits for the others."""
        self.pool.starting.discard(instance)
        self.held[instance] = None

    def lost(self, instance: Instance) -> None:
        """Whatever it was doing. Idempotent."""
        self.held.pop(instance, None)
        self.pool.lost(instance)

    def spare(self) -> Instance | None:
        """An instance that serves nothing, no longer counted; the caller retires it. None when all are busy."""
        if self.pool.starting:
            return self.pool.starting.pop()
        if self.held:
            return self.held.popitem()[0]
        return self.pool.evict()
