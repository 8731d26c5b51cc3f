"""What an instance is given to start with: paths, environment, credentials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from engine.arn import runtime_version_arn
from engine.clock import Clock
from engine.core import provisioning, report
from engine.core.runtimes import Family, family, speaks_frames
from engine.supervisor import zygotes
from engine.supervisor.container_credentials import ContainerCredentials
from engine.supervisor.environment import CREDENTIALS, INITIALIZATION_TYPE, SNAP_START, Home, base_env, init_message
from engine.supervisor.role_credentials import RoleCredentials
from engine.supervisor.sealed_environments import SealedEnvironments
from engine.supervisor.zygotes import Interpreter
from engine.wire import messages

if TYPE_CHECKING:
    from engine.supervisor.instance import Instance


class InitSent(NamedTuple):
    """An INIT: the next one of the same version mostly differs from it in the name of the log stream, and is as long.

    ``imports``: it asks what is imported.
    """

    env: dict[str, str]
    kind: str
    imports: bool
    stream: bytes
    frame: bytes


# After-restore hooks included; docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks.html
RESTORE_TIMEOUT_S = 10.0


class Setting:
    """Made before the sandbox's level is known, and completed then. ``roles`` None: functions get ``home``'s credentials."""

    def __init__(self, home: Home, clock: Clock, *, isolated_paths: bool) -> None:
        self.home = home
        self._epoch_ms = clock.epoch_ms
        self.isolated_paths = isolated_paths
        self.opt_root: Callable[[Sequence[str]], str] = lambda _layers: "/opt"
        self.roles: RoleCredentials | None = None
        self.sealed: SealedEnvironments | None = None
        self.container = ContainerCredentials(self, clock)
        self.runtimes: Mapping[str, Interpreter] = {}

    def first(self, instance: Instance) -> bytes:
        """What a worker is told first: RESTORE in a copy, INIT in any other; with roles, their credentials must be there."""
        return self.restore(instance) if instance.restored else self.init(instance)

    def announce(self, instance: Instance) -> None:
        """INIT_START or RESTORE_START, after the worker was told to begin; a function that brings its own runtime has none."""
        version = instance.version
        if instance.learned:
            return
        config = version.config
        if config.log_format == "JSON":
            self._announce_json(instance)
            return
        line = version.announced.get(instance.restored)
        if line is None:
            line = report.init_start_text(*self._runtime_version(config.runtime), restored=instance.restored) if self._is_managed(config.runtime) else ""
            version.announced[instance.restored] = line
        if line:
            at_ms = instance.printed_ms = self._epoch_ms()
            version.log.write(at_ms, instance.stream, line)

    def _is_managed(self, runtime: str) -> bool:
        """Whether it is one of ours, whose version is known."""
        return runtime in self.runtimes and family(runtime) not in (None, Family.PROVIDED, Family.IMAGE)

    def _announce_json(self, instance: Instance) -> None:
        version = instance.version
        config = version.config
        if not self._is_managed(config.runtime):
            return
        about: dict[str, object] = {
            "initializationType": instance.kind,
            "functionName": config.name,
            "functionVersion": config.version,
            "instanceId": instance.stream,
            "instanceMaxMemory": config.memory_mib * report.MIB,
        }
        at_ms = instance.printed_ms = self._epoch_ms()
        line = report.InitStarted(at_ms, *self._runtime_version(config.runtime), about, level=config.system_log_level, restored=instance.restored)
        version.log.write(at_ms, instance.stream, line)

    def _runtime_version(self, runtime: str) -> tuple[str, str]:
        """``python:3.12.4`` and its ARN."""
        version = self.runtimes[runtime].version
        return f"{family(runtime)}:{version}", runtime_version_arn(self.home.region, runtime, version)

    def restore(self, instance: Instance) -> bytes:
        """RESTORE for a copy, with its own way to credentials, or the credentials of now."""
        env = {}
        if self.container.offered:
            env = self.container.variables(instance)
        elif self.roles is not None:
            fresh = base_env(instance.version.config, replace(self.home, credentials=self.roles.give(instance)))
            env = {name: value for name, value in fresh.items() if name in CREDENTIALS}
        if instance.kind != SNAP_START:
            # Its template's said and left out what is so of SnapStart only.
            group = instance.version.config.log_group
            env = {**env, INITIALIZATION_TYPE: instance.kind, "AWS_LAMBDA_LOG_GROUP_NAME": group, "AWS_LAMBDA_LOG_STREAM_NAME": instance.stream}
        return messages.pack(messages.RESTORE, {"env": env, "log_stream": instance.stream})

    @staticmethod
    def limit_s(instance: Instance, init_timeout_s: float) -> float:
        """How long a worker may take until it is ready for its first event."""
        if instance.restored:
            return RESTORE_TIMEOUT_S
        if instance.provisioned or instance.template or instance.crew is not None:
            return max(provisioning.INIT_TIMEOUT_S, float(instance.version.config.timeout_s))
        return init_timeout_s

    def init(self, instance: Instance) -> bytes:
        """INIT for an instance; with roles, their credentials must be there."""
        version, sent, stream = instance.version, instance.version.init_sent, instance.stream.encode()
        is_plain = self.roles is None and instance.crew is None and instance.current is None and not (instance.snapshot or instance.template)
        if (
            is_plain and sent is not None and sent.env is version.base_env and sent.kind == instance.kind
            and sent.imports is (version.imports is None) and len(sent.stream) == len(stream)
        ):  # fmt: skip
            # The name of a stream is unlike everything else.
            return sent.frame.replace(sent.stream, stream)
        contained = instance.kind == SNAP_START and self.container.offered
        config = version.config
        if config.sealed:
            assert self.sealed is not None  # noqa: S101 - they have been asked for
            config, version.base_env = self.sealed.config(version), None
        if self.roles is not None and not contained:
            version.base_env = base_env(config, replace(self.home, credentials=self.roles.give(instance)))
        elif version.base_env is None:
            version.base_env = base_env(config, self.home)
        env = version.base_env
        if contained:
            env = {**{name: value for name, value in env.items() if name not in CREDENTIALS}, **self.container.variables(instance)}
        task_root = "/var/task" if self.isolated_paths else version.config.code_dir
        opt_root = self.opt_root(version.config.layers)
        more = dict(version.init_more)
        if instance.snapshot:
            more["features"] = [*more.get("features", ()), "restore"]
        if instance.learned:
            more["preload"] = [] if version.imports is None else version.imports.modules
        elif version.imports is None and version.zygote_key.startswith("python") and not instance.template and instance.crew is None:
            more["features"] = [*more.get("features", ()), "imports"]
        if instance.crew is not None:
            more["max_concurrency"] = version.limit
            env = {**env, "AWS_LAMBDA_MAX_CONCURRENCY": str(version.limit)}
        command = zygotes.command(config, self.runtimes, version.zygote_key)
        if command:
            more["command"] = command
            more["native"] = speaks_frames(version.config.runtime)
            more["runtime_version"] = self._runtime_version(config.runtime)
        if version.config.image is not None:
            more["image"] = {name: version.config.image[name] for name in ("entrypoint", "cmd", "workdir")}
        if instance.current is not None:
            more["request_id"] = instance.current.request_id
        frame = init_message(
            version.config, env, instance.stream, instance.kind, task_root=task_root, opt_root=opt_root, more=more
        )
        if is_plain and not config.sealed:
            version.init_sent = InitSent(env, instance.kind, version.imports is None, stream, frame)
        return frame
