"""Load balancers at their addresses: one ``BalancerExchange`` is one request, from its head to its answer.

A listener's port is not opened: all listeners answer on the engine's own port, by the load balancer's name.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog

from engine.auth import gateway as policies
from engine.core.invocation import Outcome, Status
from engine.errors import AwsError
from engine.protocol.function_url import MalformedResponse, UrlResponse
from engine.protocol.gateway import alb, balancers
from engine.protocol.gateway.balancers import Action, Asked, Balancer, Listener, TargetGroup
from engine.protocol.gateway.request import forwarded
from engine.supervisor import replies
from engine.supervisor.api import new_trace_id
from engine.supervisor.gateway.definitions import Unreadable

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection
    from engine.supervisor.gateway.front import Gateways
    from engine.supervisor.request import Request

MARK = b".elb."
PATH = b"/_alb/"
log = structlog.get_logger("engine")
decode = msgspec.json.Decoder(Balancer | None).decode
_draw = random.Random().choices  # noqa: S311 - weights, not secrets


class BalancerAddress(NamedTuple):
    """``name``: the load balancer's, or the first label of its DNS name. ``port``: the listener's, None for the lowest."""

    name: str
    port: int | None
    host: str
    target: bytes


def address_of(head: Head) -> BalancerAddress | None:
    """The load balancer that a request is for, by ``<dns label>.<region>.elb.<any name>`` or ``/_alb/<name>[:<port>]/…``."""
    host = (head.header(b"host") or b"").lower().partition(b":")[0].decode("latin-1")
    if head.url.startswith(PATH):
        name, slash, rest = head.url[len(PATH) :].partition(b"/")
        if not slash:
            name, mark, query = name.partition(b"?")
            rest = mark + query
        label, _, port = name.decode("latin-1").partition(":")
        return BalancerAddress(label.lower(), int(port) if port.isascii() and port.isdigit() else None, host, b"/" + rest)
    labels = host.split(".")
    if len(labels) > 3 and labels[2] == "elb":
        return BalancerAddress(labels[0], None, host, head.url)
    return None


class BalancerExchange:
    """``serve`` starts it; it answers its connection once."""

    def __init__(self, owner: Gateways, address: BalancerAddress, head: Head, connection: Connection) -> None:
        self._owner = owner
        self._address = address
        self._head = head
        self._connection = connection
        self._body = b""
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._asked: Asked
        self._group: TargetGroup

    def serve(self, body: bytes, *, too_large: bool) -> None:
        """The request is complete."""
        self._body = body
        if too_large or len(body) > alb.MAX_BODY:
            self._send(alb.page(413))
            return
        self._owner.balancers.get(self._address.name, self._defined)

    def _defined(self, balancer: Balancer | None, unreadable: Unreadable | None) -> None:
        try:
            self._route(balancer, unreadable)
        except Exception:
            # Called by whoever made the definition known, which others wait for.
            log.exception("a request to a load balancer failed", name=self._address.name)
            self._send(alb.page(500))

    def _route(self, balancer: Balancer | None, unreadable: Unreadable | None) -> None:
        if unreadable is not None:
            self._refuse(502, f"the definition of the load balancer could not be read: {unreadable}")
            return
        listener = None if balancer is None else balancer.listener(self._address.port)
        if balancer is None or listener is None:
            self._refuse(404, f"there is no load balancer {self._address.name} with such a listener")
            return
        head = self._head
        path, _, query = self._address.target.partition(b"?")
        sent = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers]
        self._asked = Asked(
            head.method.decode("latin-1"), self._address.host, path.decode("latin-1"), query.decode("latin-1"), sent, head.peer
        )
        rule = balancers.choose(listener, self._asked)
        if rule is None or not rule.actions:
            self._send(alb.page(503))
        elif unserved := next((a.kind for a in rule.actions if a.kind not in ("forward", "redirect", "fixed-response")), None):
            self._refuse(501, f"Lambda Engine does not serve listener actions of type {unserved}")
        else:
            self._act(balancer, listener, rule.actions[-1])

    def _act(self, balancer: Balancer, listener: Listener, action: Action) -> None:
        if action.kind == "fixed-response":
            settings = action.settings
            headers = [("Content-Type", settings.get("ContentType", "text/plain"))]
            self._send(UrlResponse(int(settings.get("StatusCode", "200")), headers, settings.get("MessageBody", "").encode()))
        elif action.kind == "redirect":
            status, location = balancers.redirect(action, self._asked, str(listener.port), listener.protocol)
            page = alb.page(status)
            self._send(UrlResponse(status, [*page.headers, ("Location", location)], page.body))
        else:
            self._forward(balancer, listener, action)

    def _forward(self, balancer: Balancer, listener: Listener, action: Action) -> None:
        weighted = [(balancer.groups[arn], weight) for arn, weight in action.groups if arn in balancer.groups and weight]
        if not weighted:
            self._send(alb.page(503))
            return
        group = self._group = _draw([g for g, _ in weighted], [w for _, w in weighted])[0]
        if group.kind != "lambda":
            self._refuse(501, f"Lambda Engine serves target groups of type lambda; {group.arn} is of type {group.kind}")
            return
        if not group.functions:
            self._send(alb.page(503))
            return
        owner = self._owner
        trace = self._head.header(b"x-amzn-trace-id") or new_trace_id(owner.clock.epoch_ms() // 1000)
        headers = forwarded(self._asked.headers, self._asked.peer, str(listener.port), trace.decode("latin-1"))
        headers[-1] = ("X-Forwarded-Proto", listener.protocol.lower())
        document = alb.event(self._asked, headers, self._body, group.arn, multi_value=group.multi_value)
        self._timer = owner.loop.call_later(balancer.idle_s, self._timed_out)
        try:
            owner.start(group.functions[0], policies.LOAD_BALANCER, balancer.account, group.arn, document, trace, self)
        except (AwsError, ValueError) as e:
            log.warning("a load balancer's function was not invoked", target_group=group.arn, reason=str(e))
            self._send(alb.page(502))

    def _timed_out(self) -> None:
        self._send(alb.page(504))

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        """The function's answer as HTTP."""
        try:
            if outcome.status is not Status.SUCCESS:
                raise MalformedResponse("the function failed")
            answer, reason = alb.response(outcome.payload, multi_value=self._group.multi_value)
        except MalformedResponse as e:
            log.info("no HTTP response came of an invocation", target_group=self._group.arn, reason=str(e))
            self._send(alb.page(502))
            return
        self._send(answer, reason)

    def failed(self, request: Request, error: AwsError) -> None:
        self._send(alb.page(502))

    def _refuse(self, status: int, reason: str) -> None:
        """What no load balancer says: that something is not there, or not served here."""
        self._send(UrlResponse(status, [("Content-Type", "text/plain; charset=utf-8")], f"{reason}\n".encode()))

    def _send(self, answer: UrlResponse, reason: str = "") -> None:
        if self._answered:
            return
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        bodiless = answer.status in (204, 304)
        headers = [alb.SERVER, *answer.headers]
        if not bodiless:
            headers.append(("Content-Length", str(len(answer.body))))
        headers.append(("Connection", "keep-alive" if self._head.keep_alive else "close"))
        status = f"HTTP/1.1 {answer.status} {reason or replies.reason(answer.status)}\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        whole = b"".join((status.encode("latin-1", "replace"), replies.date_header(), lines.encode("utf-8", "replace"), b"\r\n"))
        self._connection.answer(whole, b"" if bodiless or self._head.method == b"HEAD" else answer.body)
