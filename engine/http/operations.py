"""From a matched operation to its handler: the registry the control plane fills."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from engine import data_dir, turns
from engine.auth.context import RequestContext as RequestContext
from engine.control.rules import why_not_there
from engine.errors import AwsError, RequestEntityTooLarge, ServiceError
from engine.protocol import faults
from engine.protocol.model import Model
from engine.protocol.parse import parse_request
from engine.protocol.router import Match, Router
from engine.protocol.serialize import Response, serialize_response
from engine.protocol.validate import validate

MAX_BODY = 70_167_211
MAX_INVOKE_BODY = 6_291_456
INTERNAL_ERROR = "An error occurred and the request cannot be processed."
# (limit, name the service uses in the message) where it is not MAX_BODY and the operation's own name.
_LIMITS = {
    "Invoke": (MAX_INVOKE_BODY, "InvokeFunction"),
    "InvokeAsync": (MAX_INVOKE_BODY, "InvokeAsync"),
    "InvokeWithResponseStream": (MAX_INVOKE_BODY, "InvokeWithResponseStream"),
}
_log = logging.getLogger(__name__)


Result = Mapping[str, Any] | None
Authorize = Callable[[RequestContext, dict[str, Any]], Awaitable[None]]
Handler = Callable[[RequestContext, dict[str, Any]], Result | Awaitable[Result]]


class Registry:
    """Which handler serves which operation of the model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._handlers: dict[str, tuple[Handler, bool]] = {}

    def add(self, operation: str, handler: Handler) -> None:
        """Serve ``operation`` with ``handler(context, params)``, which returns the output members or raises AwsError.

        A coroutine function runs on the loop; any other callable may block and runs in the application's thread pool.
        Raises ValueError when the model has no such operation or it has a handler already.
        """
        try:
            self._model.operation(operation)
        except KeyError:
            raise ValueError(f"the service model has no operation {operation}") from None
        if operation in self._handlers:
            raise ValueError(f"{operation} has a handler already")
        call = handler if inspect.isroutine(handler) else type(handler).__call__
        self._handlers[operation] = (handler, inspect.iscoroutinefunction(call))

    def implemented(self) -> list[str]:
        """Names of the operations with a handler, sorted."""
        return sorted(self._handlers)

    def find(self, operation: str) -> tuple[Handler, bool]:
        """(handler, whether it is a coroutine function). Raises NotImplementedHere naming the operation."""
        found = self._handlers.get(operation)
        if found is None:
            raise faults.not_implemented(operation, why_not_there(operation))
        return found


def body_limit(operation: str) -> int:
    """Largest request body of ``operation`` in bytes."""
    return _LIMITS.get(operation, (MAX_BODY, operation))[0]


def too_large(operation: str) -> RequestEntityTooLarge:
    """The 413 of a body over the operation's limit."""
    limit, name = _LIMITS.get(operation, (MAX_BODY, operation))
    return RequestEntityTooLarge(f"Request must be smaller than {limit} bytes for the {name} operation")


class Operations:
    """Routes, parses, validates, calls and serialises."""

    def __init__(self, model: Model, registry: Registry, executor: Executor, authorize: Authorize | None = None) -> None:
        self._authorize = authorize
        self._model = model
        self._router = Router(model)
        self._registry = registry
        self._executor = executor

    def match(self, method: str, raw_path: str, raw_query: str) -> Match:
        """Raises UnknownOperation when the model has no such route."""
        return self._router.match(method, raw_path, raw_query)

    async def answer(self, match: Match, context: RequestContext) -> Response:
        """The answer to a matched request; never raises: errors become answers, unexpected ones a logged ServiceException."""
        try:
            handler, is_async = self._registry.find(match.operation)
            operation = self._model.operation(match.operation)
            params = parse_request(operation, match.uri, context.raw_query, context.headers, context.body)
            validate(operation, params)
            turns.give_way()
            if self._authorize is not None:
                await self._authorize(context, params)
            result = await self._call(handler, is_async, context, params)
            turns.give_way()
            return serialize_response(operation, result)
        except AwsError as e:
            return faults.render(e)
        except Exception as e:  # noqa: BLE001 - a bug in a handler is logged and becomes the service's own 500
            if data_dir.is_full(e):
                # No bug to trace. How the disk is is the operator's business, not the caller's.
                _log.error("operation %s failed, request id %s: %s", match.operation, context.request_id, data_dir.FULL)
            else:
                _log.exception("operation %s failed, request id %s", match.operation, context.request_id)
            return faults.render(ServiceError(INTERNAL_ERROR))

    async def _call(self, handler: Handler, is_async: bool, context: RequestContext, params: dict[str, Any]) -> Result:
        if is_async:
            outcome = handler(context, params)
        else:
            loop = asyncio.get_running_loop()
            outcome = await loop.run_in_executor(self._executor, handler, context, params)
        return await outcome if inspect.isawaitable(outcome) else outcome
