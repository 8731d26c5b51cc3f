"""Keeps provisioned instances as many as they shall be.

Theory of operation. ``configure`` takes note of what a function's catalogue entry asks for; ``reconcile`` compares that with what there
is and does the difference (``core.provisioning`` decides it). Events (an instance was initialised, failed, ended) only wake it; once a
second it looks by itself, so that a lost event costs a second. Few are started at a time, so that on-demand cold starts of others are not
held up. A configuration whose instances cannot be initialised is given up with the reason until somebody asks anew; one that has served
already is repaired with growing pauses.

An alias that moves to other versions is routed to the former ones until the new ones' instances stand or are given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from engine.clock import Clock
from engine.core import provisioning
from engine.core.concurrency import RequestRate, ScalingRate
from engine.core.model import AliasConfig, ProvisionedConfig
from engine.core.provisioning import NONE, Figures, Have, Status
from engine.supervisor.catalogue import Function, Version
from engine.supervisor.instance import Instance
from engine.supervisor.provision import Provision

# On their way at once, of all functions together.
MAX_STARTING = 8


class ProvisioningOwner(Protocol):
    """Who has the instances."""

    def start_provisioned(self, version: Version) -> bool:
        """Have one more made; False when the host has no room."""

    def serve(self, instance: Instance) -> None:
        """An initialised instance may take requests from now on."""

    def retire(self, instance: Instance) -> None:
        """Let an instance go."""

    def rerouted(self, function: Function) -> None:
        """An alias means other versions from now on."""


class _Asked:
    """What one function asks for."""

    __slots__ = ("failed", "ramp", "stuck_s")

    def __init__(self) -> None:
        # Reason by (qualifier, revision): a newer revision is a new try.
        self.failed: dict[tuple[str, str], str] = {}
        self.ramp = ScalingRate(provisioning.RAMP_PER_MINUTE, 60.0)
        # Since when the host has had no room.
        self.stuck_s: float | None = None


class Provisioner:
    """One per supervisor, on its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, owner: ProvisioningOwner, host_wait_s: float) -> None:
        self._loop = loop
        self._clock = clock
        self._owner = owner
        self._host_wait_s = host_wait_s
        self._asked: dict[Function, _Asked] = {}
        self._starting: dict[Instance, None] = {}
        self._woken: dict[Function, None] = {}
        self._settled = False

    # What shall be.

    def configure(self, function: Function, former: Mapping[str, AliasConfig]) -> None:
        """The function's entry changed; ``former`` are the aliases requests went by until now."""
        asked = self._asked.get(function)
        config = function.config
        if asked is None:
            if config is None or not config.provisioned:
                return
            asked = self._asked[function] = _Asked()
        current = {(p.qualifier, p.revision) for p in config.provisioned} if config is not None else set()
        asked.failed = {key: why for key, why in asked.failed.items() if key in current and not why.startswith(provisioning.INVALID_RUNTIME)}
        if config is not None:
            function.aliases = {name: self._routed(function, a, former.get(name)) for name, a in config.aliases.items()}
        self._reconcile(function)

    def _routed(self, function: Function, wanted: AliasConfig, former: AliasConfig | None) -> AliasConfig:
        """The alias as requests shall go by it for now."""
        config = function.config
        assert config is not None  # noqa: S101 - the caller has looked
        if former is None or former == wanted or all(p.qualifier != wanted.name for p in config.provisioned):
            return wanted
        versions = [function.versions.get(name) for name in (former.version, *(name for name, _ in former.weights))]
        main = versions[0]
        if None in versions or main is None or main.provisioned is None or not main.provisioned.serving:
            return wanted
        return former

    def forget(self, function: Function) -> None:
        """The function is deleted; its versions drain."""
        self._asked.pop(function, None)
        function.account.provision(function.quota, 0)

    def _spread(self, function: Function, config: ProvisionedConfig) -> dict[str, int]:
        """Targets of one configuration by version; nothing for a qualifier that is not there."""
        assert function.config is not None  # noqa: S101 - it asks for something
        alias = function.config.aliases.get(config.qualifier)
        if alias is not None:
            return provisioning.spread(config.requested, alias.version, alias.weights)
        return {config.qualifier: config.requested}

    # What is.

    def initialised(self, instance: Instance) -> None:
        """A provisioned instance has finished its init."""
        self._starting.pop(instance, None)
        provision = instance.version.provisioned
        if provision is None:
            self._owner.retire(instance)
            return
        provision.failures = 0
        if provision.serving:
            self._owner.serve(instance)
        else:
            provision.hold(instance)
        self._wake(instance.version.function)

    def failed(self, instance: Instance, reason: str = provisioning.INIT_FAILURE) -> None:
        """A provisioned instance could not be had. While its version does not serve yet, what asks for it is given up."""
        self._starting.pop(instance, None)
        version = instance.version
        function, provision = version.function, version.provisioned
        asked = self._asked.get(function)
        if provision is None or asked is None or function.config is None:
            return
        if provision.serving:
            self._pause(provision)
        else:
            for config in function.config.provisioned:
                if version.config.version in self._spread(function, config):
                    asked.failed[config.qualifier, config.revision] = reason
        self._wake(function)

    def lost(self, instance: Instance) -> None:
        """A provisioned instance is no more."""
        provision = instance.version.provisioned
        if provision is not None:
            provision.lost(instance)
            if self._starting.pop(instance, 0) is None:
                self._pause(provision)
        self._wake(instance.version.function)

    def _pause(self, provision: Provision) -> None:
        provision.failures += 1
        provision.retry_s = self._clock.monotonic() + provisioning.pause_s(provision.failures)

    # The difference.

    def _wake(self, function: Function) -> None:
        if not self._woken:
            self._loop.call_soon(self._reconcile_woken)
        self._woken[function] = None

    def _reconcile_woken(self) -> None:
        woken, self._woken = self._woken, {}
        for function in woken:
            self._reconcile(function)

    def tick(self) -> None:
        """Once a second."""
        for function in list(self._asked):
            self._reconcile(function)

    def _reconcile(self, function: Function) -> None:
        asked = self._asked.get(function)
        if asked is None or function.config is None:
            return
        targets = self._targets(function, asked)
        have = self._have(function)
        allocating = any(not (h := have.get(n, NONE)).serving or h.ready < t for n, t in targets.items() if n in function.versions)
        for name, version in function.versions.items():
            self._approach(version, targets.get(name, 0), asked, allocating=allocating)
        self._settle(function, asked)

    def _targets(self, function: Function, asked: _Asked) -> dict[str, int]:
        """Instances by version of everything that was not given up; the account is told of the claim."""
        targets: dict[str, int] = {}
        claim = 0
        assert function.config is not None  # noqa: S101 - the caller has looked
        for config in function.config.provisioned:
            if (config.qualifier, config.revision) not in asked.failed:
                claim += config.requested
                for name, number in self._spread(function, config).items():
                    targets[name] = targets.get(name, 0) + number
        function.account.provision(function.quota, claim)
        return targets

    @staticmethod
    def _have(function: Function) -> dict[str, Have]:
        return {n: v.provisioned.have() for n, v in function.versions.items() if v.provisioned is not None}

    def _approach(self, version: Version, target: int, asked: _Asked, *, allocating: bool) -> None:
        provision = version.provisioned
        if provision is None:
            if not target:
                return
            provision = version.provisioned = Provision(version.pool)
        if provision.target != target:
            provision.target = target
            rate = version.function.account.request_rate
            provision.rate = RequestRate(rate * target) if rate and target else None
        have = provision.have()
        todo = provisioning.steps(target, have, allocating=allocating)
        self._start(version, provision, todo.start, asked)
        if todo.release:
            provision.serving = True
            while provision.held:
                self._owner.serve(provision.held.popitem()[0])
            # What waited for this may now be let go.
            self._wake(version.function)
        for _ in range(todo.retire):
            instance = provision.spare()
            if instance is None:
                break
            self._starting.pop(instance, None)
            self._owner.retire(instance)
        if not target and not allocating and provision.have().ready == 0 and not provision.pool.starting:
            version.provisioned = None

    def _start(self, version: Version, provision: Provision, number: int, asked: _Asked) -> None:
        now_s = self._clock.monotonic()
        if not number or now_s < provision.retry_s:
            return
        if version.config.refusal:
            self._give_up(version, asked, provisioning.INVALID_RUNTIME + version.config.refusal)
            return
        for _ in range(min(number, MAX_STARTING - len(self._starting))):
            if not asked.ramp.take(now_s):
                return
            if not self._owner.start_provisioned(version):
                asked.ramp.give_back()
                self._no_room(version, provision, asked, now_s)
                return
            asked.stuck_s = None

    def _no_room(self, version: Version, provision: Provision, asked: _Asked, now_s: float) -> None:
        """The host is full. Waited out for a while, then said."""
        asked.stuck_s = now_s if asked.stuck_s is None else asked.stuck_s
        function = version.function
        if now_s - asked.stuck_s < self._host_wait_s or provision.serving or function.config is None:
            return
        self._give_up(version, asked, "HOST_CAPACITY_EXCEEDED: this host has no room for more instances")
        asked.stuck_s = None

    def _give_up(self, version: Version, asked: _Asked, reason: str) -> None:
        """Nothing that has instances of the version stand ready is to be had."""
        function = version.function
        assert function.config is not None  # noqa: S101 - it asks for something
        for config in function.config.provisioned:
            if version.config.version in self._spread(function, config):
                asked.failed[config.qualifier, config.revision] = reason
        self._wake(function)

    def begun(self, instance: Instance) -> None:
        """An instance asked for is on its way."""
        self._starting[instance] = None

    def _settle(self, function: Function, asked: _Asked) -> None:
        """Route aliases whose instances stand, or never will, to where they point; forget a function that asks for nothing."""
        config = function.config
        assert config is not None  # noqa: S101 - the caller has looked
        if function.aliases != config.aliases:
            done = {f[0].qualifier for f in self._of(function, asked) if f[1].status is not Status.IN_PROGRESS}
            waiting = {p.qualifier for p in config.provisioned} - done
            aliases = {n: function.aliases.get(n, a) if n in waiting else a for n, a in config.aliases.items()}
            if aliases != function.aliases:
                function.aliases = aliases
                self._owner.rerouted(function)
        if not config.provisioned and all(v.provisioned is None for v in function.versions.values()):
            self._asked.pop(function, None)

    # What to say of it.

    def _of(self, function: Function, asked: _Asked) -> list[tuple[ProvisionedConfig, Figures]]:
        if function.config is None:
            return []
        have = self._have(function)
        return [
            (
                p,
                provisioning.figures(
                    p.requested, self._spread(function, p), have, asked.failed.get((p.qualifier, p.revision))
                ),
            )
            for p in function.config.provisioned
        ]

    def figures(self) -> list[dict[str, Any]]:
        """Every configuration with its counts and state."""
        return [
            {
                "account": function.config.account,
                "name": function.name,
                "qualifier": config.qualifier,
                "revision": config.revision,
                "requested": shown.requested,
                "allocated": shown.allocated,
                "available": shown.available,
                "in_use": self._in_use(function, config),
                "status": shown.status.value,
                "reason": shown.reason,
            }
            for function, asked in self._asked.items()
            if function.config is not None
            for config, shown in self._of(function, asked)
        ]

    def _in_use(self, function: Function, config: ProvisionedConfig) -> int:
        versions = (function.versions.get(name) for name in self._spread(function, config))
        return sum(len(v.provisioned.pool.busy) for v in versions if v is not None and v.provisioned is not None)

    def pending(self) -> list[str]:
        """What is still being allocated after a start; empty for good once everything was allocated or given up."""
        if self._settled:
            return []
        waiting = [
            f"provisioned concurrency of {f['name']}:{f['qualifier']} ({f['allocated']} of {f['requested']} allocated)"
            for f in self.figures()
            if f["status"] == Status.IN_PROGRESS
        ]
        self._settled = not waiting
        return waiting
