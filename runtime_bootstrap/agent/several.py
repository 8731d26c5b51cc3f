"""The Runtime API for a runtime that runs several invocations at once: many ``next`` calls are open, and answers come in any order.

Each event is a state machine of its own (``runtime``), found by the request id in the path; which of the open polls gets the next event
does not matter, and an event for which no poll is open waits for one. The supervisor sends no more events than there are places and takes
an answer for the place's being free, so nothing else is told it. A late answer is taken too, and refused to the runtime with 410.
Source: docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html
"""

from __future__ import annotations

import time
from typing import Any, Optional

from runtime_bootstrap.agent.http import Exchange, Sink
from runtime_bootstrap.agent.link import Invoke, Link
from runtime_bootstrap.agent.runtime import INVOCATION, Discard, Events, Runtime, fault

# The supervisor looks at deadlines this often at the most.
_GRACE_MS = 100
_GONE = 410


class _One(Runtime):
    """One invocation, which has been delivered."""

    def __init__(self, link: Link, events: Events, invoke: Invoke) -> None:
        super().__init__(link, events)
        self.invoke = invoke

    def deliver(self, exchange: Exchange) -> None:
        assert self.invoke is not None
        self._deliver(exchange, self.invoke)

    def response(self, exchange: Exchange) -> Sink:
        return super().response(self._seen(exchange))

    def error(self, exchange: Exchange, body: bytes) -> None:
        super().error(self._seen(exchange), body)

    def _seen(self, exchange: Exchange) -> Exchange:
        assert self.invoke is not None
        late = time.time() * 1000 > self.invoke.deadline_ms + _GRACE_MS
        return _Late(exchange) if late else exchange  # type: ignore[return-value]


class _Late:
    """The exchange of an answer to what has timed out: where another gets 202 it gets 410."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def accept(self) -> None:
        """As ``Exchange.accept``."""
        self._exchange.reply(_GONE, fault("InvokeTimeout", "Invoke timeout"))


class Several(Events):
    """Stands where a ``Runtime`` does."""

    # What is under way cannot be told in the singular.
    invoke: Optional[Invoke] = None
    state = "Ready"

    def __init__(self, link: Link, events: Events) -> None:
        self._link = link
        self._events = events
        self._started = False
        self._failed = False
        self._polls: "list[Exchange]" = []
        self._waiting: "list[Invoke]" = []
        self._open: "dict[bytes, _One]" = {}

    def next(self, exchange: Exchange) -> None:
        """``GET /runtime/invocation/next``: now, or when there is an event."""
        if self._waiting:
            self._hand_over(exchange, self._waiting.pop(0))
            return
        self._polls = [e for e in self._polls if not e.connection.closed]
        self._polls.append(exchange)
        if not self._started:
            self._started = True
            self._events.runtime_ready()

    def begin(self, invoke: Invoke, body: bytes) -> None:
        """An event for the runtime."""
        while self._polls:
            exchange = self._polls.pop(0)
            if not exchange.connection.closed:
                self._hand_over(exchange, invoke)
                return
        self._waiting.append(invoke)

    def _hand_over(self, exchange: Exchange, invoke: Invoke) -> None:
        one = self._open[invoke.request_id.encode()] = _One(self._link, self, invoke)
        one.deliver(exchange)

    def _of(self, exchange: Exchange, ending: bytes) -> Optional[_One]:
        one = self._open.get(exchange.path[len(INVOCATION) : -len(ending)])
        if one is None:
            exchange.reply(400, fault("InvalidRequestID", "Invalid request ID"))
        return one

    def response(self, exchange: Exchange) -> Sink:
        """``POST /runtime/invocation/{id}/response``: where its body goes."""
        one = self._of(exchange, b"/response")
        return Discard() if one is None else one.response(exchange)

    def error(self, exchange: Exchange, body: bytes) -> None:
        """``POST /runtime/invocation/{id}/error``."""
        one = self._of(exchange, b"/error")
        if one is not None:
            one.error(exchange, body)

    def init_error(self, exchange: Exchange, body: bytes) -> None:
        """``init/error``: the first of the runtime's processes to say it is heard."""
        if self._started or self._failed:
            exchange.reply(403, fault("InvalidStateTransition", "State transition from InitError to InitError failed for runtime. Error: State transition is not allowed"))
            return
        self._failed = True
        Runtime(self._link, self._events).init_error(exchange, body)

    # Events of one

    def runtime_answered(self, invoke: Invoke, size: int, error_type: Optional[str]) -> None:
        self._open.pop(invoke.request_id.encode(), None)
        self._events.runtime_answered(invoke, size, error_type)
