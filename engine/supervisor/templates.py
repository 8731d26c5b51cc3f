"""Templates: versions whose init ran once, from which instances are copied (SnapStart).

Theory of operation. A version that must have a template (SnapStart) gets one when it appears: an instance of its own kind is initialised with
all the time Lambda allows, runs its before-snapshot hooks and then waits to be copied. From that moment sandboxes of the version are
prepared from it, ahead of need, like any others; requests in line meanwhile wait as for a cold start, or are refused while the version
has just been published and is Pending. A template whose process cannot be copied (it has threads) leaves the version without: every
instance then runs the init itself, and the reason is shown. A template that ends, or that made room for somebody, is built again
when the next instance is wanted.

With the switch on, any version gets a template once an instance of it was initialised, and starts plainly until it stands.

A *learned* template stops short of the function's own code: it has imported the packages that the version's first instance was seen to
import, and each copy runs the function's init. It is given up where such an init fails, and for good where importing leaves traces.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from engine.clock import Clock
from engine.errors import ResourceConflict, SnapStartNotReady
from engine.supervisor.catalogue import Function, Version
from engine.supervisor.imports import WORTH_MS, Imports
from engine.supervisor.instance import Instance

WARNING = "SNAPSTART_WARNING "
PRINTED = "its packages print when they are imported"
_SPOILT = "an init failed in an instance that had packages imported ahead"
_NOTHING = "nothing it imports would be worth importing ahead"
THREADS = "its init leaves threads or child processes running, which a copy would not have"
_PENDING = "Lambda is initializing your function. It will be ready to invoke once your function state becomes ACTIVE."
_FAILED = "The operation cannot be performed at this time. The function is currently in the following state: Failed"


class Stage(StrEnum):
    """``plain``: it is given up, instances initialise themselves."""

    ABSENT = "absent"
    BUILDING = "building"
    READY = "ready"
    PLAIN = "plain"
    FAILED = "failed"


class Template:
    """One version's. ``required``: by SnapStart; ``first``: the version was just published; ``learned``: packages only."""

    __slots__ = ("first", "instance", "key", "learned", "reason", "required", "stage", "used_s", "version", "warning")

    def __init__(self, version: Version, *, required: bool, first: bool, learned: bool = False) -> None:
        self.version = version
        self.learned = learned
        self.required = required
        self.first = first
        self.stage = Stage.ABSENT
        self.key = ""
        self.instance: Instance | None = None
        self.reason: str | None = None
        self.warning: str | None = None
        self.used_s = 0.0


class TemplateOwner(Protocol):
    """Who makes instances."""

    def begin_template(self, version: Version) -> Instance | None:
        """Have an instance made that can be copied; None when the host has no room."""

    def declare_template(self, key: str, instance: Instance) -> None:
        """Have sandboxes prepared from it."""

    def end_template(self, key: str, instance: Instance | None) -> None:
        """It is not needed any more; nothing is prepared from it."""

    def serve_line(self, version: Version) -> None:
        """Start what the version's line is short of."""

    def rerouted(self, function: Function) -> None:
        """What a version answers may have changed."""


