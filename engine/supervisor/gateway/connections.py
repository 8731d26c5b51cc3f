"""``@connections``: posting to a WebSocket client, asking about it, closing it.

Asked for below an API's stage, or on the engine's own address: connection ids are unique, so that a client of the management API needs no
more than the engine's endpoint. Source: docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-how-to-call-websocket-api-connections.html.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from engine import ids
from engine.auth import gateway as policies
from engine.auth.authorization import context_of
from engine.auth.identity import root_of
from engine.auth.policy import Request, evaluate
from engine.errors import AwsError, UnrecognizedClient
from engine.protocol.function_url import UrlResponse
from engine.protocol.gateway import websocket
from engine.protocol.gateway.definition import REST
from engine.protocol.gateway.refusals import Refused, Why, refused, said
from engine.protocol.gateway.request import header
from engine.supervisor.gateway import replies
from engine.supervisor.gateway.sockets import NORMAL, Socket

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection
    from engine.supervisor.gateway.front import Gateways

PATH = b"/@connections/"
MANAGE = "execute-api:ManageConnections"


class ConnectionsExchange:
    """One request. ``api_id`` and ``stage`` None: of whichever API the connection is."""

    def __init__(
        self, owner: Gateways, head: Head, connection: Connection, connection_id: str, api_id: str | None, stage: str | None
    ) -> None:
        self._owner = owner
        self._head = head
        self._connection = connection
        self._id = unquote(connection_id)
        self._api_id = api_id
        self._stage = stage
        self._body = b""

    def serve(self, body: bytes, *, too_large: bool, learnt: bool = False) -> None:
        """The request is complete."""
        self._body = body
        try:
            self._verify()
            self._send(self._answer(too_large=too_large))
        except UnrecognizedClient as e:
            verifier = self._owner.verifier
            if learnt or verifier is None or not verifier.learn(
                e.access_key, lambda: self.serve(body, too_large=too_large, learnt=True)
            ):
                self._send(replies.refusal(said(403, e.message or "", e.code)))
        except AwsError as e:
            self._send(replies.refusal(said(403, e.message or "", e.code)))
        except Refused as e:
            self._send(replies.refusal(e))

    def _socket(self) -> Socket | None:
        socket = self._owner.sockets.get(self._id)
        if socket is None or self._api_id not in (None, socket.context.api.api_id) or self._stage not in (None, socket.context.stage.name):
            return None
        return socket

    def _verify(self) -> None:
        """By signature, and by policy where policies are enforced; anybody may without authentication. Raises AwsError and Refused."""
        head, verifier = self._head, self._owner.verifier
        if verifier is None:
            return
        path, _, query = head.url.partition(b"?")
        principal = verifier.verify(
            head.method.decode("latin-1"), path.decode("latin-1"), query.decode("latin-1"), head.headers, self._body, time.time(), b"execute-api"
        )
        socket = self._socket()
        if socket is None:
            return
        api, caller = socket.context.api, principal.identity or root_of(principal.account)
        arn = api.arn(f"{socket.context.stage.name}/{head.method.decode('latin-1')}/@connections/{self._id}")
        conditions = context_of(caller, now_epoch_s=time.time(), region=api.region, peer=head.peer)
        policy = policies.read(api.policy, arn) if api.policy else None
        if not evaluate(Request(MANAGE, arn, api.account, conditions), caller, policy).allowed:
            raise refused(Why.FORBIDDEN, REST)

    def _answer(self, *, too_large: bool) -> UrlResponse:
        """Raises Refused."""
        socket, method = self._socket(), self._head.method
        if method not in (b"POST", b"GET", b"DELETE"):
            raise refused(Why.NO_ROUTE, REST)
        if socket is None:
            raise Refused(410, b"", "GoneException")
        if method == b"GET":
            agent = header(socket.request.headers, "user-agent") or ""
            body = websocket.about(socket.connected.connected_ms, socket.active_ms, socket.request.peer, agent)
            return UrlResponse(200, [("Content-Type", "application/json")], body)
        if method == b"DELETE":
            socket.close(NORMAL, "Connection Closed Normally")
            return UrlResponse(204, [], b"")
        if too_large or len(self._body) > websocket.MAX_MESSAGE:
            raise said(413, "Payload Too Large", "PayloadTooLargeException")
        try:
            socket.send(self._body.decode())
        except UnicodeDecodeError:
            raise said(400, "Binary messages are not supported", "BadRequestException") from None
        return UrlResponse(200, [("Content-Type", "application/json")], b"")

    def _send(self, answer: UrlResponse) -> None:
        replies.send(self._connection, self._head, None, answer, ids.request_id(), ids.extended_id(), "")
