"""Accepting asynchronous invocations: ``Invoke`` with ``InvocationType`` ``Event``, and the old ``InvokeAsync``.

A 202 is a promise: it is given only once the event is on the disk. Nothing is throttled here. Sources:
docs.aws.amazon.com/lambda/latest/api/API_Invoke.html and API_InvokeAsync.html
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from engine.arn import FunctionRef, function_arn, parse_function_name
from engine.clock import Clock
from engine.core import tenancy
from engine.core.json_faults import explain
from engine.errors import InvalidRequestContent, NotImplementedHere, RequestEntityTooLarge, ResourceNotFound, WireError
from engine.store.api import LATEST, Event, EventQueue

MAX_PAYLOAD = 1_048_576
MAX_TRACE_ID = 255
_json = msgspec.json.Decoder(msgspec.Raw)


class Caller(Protocol):
    """The part of a request's context that is read here; ``headers`` have lower-case names."""

    @property
    def request_id(self) -> str: ...

    @property
    def account(self) -> str: ...

    @property
    def region(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


class Registrar(Protocol):
    """Where operations are offered."""

    def add(
        self, operation: str, handler: Callable[[Caller, dict[str, Any]], Awaitable[Mapping[str, Any]]]
    ) -> None: ...


class Invocables(Protocol):
    """Knows what can be invoked."""

    def has(self, account: str, name: str, qualifier: str | None) -> bool: ...

    def tenants_apart(self, account: str, name: str) -> bool:
        """Whether each of its invocations is a tenant's."""
        ...


class Intake:
    """The handlers.

    ``ready`` is awaited until ``invocables`` knows everything, and raises when that takes too long; ``wake`` is called after each
    accepted event.
    """

    def __init__(
        self,
        queue: EventQueue,
        invocables: Invocables,
        clock: Clock,
        *,
        ready: Callable[[], Awaitable[object]],
        wake: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._invocables = invocables
        self._clock = clock
        self._ready = ready
        self._wake = wake
        # Events taken since the start, by account and function.
        self.received: Counter[tuple[str, str]] = Counter()

    def register(self, registry: Registrar) -> None:
        """Offer both operations."""
        registry.add("Invoke", self.invoke)
        registry.add("InvokeAsync", self.invoke_async)

    async def invoke(self, caller: Caller, params: dict[str, Any]) -> Mapping[str, Any]:
        """Raises NotImplementedHere for other types than Event, which the supervisor serves itself."""
        kind = params.get("InvocationType", "RequestResponse")
        if kind != "Event":
            raise NotImplementedHere(f"Invoke with InvocationType {kind} is not served by the control plane.")
        if params.get("DurableExecutionName"):
            raise NotImplementedHere("Invoke with DurableExecutionName is not implemented by this engine.")
        payload = params.get("Payload") or b""
        await self._accept(caller, params["FunctionName"], params.get("Qualifier"), payload, "InvokeFunction", params.get("TenantId"))
        return {"StatusCode": 202, "Payload": b""}

    async def invoke_async(self, caller: Caller, params: dict[str, Any]) -> Mapping[str, Any]:
        await self._accept(caller, params["FunctionName"], None, params.get("InvokeArgs") or b"", "InvokeAsync")
        return {"Status": 202}

    async def _accept(
        self, caller: Caller, name: str, qualifier: str | None, payload: bytes, operation: str, tenant: str | None = None
    ) -> None:
        """Raises InvalidParameterValue, ResourceNotFound, InvalidRequestContent and RequestEntityTooLarge with AWS's texts."""
        if len(payload) > MAX_PAYLOAD:
            raise RequestEntityTooLarge(f"Request must be smaller than {MAX_PAYLOAD} bytes for the {operation} operation")
        ref = parse_function_name(name, account=caller.account, region=caller.region, qualifier=qualifier)
        await self.put(ref, payload, caller.request_id, caller.headers.get("x-amzn-trace-id"), tenant)

    async def check(self, ref: FunctionRef, tenant: str | None = None) -> None:
        """Raises ResourceNotFound when there is nothing of that name, InvalidParameterValue unless it names a tenant just where it must."""
        await self._ready()
        if not self._invocables.has(ref.account, ref.name, ref.qualifier):
            arn = function_arn(ref.region, ref.account, ref.name, ref.qualifier or LATEST)
            raise ResourceNotFound(f"Function not found: {arn}")
        tenancy.check(self._invocables.tenants_apart(ref.account, ref.name), tenant)

    async def put(self, ref: FunctionRef, payload: bytes, request_id: str, trace_id: str | None, tenant: str | None = None) -> None:
        """Accept an event; it is on the disk when this returns. Raises InvalidParameterValue, ResourceNotFound and InvalidRequestContent
        with AWS's texts.
        """
        await self.check(ref, tenant)
        _check_json(payload or b"{}")
        now_ms = self._clock.epoch_ms()
        await self._queue.enqueue(
            Event(
                request_id=request_id,
                account=ref.account,
                function=ref.name,
                qualifier=ref.qualifier,
                payload=payload or b"{}",
                first_ms=now_ms,
                due_ms=now_ms,
                trace_id=trace_id[:MAX_TRACE_ID].encode("ascii", "replace").decode() if trace_id else None,
                tenant=tenant,
            )
        )
        self.received[ref.account, ref.name] += 1
        self._wake()

    def take(self, rows: list[Any]) -> asyncio.Future[None]:
        """Accept what the supervisor has checked: request id, account, function, qualifier, trace header, payload and tenant of each
        event.

        Done when all of it is on the disk. Raises WireError for what is no event.
        """
        now_ms = self._clock.epoch_ms()
        try:
            events = [Event(i, account, name, qualifier, payload, now_ms, now_ms, 0, 0, trace, tenant) for i, account, name, qualifier, trace, payload, tenant in rows]
        except (TypeError, ValueError) as e:
            raise WireError(f"EVENTS: {e}") from e
        kept: asyncio.Future[None] = self._queue.enqueue_all(events)
        kept.add_done_callback(lambda done: self._taken(events, done))
        return kept

    def _taken(self, events: list[Event], done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.received.update((event.account, event.function) for event in events)
        self._wake()


def _check_json(payload: bytes) -> None:
    try:
        _json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidRequestContent(
            f"Could not parse request body into json: Could not parse payload into json: {explain(payload, str(e))}"
        ) from None
