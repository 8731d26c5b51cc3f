"""The planner and the limits together, driven by random events: the promises that no interleaving may break."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from engine.core.concurrency import Account, FunctionQuota
from engine.core.instance import Event, State, transition
from engine.core.invocation import Invocation, success
from engine.core.pool import Plan, VersionPool

KEEP_ALIVE_S = 60.0


class Instance:
    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.STARTING
        self.current: Invocation | None = None

    def move(self, event: Event) -> None:
        self.state = transition(self.state, event)


class Engine(RuleBasedStateMachine):
    """A toy shell around the real core: it does what the plan says and checks what must always hold."""

    requests = Bundle("requests")

    @initialize(limit=st.integers(1, 6), reserved=st.none() | st.integers(0, 4))
    def start(self, limit: int, reserved: int | None) -> None:
        self.account = Account(limit)
        self.quota = FunctionQuota()
        if reserved is not None:
            self.account.reserve(self.quota, min(reserved, limit))
        self.pool: VersionPool[Instance, Invocation] = VersionPool()
        self.instances: set[Instance] = set()
        self.now_s = 0.0
        self.count = 0
        self.admitted: list[Invocation] = []
        self.answered: list[Invocation] = []

    @rule(target=requests)
    def request(self) -> Invocation:
        self.count += 1
        request = Invocation(str(self.count), b"{}", self.now_s)
        in_flight = self.quota.in_flight
        reason = self.account.admit(self.quota)
        if reason is not None:
            assert self.quota.in_flight == in_flight
            return request
        self.admitted.append(request)
        instance = self.pool.reuse()
        if instance is not None:
            self.run_on(instance, request)
        elif self.pool.enqueue(request) is Plan.SPAWN:
            self.spawn()
        return request

    def spawn(self) -> None:
        instance = Instance(self.count)
        self.instances.add(instance)
        self.pool.started(instance)

    def run_on(self, instance: Instance, request: Invocation) -> None:
        instance.move(Event.ASSIGN)
        assert instance.current is None, "two invocations on one instance"
        instance.current = request

    def free(self, instance: Instance) -> None:
        request = self.pool.ready(instance, self.now_s)
        if request is not None:
            self.run_on(instance, request)

    def answer(self, instance: Instance) -> None:
        request = instance.current
        assert request is not None
        instance.current = None
        request.settle(success(b"null"), self.now_s)
        self.answered.append(request)
        self.account.release(self.quota)

    def pick(self, data: st.DataObject, state: State) -> Instance | None:
        found = sorted((i for i in self.instances if i.state is state), key=lambda i: i.number)
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data())
    def initialised(self, data: st.DataObject) -> None:
        instance = self.pick(data, State.STARTING)
        if instance is not None:
            instance.move(Event.WORKER_READY)
            instance.move(Event.INITIALISED)
            self.free(instance)

    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        instance = self.pick(data, State.BUSY)
        if instance is not None:
            self.answer(instance)
            instance.move(Event.SETTLE)
            self.free(instance)

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        instance = self.pick(data, State.BUSY)
        if instance is not None:
            self.answer(instance)
            instance.move(Event.RESET)
            self.pool.resetting(instance)

    @rule(data=st.data())
    def sandbox_lost(self, data: st.DataObject) -> None:
        instance = self.pick(data, data.draw(st.sampled_from([State.STARTING, State.IDLE, State.BUSY])))
        if instance is None:
            return
        if instance.current is not None:
            self.answer(instance)
        instance.move(Event.GONE)
        self.pool.lost(instance)
        self.pool.lost(instance)
        self.instances.discard(instance)
        for _ in range(self.pool.deficit()):
            self.spawn()

    @rule(request=consumes(requests))
    def give_up(self, request: Invocation) -> None:
        if self.pool.withdraw(request):
            request.settle(success(b"gave up"), self.now_s)
            self.answered.append(request)
            self.account.release(self.quota)
        assert not self.pool.withdraw(request)

    @rule(seconds=st.floats(0.1, 90.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for instance in self.pool.expired(self.now_s, KEEP_ALIVE_S):
            assert instance.state is State.IDLE
            instance.move(Event.RETIRE)
            instance.move(Event.GONE)
            self.instances.discard(instance)

    @rule(reserved=st.none() | st.integers(0, 6))
    def reserve(self, reserved: int | None) -> None:
        if reserved is None or reserved <= self.account.limit:
            self.account.reserve(self.quota, reserved)

    @invariant()
    def every_admitted_request_is_in_exactly_one_place(self) -> None:
        waiting = list(self.pool.waiting)
        running = [i.current for i in self.instances if i.current is not None]
        assert len(waiting) + len(running) + len(self.answered) == len(self.admitted)
        places = [id(r) for r in (*waiting, *running, *self.answered)]
        assert len(set(places)) == len(places), "a request is in two places, or was answered twice"

    @invariant()
    def leases_match_requests(self) -> None:
        running = sum(1 for i in self.instances if i.current is not None)
        assert self.quota.in_flight == len(self.pool.waiting) + running
        unreserved = self.quota.in_flight if self.quota.reserved is None else 0
        assert self.account.unreserved_in_flight == unreserved

    @invariant()
    def the_pool_agrees_with_the_instances(self) -> None:
        by_state = {s: {i for i in self.instances if i.state is s} for s in State}
        assert set(self.pool.idle) == by_state[State.IDLE]
        assert self.pool.busy == by_state[State.BUSY]
        assert self.pool.starting == by_state[State.STARTING]

    @invariant()
    def nobody_waits_beside_an_idle_instance_or_without_one_coming(self) -> None:
        if self.pool.waiting:
            assert not self.pool.idle
            assert self.pool.deficit() == 0

    def teardown(self) -> None:
        """Whatever happened, every admitted request can still be answered, once."""
        for _ in range(10 * (len(self.admitted) + 1)):
            for instance in list(self.instances):
                if instance.state is State.STARTING:
                    instance.move(Event.WORKER_READY)
                    instance.move(Event.INITIALISED)
                    self.free(instance)
                elif instance.state is State.BUSY:
                    self.answer(instance)
                    instance.move(Event.SETTLE)
                    self.free(instance)
        assert len(self.answered) == len(self.admitted)
        assert self.quota.in_flight == 0


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
