"""Definitions of APIs, asked of the control plane when a request needs one, and kept until they may have changed.

What comes through the engine's port and writes to API Gateway or to CloudFormation makes all of them stale at once; what is written elsewhere
is seen when a definition's time is over. One that cannot be asked for again goes on as it was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import msgspec
import structlog

from engine.protocol.gateway.definition import Api
from engine.protocol.gateway.routes import Router
from engine.supervisor.ask import Connect, ask

PATH = b"/_lambda-engine/gateway"
# Services through which APIs change.
CHANGES_APIS = frozenset({"apigateway", "cloudformation"})
# How long a definition is taken for good: where all writes are seen, and where they may be made elsewhere.
EMBEDDED_S, ELSEWHERE_S = 300.0, 5.0
UNKNOWN_S = 1.0
MAX_APIS = 4096
log = structlog.get_logger("engine")
Decoder = msgspec.json.Decoder(Api | None)


class Served:
    """An API as it is served. ``verdicts`` are what its Lambda authorizers said, by authorizer and identity, and until when it holds."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.router = Router(api)
        self.verdicts: dict[tuple[str, ...], tuple[float, object]] = {}


class Unreadable(Exception):
    """The control plane or API Gateway could not be asked. The message says why."""


# Told of the API, None when there is none, or why it is not known.
Then = Callable[["Served | None", "Unreadable | None"], None]


class Definitions:
    """For the supervisor's loop. ``connect`` reaches the control plane, ``token`` proves who asks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Connect, token: str, account: str, *, fresh_s: float) -> None:
        self._loop = loop
        self._connect = connect
        self._token = token
        self._fresh_s = fresh_s
        self._accounts = {account: None}
        self._known: dict[str, tuple[float, Served | None]] = {}
        self._asking: dict[str, asyncio.Task[tuple[Served | None, Unreadable | None]]] = {}
        self._revision = 0

    def spoken_to(self, account: str | None) -> None:
        """API Gateway has been spoken to in this account: its APIs are looked for as well."""
        if account is not None and account not in self._accounts:
            self._accounts[account] = None
            self.forget()

    def forget(self) -> None:
        """Any API may have changed."""
        self._revision += 1
        self._known = {k: (0.0, served) for k, (_, served) in self._known.items() if served is not None}

    def get(self, api_id: str, then: Then) -> None:
        """Calls ``then`` with the API, at once when it is known."""
        until_s, served = self._known.get(api_id, (0.0, None))
        if until_s > self._loop.time():
            then(served, None)
            return
        task = self._asking.get(api_id)
        if task is None:
            task = self._asking[api_id] = self._loop.create_task(self._ask(api_id))
            task.add_done_callback(lambda _: self._asking.pop(api_id, None))
        task.add_done_callback(lambda done: then(*done.result()))

    async def _ask(self, api_id: str) -> tuple[Served | None, Unreadable | None]:
        question = json.dumps({"api": api_id, "accounts": list(self._accounts)}).encode()
        while True:
            revision = self._revision
            try:
                status, body = await ask(self._connect, b"POST", PATH, self._token, question)
                if status != 200:
                    raise ValueError(str(json.loads(body).get("message")))
                api = Decoder.decode(body)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as e:
                reason = str(e) or type(e).__name__
                log.warning("the definition of an API could not be read", api=api_id, reason=reason)
                served = self._known.get(api_id, (0.0, None))[1]
                if served is None:
                    return None, Unreadable(reason)
                self._keep(api_id, served, UNKNOWN_S)
                return served, None
            if revision == self._revision:
                break
        served = None if api is None else Served(api)
        if api is not None and api.ignored:
            log.warning("settings of an API have no effect here", api=api_id, settings=", ".join(api.ignored))
        self._keep(api_id, served, self._fresh_s if served is not None else UNKNOWN_S)
        return served, None

    def _keep(self, api_id: str, served: Served | None, fresh_s: float) -> None:
        if len(self._known) >= MAX_APIS:
            self._known.clear()
        self._known[api_id] = (self._loop.time() + fresh_s, served)
