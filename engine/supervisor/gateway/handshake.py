"""The beginning of a WebSocket connection: the handshake, ``$connect`` and its authorization, and the switch of protocols.

A connection opens when the function of ``$connect`` answers with a status of 2xx, or when there is no such route.
Source: RFC 6455 section 4.2 and docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-route-keys-connect-disconnect.html.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from engine import ids
from engine.core.invocation import Outcome, Status
from engine.errors import AwsError
from engine.protocol.function_url import MalformedResponse, UrlResponse
from engine.protocol.gateway import rest, websocket
from engine.protocol.gateway.definition import REST, Route, Stage
from engine.protocol.gateway.refusals import Why, refused, said, unserved
from engine.protocol.gateway.request import ApiContext, ApiRequest, Connected, header
from engine.supervisor import replies
from engine.supervisor.gateway.served import Served
from engine.supervisor.gateway.sockets import NEEDS_EXTRA, Socket

if TYPE_CHECKING:
    from engine.supervisor.gateway.exchange import ApiExchange
    from engine.supervisor.gateway.front import Gateways
    from engine.supervisor.request import Request

PROTOCOL = "sec-websocket-protocol"
log = structlog.get_logger("engine")
_OPEN = Route("ANY", "", websocket.CONNECT, None)


class Handshake:
    """One handshake. ``exchange`` refuses or lets in."""

    def __init__(self, owner: Gateways, served: Served, stage: Stage, exchange: ApiExchange) -> None:
        self._owner = owner
        self._served = served
        self._stage = stage
        self._exchange = exchange
        self._accept = ""
        self._done = False

    def begin(self, request: ApiRequest, context: ApiContext) -> None:
        """Check it and have the caller let in. Raises Refused."""
        if (self._exchange.head.header(b"upgrade") or b"").lower() != b"websocket":
            raise said(426, "Upgrade Required", "UpgradeRequiredException")
        self._accept = _accept(request)
        connected = Connected(ids.extended_id().replace("+", "-").replace("/", "_"), context.epoch_ms)
        route = self._served.by_key.get(websocket.CONNECT)
        self._exchange.request = request
        self._exchange.context = context._replace(route=route or _OPEN, connected=connected)
        if route is None:
            self._open(None)
        else:
            self._exchange.admit(self._served, self._entered)

    def _entered(self, authorizer: Mapping[str, Any] | None) -> None:
        """Whoever calls may: ask the function, if there is one. Raises Refused."""
        context = self._exchange.context = self._exchange.context._replace(authorizer=authorizer)
        integration = context.route.integration
        if integration is None or integration.kind == "MOCK":
            self._open(None)
            return
        if integration.kind != "AWS_PROXY" or integration.function_arn(context.stage.variables) is None:
            raise unserved(f"the integration of {context.route.key} is {integration.kind} {integration.uri}".strip())
        event = websocket.encode(websocket.connect(self._exchange.request, context))
        source = context.api.arn(f"{context.stage.name}/{websocket.CONNECT}")
        self._exchange.limit(integration.timeout_s)
        try:
            self._owner.invoke(integration.uri, context, integration.credentials, source, event, None, self)
        except (AwsError, ValueError) as e:
            raise refused(Why.BROKEN, REST) from e

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        """A status of 2xx opens the connection, any other is the client's answer."""
        try:
            if outcome.status is not Status.SUCCESS:
                raise MalformedResponse("the function failed")
            answer = rest.response(outcome.payload, REST, (), "")
        except MalformedResponse as e:
            log.info("no answer to a handshake came of an invocation", api=self._served.api.api_id, reason=str(e))
            self._exchange.refuse(refused(Why.FAILED, REST))
            return
        if 200 <= answer.status < 300:
            chosen = next((v for n, v in answer.headers if n.lower() == PROTOCOL), None)
            self._open(chosen)
        else:
            self._exchange.send(UrlResponse(answer.status, [("Content-Type", "application/json")], b""))

    def failed(self, request: Request, error: AwsError) -> None:
        self._exchange.refuse(refused(Why.FAILED, REST))

    def _open(self, chosen: str | None) -> None:
        exchange, owner = self._exchange, self._owner
        connection = exchange.connection
        if not exchange.end() or connection.transport.is_closing():
            return
        socket = Socket(owner, connection, exchange.request, exchange.context)
        owner.sockets[socket.connected.connection_id] = socket
        subprotocol = "" if chosen is None else f"Sec-WebSocket-Protocol: {chosen}\r\n"
        head = (
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {self._accept}\r\n"
            f"{subprotocol}x-amzn-RequestId: {exchange.context.request_id}\r\n"
        )
        exchange.switched()
        connection.upgrade(socket, head.encode("latin-1", "replace") + replies.date_header() + b"\r\n")


def _accept(request: ApiRequest) -> str:
    """The value that proves a handshake was understood. Raises Refused for a request that is none."""
    if (header(request.headers, "sec-websocket-version") or "") != "13" or request.method != "GET":
        raise said(426, "Upgrade Required", "UpgradeRequiredException")
    key = header(request.headers, "sec-websocket-key") or ""
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            raise ValueError(key)
    except (binascii.Error, ValueError):
        raise said(400, "Bad Request", "BadRequestException") from None
    if importlib.util.find_spec("websockets") is None:
        log.error(NEEDS_EXTRA)
        raise unserved(NEEDS_EXTRA)
    from websockets.utils import accept_key  # noqa: PLC0415 - an extra

    return accept_key(key)
