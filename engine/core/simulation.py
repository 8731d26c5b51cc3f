"""What would happen to a trace of invocations: the engine's own planner and limits, run in virtual time.

Admission (``concurrency``), assignment (``pool``), the rule for provisioned instances and the host's room are the code that serves real
invocations; what is modelled is only what takes time: an init takes ``init_s``, an invocation what the trace says. Pools of versions
and their settings are simplified to one version per function. Time is whatever the trace's unit says it is: seconds from its start.
Prices are those of us-east-1 on x86 in 2026 and serve comparisons, not invoices.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

from engine.core.concurrency import (
    REQUEST_RATE,
    SCALING_BURST,
    SCALING_PERIOD_S,
    Account,
    FunctionQuota,
    RequestRate,
    ScalingRate,
    Throttle,
)
from engine.core.pool import Plan, VersionPool
from engine.core.shared_pool import SharedPool

USD_PER_REQUEST = 0.20 / 1e6
USD_PER_GB_S = 0.0000166667
USD_PER_PROVISIONED_GB_S = 0.0000041667
USD_PER_GB_S_ON_PROVISIONED = 0.0000097222


@dataclass(frozen=True, slots=True)
class Arrival:
    """One invocation of a trace."""

    at_s: float
    function: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """What one function is given. ``reserved`` None draws on the account; ``max_concurrency``: invocations that an instance runs at once."""

    reserved: int | None = None
    provisioned: int = 0
    keep_alive_s: float = 600.0
    init_s: float = 0.2
    memory_mib: int = 128
    max_concurrency: int = 1


@dataclass(frozen=True, slots=True)
class World:
    """What all functions share. ``plans`` by function, ``default`` for the others. ``request_rate`` 0 sets no limit."""

    account_limit: int = 1000
    max_instances: int = 1000
    host_wait_s: float = 10.0
    request_rate: int = REQUEST_RATE
    scaling: tuple[int, float] = (SCALING_BURST, SCALING_PERIOD_S)
    default: FunctionPlan = FunctionPlan()
    plans: Mapping[str, FunctionPlan] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What became of one function's invocations. Instance-seconds are those in which an instance existed, at work or not."""

    invocations: int = 0
    cold_starts: int = 0
    waited: int = 0
    waits_s: list[float] = field(default_factory=list)
    throttles: dict[str, int] = field(default_factory=dict)
    on_provisioned: int = 0
    spillover: int = 0
    busy_s: float = 0.0
    init_s: float = 0.0
    instance_s: float = 0.0
    provisioned_s: float = 0.0
    provisioned_busy_s: float = 0.0
    peak_instances: int = 0
    cost_usd: float = 0.0

    def throttle(self, reason: str) -> None:
        self.throttles[reason] = self.throttles.get(reason, 0) + 1


class _Instance:
    __slots__ = ("born_s", "provisioned")

    def __init__(self, born_s: float, *, provisioned: bool) -> None:
        self.born_s = born_s
        self.provisioned = provisioned


class _Request:
    __slots__ = ("arrival", "provisioned")

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.provisioned = False


class _Function:
    """One function: pools, quota, plan, result."""

    def __init__(self, plan: FunctionPlan, account: Account, world: World) -> None:
        self.plan = plan
        places = plan.max_concurrency
        self.pool: VersionPool[_Instance, _Request] = SharedPool(places) if places > 1 else VersionPool()
        self.standing: VersionPool[_Instance, _Request] = VersionPool()
        self.standing.waiting = self.pool.waiting
        self.quota = FunctionQuota(scaling=ScalingRate(*world.scaling))
        account.reserve(self.quota, plan.reserved)
        account.provision(self.quota, plan.provisioned)
        rate = world.request_rate * plan.provisioned
        self.rate = RequestRate(rate) if rate else None
        self.result = Outcome()
        for _ in range(plan.provisioned):
            self.standing.ready(_Instance(0.0, provisioned=True), 0.0)


