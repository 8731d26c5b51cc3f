"""``/_engine/events``: the queue of asynchronous invocations, for the engine's own user. On the engine's own socket only.

``GET`` lists (``function``, ``account``, ``limit`` in the query), ``GET /ID`` shows one with its payload, ``POST`` ``{"ids": [...]}`` or ``{"function": name}`` makes
events due now, ``DELETE`` with the same body forgets them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from engine.clock import Clock
from engine.control.inside import Receive, Send, read_body, refused, reply_json
from engine.core.records import millis
from engine.store.api import EventQueue, Queued

PATH = "/_engine/events"
MAX_BODY = 4 * 1024 * 1024
# So many are changed by one statement, and listed at once.
PAGE = 10_000


class EventRoutes:
    """The ASGI callable. ``wake`` has the queue looked at."""

    def __init__(self, queue: EventQueue, clock: Clock, wake: Callable[[], None], *, account: str) -> None:
        self._queue = queue
        self._clock = clock
        self._wake = wake
        self._account = account

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if await refused(scope, send):
            return
        try:
            status, document = await self._answer(scope, receive)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            status, document = 400, {"message": f"{type(e).__name__}: {e}"}
        await reply_json(send, status, document)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[int, dict[str, Any]]:
        method, name = scope["method"], scope["path"][len(PATH) + 1 :]
        if method == "GET" and name:
            found = await asyncio.to_thread(self._queue.find, name)
            if found is None:
                return 404, {"message": f"There is no event {name} in the queue: it is done, or was given up, or never was."}
            return 200, {"event": self._shown(found, whole=True)}
        if method == "GET":
            query = {key: values[-1] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
            listed = await asyncio.to_thread(self._listed, query.get("account"), query.get("function"), int(query.get("limit", "100")))
            backlog = await asyncio.to_thread(self._queue.backlog)
            return 200, {"events": [self._shown(each) for each in listed], "depth": backlog.depth}
        if method in ("POST", "DELETE") and not name:
            return 200, {"count": await self._change(json.loads(await read_body(receive, MAX_BODY)), drop=method == "DELETE")}
        return 404, {"message": f"Not found: {method} {scope['path']}"}

    def _listed(self, account: str | None, function: str | None, limit: int) -> list[Queued]:
        return self._queue.listed(account, function, max(0, min(limit, PAGE)))

    async def _change(self, asked: dict[str, Any], *, drop: bool) -> int:
        """How many events changed."""
        if "ids" in asked:
            return await self._some([str(each) for each in asked["ids"]], drop=drop)
        function, account = asked["function"], asked.get("account") or self._account
        count = 0
        while True:
            # What was just made due stays in the queue until it ran: only one round of it.
            page = await asyncio.to_thread(self._queue.listed, account, function, PAGE)
            count += await self._some([each.event.request_id for each in page], drop=drop)
            if not drop or len(page) < PAGE:
                return count

    async def _some(self, ids: list[str], *, drop: bool) -> int:
        count = 0
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            count += await (self._queue.drop(part) if drop else self._queue.hasten(part, self._clock.epoch_ms()))
        self._wake()
        return count

    def _shown(self, queued: Queued, *, whole: bool = False) -> dict[str, Any]:
        event = queued.event
        shown: dict[str, Any] = {
            "id": event.request_id,
            "account": event.account,
            "function": event.function if event.qualifier is None else f"{event.function}:{event.qualifier}",
            "state": "running" if queued.held else "waiting" if event.due_ms > self._clock.epoch_ms() else "due",
            "accepted": millis(event.first_ms),
            "due": millis(event.due_ms),
            "failures": event.failures,
            "refusals": event.refusals,
            "bytes": len(event.payload),
        }
        if whole:
            shown |= {"trace": event.trace_id, "tenant": event.tenant, "payload": event.payload.decode("utf-8", "replace")}
        return shown
