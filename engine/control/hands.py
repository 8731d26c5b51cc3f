"""``POST /_engine/time`` ``{"advance_s": n}``: put forward the time that schedules and queued events go by. On the engine's own socket only.

Schedules of the embedded AWS run on the way, in order and each at its own time; then events that are due by then are tried. Only these clocks move: time-outs,
keep-alive and what functions see stay real. A clock is back at the real time when the process that has it starts anew.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, MutableMapping
from typing import Any

from engine.clock import ShiftedClock
from engine.control.inside import Receive, Send, read_body, refused, reply_json
from engine.control.link import ControlLink
from engine.core.schedules import iso
from engine.errors import ServiceError

PATH = "/_engine/time"
CHILD_PATH = "/_lambda-engine/time/"
MAX_BODY = 4096
START_S = 60.0
POLL_S = 0.1
MAX_RUN_S = 300.0


class TimeRoute:
    """The ASGI callable. ``wake`` has queued events looked at again."""

    def __init__(self, link: ControlLink, clock: ShiftedClock, wake: Callable[[], None], *, embedded: bool) -> None:
        self._link = link
        self._clock = clock
        self._wake = wake
        self._embedded = embedded

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if await refused(scope, send):
            return
        try:
            seconds = json.loads(await read_body(receive, MAX_BODY))["advance_s"]
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e10:
                raise ValueError("advance_s is a number of seconds, not less than 0")
            runs = await self._schedules(float(seconds)) if self._embedded else 0
        except (ValueError, KeyError, TypeError) as e:
            await reply_json(send, 400, {"message": str(e)})
            return
        except (ServiceError, OSError, http.client.HTTPException) as e:
            await reply_json(send, 503, {"message": f"The embedded AWS could not be told: {e}"})
            return
        self._clock.advance(seconds)
        self._wake()
        await reply_json(send, 200, {"runs": runs, "now": iso(self._clock.epoch_ms() / 1000)})

    async def _schedules(self, seconds: float) -> int:
        """Have the embedded AWS run what comes due; how many runs that were. Raises ServiceError, OSError and ValueError."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + START_S
        while not (found := await self._link.query("embedded"))["port"]:
            if found["port"] is None:
                return 0
            if loop.time() > deadline_s:
                raise ServiceError("it does not start")
            await asyncio.sleep(POLL_S)
        answer = await asyncio.to_thread(_tell, int(found["port"]), str(found["token"]), seconds)
        if "error" in answer:
            raise ValueError(answer["error"])
        return int(answer["runs"])


def _tell(port: int, token: str, seconds: float) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MAX_RUN_S)
    try:
        connection.request("POST", f"{CHILD_PATH}{seconds!r}", headers={"X-Lambda-Engine-Token": token})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ServiceError(f"status {answer.status}")
        return dict(json.loads(body))
    finally:
        connection.close()
