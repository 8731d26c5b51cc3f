"""What an instance is given to start with: paths, environment, credentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.supervisor.environment import Home, base_env, init_message
from engine.supervisor.role_credentials import RoleCredentials

if TYPE_CHECKING:
    from engine.supervisor.instance import Instance


class Setting:
    """Made before the sandbox's level is known, and completed then. ``roles`` None: functions get ``home``'s credentials."""

    def __init__(self, home: Home, *, isolated_paths: bool) -> None:
        self.home = home
        self.isolated_paths = isolated_paths
        self.opt_root: Callable[[Sequence[str]], str] = lambda _layers: "/opt"
        self.roles: RoleCredentials | None = None

    def init(self, instance: Instance) -> bytes:
        """INIT for an instance; with roles, their credentials must be there."""
        version = instance.version
        if self.roles is not None:
            version.base_env = base_env(version.config, replace(self.home, credentials=self.roles.give(instance)))
        elif version.base_env is None:
            version.base_env = base_env(version.config, self.home)
        task_root = "/var/task" if self.isolated_paths else version.config.code_dir
        opt_root = self.opt_root(version.config.layers)
        more = dict(version.init_more)
        if instance.current is not None:
            more["request_id"] = instance.current.request_id
        return init_message(
            version.config, version.base_env, instance.stream, instance.kind, task_root=task_root, opt_root=opt_root, more=more
        )
