"""Who may call a route: signatures, Lambda authorizers with their cache, tokens. One ``Authorizing`` per request that has to be let in.

Lambda authorizers are invoked like any function and must let API Gateway in by their resource policy. What they say is kept per authorizer
and identity for the authorizer's time; a policy is kept as it is and asked for each resource.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from engine.auth import gateway as policies
from engine.auth.authorization import context_of
from engine.auth.identity import root_of
from engine.auth.policy import Identity, Kind, MalformedPolicy, Request, evaluate
from engine.core.invocation import Outcome, Status
from engine.errors import AwsError
from engine.protocol.gateway import authorizers, tokens
from engine.protocol.gateway.definition import HTTP, WEBSOCKET, Authorizer
from engine.protocol.gateway.refusals import Refused, Why, refused, said, unserved
from engine.protocol.gateway.request import ApiContext, ApiRequest
from engine.supervisor.gateway.served import Served

if TYPE_CHECKING:
    from engine.supervisor.gateway.front import Gateways
    from engine.supervisor.request import Request as Invocation

ANYBODY = Identity(Kind.ANONYMOUS, "anonymous", "")
MAX_VERDICTS = 10_000
HTTP_AUTHORIZER_S, REST_AUTHORIZER_S = 10.0, 29.0
log = structlog.get_logger("engine")
# Told of the event's authorizer, or why the request ends.
Then = Callable[["Mapping[str, Any] | None", "Refused | None"], None]


class Authorizing:
    """Lets one request in or not; ``then`` is called once."""

    def __init__(self, owner: Gateways, served: Served, request: ApiRequest, context: ApiContext, then: Then) -> None:
        self._owner = owner
        self._served = served
        self._request = request
        self._context = context
        self._then = then
        # The API key that the authorizer says the caller has.
        self.api_key = ""
        self._authorizer: Authorizer | None = None
        self._identity: tuple[str, ...] = ()
        self._began_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._done = False

    def start(self) -> None:
        """By the route's authorizer."""
        api, route = self._served.api, self._context.route
        authorizer = self._authorizer = api.authorizers.get(route.authorizer_id)
        if authorizer is None:
            self._end(refused(Why.AUTHORIZER_FAILED, api.kind))
        elif authorizer.kind == "JWT":
            self._token(authorizer)
        elif authorizer.kind == "COGNITO_USER_POOLS":
            self._pool(authorizer)
        elif authorizer.kind in ("TOKEN", "REQUEST"):
            self._ask(authorizer)
        else:
            self._end(unserved(f"the authorizer of {route.key} is of type {authorizer.kind}"))

    def _end(self, error: Refused | None, found: Mapping[str, Any] | None = None) -> None:
        if not self._done:
            self._done = True
            if self._timer is not None:
                self._timer.cancel()
            self._then(found, error)

    # Lambda authorizers

    def _ask(self, authorizer: Authorizer) -> None:
        api = self._served.api
        identity = authorizers.identity(authorizer, self._request, self._context)
        if identity is None:
            self._end(refused(Why.UNAUTHORIZED, api.kind))
            return
        self._identity = identity
        kept = self._served.verdicts.get(self._key(authorizer)) if identity else None
        if kept is not None and kept[0] > self._owner.loop.time():
            self._judge(kept[1])
            return
        event = authorizers.event(authorizer, self._request, self._context, self._arn(), identity)
        self._began_s = self._owner.loop.time()
        limit_s = HTTP_AUTHORIZER_S if api.kind == HTTP else REST_AUTHORIZER_S
        self._timer = self._owner.loop.call_later(limit_s, self._failed_because, f"no answer within {limit_s:g} s")
        source = api.arn(f"authorizers/{authorizer.authorizer_id}")
        try:
            self._owner.invoke(authorizer.uri, self._context, authorizer.credentials, source, event, None, self)
        except (AwsError, ValueError) as e:
            self._failed_because(str(e))

    def _key(self, authorizer: Authorizer) -> tuple[str, ...]:
        return (authorizer.authorizer_id, self._context.stage.name, *self._identity)

    def _arn(self) -> str:
        """Of this method and path; of an HTTP or WebSocket API, of its route."""
        if self._served.api.kind == HTTP:
            return self._served.api.arn(f"{self._context.stage.name}/{self._context.route.key.replace(' ', '')}")
        return _arn(self._served, self._request, self._context)

    def _failed_because(self, reason: str) -> None:
        if not self._done:
            assert self._authorizer is not None  # noqa: S101 - set by start
            log.warning("an authorizer failed", api=self._served.api.api_id, authorizer=self._authorizer.authorizer_id, reason=reason)
            self._end(refused(Why.AUTHORIZER_FAILED, self._served.api.kind))

    # ReplyTo

    def answered(self, request: Invocation, outcome: Outcome) -> None:
        if self._done:
            return
        if outcome.status is not Status.SUCCESS:
            if _error_message(outcome.payload) == "Unauthorized":
                self._end(refused(Why.UNAUTHORIZED, self._served.api.kind))
            else:
                self._failed_because(_error_message(outcome.payload) or "the function failed")
            return
        authorizer = self._authorizer
        assert authorizer is not None  # noqa: S101 - set by start
        try:
            verdict = authorizers.verdict(outcome.payload, simple=authorizer.simple and authorizer.payload == "2.0")
        except authorizers.MalformedVerdict as e:
            self._failed_because(f"its answer is not one: {e}")
            return
        if authorizer.ttl_s and self._identity:
            verdicts = self._served.verdicts
            if len(verdicts) >= MAX_VERDICTS:
                verdicts.clear()
            verdicts[self._key(authorizer)] = (self._owner.loop.time() + authorizer.ttl_s, verdict)
        self._judge(verdict)

    def failed(self, request: Invocation, error: AwsError) -> None:
        self._failed_because(error.message or error.code)

    def _judge(self, verdict: authorizers.Verdict) -> None:
        api = self._served.api
        self.api_key = verdict.api_key
        try:
            if verdict.policy is not None:
                say = policies.says(verdict.policy, self._arn(), self._conditions())
                if say is not policies.Say.ALLOW:
                    self._end(refused(Why.DENIED_EXPLICITLY if say is policies.Say.DENY else Why.DENIED, api.kind))
                    return
            elif not verdict.allowed:
                self._end(refused(Why.DENIED, api.kind))
                return
            if api.kind == HTTP:
                integration = self._context.route.integration
                found = authorizers.of_http(verdict, "1.0" if integration is None else integration.payload)
            else:
                latency_s = self._owner.loop.time() - self._began_s if self._began_s else 0.0
                found = authorizers.of_rest(verdict, int(latency_s * 1000))
        except (MalformedPolicy, authorizers.MalformedVerdict) as e:
            self._failed_because(f"its answer is not one: {e}")
            return
        self._end(None, found)

    def _conditions(self) -> policies.Context:
        return context_of(ANYBODY, now_epoch_s=time.time(), region=self._served.api.region, peer=self._request.peer)

    # Tokens

    def _token(self, authorizer: Authorizer) -> None:
        identity = authorizers.identity(authorizer, self._request, self._context)
        if not identity:
            self._end(refused(Why.UNAUTHORIZED, HTTP, ("WWW-Authenticate", "Bearer")))
            return
        token, scopes = tokens.bearer(identity[0]), self._context.route.scopes

        def verified(claims: Mapping[str, Any] | None, reason: str) -> None:
            try:
                if claims is None:
                    raise tokens.TokenRefused(401, reason, scopes)
                tokens.check_claims(claims, authorizer, scopes, time.time())
            except tokens.TokenRefused as e:
                why = Why.UNAUTHORIZED if e.status == 401 else Why.FORBIDDEN
                self._end(refused(why, HTTP, ("WWW-Authenticate", e.challenge)))
                return
            found = tokens.described(claims, scopes)
            integration = self._context.route.integration
            self._end(None, found if integration is not None and integration.payload == "1.0" else {"jwt": found})

        self._owner.key_sets.verify(token, authorizer.issuer, verified)


    def _pool(self, authorizer: Authorizer) -> None:
        """A token of one of the user pools: of identity, or of access where the method asks for scopes."""
        identity = authorizers.identity(authorizer, self._request, self._context)
        token = tokens.bearer(identity[0]) if identity else ""
        issuer = tokens.pool_issuer(token, authorizer.audience)
        if issuer is None:
            self._end(refused(Why.UNAUTHORIZED, self._served.api.kind))
            return
        scopes = self._context.route.scopes

        def verified(claims: Mapping[str, Any] | None, _reason: str) -> None:
            try:
                if claims is None:
                    raise tokens.TokenRefused(401, "", scopes)
                tokens.check_pool_claims(claims, issuer, scopes, time.time())
            except tokens.TokenRefused:
                self._end(refused(Why.UNAUTHORIZED, self._served.api.kind))
                return
            self._end(None, {"claims": tokens.described(claims, scopes)["claims"]})

        self._owner.key_sets.verify(token, issuer, verified)


