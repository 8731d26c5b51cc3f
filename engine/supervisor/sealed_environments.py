"""Variables that a KMS key guards: asked of the control plane, which asks KMS, when an instance is about to be initialised.

Those who start together share one answer. It is kept with the version for a few seconds, in memory only: later cold starts ask anew, so that
a key that was taken away stops new instances, as on Lambda; what runs goes on with what it has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from engine.errors import AwsError, KmsRefused, ServiceError
from engine.supervisor.ask import Connect, ask

if TYPE_CHECKING:
    from engine.core.model import VersionConfig
    from engine.supervisor.catalogue import Version

PATH = b"/_lambda-engine/environment"
KEPT_S = 5.0
log = structlog.get_logger("engine")


class SealedEnvironments:
    """For the supervisor's loop. ``connect`` reaches the control plane."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Connect, token: str) -> None:
        self._loop = loop
        self._connect = connect
        self._token = token
        self._asking: dict[Version, asyncio.Task[AwsError | None]] = {}
        self._opened: dict[Version, VersionConfig] = {}

    def ready(self, version: Version, then: Callable[[AwsError | None], None]) -> bool:
        """Whether the variables are here for a new instance; if not they are asked for, and ``then`` is told how it went."""
        if version in self._opened:
            return True
        task = self._asking.get(version)
        if task is None:
            task = self._asking[version] = self._loop.create_task(self._fetch(version))
        task.add_done_callback(lambda done: then(done.result()))
        return False

    def config(self, version: Version) -> VersionConfig:
        """The version's configuration with its variables; ``ready`` has said that they are here."""
        return self._opened[version]

    async def _fetch(self, version: Version) -> AwsError | None:
        config = version.config
        question = json.dumps({"account": config.account, "function": config.name, "version": config.version}).encode()
        try:
            status, body = await ask(self._connect, b"POST", PATH, self._token, question)
            answer = json.loads(body)
            if status == 200:
                opened = replace(config, env={str(k): str(v) for k, v in answer["variables"].items()})
                self._opened[version] = opened
                self._loop.call_later(KEPT_S, self._opened.pop, version, None)
                return None
            message = str(answer.get("message"))
            return KmsRefused(message, str(answer["code"])) if "code" in answer else ServiceError(message)
        except (OSError, EOFError, ValueError, KeyError, asyncio.LimitOverrunError) as e:
            log.warning("no environment variables for a function", function=config.name, reason=str(e) or type(e).__name__)
            return ServiceError(f"The control plane could not be asked for the environment variables of {config.name}.")
        finally:
            del self._asking[version]
