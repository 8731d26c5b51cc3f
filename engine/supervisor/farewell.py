"""The time that extensions get to end: SHUTDOWN to the agent, which passes it on, then the kill.

Only instances with extensions have any; all others end at once, as on Lambda.
Source: docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-shutdown
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.clock import Clock
from engine.core.instance import State
from engine.supervisor.instance import Instance
from engine.wire import messages

SHUTDOWN_MS = 2000
# For the agent's own end, after the last moment it was given.
SPARE_S = 0.2


class Farewell:
    """Who is being waited for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._epoch_ms = clock.epoch_ms
        self._waiting: dict[Instance, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}

    @property
    def pending(self) -> int:
        """How many have been told and are not gone."""
        return len(self._waiting)

    def say(self, instance: Instance, reason: str, then: Callable[[], None], *, was: State) -> None:
        """Call ``then`` when the instance's worker has ended or had its time; at once for one that has nothing to do."""
        if not instance.version.extensions or instance.channel is None or was is State.STARTING or instance in self._waiting:
            then()
            return
        instance.thaw()
        instance.send(messages.pack(messages.SHUTDOWN, reason, self._epoch_ms() + SHUTDOWN_MS))
        timer = self._loop.call_later(SHUTDOWN_MS / 1000 + SPARE_S, self.over, instance)
        self._waiting[instance] = (timer, then)

    def over(self, instance: Instance) -> bool:
        """Its worker has ended. False when nobody was waiting for that."""
        waiting = self._waiting.pop(instance, None)
        if waiting is None:
            return False
        timer, then = waiting
        timer.cancel()
        then()
        return True