class Templates:
    """All templates. ``everything``: versions without SnapStart get one too; ``learning``: or a learned one. ``possible``: this sandbox
    level can copy.
    """

    def __init__(self, clock: Clock, owner: TemplateOwner, *, everything: bool, learning: bool = False) -> None:
        self._clock = clock
        self._learning = learning
        self._owner = owner
        self._everything = everything
        self.possible = True
        self._all: dict[Version, Template] = {}
        self._count = 0

    def prepare(self, version: Version, *, first: bool) -> None:
        """A version appeared. ``first``: it was just published, not read again after a start."""
        config = version.config
        required = config.snap_start
        ours = version.zygote_key.startswith("python")
        learned = self._learning and ours and not (required or self._everything)
        if version.limit > 1 or config.file_system or config.tenants_apart or config.state != "Active" or not (required or learned or (self._everything and config.runtime.startswith("python"))):
            return
        template = version.template = self._all[version] = Template(version, required=required, first=first and required, learned=learned)
        if not self.possible:
            self._give_up(template, "this sandbox level has no namespaces to copy into")
        elif required:
            self._build(template)

    def forget(self, version: Version) -> None:
        """The version is history."""
        template = self._all.pop(version, None)
        if template is not None:
            self._end(template)
            template.stage = Stage.PLAIN

    def may_start(self, version: Version) -> bool:
        """Whether an instance of a version with a template may be started now; False when it has to wait for the template."""
        template = version.template
        if template is None:
            return True
        if template.stage is Stage.READY:
            template.used_s = self._clock.monotonic()
        if not template.required:
            return True
        if template.stage is Stage.ABSENT:
            self._build(template)
        return template.stage is not Stage.BUILDING

    def warmed(self, version: Version) -> None:
        """An instance of the version was initialised by itself: a template may follow, off anybody's path."""
        template = version.template
        if template is None or template.required or template.stage is not Stage.ABSENT:
            return
        if not template.learned:
            self._build(template)
        elif version.imports is not None:
            self._learn(template, version.imports)

    def learnt(self, version: Version) -> None:
        """What the version imports is known."""
        template = version.template
        if template is not None and template.learned:
            self.warmed(version)

    def _learn(self, template: Template, imports: Imports) -> None:
        if imports.spare_ms() < WORTH_MS or not imports.modules:
            self._give_up(template, _NOTHING)
        else:
            self._build(template)

    def spoilt(self, version: Version) -> None:
        """An instance copied from a learned template did not initialise: from now on the version's instances start as ever."""
        template = version.template
        if template is not None and template.learned:
            self._end(template)
            self._give_up(template, _SPOILT)

    def _build(self, template: Template) -> None:
        template.stage = Stage.BUILDING
        template.instance = self._owner.begin_template(template.version)
        if template.instance is None:
            self._give_up(template, "the host has no room for it")
        self._tell(template)

    def frozen(self, instance: Instance) -> None:
        """Its init is over and it waits to be copied."""
        template = instance.version.template
        if template is None or template.instance is not instance:
            self._owner.end_template("", instance)
            return
        self._count += 1
        template.key = f"template:{instance.version.config.name}:{instance.version.config.version}:{self._count}"
        self._owner.declare_template(template.key, instance)

    def ready(self, key: str) -> None:
        """Sandboxes are prepared from it from now on."""
        template = self._of(key)
        if template is None:
            return
        template.stage = Stage.READY
        template.first = False
        template.used_s = self._clock.monotonic()
        template.version.stock_key = key
        self._tell(template)
        self._owner.serve_line(template.version)

    def lost(self, key: str) -> None:
        """It ended. The next instance has it built again."""
        template = self._of(key)
        if template is not None:
            self._end(template)

    def gone(self, instance: Instance) -> None:
        """An instance that was, or was to become, a template is no more."""
        template = instance.version.template
        if template is not None and template.instance is instance:
            self._end(template)
            if template.version.pool.waiting:
                self._owner.serve_line(template.version)

    def failed(self, instance: Instance, reason: str) -> None:
        """Its init failed, or it cannot be copied."""
        template = instance.version.template
        if template is None or template.instance is not instance:
            return
        if template.first and reason != THREADS:
            template.stage, template.reason = Stage.FAILED, reason
            self._tell(template)
        else:
            self._give_up(template, reason)
        template.instance = None
        self._owner.end_template("", instance)
        self._owner.serve_line(template.version)

    def _give_up(self, template: Template, reason: str) -> None:
        template.stage, template.reason, template.first = Stage.PLAIN, reason, False
        self._tell(template)

    def _end(self, template: Template) -> None:
        """Nothing is copied from it any more."""
        key, template.key = template.key, ""
        instance, template.instance = template.instance, None
        if template.stage in (Stage.READY, Stage.BUILDING):
            template.stage = Stage.ABSENT
        template.version.stock_key = template.version.zygote_key
        if key or instance is not None:
            self._owner.end_template(key, instance)

    def make_room(self) -> bool:
        """Give up the template used longest ago; whether there was one."""
        standing = [t for t in self._all.values() if t.stage is Stage.READY]
        if not standing:
            return False
        self._end(min(standing, key=lambda t: t.used_s))
        return True

    def _of(self, key: str) -> Template | None:
        return next((t for t in self._all.values() if t.key == key and key), None)

    def _tell(self, template: Template) -> None:
        """Let the version answer what its template's state makes it answer."""
        version = template.version
        former = version.refusal
        if template.required and template.first and template.stage is Stage.BUILDING:
            version.refusal = SnapStartNotReady(_PENDING)
        elif template.stage is Stage.FAILED:
            version.refusal = ResourceConflict(_FAILED)
        else:
            version.refusal = None
        if former is not version.refusal:
            self._owner.rerouted(version.function)

    def figures(self) -> list[dict[str, Any]]:
        """Every template with its stage, for the API and for people."""
        return [
            {
                "account": t.version.config.account,
                "name": t.version.config.name,
                "version": t.version.config.version,
                "stage": t.stage.value,
                "first": t.first,
                "required": t.required,
                "learned": t.learned,
                "reason": t.reason,
                "warning": t.warning,
            }
            for t in self._all.values()
        ]
