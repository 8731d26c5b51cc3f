"""Credentials of execution roles: asked of the control plane, which asks STS; kept per function and role; never outlived.

Instances of one function with one role share a session, whose name is the function's. A session is renewed once half of its life is over,
for instances that start later; what runs keeps what it was started with, as the environment of a process cannot be changed, and leaves
before that expires.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from engine.clock import Clock
from engine.core.instance import State
from engine.errors import AccessDenied, AwsError, ServiceError
from engine.supervisor.ask import Connect, ask

if TYPE_CHECKING:
    from engine.supervisor.catalogue import Version
    from engine.supervisor.instance import Instance

PATH = b"/_lambda-engine/credentials"
# What must be left of a session when an invocation begins, beyond the function's timeout.
MARGIN_S = 60.0
# How long whoever asks for a younger session waits while there is an older one.
PATIENCE_S = 1.0
log = structlog.get_logger("engine")


@dataclass(frozen=True, slots=True)
class Session:
    """``keys``: access key id, secret, session token. Times are epoch seconds."""

    keys: tuple[str, str, str]
    began_s: float
    expires_s: float


class RoleCredentials:
    """For the supervisor's loop. ``connect`` reaches the control plane."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, connect: Connect, token: str) -> None:
        self._loop = loop
        self._clock = clock
        self._connect = connect
        self._token = token
        self._sessions: dict[tuple[str, str, str], Session] = {}
        self._asking: dict[tuple[str, str, str], asyncio.Task[AwsError | None]] = {}

    def ready(self, version: Version, then: Callable[[AwsError | None], None]) -> bool:
        """Whether there are credentials for a new instance; if not they are asked for, and ``then`` is told how it went."""
        session = self._sessions.get(_key(version))
        now_s = self._now_s()
        if session is not None and session.expires_s - now_s > MARGIN_S + version.config.timeout_s:
            if now_s > (session.began_s + session.expires_s) / 2:
                self._ask(version)
            return True
        task = self._ask(version)
        task.add_done_callback(lambda done: then(done.result()))
        return False

    def give(self, instance: Instance) -> tuple[str, str, str]:
        """The credentials an instance is started with; it has to leave in time."""
        session = self._sessions[_key(instance.version)]
        instance.leave_s = session.expires_s - MARGIN_S - instance.version.config.timeout_s
        return session.keys

    def fresh(self, version: Version, then: Callable[[Session | AwsError], None]) -> None:
        """Tell ``then``, once, a session with at least half of its life ahead; an older one, as long as it lasts, where no other can be had
        or none is had soon: SDKs wait two seconds.
        """
        key = _key(version)
        session = self._sessions.get(key)
        if session is not None and self._now_s() <= (session.began_s + session.expires_s) / 2:
            then(session)
            return

        waiting: asyncio.TimerHandle | None = None
        told = False

        def tell(found: Session | AwsError) -> None:
            nonlocal told
            if not told:
                told = True
                then(found)

        def asked(done: asyncio.Task[AwsError | None]) -> None:
            problem, latest = done.result(), self._sessions.get(key)
            if waiting is not None:
                waiting.cancel()
            if latest is not None and (problem is None or latest.expires_s > self._now_s()):
                tell(latest)
            else:
                tell(problem or ServiceError("There are no credentials."))

        if session is not None and session.expires_s > self._now_s():
            waiting = self._loop.call_later(PATIENCE_S, tell, session)
        self._ask(version).add_done_callback(asked)

    def overdue(self, instances: Iterable[Instance]) -> list[Instance]:
        """Idle instances whose credentials end soon; busy ones are told to leave when they are done."""
        now_s = self._now_s()
        found = []
        for instance in instances:
            if instance.leave_s is not None and instance.leave_s <= now_s:
                instance.leaving = True
                if instance.state is State.IDLE:
                    found.append(instance)
        return found

    def _now_s(self) -> float:
        return self._clock.epoch_ms() / 1000

    def _ask(self, version: Version) -> asyncio.Task[AwsError | None]:
        key = _key(version)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._loop.create_task(self._fetch(key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return task

    async def _fetch(self, key: tuple[str, str, str]) -> AwsError | None:
        account, function, role = key
        question = json.dumps({"account": account, "function": function, "role": role}).encode()
        began_s = self._now_s()
        try:
            status, body = await ask(self._connect, b"POST", PATH, self._token, question)
            answer = json.loads(body)
            if status != 200:
                message = str(answer.get("message"))
                return AccessDenied(message) if status == 403 else ServiceError(message)
            access_key, secret, token = answer["credentials"]
            self._sessions[key] = Session((access_key, secret, token), began_s, float(answer["expires"]))
        except (OSError, EOFError, ValueError, KeyError, asyncio.LimitOverrunError) as e:
            log.warning("no credentials for an execution role", role=role, reason=str(e) or type(e).__name__)
            return ServiceError(f"The control plane could not be asked for credentials of {role}.")
        return None


def _key(version: Version) -> tuple[str, str, str]:
    config = version.config
    return config.account, config.name, config.role
