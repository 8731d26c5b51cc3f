"""All instances of the host: where they come from, how they end, who must make room.

Theory of operation. ``spawn`` makes an instance for a version and gets it a holder; its owner (the invoker) is told when a worker
is there to be initialised. ``reset`` keeps the sandbox and asks for a fresh worker, ``retire`` lets the sandbox go; the instance
is forgotten when the broker says it is gone. A host is full when it holds as many instances as it may, when their MemorySize adds up
to the memory budget, or when it runs short of memory. Then instances idle for longest make room; when none is idle the version is
*starved* and served first when one ends. Provisioned instances make room for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from engine.clock import Clock
from engine.core import report
from engine.core.instance import Event, State
from engine.core.runtimes import reserved_mib
from engine.errors import AwsError, SubnetIPAddressLimitReached
from engine.sandbox.api import NO_ROOM, HolderFds, Sandbox, SpecialiseSpec
from engine.sandbox.group import CPU_PERIOD_US
from engine.supervisor import tenants
from engine.supervisor.catalogue import Version
from engine.supervisor.ears import Ears
from engine.supervisor.farewell import Farewell
from engine.supervisor.holders import Holder, HolderPool
from engine.supervisor.instance import Instance, InstanceEvents
from engine.supervisor.provision import Provision
from engine.supervisor.room import Room

# The first event goes to its worker before the quota is written and the stock refilled: on one processor the broker, which outranks it, would come
# first, and take a tenth of a millisecond of what somebody waits for. A small function has its reply out by then; one that works on loses nothing but
# this. Cold starts that are over at about the same time are seen to together, up to as long again after it.
AFTER_S = 0.003
# 1,769 MB buy one vCPU (docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html); 1,024 shares are one by custom.
MIB_PER_VCPU = 1769
_DAY_MS = 86_400_000


class FleetOwner(InstanceEvents, Protocol):
    """Who runs invocations on the instances."""

    def on_worker(self, instance: Instance, furnish: Callable[[], None]) -> None:
        """The instance has a sandbox whose worker waits for INIT; ``furnish``, to be called once, has it specialised."""

    def on_unstartable(self, version: Version, why: str | AwsError) -> None:
        """An on-demand instance that was spawned cannot be had."""

    sharing: InstanceEvents

    def on_stopped(self, instance: Instance) -> None:
        """The instance runs nothing any more; deadlines on it are void."""


class StandingEvents(Protocol):
    """Who keeps provisioned instances and templates."""

    def unstartable(self, instance: Instance, why: str) -> None:
        """One that was spawned cannot be had; it is lost next."""

    def lost(self, instance: Instance) -> None:
        """One is no more, for whatever reason."""

    def may_start(self, version: Version) -> bool:
        """Whether an instance may be started; False when it waits for a template."""
        ...

    def make_room(self) -> bool:
        """Nothing is idle on a full host: give up something else; whether there was anything."""
        ...


class Fleet:
    """The instances. One writer: the supervisor's loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, room: Room, owner: FleetOwner, *, cpu_quota: bool = True
    ) -> None:
        self._loop = loop
        self._ears = Ears(loop)
        self._clock = clock
        self._room = room
        self._owner = owner
        self.farewell = Farewell(loop, clock)
        self._cpu_quota = cpu_quota
        self._day = (-1, "")
        self.standing: StandingEvents
        self._sandbox: Sandbox
        self._holders: HolderPool
        self._by_holder: dict[int, Instance] = {}
        self.instances: set[Instance] = set()
        # Whose init was over, and when: see ``_after``.
        self._over: deque[tuple[Instance, float]] = deque()
        self.starved: dict[Version, None] = {}
        self._versions: dict[Version, None] = {}
        # Those that may have something to freeze: see ``freeze_idle``.
        self._awake: dict[Version, None] = {}

    def wire(self, sandbox: Sandbox, holders: HolderPool) -> None:
        """The two are made after the fleet, which listens to both."""
        self._sandbox = sandbox
        self._holders = holders

    def of_holder(self, holder_id: int) -> Instance | None:
        return self._by_holder.get(holder_id)

    def spawn(self, version: Version) -> None:
        """One more instance for ``version``, now or when there is room."""
        self._versions[version] = None
        if version.shared is not None:
            tenants.keep(version)
        if version.template is not None and not self.standing.may_start(version):
            return
        if not self._make_room(version):
            self.starved[version] = None
            return
        self._begin(version, None)

    def provision(self, version: Version, provision: Provision) -> Instance | None:
        """One more provisioned instance; None when there is no room."""
        self._versions[version] = None
        return self._begin(version, provision) if self._make_room(version) else None

    def _begin(self, version: Version, provision: Provision | None) -> Instance:
        instance = self._new(version, provision, template=False)
        self._holders.take(version.stock_key, lambda holder, why: self._adopt(instance, holder, why))
        return instance

    def _new(self, version: Version, provision: Provision | None, *, template: bool) -> Instance:
        day = self._date()
        now_s = self._clock.monotonic()
        events = self._owner.sharing if version.limit > 1 and provision is None and not template else self._owner
        instance = Instance(self._ears, version, events, now_s, day, provision=provision, template=template)
        self.instances.add(instance)
        self._room.take(version.config.memory_mib)
        if version.shared is not None:
            version.function.tenant_instances += 1
        instance.pool.started(instance)
        self._awake[version] = None
        return instance

    def _date(self) -> str:
        """As in the names of log streams; the same object all day."""
        now_ms = self._clock.epoch_ms()
        if now_ms // _DAY_MS != self._day[0]:
            self._day = (now_ms // _DAY_MS, report.iso_ms(now_ms)[:10].replace("-", "/"))
        return self._day[1]

    def begin_template(self, version: Version) -> Instance | None:
        """An instance that others can be copied from; None when there is no room."""
        if not self._make_room(version):
            return None
        instance = self._new(version, None, template=True)
        self._holders.order(version.zygote_key, lambda holder, why: self._adopt(instance, holder, why))
        return instance

    def declare_template(self, key: str, instance: Instance) -> None:
        """Have a stock of copies prepared from it."""
        self._holders.use_template(key, instance.holder_id)

    def end_template(self, key: str, instance: Instance | None) -> None:
        """Nothing is copied from it any more. What was stays, and with it the sandbox around the template."""
        if key:
            self._holders.drop_template(key)
        if instance is None or instance.state in (State.RETIRING, State.GONE):
            return
        if key and instance.holder_id:
            self._retire(instance)
            instance.close()
        else:
            self.retire(instance)

    def spawn_deficit(self, version: Version) -> None:
        """As many instances as the version's line is short of."""
        for _ in range(version.pool.deficit()):
            self.spawn(version)

    def _make_room(self, version: Version) -> bool:
        """Whether one more instance fits, after the longest idle ones have made way for it."""
        while not self._room.fits(version.config.memory_mib):
            if not self._evict() and not self.standing.make_room():
                return False
        return True

    def _evict(self) -> bool:
        """Retire the instance idle for longest in any pool; whether there was one."""
        best: Version | None = None
        best_s = float("inf")
        for version in self._versions:
            since = version.pool.oldest_idle_since()
            if since is not None and since < best_s:
                best, best_s = version, since
        victim = None if best is None else best.pool.evict()
        if victim is None:
            return False
        self.retire(victim)
        return True

    def _adopt(self, instance: Instance, holder: Holder | None, why: str) -> None:
        version = instance.version
        if holder is None:
            if instance.template or (instance.provisioned and not instance.copied):
                self.standing.unstartable(instance, why)
                self.lose(instance)
                return
            if why.startswith(NO_ROOM):
                # As on any full host: whoever is idle makes room, or it is waited for.
                self._room.turned_away(why.removeprefix(f"{NO_ROOM}: "))
                self.lose(instance)
                self.spawn_deficit(version)
                return
            self.lose(instance)
            if instance.copied:
                # Its template ended: the next one is built again.
                self.spawn_deficit(version)
            else:
                self._owner.on_unstartable(version, SubnetIPAddressLimitReached.of(why) or why)
            return
        if instance.state is not State.STARTING:
            self._sandbox.kill(holder.holder_id)
            holder.fds.close()
            return
        self._by_holder[holder.holder_id] = instance
        instance.adopt(holder)
        self._owner.on_worker(instance, partial(self._sandbox.specialise, holder.holder_id, self._spec(version)))

    def _spec(self, version: Version) -> SpecialiseSpec:
        spec = version.sandbox
        if spec is None:
            config = version.config
            spec = version.sandbox = SpecialiseSpec(
                code_dir=config.code_dir,
                layers=config.layers,
                image=config.image is not None,
                file_system=config.file_system,
                memory_mib=config.memory_mib,
                reserved_mib=reserved_mib(config.runtime),
                tmp_mib=config.tmp_mib,
                cpu_shares=max(2, config.memory_mib * 1024 // MIB_PER_VCPU),
                cpu_quota_us=config.memory_mib * CPU_PERIOD_US // MIB_PER_VCPU if self._cpu_quota else 0,
            )
        return spec

    def cold_start_over(self, instance: Instance) -> None:
        """The init phase is over: a moment after the first event is on its way, the CPU quota of its memory size holds, and what it took from
        the stock may be replaced.
        """
        if not self._over:
            self._loop.call_later(AFTER_S, self._after)
        self._over.append((instance, self._loop.time()))

    def _after(self) -> None:
        over, until_s = self._over, self._loop.time() - AFTER_S / 2
        while over and over[0][1] < until_s:
            self.limit_cpu(over.popleft()[0])
        self._holders.settled()
        if over:
            self._loop.call_later(AFTER_S, self._after)

    def limit_cpu(self, instance: Instance) -> None:
        """The CPU quota of its memory size holds from now on."""
        if self._cpu_quota and not instance.capped and instance.holder_id and instance.state not in (State.RETIRING, State.GONE):
            instance.capped = True
            self._sandbox.initialised(instance.holder_id)

    def freeze_idle(self, now_s: float, after_s: float) -> None:
        """Freeze what has been idle for ``after_s``. An instance is used last in, first out, so the frozen ones are the oldest.

        A version all of whose instances are frozen is not looked at again before one of them is ``thawed`` or another is made: there may be a
        thousand.
        """
        for version in list(self._awake):
            done = version.provisioned is None and version.pool.live == version.pool.idle_count
            for pool in (version.pool,) if version.provisioned is None else (version.pool, version.provisioned.pool):
                if version.limit > 1:
                    continue
                for instance, since_s in pool.newest_idle():
                    if instance.frozen:
                        break
                    if now_s - since_s >= after_s:
                        instance.freeze()
                    done = done and instance.frozen
            if done:
                del self._awake[version]

    def thaw(self, instance: Instance) -> None:
        """Let a frozen instance go on; its message is there already."""
        instance.thaw()
        self._awake[instance.version] = None

    def reset(self, instance: Instance, reason: str = "failure") -> None:
        """Kill what the function started, keep its sandbox; a fresh worker will be there. For INITIALISING and BUSY only."""
        if instance.state not in (State.INITIALISING, State.BUSY):
            return
        if instance.copied:
            # What was copied cannot be had again in the same place.
            self.retire(instance)
            self.spawn_deficit(instance.version)
            return
        was = instance.state
        instance.move(Event.RESET)
        instance.needs_init = True
        instance.init_ms = None
        # An init that is repeated counts as invocation, in speed too.
        self.limit_cpu(instance)
        self._owner.on_stopped(instance)
        pool = instance.pool
        pool.resetting(instance)
        if pool.draining and not pool.waiting:
            self.retire(instance)
        else:
            self.farewell.say(instance, reason, lambda: self._renew(instance), was=was)

    def _renew(self, instance: Instance) -> None:
        """Its worker has had its time: a fresh one takes its place."""
        if instance.state is State.STARTING:
            instance.detach_worker()
            self._sandbox.reset(instance.holder_id)

    def readopt(self, holder_id: int, fds: HolderFds, pid: int) -> Instance | None:
        """A fresh worker stands in a sandbox that was reset; its instance, or None when nobody wants it any more."""
        instance = self._by_holder.get(holder_id)
        if instance is None or instance.state is not State.STARTING:
            fds.close()
            return None
        instance.readopt(fds.channel, fds.output_fd, pid)
        instance.move(Event.WORKER_RESET)
        instance.listen()
        return instance

    def retire(self, instance: Instance) -> None:
        """Let the instance go; it is forgotten when its sandbox has ended. Idempotent."""
        if instance.state in (State.RETIRING, State.GONE):
            return
        was = instance.state
        self._retire(instance)
        if not instance.holder_id:
            instance.close()
            self._forget(instance)
        elif instance.version.extensions:
            self.farewell.say(instance, "spindown", lambda: self._end(instance), was=was)
        else:
            self._end(instance)

    def _retire(self, instance: Instance) -> None:
        instance.pool.lost(instance)
        self._owner.on_stopped(instance)
        self._give_back(instance)

    def _give_back(self, instance: Instance) -> None:
        """It is in nobody's way any more."""
        version = instance.version
        instance.move(Event.RETIRE)
        self._room.give_back(version.config.memory_mib)
        if version.shared is not None:
            version.function.tenant_instances -= 1

    def _end(self, instance: Instance) -> None:
        instance.close()
        self._sandbox.kill(instance.holder_id)

    def gone(self, holder_id: int) -> Instance | None:
        """A sandbox has ended; its instance if that was not our doing (``lose`` it then)."""
        instance = self._by_holder.pop(holder_id, None)
        if instance is None:
            self._holders.gone(holder_id)
            return None
        if instance.state is State.GONE:
            return None
        if instance.state is not State.RETIRING:
            return instance
        self._forget(instance)
        return None

    def broker_lost(self) -> list[Instance]:
        """Every sandbox is gone: the instances, to be lost one by one."""
        self._by_holder.clear()
        return [i for i in self.instances if i.state is not State.GONE]

    def restart(self) -> None:
        """The broker has a successor: holders and missing instances are ordered from it."""
        self._holders.reset()
        for version in list(self._versions):
            self.spawn_deficit(version)

    def lose(self, instance: Instance) -> None:
        """The instance has no sandbox any more, or never got one."""
        instance.pool.lost(instance)
        self._owner.on_stopped(instance)
        instance.close()
        if instance.state is not State.RETIRING:
            self._give_back(instance)
        self._forget(instance)

    def _forget(self, instance: Instance) -> None:
        self.instances.discard(instance)
        instance.move(Event.GONE)
        if instance.provisioned or instance.template:
            self.standing.lost(instance)
        version = instance.version
        pool = version.pool
        if pool.live == 0 and (pool.draining or not (pool.waiting or version.provisioned)):
            # Whoever looks at all versions looks at those that have, or want, instances; ``spawn`` adds it again.
            self._versions.pop(version, None)
            self._awake.pop(version, None)
            if version.shared is not None:
                tenants.forget(version)
        self.feed_starved()

    def feed_starved(self) -> None:
        """Start what starved versions wait for, as far as there is room now."""
        for version in list(self.starved):
            if not self._room.fits(version.config.memory_mib):
                return
            del self.starved[version]
            self.spawn_deficit(version)

    def leave(self, instance: Instance) -> None:
        """Retire an instance that has no time left; whoever waits for one gets another."""
        self.retire(instance)
        self.spawn_deficit(instance.version)

    def look(self) -> None:
        """See how much room the host has left."""
        self._room.look()
        self._room.try_more()

    def expire(self, now_s: float, keep_alive_s: float, max_age_s: float, *, all_of_them: bool) -> None:
        """Retire what has been idle for too long, and idle instances that are too old (``max_age_s`` 0: none is).

        ``all_of_them``: also of versions of which it was known, as their settings were then, that nothing can have expired by now.
        """
        for version in list(self._versions):
            if now_s < version.expires_s and not all_of_them:
                continue
            function = version.function
            keep_s = keep_alive_s if function.keep_alive_s is None else function.keep_alive_s
            age_s = max_age_s if function.max_age_s is None else function.max_age_s
            leaving = version.pool.expired(now_s, keep_s)
            if age_s:
                leaving += [i for i in version.pool.idle if now_s - i.born_s >= age_s]
            oldest_s = version.pool.oldest_idle_since()
            version.expires_s = keep_s + (now_s if oldest_s is None else oldest_s)
            for instance in leaving:
                self.retire(instance)
        self.feed_starved()

    def drain(self, version: Version) -> None:
        """The version is history: idle instances go now, busy ones when they are done, requests in line are still served."""
        version.pool.draining = True
        while (instance := version.pool.evict()) is not None:
            self.retire(instance)
        provision, version.provisioned = version.provisioned, None
        if provision is not None:
            provision.pool.draining = True
            while (instance := provision.spare()) is not None:
                self.retire(instance)

    def prepare(self, version: Version) -> None:
        """A version appeared: have its zygote and stock ready before the first request."""
        if version.config.state == "Active":
            self._holders.use(version.stock_key)

    def stop(self) -> None:
        """Retire everything; the broker's end does the rest."""
        for instance in list(self.instances):
            self.retire(instance)
