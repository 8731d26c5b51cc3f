"""Definitions of APIs and load balancers, asked of the control plane when a request needs one, and kept until they may have changed.

What comes through the engine's port and writes to the service that has them, or to CloudFormation, makes all of them stale at once; what is
written elsewhere is seen when a definition's time is over. One that cannot be asked for again goes on as it was.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
import structlog

from engine.supervisor.ask import Connect, ask

PATH = b"/_lambda-engine/gateway"
# Services through which APIs change.
CHANGES_APIS = frozenset({"apigateway", "cloudformation"})
CHANGES_BALANCERS = frozenset({"elasticloadbalancing", "cloudformation"})
# How long a definition is taken for good: where all writes are seen, and where they may be made elsewhere.
EMBEDDED_S, ELSEWHERE_S = 300.0, 5.0
UNKNOWN_S = 1.0
MAX_KNOWN = 4096
# Ids of APIs, names of load balancers.
_NAME = re.compile(r"[a-z0-9-]{1,64}")
log = structlog.get_logger("engine")


T = TypeVar("T")


class Unreadable(Exception):
    """The control plane or the service behind it could not be asked. The message says why."""


class Definitions(Generic[T]):
    """For the supervisor's loop. ``kind``: ``api`` or ``balancer``; ``make``: what is kept of an answer, None when there is nothing of
    that name. ``connect`` reaches the control plane, ``token`` proves who asks.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        kind: str,
        make: Callable[[bytes], T | None],
        connect: Connect,
        token: str,
        *,
        fresh_s: float,
    ) -> None:
        self._loop = loop
        self._kind = kind
        self._make = make
        self._connect = connect
        self._token = token
        self._fresh_s = fresh_s
        self._known: dict[str, tuple[float, T | None]] = {}
        self._asking: dict[str, asyncio.Task[tuple[T | None, Unreadable | None]]] = {}
        self._revision = 0

    def forget(self) -> None:
        """Any of them may have changed."""
        self._revision += 1
        self._known = {k: (0.0, served) for k, (_, served) in self._known.items() if served is not None}

    def get(self, name: str, then: Callable[[T | None, Unreadable | None], None]) -> None:
        """Calls ``then`` with the definition, None when there is none, or with why it is not known; at once when it is."""
        if _NAME.fullmatch(name) is None:
            # Nothing is called so: nobody needs to be asked.
            then(None, None)
            return
        until_s, served = self._known.get(name, (0.0, None))
        if until_s > self._loop.time():
            then(served, None)
            return
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = self._loop.create_task(self._ask(name))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        task.add_done_callback(lambda done: then(*done.result()))

    async def _ask(self, name: str) -> tuple[T | None, Unreadable | None]:
        while True:
            revision = self._revision
            question = json.dumps({self._kind: name}).encode()
            try:
                status, body = await ask(self._connect, b"POST", PATH, self._token, question)
                if status != 200:
                    raise ValueError(str(json.loads(body).get("message")))
                made = self._make(body)
            except (OSError, EOFError, ValueError, msgspec.MsgspecError, asyncio.LimitOverrunError) as e:
                reason = str(e) or type(e).__name__
                log.warning("a definition could not be read", kind=self._kind, name=name, reason=reason)
                served = self._known.get(name, (0.0, None))[1]
                if served is None:
                    return None, Unreadable(reason)
                self._keep(name, served, UNKNOWN_S)
                return served, None
            if revision == self._revision:
                break
        self._keep(name, made, self._fresh_s if made is not None else UNKNOWN_S)
        return made, None

    def _keep(self, name: str, served: T | None, fresh_s: float) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[name] = (self._loop.time() + fresh_s, served)