def check_signed(identity: Identity | None, account: str, served: Served, request: ApiRequest, context: ApiContext) -> None:
    """Whether who signed may call: by its policies, where they are enforced, and by the API's. Raises Refused."""
    caller = identity or root_of(account)
    api = served.api
    arn = _arn(served, request, context)
    conditions = context_of(caller, now_epoch_s=time.time(), region=api.region, peer=request.peer)
    policy = policies.read(api.policy, arn) if api.policy else None
    decision = evaluate(Request(policies.EXECUTE, arn, api.account, conditions), caller, policy)
    if not decision.allowed:
        raise _denied(caller.arn, api.kind, arn, explicitly=decision.reason.name == "EXPLICIT")


def check_anybody(served: Served, request: ApiRequest, context: ApiContext, *, needs_allow: bool) -> None:
    """Whether the API's own policy lets in a caller that nobody has named. Raises Refused. ``needs_allow`` False: only a denial counts."""
    api = served.api
    arn = _arn(served, request, context)
    conditions = context_of(ANYBODY, now_epoch_s=time.time(), region=api.region, peer=request.peer)
    say = policies.api_policy(api.policy, api.account, arn, ANYBODY, conditions)
    if say is policies.Say.DENY or (needs_allow and say is not policies.Say.ALLOW):
        raise _denied("anonymous", api.kind, arn, explicitly=say is policies.Say.DENY)


def _arn(served: Served, request: ApiRequest, context: ApiContext) -> str:
    """What is called, as policies name it."""
    called = context.route.key if served.api.kind == WEBSOCKET else f"{request.method}{request.path}"
    return served.api.arn(f"{context.stage.name}/{called}")


def _denied(who: str, kind: str, arn: str, *, explicitly: bool) -> Refused:
    if kind == HTTP:
        return refused(Why.FORBIDDEN, kind)
    parts = arn.split(":")
    parts[4] = "*" * 8 + parts[4][8:]
    suffix = " with an explicit deny" if explicitly else ""
    message = f"User: {who} is not authorized to perform: execute-api:Invoke on resource: {':'.join(parts)}{suffix}"
    return said(403, message, "AccessDeniedException", capital=True, kind="ACCESS_DENIED")


def _error_message(payload: bytes) -> str:
    try:
        return str(json.loads(payload).get("errorMessage") or "")
    except (ValueError, AttributeError):
        return ""
