"""Open WebSocket connections: messages in become invocations, what functions post goes out, an end becomes ``$disconnect``.

The protocol is the ``websockets`` library's, without input and output; a connection of the front gives its bytes here from the handshake on.
A message's route is looked up in the API as it is then, so a change reaches connections that are open. Messages are not waited for: two of one
connection may run at once, as on AWS.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import structlog

from engine import ids
from engine.core.invocation import Outcome, Status
from engine.errors import AwsError
from engine.protocol.function_url import MalformedResponse
from engine.protocol.gateway import websocket
from engine.protocol.gateway.definition import Integration, Route
from engine.protocol.gateway.request import ApiContext, ApiRequest, Connected
from engine.supervisor.gateway.definitions import Unreadable
from engine.supervisor.gateway.served import Served

if TYPE_CHECKING:
    from engine.supervisor.front import Connection
    from engine.supervisor.gateway.front import Gateways
    from engine.supervisor.request import Request

# Unsent bytes at which a client that does not read is given up.
MAX_UNSENT = 8 * 1024 * 1024
CLOSING_S = 10.0
NORMAL, GOING_AWAY, NO_STATUS, ABNORMAL, NOT_TEXT = 1000, 1001, 1005, 1006, 1003
NEEDS_EXTRA = "WebSocket APIs need the extra 'gateway' (websockets is not installed): run pip install 'lambda-engine[gateway]'"
log = structlog.get_logger("engine")
# The library tells of each connection that ends.
_wire_log = logging.getLogger("engine.websockets")
_wire_log.setLevel(logging.WARNING)


class Socket:
    """One connection, from its handshake's answer to its end. ``front.Passed`` and ``front.Upgraded`` to its connection."""

    def __init__(self, owner: Gateways, connection: Connection, request: ApiRequest, context: ApiContext) -> None:
        from websockets.protocol import Protocol as Wire  # noqa: PLC0415 - an extra
        from websockets.protocol import Side, State  # noqa: PLC0415

        assert context.connected is not None  # noqa: S101 - made by the handshake
        self.connected: Connected = context.connected
        self.request = request
        self.context = context
        self.active_ms = context.epoch_ms
        self._owner = owner
        self._connection = connection
        self._wire = Wire(Side.SERVER, state=State.OPEN, max_size=(websocket.MAX_MESSAGE, websocket.MAX_FRAME), logger=_wire_log)
        self._parts: list[bytes] = []
        self._ended = False
        loop = owner.loop
        self._timers = {
            "life": loop.call_later(websocket.LIFE_S, self.close, GOING_AWAY, "Going away"),
            "idle": loop.call_later(websocket.IDLE_S, self._idle),
        }

    def received(self, data: bytes) -> None:
        """Bytes of the client's."""
        if self._ended:
            return
        self._wire.receive_data(data)
        for frame in self._wire.events_received():
            self._frame(frame)
        self._flush()

    def _frame(self, frame: Any) -> None:
        from websockets.frames import Opcode  # noqa: PLC0415 - an extra

        self.active_ms = self._owner.clock.epoch_ms()
        if frame.opcode is Opcode.BINARY:
            self.close(NOT_TEXT, "Binary is not supported.")
        elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                parts, self._parts = self._parts, []
                try:
                    text = b"".join(parts).decode()
                except UnicodeDecodeError:
                    self.close(1007, "invalid UTF-8")
                else:
                    Message(self._owner, self, text).start()

    def send(self, text: str) -> None:
        """One message to the client. Nothing is sent to one that is closing."""
        from websockets.protocol import State  # noqa: PLC0415 - an extra

        if not self._ended and self._wire.state is State.OPEN:
            self.active_ms = self._owner.clock.epoch_ms()
            self._wire.send_text(text.encode())
            self._flush()

    def close(self, code: int, reason: str) -> None:
        """Say that it is over; the client answers, or is cut off after a while."""
        from websockets.protocol import State  # noqa: PLC0415 - an extra

        if not self._ended and self._wire.state is State.OPEN:
            self._wire.send_close(code, reason)
            self._timers["closing"] = self._owner.loop.call_later(CLOSING_S, self._cut_off)
            self._flush()

    def going_away(self) -> None:
        """The engine stops."""
        self.close(GOING_AWAY, "Going away")

    def _flush(self) -> None:
        transport = self._connection.transport
        for data in self._wire.data_to_send():
            if data:
                transport.write(data)
            else:
                transport.close()
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self._cut_off()

    def _cut_off(self) -> None:
        self._connection.transport.abort()

    def _idle(self) -> None:
        left_s = websocket.IDLE_S - (self._owner.clock.epoch_ms() - self.active_ms) / 1000
        if left_s <= 0:
            self.close(GOING_AWAY, "Going away")
        else:
            self._timers["idle"] = self._owner.loop.call_later(left_s, self._idle)

    # front.Passed

    def body(self, data: bytes) -> None:
        """The request's body has been read before."""

    def end(self) -> None:
        """As ``body``."""

    def abort(self) -> None:
        """The connection is no more."""
        if self._ended:
            return
        self._ended = True
        for timer in self._timers.values():
            timer.cancel()
        self._wire.receive_eof()
        code = self._wire.close_code or ABNORMAL
        reason = self._wire.close_reason or _REASONS.get(code, "")
        self._owner.sockets.pop(self.connected.connection_id, None)
        Farewell(self._owner, self, code, reason).start()

    def pause(self) -> None:
        """What is posted meanwhile is kept, up to a limit."""

    def resume(self) -> None:
        """As ``pause``."""


