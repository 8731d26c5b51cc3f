"""Instances that exist without a request: provisioned ones, and templates that others are copied from.

Decides nothing: the provisioner and the templates do, and have it done here, by the fleet. The invoker says what became of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from engine.clock import Clock
from engine.core.instance import Event, State
from engine.errors import WireError
from engine.supervisor import imports
from engine.supervisor.catalogue import Function, Version
from engine.supervisor.fleet import Fleet
from engine.supervisor.instance import Instance
from engine.supervisor.provisioner import Provisioner
from engine.supervisor.templates import PRINTED, THREADS, WARNING, Templates


class Standing:
    """``ready``: the instance may take requests. ``snapshots``: versions without SnapStart get templates too; ``learn_imports``: learned ones."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        fleet: Fleet,
        ready: Callable[[Instance], None],
        *,
        host_wait_s: float,
        snapshots: bool,
        learn_imports: bool = False,
    ) -> None:
        self._fleet = fleet
        self._ready = ready
        self.provisioner = Provisioner(loop, clock, self, host_wait_s)
        self.templates = Templates(clock, self, everything=snapshots, learning=learn_imports)
        self.on_rerouted: Callable[[Function], None] = lambda _function: None
        self.rebuilding: Callable[[], bool] = lambda: False

    # ProvisioningOwner

    def start_provisioned(self, version: Version) -> bool:
        """One more of them, if there is room."""
        if version.provisioned is None:
            return True
        instance = self._fleet.provision(version, version.provisioned)
        if instance is None:
            return False
        if instance.state is not State.GONE:
            self.provisioner.begun(instance)
        return True

    def serve(self, instance: Instance) -> None:
        """A held one may work."""
        if instance.state is State.IDLE:
            self._ready(instance)

    def retire(self, instance: Instance) -> None:
        self._fleet.retire(instance)

    def rerouted(self, function: Function) -> None:
        self.on_rerouted(function)

    # TemplateOwner

    def begin_template(self, version: Version) -> Instance | None:
        return self._fleet.begin_template(version)

    def declare_template(self, key: str, instance: Instance) -> None:
        self._fleet.declare_template(key, instance)

    def end_template(self, key: str, instance: Instance | None) -> None:
        self._fleet.end_template(key, instance)

    def serve_line(self, version: Version) -> None:
        self._fleet.spawn_deficit(version)

    # What the fleet asks.

    def may_start(self, version: Version) -> bool:
        return self.templates.may_start(version)

    def make_room(self) -> bool:
        return self.templates.make_room()

    # What became of them.

    def appeared(self, version: Version) -> None:
        """A version is new in the catalogue."""
        self.templates.prepare(version, first=not self.rebuilding())

    def warmed(self, instance: Instance, took_s: float) -> None:
        """An instance of a version that has or may have a template was initialised by itself."""
        if instance.copied and instance.version.imports is not None:
            instance.version.imports.copied_ms = took_s * 1000
        self.templates.warmed(instance.version)

    def initialised(self, instance: Instance) -> None:
        """The init of an instance that no request waits for is over."""
        if instance.provisioned:
            self.provisioner.initialised(instance)
        else:
            # NEXT where RESTORE_NEXT was wanted.
            self.templates.failed(instance, THREADS)

    def frozen(self, instance: Instance) -> None:
        """A template waits to be copied."""
        instance.move(Event.INITIALISED)
        self.templates.frozen(instance)

    def init_failed(self, instance: Instance, reason: str) -> None:
        """It could not be initialised."""
        if instance.provisioned:
            self.provisioner.failed(instance)
        else:
            self.templates.failed(instance, reason)

    def unstartable(self, instance: Instance, why: str) -> None:
        """It got no sandbox, or lost it at once."""
        if instance.provisioned:
            self.provisioner.failed(instance, f"PLATFORM_ERROR: {why}")
        else:
            self.templates.failed(instance, why)

    def lost(self, instance: Instance) -> None:
        """It is no more, for whatever reason."""
        if instance.provisioned:
            self.provisioner.lost(instance)
        else:
            self.templates.gone(instance)

    def printed(self, instance: Instance, text: str) -> None:
        """A template's runtime may have something to say to whoever looks at the version."""
        template = instance.version.template
        if instance.learned:
            self.templates.failed(instance, PRINTED)
        elif template is not None and text.startswith(WARNING):
            template.warning = text.removeprefix(WARNING)

    def imported(self, instance: Instance, parts: list[Any]) -> None:
        """An instance says what it imported, or a template why it must not be copied. Raises WireError."""
        document = imports.parse(parts)
        if instance.learned and instance.state is State.INITIALISING:
            self.templates.failed(instance, document.refused)
        elif instance.state in (State.IDLE, State.BUSY) and not document.refused and not instance.template:
            if instance.version.imports is None:
                instance.version.imports = imports.Imports(document)
                self.templates.learnt(instance.version)
        else:
            raise WireError("IMPORTS is not for this worker to send now")
