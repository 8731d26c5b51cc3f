"""Runs accepted events: takes what is due, invokes, and settles or postpones.

Theory of operation. One loop compares what the queue holds due with the room there is, and only sleeps until the next due time or a
wake-up; a wake-up that is lost costs time, never an event. Each attempt is a task that ends by telling the queue what became of the
event. Taken events carry a lease, so nothing is run twice at once, and whatever this process held when it died is released when the
next one starts: delivery is at least once. Invocations go through the binary protocol like any client's, with the id the caller was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from engine.arn import function_arn
from engine.client.errors import ApiError, ClientError
from engine.clock import Clock
from engine.errors import ServiceError
from engine.eventing.delivery import Delivery
from engine.eventing.policies import DEFAULT, Policies, Policy
from engine.eventing.records import Answer, End, qualified
from engine.eventing.retry import GiveUp, Later, Outcome, after
from engine.eventing.windows import Windows
from engine.store.api import LATEST, Event, EventQueue
from engine.wire.messages import Result

# No invocation lasts longer, init and waiting included: 900 s and some.
LEASE_MS = 1_200_000
MAX_IN_FLIGHT = 512
# One function's events must leave room for the others'.
MAX_PER_FUNCTION = 384
MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
BATCH = 64
# The loop looks at the queue at least this often, in case the host's clock is set.
LONGEST_SLEEP_S = 60.0
PAUSE_AFTER_ERROR_S = 1.0
CLOSE_GRACE_S = 2.0
_PERMANENT = frozenset((400, 401, 403, 404, 413, 415))
_log = logging.getLogger(__name__)


class Invoker(Protocol):
    """The part of the binary client that is used here."""

    async def invoke(
        self,
        function: str,
        payload: bytes = ...,
        *,
        qualifier: str | None = None,
        request_id: str | None = None,
        trace_id: str | None = None,
        tenant_id: str | None = None,
    ) -> Result: ...


class Dispatcher:
    """Works from ``start`` to ``close``; for one event loop. Nothing is run before ``ready`` returns.

    ``retry_base_s`` is the pause before the first retry of a function that failed. ``dropped`` counts events that were given up
    (AsyncEventsDropped).
    """

    def __init__(
        self,
        queue: EventQueue,
        invoker: Invoker,
        clock: Clock,
        *,
        region: str,
        retry_base_s: float,
        policies: Policies | None = None,
        delivery: Delivery | None = None,
        ready: Callable[[], Awaitable[object]] | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_per_function: int = MAX_PER_FUNCTION,
    ) -> None:
        self._queue = queue
        self._invoker = invoker
        self._clock = clock
        self._region = region
        self._retry_base_ms = round(retry_base_s * 1000)
        self._policies = policies
        self._delivery = delivery
        self._ready = ready
        self.dropped = 0
        self._max_in_flight = max_in_flight
        self._windows = Windows(max_per_function)
        self._least_room = min(BATCH, max_in_flight // 16)
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._bytes = 0
        self._wake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Release what a former process held and begin."""
        self._loop_task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """There may be something to do: an event was accepted, or time was set."""
        self._wake.set()

    async def close(self) -> None:
        """Take nothing more and give attempts a moment to end; what does not end is repeated by the next process. Idempotent."""
        task, self._loop_task = self._loop_task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._attempts:
            _, running = await asyncio.wait(list(self._attempts.values()), timeout=CLOSE_GRACE_S)
            for attempt in running:
                attempt.cancel()
            if running:
                await asyncio.wait(running)

    async def _run(self) -> None:
        released = False
        while True:
            self._wake.clear()
            try:
                if not released:
                    if self._ready is not None:
                        # Before it knows every function, whoever invokes would say of all that they are not there, and their events would be given up.
                        await self._ready()
                    count = await self._queue.release(self._clock.epoch_ms())
                    released = True
                    if count:
                        _log.info("%d events were being run when the last control plane ended; they are run again", count)
                sleep_s = 0.0 if await self._take() else self._sleep_s()
            except ServiceError as e:
                _log.warning("queued events wait: %s", e)
                sleep_s = PAUSE_AFTER_ERROR_S
            except Exception:  # noqa: BLE001 - a full disk must not end the loop
                _log.exception("the event queue cannot be read")
                sleep_s = PAUSE_AFTER_ERROR_S
            if sleep_s > 0:
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: Python 3.11's drops a cancellation that meets the wake-up, and ``close`` would wait for ever.
                    async with asyncio.timeout(sleep_s):
                        await self._wake.wait()

    async def _take(self) -> bool:
        """Start what there is room for; whether there may be more right now."""
        room = min(BATCH, self._max_in_flight - len(self._attempts))
        if self._waits_for_room():
            return False
        now_ms = self._clock.epoch_ms()
        events = await self._queue.claim(now_ms, now_ms + LEASE_MS, room, self._windows.full(now_ms))
        for event in events:
            if event.request_id not in self._attempts:
                self._begin(event)
        return len(events) == room

    def _sleep_s(self) -> float:
        if self._waits_for_room():
            return LONGEST_SLEEP_S
        now_ms = self._clock.epoch_ms()
        due_ms = self._queue.next_due_ms(self._windows.full(now_ms))
        times = [at_ms for at_ms in (due_ms, self._windows.next_ms(now_ms)) if at_ms is not None]
        return min([LONGEST_SLEEP_S, *(max(0.0, (at_ms - now_ms) / 1000) for at_ms in times)])

    def _waits_for_room(self) -> bool:
        """Whether there is no room, or so little that taking events one by one would cost a write each: the next end of an attempt wakes the loop."""
        room = self._max_in_flight - len(self._attempts)
        return room <= 0 or self._bytes >= MAX_BYTES_IN_FLIGHT or (room < self._least_room and bool(self._attempts))

    def _begin(self, event: Event) -> None:
        self._bytes += len(event.payload)
        number = self._windows.began((event.account, event.function), self._clock.epoch_ms())
        self._attempts[event.request_id] = asyncio.get_running_loop().create_task(self._attempt(event, number))

    def _ended(self, event: Event) -> None:
        self._bytes -= len(event.payload)
        del self._attempts[event.request_id]
        self.wake()

    def _policy(self, event: Event) -> Policy:
        found = None if self._policies is None else self._policies.policy(event.account, event.function, event.qualifier)
        return DEFAULT if found is None else found

    async def _attempt(self, event: Event, number: int) -> None:
        key = (event.account, event.function)
        try:
            if self._policy(event).closed:
                self._windows.ended(key, number)
                await self._end(event, GiveUp.ZERO_RESERVED, event.failures, None, "nothing is reserved for the function")
                return
            try:
                outcome, answer, detail = await self._invoke(event)
            finally:
                self._windows.ended(key, number)
                self.wake()
            if outcome is Outcome.NOT_RUN:
                self._windows.refused(key, self._clock.epoch_ms())
            elif answer is not None:
                self._windows.ran(key)
            await self._conclude(event, outcome, answer, detail)
        except Exception:  # noqa: BLE001 - the event keeps its lease and is tried again after it
            _log.exception("the outcome of event %s could not be kept", event.request_id)
        finally:
            self._ended(event)

    async def _invoke(self, event: Event) -> tuple[Outcome, Answer | None, str]:
        arn = function_arn(self._region, event.account, event.function)
        try:
            result = await self._invoker.invoke(
                arn,
                event.payload,
                qualifier=event.qualifier,
                request_id=event.request_id,
                trace_id=event.trace_id,
                tenant_id=event.tenant,
            )
        except ApiError as e:
            return Outcome.IMPOSSIBLE if e.status in _PERMANENT else Outcome.NOT_RUN, None, str(e)
        except ClientError as e:
            return Outcome.NOT_RUN, None, str(e)
        answer = Answer(result.status, result.executed_version or LATEST, result.function_error, result.payload)
        if result.function_error is not None:
            return Outcome.FUNCTION_ERROR, answer, result.payload[:1000].decode("utf-8", "replace")
        return Outcome.SUCCESS, answer, ""

    async def _conclude(self, event: Event, outcome: Outcome, answer: Answer | None, detail: str) -> None:
        decision = after(event, outcome, self._clock.epoch_ms(), self._retry_base_ms, self._policy(event))
        if isinstance(decision, Later):
            await self._queue.postpone(decision.event)
            return
        await self._end(event, decision, event.failures + (answer is not None), answer, detail)

    async def _end(self, event: Event, why: GiveUp | None, runs: int, answer: Answer | None, detail: str) -> None:
        """Tell destinations, then forget the event: dying in between repeats it, and loses nothing."""
        policy = self._policy(event)
        if self._delivery is not None:
            # A function that refused to be run (a recursive loop, or it is gone) has no word of its own in records.
            condition = "Success" if why is None else GiveUp.RETRIES_EXHAUSTED if why is GiveUp.IMPOSSIBLE else why
            arn = qualified(function_arn(self._region, event.account, event.function), event.qualifier)
            await self._delivery.deliver(End(event, arn, str(condition), runs, answer, self._clock.epoch_ms()), policy)
        await self._queue.settle(event.request_id)
        if why is not None:
            self.dropped += 1
            _log.warning(
                "event %s for function %s of account %s is given up after %d runs: %s; last: %s",
                event.request_id,
                event.function,
                event.account,
                runs,
                why.value,
                detail,
            )