_REASONS = {NO_STATUS: "Client-side close frame status not set", ABNORMAL: "Connection closed abnormally", NORMAL: "Connection Closed Normally"}


class _Call:
    """An invocation on behalf of a socket: looks the API up and its route, and starts the function."""

    def __init__(self, owner: Gateways, socket: Socket) -> None:
        self._owner = owner
        self.socket = socket
        self.context: ApiContext
        self._timer: asyncio.TimerHandle | None = None
        self._done = False

    def start(self) -> None:
        self._owner.definitions.get(self.socket.context.api.api_id, self._defined)

    def _defined(self, served: Served | None, _unreadable: Unreadable | None) -> None:
        before = self.socket.context
        stage = None if served is None else served.api.stages.get(before.stage.name)
        route = None if served is None or stage is None else self.route(served)
        if served is None or stage is None or route is None:
            self.fails("Forbidden")
            return
        self.context = before._replace(
            api=served.api, stage=stage, route=route, extended_id=ids.extended_id(), epoch_ms=self._owner.clock.epoch_ms()
        )
        integration = route.integration
        if integration is None or integration.kind == "MOCK":
            return
        if integration.kind != "AWS_PROXY" or integration.function_arn(stage.variables) is None:
            self.fails(f"Lambda Engine does not serve this: the integration of {route.key} is {integration.kind} {integration.uri}".strip())
            return
        self._invoke(integration, route)

    def _invoke(self, integration: Integration, route: Route) -> None:
        context = self.context
        source = context.api.arn(f"{context.stage.name}/{route.key}")
        self._timer = self._owner.loop.call_later(integration.timeout_s, self._fail_once, "Endpoint request timed out")
        try:
            self._owner.invoke(integration.uri, context, integration.credentials, source, self.event(), None, self)
        except (AwsError, ValueError) as e:
            log.info("a WebSocket API's function was not invoked", api=context.api.api_id, route=route.key, reason=str(e))
            self._fail_once("Internal server error")

    def _fail_once(self, text: str) -> None:
        if self._end():
            self.fails(text)

    def _end(self) -> bool:
        """Whether this is the first end."""
        first, self._done = not self._done, True
        if self._timer is not None:
            self._timer.cancel()
        return first

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        if not self._end():
            return
        if outcome.status is not Status.SUCCESS:
            self.fails("Internal server error")
        elif self.context.route.two_way:
            self.back(outcome.payload)

    def failed(self, request: Request, error: AwsError) -> None:
        self._fail_once("Internal server error")

    # What kind of call it is.

    def route(self, served: Served) -> Route | None:
        raise NotImplementedError

    def event(self) -> bytes:
        raise NotImplementedError

    def fails(self, text: str) -> None:
        raise NotImplementedError

    def back(self, payload: bytes) -> None:
        """Two-way routes only."""


class Message(_Call):
    """A client's message."""

    def __init__(self, owner: Gateways, socket: Socket, text: str) -> None:
        super().__init__(owner, socket)
        self._text = text

    def route(self, served: Served) -> Route | None:
        key = websocket.route_key(served.api.selection, self._text)
        reserved = key in (websocket.CONNECT, websocket.DISCONNECT)
        return (None if reserved else served.by_key.get(key)) or served.by_key.get(websocket.DEFAULT)

    def event(self) -> bytes:
        return websocket.message(self.socket.request, self.context, self.context.extended_id, self._text)

    def fails(self, text: str) -> None:
        self.socket.send(websocket.failure(text, self.socket.connected.connection_id, ids.extended_id()))

    def back(self, payload: bytes) -> None:
        try:
            text = websocket.answer_body(payload)
        except MalformedResponse:
            self.fails("Internal server error")
            return
        if text is not None:
            self.socket.send(text)


class Farewell(_Call):
    """The end of a connection: nobody is told how it went."""

    def __init__(self, owner: Gateways, socket: Socket, code: int, reason: str) -> None:
        super().__init__(owner, socket)
        self._code = code
        self._reason = reason

    def route(self, served: Served) -> Route | None:
        return served.by_key.get(websocket.DISCONNECT)

    def event(self) -> bytes:
        return websocket.disconnect(self.socket.request, self.context, self._code, self._reason)

    def fails(self, text: str) -> None:
        """The client has gone."""
