"""One request to an API, from its head to its answer.

Theory of operation. The definition is had, at once or after a question; the stage, then the route are found; the caller is let in by the
API's policy, a signature, a token or an authorizer; the event is made and the function invoked; its answer becomes the response. Each step
hands on or refuses, and whatever answers first, the function or the time limit, ends the exchange: ``_answered`` says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from engine import ids
from engine.auth.principals import Principal
from engine.auth.sigv4 import claimed_access_key, credential_account
from engine.core.invocation import Outcome, Status
from engine.errors import AwsError, InvalidParameterValue, TooManyRequests, UnrecognizedClient, ValidationError
from engine.protocol import cors
from engine.protocol.function_url import MalformedResponse, UrlResponse, response
from engine.protocol.gateway import http, rest
from engine.protocol.gateway.customised import customised
from engine.protocol.gateway.definition import DEFAULT_STAGE, HTTP, REST, WEBSOCKET, Integration, Route, Stage
from engine.protocol.gateway.refusals import Refused, Why, refused, said, unserved
from engine.protocol.gateway.request import ApiContext, ApiRequest, forwarded, header, missing
from engine.protocol.gateway.routes import stage_of
from engine.protocol.gateway.tenants import tenant_of
from engine.protocol.gateway.websocket import CONNECT
from engine.supervisor.api import new_trace_id
from engine.supervisor.gateway import replies
from engine.supervisor.gateway.authorizing import Authorizing, check_anybody, check_signed
from engine.supervisor.gateway.connections import ConnectionsExchange
from engine.supervisor.gateway.definitions import Unreadable
from engine.supervisor.gateway.handshake import Handshake
from engine.supervisor.gateway.served import Served

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection
    from engine.supervisor.gateway.addresses import Address
    from engine.supervisor.gateway.front import Gateways
    from engine.supervisor.request import Request

MAX_EVENT = 6 * 1024 * 1024
log = structlog.get_logger("engine")
# Told of the event's authorizer; raises Refused.
Enter = Callable[["Mapping[str, Any] | None"], None]


class ApiExchange:
    """``serve`` starts it; it answers its connection once."""

    def __init__(self, owner: Gateways, address: Address, head: Head, connection: Connection) -> None:
        self._owner = owner
        self._address = address
        self.head = head
        self.connection = connection
        self._body = b""
        self._too_large = False
        self._learnt = False
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._request_id = ids.request_id()
        self._extended_id = ids.extended_id()
        self._trace = b""
        self._served: Served | None = None
        self._stage: str | None = None
        self._authorizing: Authorizing | None = None
        self._entering: Enter
        self.request: ApiRequest
        self.context: ApiContext

    def serve(self, body: bytes, *, too_large: bool) -> None:
        """The request is complete."""
        self._body, self._too_large = body, too_large
        self._owner.definitions.get(self._address.api_id, self._defined)

    def _defined(self, served: Served | None, unreadable: Unreadable | None) -> None:
        self._served = served
        try:
            if unreadable is not None:
                raise said(502, f"The definition of the API could not be read: {unreadable}", "BadGatewayException")
            if served is None:
                raise refused(Why.FORBIDDEN, REST)
            self._route(served)
        except Refused as e:
            self.refuse(e)
        except Exception as e:  # noqa: BLE001 - called by whoever made the definition known, which others wait for
            self._unexpected(e)

    def _route(self, served: Served) -> None:
        """Find stage and route. Raises Refused."""
        api, head = served.api, self.head
        path, _, query = self._address.target.partition(b"?")
        method, full_path = head.method.decode("latin-1"), path.decode("latin-1")
        staged = None if api.disabled else stage_of(api, full_path)
        if staged is None:
            raise refused(Why.NO_STAGE, api.kind)
        if self._too_large:
            raise refused(Why.TOO_LARGE, api.kind)
        stage, below = staged
        self._stage = stage.name
        now_ms = self._owner.clock.epoch_ms()
        self._trace = head.header(b"x-amzn-trace-id") or new_trace_id(now_ms // 1000)
        trace = self._trace.decode("latin-1")
        sent = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in head.spelled()]
        headers = forwarded(sent, head.peer, self._address.port or "80", trace)
        if api.kind == WEBSOCKET:
            self._upgrade(served, stage, ApiRequest(method, below, full_path, query.decode("latin-1"), headers, b"", head.peer), now_ms)
            return
        if api.kind == HTTP and api.cors:
            fields = {n.lower(): v for n, v in sent}
            if cors.is_preflight(method, fields):
                self.send(UrlResponse(204, cors.preflight(api.cors, fields), b""), preflight=True)
                return
        found = served.router.find(method, below)
        if found is None:
            raise refused(Why.NO_ROUTE, api.kind)
        full = full_path if stage.name != DEFAULT_STAGE else below
        self.request = ApiRequest(method, below, full, query.decode("latin-1"), headers, self._body, head.peer)
        self.context = ApiContext(
            api, stage, found.route, found.parameters, self._request_id, self._extended_id, now_ms, self._address.host
        )
        self.admit(served, self._enter)

    def _upgrade(self, served: Served, stage: Stage, request: ApiRequest, now_ms: int) -> None:
        """A WebSocket API: a handshake, or a word to one of its connections. Raises Refused."""
        below = request.path
        if below.startswith("/@connections/"):
            connection_id = below.removeprefix("/@connections/")
            words = ConnectionsExchange(self._owner, self.head, self.connection, connection_id, served.api.api_id, stage.name)
            words.serve(self._body, too_large=self._too_large)
            return
        if below != "/":
            raise refused(Why.FORBIDDEN, REST)
        route = Route("ANY", "", CONNECT, None)
        context = ApiContext(served.api, stage, route, {}, self._request_id, self._extended_id, now_ms, self._address.host)
        Handshake(self._owner, served, stage, self).begin(request, context)

    # Who may call.

    def admit(self, served: Served, enter: Enter) -> None:
        """Have the caller let in, and ``enter`` called then. Raises Refused."""
        self._entering = enter
        kind = self.context.route.authorization
        signed = kind == "AWS_IAM"
        if served.api.policy and not signed:
            check_anybody(served, self.request, self.context, needs_allow=kind == "NONE")
        if kind == "NONE":
            enter(None)
        elif signed:
            self._verify(served)
        elif kind in ("CUSTOM", "JWT", "COGNITO_USER_POOLS"):
            self._authorizing = Authorizing(self._owner, served, self.request, self.context, self._judged)
            self._authorizing.start()
        else:
            raise unserved(f"authorization of type {kind} ({self.context.route.key})")

    def _judged(self, authorizer: Mapping[str, Any] | None, error: Refused | None) -> None:
        try:
            if error is not None:
                raise error
            self._entering(authorizer)
        except Refused as e:
            self.refuse(e)
        except Exception as e:  # noqa: BLE001 - called by the invoker, which others wait for
            self._unexpected(e)

    def _verify(self, served: Served) -> None:
        """By signature; without authentication a key must at least be claimed, since the function is told whose it is. Raises Refused."""
        head, verifier = self.head, self._owner.verifier
        path, _, query = head.url.partition(b"?")
        raw_query, kind = query.decode("latin-1"), served.api.kind
        if verifier is None:
            claimed = claimed_access_key(head.headers, raw_query)
            if not claimed:
                raise refused(Why.UNSIGNED, kind)
            principal = Principal(claimed, credential_account(head.headers, self._owner.account_id, raw_query), verified=False)
        else:
            try:
                principal = verifier.verify(
                    head.method.decode("latin-1"), path.decode("latin-1"), raw_query, head.headers, self._body, time.time(), b"execute-api"
                )
            except AwsError as e:
                access_key = e.access_key if isinstance(e, UnrecognizedClient) and not self._learnt else None
                self._learnt = True
                if access_key is not None and verifier.learn(access_key, lambda: self._again(served)):
                    return
                if kind == HTTP or e.code == "MissingAuthenticationTokenException":
                    raise refused(Why.UNSIGNED, kind) from e
                raise said(403, e.message or "", e.code) from e
        check_signed(principal.identity, principal.account, served, self.request, self.context)
        arn = f"arn:aws:iam::{principal.account}:root" if principal.identity is None else principal.identity.arn
        iam = {
            "accessKey": principal.access_key_id,
            "accountId": principal.account,
            "callerId": principal.access_key_id,
            "cognitoIdentity": None,
            "principalOrgId": None,
            "userArn": arn,
            "userId": principal.access_key_id,
        }
        self.context = self.context._replace(iam=iam)
        self._entering(None)

    def _again(self, served: Served) -> None:
        try:
            self._verify(served)
        except Refused as e:
            self.refuse(e)

    # What the route leads to.

    def _enter(self, authorizer: Mapping[str, Any] | None) -> None:
        """The caller is let in. Raises Refused."""
        context = self.context = self.context._replace(authorizer=authorizer)
        api, route = context.api, context.route
        if route.key_required:
            self._check_key()
        if route.required and (names := missing(route.required, self.request)):
            message = f"Missing required request parameters: [{', '.join(names)}]"
            raise said(400, message, "BadRequestException", kind="BAD_REQUEST_PARAMETERS")
        integration = route.integration
        if integration is None:
            raise refused(Why.BROKEN, api.kind)
        if integration.kind == "MOCK":
            self._mock(integration)
            return
        if integration.kind != "AWS_PROXY" or integration.subtype or integration.function_arn(context.stage.variables) is None:
            what = integration.subtype or f"{integration.kind} {integration.uri}".strip()
            raise unserved(f"the integration of {route.key} is {what}; Lambda proxy integrations (AWS_PROXY) are served")
        self._invoke(integration)

    def _check_key(self) -> None:
        """An API key, by header or of the authorizer's. Raises Refused."""
        given = header(self.request.headers, "x-api-key")
        if self.context.api.key_from_authorizer:
            given = None if self._authorizing is None else self._authorizing.api_key
        key_id = next((k for k, value in self.context.stage.keys.items() if value == given), None)
        if key_id is None or given is None:
            raise refused(Why.FORBIDDEN, self.context.api.kind)
        self.context = self.context._replace(api_key=(key_id, given))

    def _mock(self, integration: Integration) -> None:
        answer = integration.mock.get(integration.mock_status)
        if answer is None:
            raise refused(Why.BROKEN, REST)
        if "$" in answer.body or "#" in answer.body:
            raise unserved(f"the template of the mock response of {self.context.route.key}")
        headers = [("Content-Type", "application/json"), *answer.headers.items()]
        self.send(UrlResponse(int(integration.mock_status), headers, answer.body.encode()))

    def _invoke(self, integration: Integration) -> None:
        """Raises Refused."""
        context, owner = self.context, self._owner
        api, route = context.api, context.route
        make = http.event if api.kind == HTTP and integration.payload == "2.0" else rest.event
        document = make(self.request, context)
        if len(document) > MAX_EVENT:
            raise refused(Why.TOO_LARGE, api.kind)
        called = f"{self.request.method}{route.path}" if route.path else route.key
        source = api.arn(f"{context.stage.name}/{called}")
        self.limit(integration.timeout_s)
        try:
            tenant = tenant_of(integration.tenant, self.request, context)
            owner.invoke(integration.uri, context, integration.credentials, source, document, self._trace, self, tenant)
        except TooManyRequests as e:
            raise refused(Why.THROTTLED, api.kind) from e
        except (InvalidParameterValue, ValidationError) as e:
            # Of all that Lambda refuses, what concerns the tenant is told the caller, who has to name one.
            raise said(400, e.message or "", e.code) from e
        except (AwsError, ValueError) as e:
            raise refused(Why.BROKEN, api.kind) from e

    def limit(self, timeout_s: float) -> None:
        """From now on the exchange ends within this time."""
        self._timer = self._owner.loop.call_later(timeout_s, self._timed_out)

    def _timed_out(self) -> None:
        self.refuse(refused(Why.TIMED_OUT, self.context.api.kind))

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        """The function's answer as HTTP."""
        context = self.context
        api, integration = context.api, context.route.integration
        try:
            if outcome.status is not Status.SUCCESS:
                raise MalformedResponse("the function failed")
            if api.kind == HTTP and integration is not None and integration.payload == "2.0":
                answer = response(outcome.payload)
            else:
                answer = rest.response(outcome.payload, api.kind, api.binary, header(self.request.headers, "accept") or "")
        except MalformedResponse as e:
            log.info("no HTTP response came of an invocation", api=api.api_id, route=context.route.key, reason=str(e))
            self.refuse(refused(Why.FAILED, api.kind))
            return
        self.send(answer)

    def failed(self, request: Request, error: AwsError) -> None:
        """It did not run: throttled, or the platform's fault."""
        self.refuse(refused(Why.THROTTLED if isinstance(error, TooManyRequests) else Why.FAILED, self.context.api.kind))

    def refuse(self, error: Refused) -> None:
        """The answer is a refusal, as the API's owner has it."""
        responses = None if self._served is None else self._served.api.responses
        if responses:
            sent = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in self.head.headers]
            context = {"requestId": self._request_id, "extendedRequestId": self._extended_id, "identity.sourceIp": self.head.peer}
            error = customised(error, responses, sent, context)
        self.send(replies.refusal(error))

    def _unexpected(self, error: Exception) -> None:
        """The engine's own fault: whoever called this goes on, and the client is not left waiting."""
        log.error("a request to an API failed", api=self._address.api_id, exc_info=error)
        self.refuse(refused(Why.BROKEN, REST if self._served is None else self._served.api.kind))

    def end(self) -> bool:
        """Whether this was not the end before."""
        first, self._answered = not self._answered, True
        if self._timer is not None:
            self._timer.cancel()
        return first

    def switched(self) -> None:
        """The answer was a switch of protocols."""
        self._count(101)

    def _count(self, status: int) -> None:
        if self._stage is not None and self._served is not None:
            self._owner.count(self._served.api.api_id, self._stage, status)

    def send(self, answer: UrlResponse, *, preflight: bool = False) -> None:
        """The answer, unless there was one."""
        if self.end():
            api = None if self._served is None else self._served.api
            self._count(answer.status)
            trace = self._trace.decode("latin-1").partition(";Parent")[0]
            replies.send(self.connection, self.head, api, answer, self._request_id, self._extended_id, trace, preflight=preflight)