class Simulation:
    """``run`` consumes a trace in order of arrival and gives the outcome by function."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._account = Account(world.account_limit, world.request_rate)
        self._functions: dict[str, _Function] = {}
        self._events: list[tuple[float, int, str, _Function, _Instance, _Request | None]] = []
        self._order = count()
        self._instances = 0
        self._starved: dict[_Function, None] = {}
        self._now_s = 0.0

    def run(self, trace: Iterable[Arrival]) -> dict[str, Outcome]:
        """Raises ValueError when the trace is not in order, or when the plans do not fit the account."""
        for name, plan in self._world.plans.items():
            self._functions[name] = self._new(plan)
        if self._account.unreserved_limit < 0:
            raise ValueError("reserved and provisioned concurrency exceed the account's limit")
        for arrival in trace:
            if arrival.at_s < self._now_s:
                raise ValueError("a trace is in order of arrival")
            self._advance(arrival.at_s)
            self._arrive(arrival)
        self._advance(float("inf"))
        return self._finish()

    def _new(self, plan: FunctionPlan) -> _Function:
        self._instances += plan.provisioned
        return _Function(plan, self._account, self._world)

    def _advance(self, until_s: float) -> None:
        """Everything that happens before an arrival."""
        while self._events and self._events[0][0] <= until_s:
            at_s, _, kind, function, instance, request = heapq.heappop(self._events)
            self._now_s = at_s
            if kind == "done" and request is not None:
                self._done(function, instance, request)
            elif kind == "give up" and request is not None:
                self._give_up(function, request)
            elif kind == "ready":
                self._free(function, instance)
        if until_s != float("inf"):
            self._now_s = until_s

    def _later(self, delay_s: float, kind: str, function: _Function, instance: _Instance, request: _Request | None = None) -> None:
        heapq.heappush(self._events, (self._now_s + delay_s, next(self._order), kind, function, instance, request))

    def _arrive(self, arrival: Arrival) -> None:
        function = self._functions.get(arrival.function)
        if function is None:
            function = self._functions[arrival.function] = self._new(self._world.default)
        now_s, result = self._now_s, function.result
        self._expire(function)
        request = _Request(arrival)
        if function.standing.idle_count and (function.rate is None or function.rate.take(now_s)):
            instance = function.standing.reuse()
            assert instance is not None  # noqa: S101 - one was idle
            request.provisioned = True
            function.quota.provisioned_in_flight += 1
            self._serve(function, instance, request)
            return
        reason = self._account.admit(function.quota, now_s)
        if reason is not None:
            result.throttle(reason)
            return
        idle = function.pool.reuse()
        if idle is not None:
            self._serve(function, idle, request)
        elif function.pool.enqueue(request) is Plan.SPAWN and not function.quota.scaling.take(now_s):
            function.pool.withdraw(request)
            self._account.release(function.quota)
            result.throttle(Throttle.FUNCTION_RATE)
        elif function.pool.deficit() > 0:
            self._spawn(function, request)

    def _spawn(self, function: _Function, request: _Request | None) -> None:
        if self._instances >= self._world.max_instances and not self._evict():
            self._starved[function] = None
            if request is not None:
                self._later(self._world.host_wait_s, "give up", function, _Instance(self._now_s, provisioned=False), request)
            return
        instance = _Instance(self._now_s, provisioned=False)
        self._instances += 1
        function.pool.started(instance)
        function.result.cold_starts += 1
        function.result.init_s += function.plan.init_s
        function.result.peak_instances = max(function.result.peak_instances, function.pool.live + function.plan.provisioned)
        self._later(function.plan.init_s, "ready", function, instance)

    def _give_up(self, function: _Function, request: _Request) -> None:
        """A request that has waited for room as long as it may."""
        if function.pool.withdraw(request):
            self._account.release(function.quota)
            function.result.throttle(Throttle.HOST_FULL)

    def _serve(self, function: _Function, instance: _Instance, request: _Request) -> None:
        result, arrival = function.result, request.arrival
        wait_s = self._now_s - arrival.at_s
        if wait_s > 0:
            result.waited += 1
        result.waits_s.append(wait_s)
        self._later(arrival.duration_s, "done", function, instance, request)

    def _done(self, function: _Function, instance: _Instance, request: _Request) -> None:
        result = function.result
        result.invocations += 1
        result.busy_s += request.arrival.duration_s
        if request.provisioned:
            function.quota.provisioned_in_flight -= 1
            result.on_provisioned += 1
            result.provisioned_busy_s += request.arrival.duration_s
        else:
            self._account.release(function.quota)
            result.spillover += function.plan.provisioned > 0
        self._free(function, instance)

    def _free(self, function: _Function, instance: _Instance) -> None:
        """An instance is ready for the next: the head of the line, or idleness, or its end when others wait for room."""
        pool = function.standing if instance.provisioned else function.pool
        request = pool.ready(instance, self._now_s)
        if isinstance(pool, SharedPool):
            while (another := pool.join(instance)) is not None:
                self._serve(function, instance, another)
            if request is None and pool.load(instance):
                return
        if request is None:
            if self._starved and not instance.provisioned:
                function.pool.lost(instance)
                self._end(function, instance, self._now_s)
            return
        if instance.provisioned:
            self._account.release(function.quota)
            function.quota.provisioned_in_flight += 1
            request.provisioned = True
        self._serve(function, instance, request)

    def _expire(self, function: _Function) -> None:
        """Instances end when nobody looks; what they cost is counted to the moment they did."""
        pool, keep_alive_s = function.pool, function.plan.keep_alive_s
        while (since_s := pool.oldest_idle_since()) is not None and self._now_s - since_s >= keep_alive_s:
            instance = pool.evict()
            assert instance is not None  # noqa: S101 - one is idle since then
            self._end(function, instance, since_s + keep_alive_s)

    def _evict(self) -> bool:
        """The instance idle for longest makes room; expired ones of any function did so already."""
        for function in self._functions.values():
            self._expire(function)
        if self._instances < self._world.max_instances:
            return True
        idle = [(since, f) for f in self._functions.values() if (since := f.pool.oldest_idle_since()) is not None]
        if not idle:
            return False
        function = min(idle, key=lambda pair: pair[0])[1]
        victim = function.pool.evict()
        assert victim is not None  # noqa: S101 - one was idle
        self._end(function, victim, self._now_s)
        return True

    def _end(self, function: _Function, instance: _Instance, at_s: float) -> None:
        self._instances -= 1
        function.result.instance_s += at_s - instance.born_s
        while self._starved and self._instances < self._world.max_instances:
            waiting = next(iter(self._starved))
            if waiting.pool.deficit() > 0:
                self._spawn(waiting, None)
            if waiting.pool.deficit() <= 0:
                self._starved.pop(waiting, None)

    def _finish(self) -> dict[str, Outcome]:
        """Instances left over end where the trace's last invocation did."""
        for function in self._functions.values():
            for instance, since_s in list(function.pool.newest_idle()):
                end_s = min(self._now_s, since_s + function.plan.keep_alive_s)
                function.result.instance_s += end_s - instance.born_s
            self._charge(function)
        return {name: function.result for name, function in self._functions.items()}

    def _charge(self, function: _Function) -> None:
        result, gb = function.result, function.plan.memory_mib / 1024
        result.provisioned_s = function.plan.provisioned * self._now_s
        result.instance_s += result.provisioned_s
        result.peak_instances = max(result.peak_instances, function.plan.provisioned)
        on_demand_s = result.busy_s - result.provisioned_busy_s + result.init_s
        if function.plan.max_concurrency > 1:
            # Of several in one instance each is not billed for all of it: the instance is.
            on_demand_s = result.instance_s - result.provisioned_s
        result.cost_usd = (
            result.invocations * USD_PER_REQUEST
            + on_demand_s * gb * USD_PER_GB_S
            + result.provisioned_s * gb * USD_PER_PROVISIONED_GB_S
            + result.provisioned_busy_s * gb * USD_PER_GB_S_ON_PROVISIONED
        )


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of all are not above; 0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
