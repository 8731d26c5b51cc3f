"""The invoker: admission, assignment, deadlines, and the single answer of every invocation.

Theory of operation, one request: ``submit`` takes a lease of concurrency; the pool hands over an idle instance or puts the request in
line and a new instance on its way; ``_run`` sends INVOKE; the worker's RESPONSE (or its death, or the deadline) comes to
``settle``, which gives the lease back, answers, counts and logs, and then sends the instance the next request in line.
A request that finds an idle provisioned instance of its version takes no lease; one in line gives its back when it gets one.
All state is changed here, on the loop, by nobody else. What goes wrong with workers and sandboxes is the business of ``faults``.
Deadlines are swept by one coarse timer that runs only while something can expire.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from engine.clock import Clock
from engine.core import invocation as inv
from engine.core.concurrency import Throttle
from engine.core.instance import Event, State
from engine.core.invocation import Outcome, Status
from engine.core.pool import Plan
from engine.errors import AwsError, ServiceError, WireError
from engine.sandbox.api import Sandbox
from engine.supervisor import streaming, tenants
from engine.supervisor import worker_messages as said
from engine.supervisor.catalogue import Version
from engine.supervisor.channel import Channel
from engine.supervisor.door import Door
from engine.supervisor.environment import Home
from engine.supervisor.faults import Faults
from engine.supervisor.finishing import Finishing
from engine.supervisor.fleet import Fleet
from engine.supervisor.folding import Folding
from engine.supervisor.holders import HolderPool
from engine.supervisor.instance import Instance
from engine.supervisor.lanes import Lanes, LaneWorker
from engine.supervisor.request import Request
from engine.supervisor.room import Room
from engine.supervisor.setting import Setting
from engine.supervisor.sharing import Sharing
from engine.supervisor.standing import Standing
from engine.supervisor.story import Story
from engine.supervisor.throttling import throttled
from engine.wire import messages
from engine.wire.frames import MAX_PAYLOAD, FrameTooLarge

SWEEP_S = 0.02
# What runs for this long is seen in the log to have started; most invocations end sooner and are written whole.
START_SHOWN_S = 0.05


class Invoker:
    """Runs requests on instances. One per supervisor, single-threaded on its loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        keep_alive_s: float,
        init_timeout_s: float,
        max_instances: int,
        cpu_quota: bool = True,
        home: Home,
        isolated_paths: bool,
        host_wait_s: float = 10.0,
        memory_budget_mib: int = 0,
        memory_reserve_mib: int = 0,
        max_age_s: float = 0.0,
        snapshots: bool = False,
        learn_imports: bool = False,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._monotonic = clock.monotonic
        self._keep_alive_s = keep_alive_s
        self._max_age_s = max_age_s
        self._init_timeout_s = init_timeout_s
        self._host_wait_s = host_wait_s
        self.setting = Setting(home, clock, isolated_paths=isolated_paths)
        self._room = Room(max_instances, memory_budget_mib, memory_reserve_mib)
        self._fleet = Fleet(loop, clock, self._room, self, cpu_quota=cpu_quota)
        self.standing = Standing(loop, clock, self._fleet, self._free, host_wait_s=host_wait_s, snapshots=snapshots, learn_imports=learn_imports)
        self._fleet.standing = self.standing
        self.provisioner = self.standing.provisioner
        self.folding = Folding()
        self._timed: dict[Instance, None] = {}
        self._finishing = Finishing(clock, self._fleet.spawn_deficit)
        self.farewell = self._fleet.farewell
        self._sweeping = False
        self.cpu_quota = cpu_quota
        self.in_flight = 0
        self.lanes: Lanes | None = None
        self.pacing: streaming.Pacing | None = None
        self.on_idle: Callable[[], None] | None = None
        self.on_connection_accepted: Callable[[socket.socket, Door], None] = lambda sock, _: sock.close()
        self._stories = Story(clock)
        self.sharing = Sharing(clock, self._fleet, self._stories, self, accepted=self.on_connection, timed=self._timed)
        self.faults = Faults(clock, self._fleet, self.standing, self._stories, self._timed, self, self._free, self.sharing)

    def wire(self, sandbox: Sandbox, holders: HolderPool) -> None:
        """The two are made after the invoker, which listens to both."""
        self._fleet.wire(sandbox, holders)

    @property
    def instances(self) -> set[Instance]:
        """Every instance that is not gone."""
        return self._fleet.instances

    # A request: admit, assign or enqueue.

    def submit(self, request: Request, *, rated: bool = True) -> None:
        """Run ``request``; its ``reply_to`` is called exactly once, possibly before this returns. ``rated``: request rates apply."""
        version = request.version
        if version.provisioned is not None and self._run_provisioned(version, request):
            return
        function = version.function
        reason = function.account.admit(function.quota, request.received_s, rated=rated)
        if reason is not None:
            function.stats.count_throttle(reason)
            request.reply_to.failed(request, throttled(reason))
            return
        self.in_flight += 1
        self.assign(request, request.received_s)

    def assign(self, request: Request, now_s: float) -> None:
        """Give an admitted request to an idle instance, or put it in line."""
        if request.version.limit > 1:
            if not self.sharing.assign(request, now_s):
                self._enqueue(request.version, request)
            return
        instance = request.version.pool.reuse()
        if instance is not None:
            self._run(instance, request, now_s)
        else:
            self._enqueue(request.version, request)

    def _run_provisioned(self, version: Version, request: Request) -> bool:
        """Run ``request`` on an idle provisioned instance; False when it spills over."""
        provision = version.provisioned
        instance = None if provision is None else provision.take(request.received_s)
        if instance is None:
            return False
        request.provisioned = True
        version.function.quota.provisioned_in_flight += 1
        self.in_flight += 1
        self._run(instance, request, request.received_s)
        return True

    def _enqueue(self, version: Version, request: Request) -> None:
        if version.pool.enqueue(request) is Plan.SPAWN:
            function = version.function
            if (version.shared is not None and tenants.full(function)) or not function.quota.scaling.take(self._clock.monotonic()):
                version.pool.withdraw(request)
                self.refuse(request, throttled(Throttle.FUNCTION_RATE), throttle=True)
                return
            self._fleet.spawn(version)
        if not self._sweeping:
            self._sweep_soon()

    def refuse(self, request: Request, error: AwsError, *, throttle: bool = False) -> None:
        """An admitted request that will not run."""
        function = request.version.function
        function.account.release(function.quota)
        self.in_flight -= 1
        if throttle:
            function.stats.count_throttle(error.fields.get("Reason", "unknown"))
        request.reply_to.failed(request, error)
        self._idle_check()

    # A new instance.

    def on_worker(self, instance: Instance, furnish: Callable[[], None]) -> None:
        """A worker waits in the instance's sandbox: initialise it, and have its code brought, for which ``furnish`` asks the broker."""
        if not self._has_what_it_needs(instance):
            furnish()
            return
        # In this order: the worker has enough to do until its code is there, and the broker may come before this process when it wakes.
        began_s = self._monotonic()
        instance.send(self.setting.first(instance))
        furnish()
        self._initialising(instance, began_s)

    def _has_what_it_needs(self, instance: Instance) -> bool:
        """Whether the credentials and variables for its INIT are there; ``_on_credentials`` follows where they are not."""
        roles = self.setting.roles
        if roles is not None and not roles.ready(instance.version, partial(self._on_credentials, instance)):
            return False
        sealed = self.setting.sealed
        return not instance.version.config.sealed or sealed is None or sealed.ready(instance.version, partial(self._on_credentials, instance))

    def _initialising(self, instance: Instance, began_s: float) -> None:
        """What need not be done before the worker begins."""
        self.setting.announce(instance)
        instance.move(Event.WORKER_READY)
        instance.init_started_s = began_s
        instance.deadline_s = began_s + self.setting.limit_s(instance, self._init_timeout_s)
        self._timed[instance] = None
        if not self._sweeping:
            self._sweep_soon()
        instance.listen()

    def _on_credentials(self, instance: Instance, problem: AwsError | None) -> None:
        """The wait of a worker for its role's credentials, or for its variables, is over."""
        if instance.state is not State.STARTING:
            return
        if problem is None:
            if self._has_what_it_needs(instance):
                began_s = self._monotonic()
                instance.send(self.setting.first(instance))
                self._initialising(instance, began_s)
            return
        self._fleet.retire(instance)
        self.on_unstartable(instance.version, problem)

    def on_stopped(self, instance: Instance) -> None:
        self.setting.container.revoke(instance)
        self._timed.pop(instance, None)
        self._finishing.end(instance)
        instance.response = None

    def on_unstartable(self, version: Version, why: str | AwsError) -> None:
        """Nothing can be started: everybody in line beyond what is still starting is told so."""
        error = why if isinstance(why, AwsError) else ServiceError(f"No execution environment can be started: {why}")
        pool = version.pool
        while pool.deficit() > 0:
            self.refuse(pool.waiting.pop(), error)

    # An instance at work.

    def _run(self, instance: Instance, request: Request, now_s: float) -> None:
        """Give ``request`` to an instance that the pool counts as busy."""
        if instance.state is not State.IDLE:
            instance.move(Event.ASSIGN)  # raises, naming the state
        instance.state = State.BUSY
        instance.current = request
        started_ms = request.started_ms
        if now_s != request.started_s:
            started_ms += int((now_s - request.started_s) * 1000)
            request.started_s = now_s
            request.started_ms = started_ms
        timeout_s = instance.version.config.timeout_s
        instance.deadline_s = now_s + timeout_s
        self._timed[instance] = None
        if instance.needs_init:
            instance.init_started_s = now_s
            instance.send(self.setting.init(instance))
        else:
            instance.send(
                messages.encode_invoke(request.request_id, started_ms + timeout_s * 1000, request.middle, request.payload)
            )
        if instance.frozen:
            self._fleet.thaw(instance)
        if request.tail is not None:
            self._stories.started(request, instance)
        if not self._sweeping:
            self._sweep_soon()

    def on_frame(self, instance: Instance, body: bytes) -> None:
        """A frame from a worker: hostile input. Raises WireError for anything out of order."""
        request = instance.current
        if (
            request is not None
            and body[:4] == messages.RESPONSE_HEAD
            and body[40:43] == messages.PLAIN_RESPONSE
            and body[4:40] == request.request_id.encode()
            and len(body) - 47 == int.from_bytes(body[43:47], "big") <= MAX_PAYLOAD
            and not instance.needs_init
        ):
            self.settle(instance, request, Outcome(Status.SUCCESS, body[47:]), ready=True)
            return
        kind = messages.kind(body)
        if kind in (messages.RESPONSE, messages.ERROR):
            reply = messages.decode_reply(body)
            request = said.answering(instance, reply.request_id)
            self._reply(instance, request, said.outcome_of(instance, reply), reply.then_next)
        elif kind == messages.LOG:
            text, at_ms = said.logged(messages.unpack(body))
            if instance.template:
                self.standing.printed(instance, text)
            if instance.learned:
                return
            self._stories.printed(instance, text, at_ms)
        elif kind == messages.NEXT:
            self._initialised(instance)
        elif kind == messages.TOO_LARGE:
            parts = messages.unpack(body)
            request = said.answering(instance, parts[1] if len(parts) > 1 else None)
            self._reply(instance, request, inv.response_too_large(MAX_PAYLOAD), parts[-1] is not False)
        elif messages.STREAM_START <= kind <= messages.STREAM_END:
            parts = messages.unpack(body)
            request = said.answering(instance, parts[1] if len(parts) > 1 else None)
            whole = streaming.take(instance, request, parts, self.pacing)
            if whole is not None:
                self._reply(instance, request, *whole)
        elif kind in (messages.INIT_ERROR, messages.RESTORE_ERROR):
            said.note_init_error(instance, messages.unpack(body))
        elif kind == messages.HELLO and not instance.said_hello:
            said.greet(instance, body)
        elif kind == messages.RESTORE_NEXT and (instance.snapshot or instance.template) and instance.state is State.INITIALISING:
            self._frozen(instance)
        elif kind == messages.IMPORTS:
            self.standing.imported(instance, messages.unpack(body))
        else:
            raise WireError(f"{messages.NAMES[kind]} is not for a worker to send now")

    def _reply(self, instance: Instance, request: Request, outcome: Outcome, then_next: bool) -> None:
        """Settle; a worker that is not ready yet stays busy until its NEXT, under the same deadline."""
        if then_next:
            self.settle(instance, request, outcome, ready=True)
            return
        self._finishing.begin(instance)
        self.settle(instance, request, outcome, ready=False)
        if instance.answered:
            self._timed[instance] = None
            self._sweep_soon()

    def _frozen(self, instance: Instance) -> None:
        """Init is over and the before-snapshot hooks have run: a template waits to be copied, any other goes on as its own copy."""
        if not instance.template:
            instance.send(self.setting.restore(instance))
            return
        self._timed.pop(instance, None)
        if not instance.learned:
            self._stories.init_over(instance, "init", "success", None, self.faults.since_init_ms(instance))
        self.standing.frozen(instance)

    def on_output(self, instance: Instance, text: str) -> None:
        """A line that reached fd 1 or 2 past the runtime."""
        if instance.learned:
            self.standing.printed(instance, text)
            return
        self._stories.printed(instance, text, self._clock.epoch_ms())

    def on_connection(self, sock: socket.socket, door: Door) -> None:
        """The function opened a connection to the engine's endpoint."""
        self.on_connection_accepted(sock, door)

    def on_violation(self, instance: Instance, error: WireError) -> None:
        """The worker broke the protocol: its invocation fails, its sandbox ends. In init, whoever waits for it is told."""
        request, answered = instance.current, instance.answered
        self._stories.printed(instance, f"[engine] worker ended: {error}", self._clock.epoch_ms())
        self._fleet.retire(instance)
        if answered:
            self._fleet.spawn_deficit(instance.version)
            return
        if request is None:
            self.on_unstartable(instance.version, f"the worker broke the protocol: {error}")
            return
        instance.current = None
        oversized = isinstance(error, FrameTooLarge) and error.kind == messages.RESPONSE
        outcome = inv.response_too_large(MAX_PAYLOAD) if oversized else inv.protocol_violation(request.request_id)
        self.finish(instance, request, outcome, self._monotonic())

    def _initialised(self, instance: Instance) -> None:
        now_s = self._clock.monotonic()
        if instance.answered:
            self._finishing.end(instance)
            self._timed.pop(instance, None)
            instance.state = State.IDLE
            self._ready(instance, now_s)
            return
        if instance.state is State.BUSY and instance.needs_init and instance.current is not None:
            instance.needs_init = False
            request = instance.current
            if instance.version.config.system_log_level == "DEBUG":
                self._stories.init_over(instance, "invoke", "success", None, self.faults.since_init_ms(instance))
            deadline_ms = request.started_ms + instance.version.config.timeout_s * 1000
            instance.send(messages.encode_invoke(request.request_id, deadline_ms, request.middle, request.payload))
            return
        if instance.state is not State.INITIALISING:
            raise WireError("NEXT outside init")
        took_s = now_s - (instance.init_started_s or now_s)
        stats = instance.version.function.stats
        stats.init.observe(took_s)
        stats.count_cold_start(instance.kind)
        instance.move(Event.INITIALISED)
        self._timed.pop(instance, None)
        instance.init_took_s = took_s
        if instance.provisioned or instance.template:
            # Its init is nobody's waiting time: it is in no REPORT.
            self._stories.init_over(instance, "init", "success", None, took_s * 1000)
            self.standing.initialised(instance)
        elif instance.restored:
            instance.restore_ms = took_s * 1000
            self._stories.init_over(instance, "restore", "success", None, took_s * 1000)
            self._ready(instance, now_s)
        else:
            instance.init_ms = took_s * 1000
            if instance.version.config.system_log_level == "DEBUG":
                self._stories.init_over(instance, "init", "success", None, took_s * 1000)
            self._ready(instance, now_s)
            if instance.version.template is not None:
                self.standing.warmed(instance, took_s)
        self._fleet.cold_start_over(instance)

    def lane_worker(self, instance: Instance, channel: Channel) -> LaneWorker | None:
        """The compiled reader of a worker's channel, where there is one."""
        return None if self.lanes is None else self.lanes.Worker(instance, channel, channel.fd)

    def _free(self, instance: Instance) -> None:
        self._ready(instance, self._monotonic())

    def _ready(self, instance: Instance, now_s: float) -> None:
        """An instance is free: it takes the next request in line, idles, or goes: its version is history, or others wait for room."""
        worker = instance.worker
        if worker is not None:
            worker.usable = not (instance.needs_init or instance.raw_used)
        pool = instance.pool
        request = pool.ready(instance, now_s)
        if request is not None:
            if instance.provisioned:
                quota = request.version.function.quota
                request.version.function.account.release(quota)
                quota.provisioned_in_flight += 1
                request.provisioned = True
            self._run(instance, request, now_s)
        elif pool.draining or (self._fleet.starved and not instance.provisioned):
            self._fleet.retire(instance)

    def settle(self, instance: Instance, request: Request, outcome: Outcome, *, ready: bool) -> None:
        """The running invocation has its outcome. ``ready``: the worker lives and is ready for the next."""
        now_s = self._monotonic()
        if instance.raw_used or request.tail is not None:
            # While it is still this invocation's: its answer may have been heard before what it printed just ahead of it.
            instance.read_output()
        instance.current = None
        instance.invocations += 1
        self._timed.pop(instance, None)
        self.finish(instance, request, outcome, now_s)
        if ready and instance.state is State.BUSY:
            instance.state = State.IDLE
            if instance.leaving:
                self._fleet.leave(instance)
            else:
                self._ready(instance, now_s)

    def finish(self, instance: Instance, request: Request, outcome: Outcome, now_s: float) -> None:
        """Answer, count and log; the request holds no lease afterwards."""
        request.settle(outcome, now_s)
        function = request.version.function
        stats = function.stats
        if request.provisioned:
            function.quota.provisioned_in_flight -= 1
            stats.provisioned += 1
        else:
            function.account.release(function.quota)
            if request.version.provisioned is not None and request.version.provisioned.serving:
                stats.spillover += 1
        self.in_flight -= 1
        init_ms = instance.init_ms
        self._stories.ended(request, instance, outcome, now_s)
        request.reply_to.answered(request, outcome)
        if request.version.tracer is not None:
            request.version.tracer.end(request, outcome, init_ms)
        started_s = request.started_s
        if not stats.pending:
            self.folding.waiting.append(stats)
        stats.pending.append((started_s - request.received_s, now_s - started_s, self._monotonic() - now_s))
        if outcome.status is Status.SUCCESS:
            stats.success += 1
        else:
            if outcome.status is Status.TIMEOUT:
                stats.timeout += 1
            else:
                stats.error += 1
            stats.count_error(outcome.error_type or "Runtime.Unknown")
        if self.on_idle is not None:
            self._idle_check()

    def _idle_check(self) -> None:
        if self.in_flight == 0 and self.on_idle is not None:
            self.on_idle()

    # Time.

    def sweep_soon(self) -> None:
        """There is something that can expire."""
        self._sweep_soon()

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now_s = self._clock.monotonic()
        try:
            for instance in [i for i in self._timed if i.deadline_s is not None and i.deadline_s <= now_s]:
                self._overdue(instance)
            self._finishing.sweep(now_s)
            self.sharing.sweep(now_s)
        finally:
            # Whatever one of them came to, the deadlines of the others hold.
            if self._timed or self.sharing.running:
                self._loop.call_later(SWEEP_S, self._sweep)
            else:
                self._sweeping = False

    def write_starts(self) -> None:
        """Before the logs are written: let what still runs be seen to have started."""
        before_s = self._monotonic() - START_SHOWN_S
        for instance in self._timed:
            if instance.flight is not None and instance.flight.started_s > before_s:
                continue
            if instance.current is not None and not instance.current.start_logged:
                self._stories.started(instance.current, instance)

    def tick(self) -> None:
        """Once a second: let idle instances expire, keep provisioned ones complete, let requests without room fail."""
        now_s = self._monotonic()
        self._fleet.look()
        self.expire(all_of_them=True)
        for instance in () if self.setting.roles is None else self.setting.roles.overdue(self._fleet.instances):
            self._fleet.leave(instance)
        self.provisioner.tick()
        self._refuse_the_starved(now_s)

    def expire(self, *, all_of_them: bool = False) -> None:
        """Let idle instances expire: several times a second, for what ends together is in the way of what starts."""
        self._fleet.expire(self._monotonic(), self._keep_alive_s, self._max_age_s, all_of_them=all_of_them)

    def _overdue(self, instance: Instance) -> None:
        if instance.state is State.INITIALISING:
            self.faults.init_failed(instance, ("timeout", None))
        elif instance.answered:
            self._fleet.reset(instance, "timeout")
        elif instance.state is State.BUSY and instance.current is not None:
            request = instance.current
            instance.drain()
            if instance.current is not request:
                return
            outcome = inv.timed_out(request.request_id, float(instance.version.config.timeout_s))
            if instance.needs_init:
                self._stories.init_over(instance, "invoke", "timeout", None, self.faults.since_init_ms(instance))
            self.settle(instance, request, outcome, ready=False)
            self._fleet.reset(instance, "timeout")

    def freeze_idle(self, after_s: float) -> None:
        """Stop instances that have been idle for ``after_s``; their next invocation lets them go on."""
        self._fleet.freeze_idle(self._monotonic(), after_s)

    def _refuse_the_starved(self, now_s: float) -> None:
        """Requests for which the host has had no room for too long are throttled."""
        for version in list(self._fleet.starved):
            pool = version.pool
            while pool.waiting and now_s - pool.waiting[0].received_s > self._host_wait_s:
                full = f"Rate Exceeded. This host is full: {self._room.why_full()}."
                self.refuse(pool.waiting.popleft(), throttled(Throttle.HOST_FULL, full), throttle=True)
            if not pool.waiting:
                del self._fleet.starved[version]
                if not pool.live:
                    tenants.forget(version)

    def drain(self, version: Version) -> None:
        """The version is history."""
        self.standing.templates.forget(version)
        self.setting.container.forget(version)
        self._fleet.drain(version)

    def prepare(self, version: Version) -> None:
        """A version appeared."""
        self._fleet.prepare(version)
        self.standing.appeared(version)

    def stop(self) -> None:
        """Let every instance go."""
        self._fleet.stop()
