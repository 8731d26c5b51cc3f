"""What goes wrong under an invocation: workers that end, inits that fail, sandboxes and brokers that are lost.

Faults that kill the worker keep the sandbox (a reset); what cannot be kept is retired. Whoever had an invocation there is answered,
whoever waited gets another instance or is told why there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from engine.clock import Clock
from engine.core import invocation as inv
from engine.core import report
from engine.core.instance import State
from engine.core.invocation import Outcome, Status
from engine.errors import AwsError, MountFailure, SnapStartTimeout
from engine.sandbox.api import MOUNTING, Cause, ExitCause, HolderFds
from engine.supervisor.catalogue import Version
from engine.supervisor.fleet import Fleet
from engine.supervisor.instance import Instance
from engine.supervisor.request import Request
from engine.supervisor.sharing import Sharing
from engine.supervisor.standing import Standing
from engine.supervisor.story import Story


class FaultsOwner(Protocol):
    """Who runs invocations on the instances."""

    def settle(self, instance: Instance, request: Request, outcome: Outcome, *, ready: bool) -> None:
        """The running invocation has its outcome."""

    def finish(self, instance: Instance, request: Request, outcome: Outcome, now_s: float) -> None:
        """Answer, count and log."""

    def refuse(self, request: Request, error: AwsError, *, throttle: bool = False) -> None:
        """An admitted request will not run."""

    def on_unstartable(self, version: Version, why: str | AwsError) -> None:
        """Nothing can be started."""


class Faults:
    """``timed``: instances with a deadline. ``ready``: the instance may take requests."""

    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        standing: Standing,
        stories: Story,
        timed: dict[Instance, None],
        owner: FaultsOwner,
        ready: Callable[[Instance], None],
        sharing: Sharing,
    ) -> None:
        self._sharing = sharing
        self._clock = clock
        self._fleet = fleet
        self._standing = standing
        self._stories = stories
        self._timed = timed
        self._owner = owner
        self._ready = ready

    def worker_exited(self, holder_id: int, cause: ExitCause) -> None:
        """The worker ended by itself (or was killed by the kernel)."""
        instance = self._fleet.of_holder(holder_id)
        if instance is None or self._fleet.farewell.over(instance) or instance.state in (State.STARTING, State.RETIRING, State.GONE):
            return
        if instance.crew is not None:
            self._sharing.worker_exited(instance, cause)
            return
        instance.drain()
        # Nobody is there any more to be told of the end, or to wait for.
        instance.detach_worker()
        if instance.state is State.INITIALISING:
            self.init_failed(instance, ("error", instance.init_fault(oom=cause.cause is Cause.OOM_KILLED)))
        elif instance.state is State.BUSY and instance.current is not None:
            request = instance.current
            oom = cause.cause is Cause.OOM_KILLED
            outcome = inv.runtime_exited(
                request.request_id, signalled=cause.cause is Cause.SIGNALLED, status=cause.status, oom=oom
            )
            if instance.needs_init:
                if instance.init_error is not None:
                    error_type, document = instance.init_error
                    outcome = Outcome(Status.ERROR, document, report.init_error_type(error_type), platform=True)
                self._stories.init_over(instance, "invoke", "error", outcome.error_type, self.since_init_ms(instance))
            self._owner.settle(instance, request, outcome, ready=False)
            self._fleet.reset(instance)
        elif instance.answered:
            self._fleet.reset(instance)
        elif instance.state is State.IDLE:
            self._fleet.retire(instance)

    def since_init_ms(self, instance: Instance) -> float:
        now_s = self._clock.monotonic()
        return (now_s - (instance.init_started_s or now_s)) * 1000

    def init_failed(self, instance: Instance, fault: tuple[str, str | None]) -> None:
        """Init failed or timed out before any invocation: it is repeated inside the next one, if somebody waits for it."""
        if instance.crew is not None:
            self._timed.pop(instance, None)
            self._sharing.init_failed(instance, fault)
            return
        self._stories.init_over(instance, "init", fault[0], fault[1], self.since_init_ms(instance))
        self._timed.pop(instance, None)
        if instance.provisioned or instance.template:
            self._standing.init_failed(instance, f"init: {fault[1] or fault[0]}")
            self._fleet.retire(instance)
        elif instance.restored:
            self._restore_failed(instance)
        elif instance.copied:
            self._standing.templates.spoilt(instance.version)
            self._fleet.retire(instance)
            self._fleet.spawn_deficit(instance.version)
        elif instance.version.pool.waiting:
            self._fleet.reset(instance)
        else:
            self._fleet.retire(instance)

    def _restore_failed(self, instance: Instance) -> None:
        """A copy did not become ready, by its hooks' fault or for want of time. Whoever is first in line is told."""
        version, error = instance.version, instance.init_error
        self._fleet.retire(instance)
        if version.pool.waiting:
            request = version.pool.waiting.popleft()
            if error is None:
                self._owner.refuse(request, SnapStartTimeout("The restore of the function's snapshot did not end in time."))
            else:
                outcome = Outcome(Status.ERROR, error[1], report.init_error_type(error[0]), platform=True)
                self._owner.finish(instance, request, outcome, self._clock.monotonic())
        self._fleet.spawn_deficit(version)

    def worker_reset(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        """A fresh worker stands in the instance's sandbox."""
        instance = self._fleet.readopt(holder_id, fds, pid)
        # What the worker had said by then may have been the end of it.
        if instance is not None and instance.state is State.IDLE:
            self._ready(instance)

    def holder_failed(self, holder_id: int, reason: str) -> None:
        """A sandbox could not become the instance it was given to. Trying again would fail the same way, so its callers are told."""
        instance = self._fleet.of_holder(holder_id)
        if instance is None or instance.state in (State.RETIRING, State.GONE):
            return
        if instance.provisioned or instance.template:
            self._standing.unstartable(instance, reason)
            self._orphan(instance, reason)
            return
        self._orphan(instance, reason)
        file_system = instance.version.config.file_system
        mounting = file_system is not None and reason.startswith(f"{MOUNTING}: ")
        why = MountFailure.of(file_system[0], reason.partition(": ")[2]) if file_system is not None and mounting else reason
        self._owner.on_unstartable(instance.version, why)

    def gone(self, holder_id: int) -> None:
        """The sandbox and everything in it has ended."""
        instance = self._fleet.gone(holder_id)
        if instance is not None:
            self._orphan(instance, "the sandbox ended")
            self._fleet.spawn_deficit(instance.version)

    def broker_lost(self, reason: str) -> None:
        """Every sandbox is gone. Running invocations fail; those in line get new instances from the broker's successor."""
        for instance in self._fleet.broker_lost():
            self._orphan(instance, reason)
        self._fleet.restart()

    def _orphan(self, instance: Instance, reason: str) -> None:
        request = instance.current
        self._fleet.lose(instance)
        if instance.crew is not None:
            self._sharing.orphaned(instance, reason)
        if request is not None and request.outcome is None:
            instance.current = None
            self._owner.finish(instance, request, inv.sandbox_failure(request.request_id, reason), self._clock.monotonic())
