"""Instances that run several invocations at once, as those of Lambda Managed Instances do.

Theory of operation. An instance of a version with a limit above one has a *seat* for each invocation in it; its worker answers by request
id, in any order. Nothing is reset here: an invocation that times out is answered and keeps its seat until the worker answers too, which
nobody hears; an instance all of whose seats are held that way is unhealthy and is replaced, and so is one whose worker ends, with an error
for everybody in it. A failed init is told to as many callers as the instance would have taken. Such instances are not frozen.
Source: docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Protocol

from engine.clock import Clock
from engine.core import invocation as inv
from engine.core import report
from engine.core.instance import Event, State
from engine.core.invocation import Outcome, Status
from engine.core.shared_pool import SharedPool
from engine.errors import AwsError, WireError
from engine.sandbox.api import Cause, ExitCause
from engine.supervisor import streaming
from engine.supervisor import worker_messages as said
from engine.wire import messages
from engine.wire.frames import MAX_PAYLOAD, FrameTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.supervisor.channel import Channel
    from engine.supervisor.door import Door
    from engine.supervisor.fleet import Fleet
    from engine.supervisor.instance import Instance
    from engine.supervisor.request import Request
    from engine.supervisor.story import Story
    from engine.supervisor.streaming import ResponseStream

_DUPLICATE = "an invocation with this request id is running already"


class Seat:
    """One invocation in an instance. ``late``: it was answered for, with a timeout."""

    __slots__ = ("deadline_s", "instance", "late", "request", "response")

    def __init__(self, instance: Instance, request: Request, deadline_s: float) -> None:
        self.instance = instance
        self.request = request
        self.deadline_s = deadline_s
        self.response: ResponseStream | None = None
        self.late = False

    @property
    def channel(self) -> Channel | None:
        return self.instance.channel


class SharingOwner(Protocol):
    """Who admits and accounts for invocations. ``pacing``: how fast answers in pieces may go."""

    pacing: streaming.Pacing | None

    def finish(self, instance: Instance, request: Request, outcome: Outcome, now_s: float) -> None:
        """Answer, count and log."""

    def refuse(self, request: Request, error: AwsError, *, throttle: bool = False) -> None:
        """An admitted request will not run."""

    def on_unstartable(self, version: Any, why: str | AwsError) -> None:
        """Nothing can be started."""

    def sweep_soon(self) -> None:
        """There is something that can expire."""


class Sharing:
    """``accepted``: what to do with connections to the engine from inside. ``settled``: the instance has no deadline any more."""

    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        stories: Story,
        owner: SharingOwner,
        *,
        accepted: Callable[[socket.socket, Door], None],
        timed: dict[Instance, None],
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._stories = stories
        self._owner = owner
        self._accepted = accepted
        self._timed = timed
        self.running: dict[Seat, None] = {}

    def assign(self, request: Request, now_s: float) -> bool:
        """Seat an admitted request; False when all seats are taken."""
        instance = request.version.pool.reuse()
        if instance is None:
            return False
        self._run(instance, request, now_s)
        return True

    def _run(self, instance: Instance, request: Request, now_s: float) -> None:
        crew = instance.crew
        assert crew is not None  # noqa: S101 - only such instances are in a shared pool
        if request.request_id in crew:
            self._owner.finish(instance, request, inv.sandbox_failure(request.request_id, _DUPLICATE), now_s)
            self._free(instance, now_s)
            return
        if instance.state is State.IDLE:
            instance.move(Event.ASSIGN)
        if now_s != request.started_s:
            request.started_ms += int((now_s - request.started_s) * 1000)
            request.started_s = now_s
        timeout_s = instance.version.config.timeout_s
        seat = crew[request.request_id] = Seat(instance, request, now_s + timeout_s)
        self.running[seat] = None
        instance.send(
            messages.encode_invoke(request.request_id, request.started_ms + timeout_s * 1000, request.middle, request.payload)
        )
        if request.tail is not None:
            self._stories.started(request, instance)
        self._owner.sweep_soon()

    # What a worker says.

    def on_frame(self, instance: Instance, body: bytes) -> None:
        """A frame from a worker: hostile input. Raises WireError for anything out of order."""
        kind = messages.kind(body)
        if kind in (messages.RESPONSE, messages.ERROR):
            reply = messages.decode_reply(body)
            seat = self._seat(instance, reply.request_id)
            self._settle(seat, said.outcome_of(seat, reply))
        elif kind == messages.LOG:
            parts = messages.unpack(body)
            text, at_ms = said.logged(parts)
            of = instance.crew.get(parts[1]) if instance.crew and isinstance(parts[1], str) else None
            self._stories.printed(instance, text, at_ms, None if of is None or of.late else of.request)
        elif kind == messages.NEXT and instance.state is State.INITIALISING:
            self._initialised(instance)
        elif kind == messages.TOO_LARGE:
            parts = messages.unpack(body)
            self._settle(self._seat(instance, parts[1] if len(parts) > 1 else None), inv.response_too_large(MAX_PAYLOAD))
        elif messages.STREAM_START <= kind <= messages.STREAM_END:
            parts = messages.unpack(body)
            seat = self._seat(instance, parts[1] if len(parts) > 1 else None)
            if seat.late:
                if parts[0] == messages.STREAM_END:
                    self._settle(seat, inv.success(b""))
                return
            whole = streaming.take(seat, seat.request, parts, self._owner.pacing)
            if whole is not None:
                self._settle(seat, whole[0])
        elif kind == messages.INIT_ERROR:
            said.note_init_error(instance, messages.unpack(body))
        elif kind == messages.HELLO and not instance.said_hello:
            said.greet(instance, body)
        else:
            raise WireError(f"{messages.NAMES[kind]} is not for a worker to send now")

    @staticmethod
    def _seat(instance: Instance, request_id: object) -> Seat:
        seat = None if instance.crew is None or not isinstance(request_id, str) else instance.crew.get(request_id)
        if seat is None:
            raise WireError("a reply to an invocation that is not running")
        return seat

    def on_output(self, instance: Instance, text: str) -> None:
        """A line that reached fd 1 or 2 past the runtime; whose it is cannot be told."""
        self._stories.printed(instance, text, self._clock.epoch_ms())

    def on_connection(self, sock: socket.socket, door: Door) -> None:
        self._accepted(sock, door)

    def lane_worker(self, _instance: Instance, _channel: Channel) -> None:
        """The compiled lane is for one invocation at a time."""
        return

    def on_violation(self, instance: Instance, error: WireError) -> None:
        """The worker broke the protocol: everything in it fails, its sandbox ends."""
        self._stories.printed(instance, f"[engine] worker ended: {error}", self._clock.epoch_ms())
        initialising = instance.state is State.INITIALISING
        oversized = isinstance(error, FrameTooLarge) and error.kind == messages.RESPONSE
        self._end(
            instance, lambda request_id: inv.response_too_large(MAX_PAYLOAD) if oversized else inv.protocol_violation(request_id)
        )
        if initialising:
            self._owner.on_unstartable(instance.version, f"the worker broke the protocol: {error}")

    # The life of an instance.

    def _initialised(self, instance: Instance) -> None:
        now_s = self._clock.monotonic()
        took_s = now_s - (instance.init_started_s or now_s)
        stats = instance.version.function.stats
        stats.init.observe(took_s)
        stats.count_cold_start(instance.kind)
        instance.move(Event.INITIALISED)
        self._timed.pop(instance, None)
        instance.init_ms = took_s * 1000
        instance.init_took_s = took_s
        self._free(instance, now_s)
        pool = instance.version.pool
        assert isinstance(pool, SharedPool)  # noqa: S101 - see ``assign``
        while (request := pool.join(instance)) is not None:
            self._run(instance, request, now_s)
        self._fleet.cold_start_over(instance)

    def _free(self, instance: Instance, now_s: float) -> None:
        """A seat is free: it goes to the next in line; an instance without work idles, or goes."""
        pool = instance.version.pool
        assert isinstance(pool, SharedPool)  # noqa: S101 - see ``assign``
        if instance.leaving:
            pool.shut(instance)
            if not instance.crew:
                self._fleet.leave(instance)
            return
        request = pool.ready(instance, now_s)
        if request is not None:
            self._run(instance, request, now_s)
        elif not instance.crew:
            instance.state = State.IDLE
            if pool.draining or self._fleet.starved:
                self._fleet.retire(instance)

    def _settle(self, seat: Seat, outcome: Outcome) -> None:
        """The worker has answered: the caller too, unless that was done, and the seat is free."""
        now_s = self._clock.monotonic()
        instance = seat.instance
        assert instance.crew is not None  # noqa: S101 - it has this seat
        del instance.crew[seat.request.request_id]
        instance.invocations += 1
        if not seat.late:
            del self.running[seat]
            self._owner.finish(instance, seat.request, outcome, now_s)
        self._free(instance, now_s)

    def sweep(self, now_s: float) -> None:
        """Answer for what has had its time."""
        for seat in [s for s in self.running if s.deadline_s <= now_s]:
            instance, request = seat.instance, seat.request
            instance.drain()
            if seat not in self.running:
                continue
            del self.running[seat]
            seat.late = True
            if seat.response is not None and instance.channel is not None:
                instance.channel.resume()
            self._owner.finish(instance, request, inv.timed_out(request.request_id, float(instance.version.config.timeout_s)), now_s)
            if len([s for s in (instance.crew or {}).values() if s.late]) >= instance.version.limit:
                self._stories.printed(
                    instance, "[engine] instance replaced: everything in it has timed out and goes on", self._clock.epoch_ms()
                )
                self._end(instance, inv.protocol_violation)

    def worker_exited(self, instance: Instance, cause: ExitCause) -> None:
        """Its worker has ended, with everything in it."""
        instance.drain()
        oom = cause.cause is Cause.OOM_KILLED
        if instance.state is State.INITIALISING:
            self.init_failed(instance, ("error", instance.init_fault(oom=oom)), cause)
        elif instance.state in (State.IDLE, State.BUSY):
            self._end(instance, lambda request_id: _exited(request_id, cause))

    def init_failed(self, instance: Instance, fault: tuple[str, str | None], cause: ExitCause | None = None) -> None:
        """Everybody who would have got a seat is told; who is behind them gets another instance."""
        now_s = self._clock.monotonic()
        took_ms = (now_s - (instance.init_started_s or now_s)) * 1000
        self._stories.init_over(instance, "init", fault[0], fault[1], took_ms)
        version, error = instance.version, instance.init_error
        self._fleet.retire(instance)
        for _ in range(min(version.limit, len(version.pool.waiting))):
            request = version.pool.waiting.popleft()
            if error is not None:
                outcome = Outcome(Status.ERROR, error[1], report.init_error_type(error[0]), platform=True)
            elif cause is not None:
                outcome = _exited(request.request_id, cause)
            else:
                outcome = inv.timed_out(request.request_id, took_ms / 1000)
            self._owner.finish(instance, request, outcome, now_s)
        self._fleet.spawn_deficit(version)

    def orphaned(self, instance: Instance, reason: str) -> None:
        """Its sandbox is lost."""
        self._fail(instance, lambda request_id: inv.sandbox_failure(request_id, reason))

    def _end(self, instance: Instance, outcome_of: Callable[[str], Outcome]) -> None:
        self._fleet.retire(instance)
        self._fail(instance, outcome_of)
        self._fleet.spawn_deficit(instance.version)

    def _fail(self, instance: Instance, outcome_of: Callable[[str], Outcome]) -> None:
        crew, instance.crew = instance.crew or {}, {}
        now_s = self._clock.monotonic()
        for seat in crew.values():
            if not seat.late:
                del self.running[seat]
                self._owner.finish(instance, seat.request, outcome_of(seat.request.request_id), now_s)


def _exited(request_id: str, cause: ExitCause) -> Outcome:
    return inv.runtime_exited(
        request_id, signalled=cause.cause is Cause.SIGNALLED, status=cause.status, oom=cause.cause is Cause.OOM_KILLED
    )
