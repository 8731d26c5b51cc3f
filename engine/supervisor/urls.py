"""Function URLs: requests that come to ``<id>.lambda-url.<region>.<any name>`` or below ``/_url/<id>`` become invocations here.

They never pass through the control plane: the catalogue says which id belongs to what. One ``Exchange`` is one request, from its head to its
answer. The signature of an AWS_IAM URL is verified when authentication is on; without, a request must at least claim a key, since the
function is told whose it is. ``gate`` decides by resource policy where one is set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine import ids
from engine.auth.principals import Principal
from engine.auth.sigv4 import claimed_access_key, credential_account
from engine.clock import Clock
from engine.core.stats import FunctionStats
from engine.errors import AccessDenied, AwsError, RequestEntityTooLarge, ServiceError, TooManyRequests, UnrecognizedClient
from engine.protocol import cors
from engine.protocol.function_url import UrlContext, UrlRequest, UrlResponse, event
from engine.supervisor.api import InvokeApi, Verifier, new_trace_id
from engine.supervisor.catalogue import Catalogue, FunctionUrl
from engine.supervisor.url_replies import UrlReply, UrlStream

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection

MARK = b".lambda-url."
PATH = b"/_url/"
MAX_EVENT = 6 * 1024 * 1024
FORBIDDEN = (
    "Forbidden. For troubleshooting Function URL authorization issues, see: "
    "https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html"
)
# Whether the policy of a URL lets a caller in; the caller is None when the URL asks for none.
Gate = Callable[[FunctionUrl, Principal | None], bool]


class FunctionUrls:
    """Finds the URL that a request is for."""

    def __init__(
        self, catalogue: Catalogue, api: InvokeApi, verifier: Verifier | None, clock: Clock, *, region: str, account_id: str
    ) -> None:
        self.catalogue = catalogue
        self.api = api
        self.verifier = verifier
        self.clock = clock
        self.region = region
        self.account_id = account_id
        self.gate: Gate | None = None

    def exchange(self, head: Head, connection: Connection) -> Exchange | None:
        """The exchange that a request begins; None when it is not for a function URL."""
        host = (head.header(b"host") or b"").lower()
        if MARK in host:
            return Exchange(self, host.partition(b".")[0], host, head.url, head, connection)
        if head.url.startswith(PATH):
            url_id, slash, rest = head.url[len(PATH) :].partition(b"/")
            url_id, mark, query = url_id.partition(b"?")
            host = b"%b.lambda-url.%b.localhost%b" % (url_id, self.region.encode(), _port(host))
            return Exchange(self, url_id, host, b"/" + (rest if slash else mark + query), head, connection)
        return None

    def authenticate(self, url: FunctionUrl, head: Head, target: bytes, body: bytes) -> Principal | None:
        """The caller, None where the URL asks for none. Raises AwsError for who must not come in."""
        principal = None
        if url.config.auth_type == "AWS_IAM":
            path, _, query = target.partition(b"?")
            raw_query = query.decode("latin-1")
            if self.verifier is not None:
                principal = self.verifier.verify(
                    head.method.decode("latin-1"), path.decode("latin-1"), raw_query, head.headers, body, time.time(), b"lambda"
                )
            elif access_key := claimed_access_key(head.headers, raw_query):
                principal = Principal(access_key, credential_account(head.headers, self.account_id, raw_query), verified=False)
            if principal is None:
                raise AccessDenied(FORBIDDEN)
        if self.gate is not None and not self.gate(url, principal):
            raise AccessDenied(FORBIDDEN)
        return principal


class Exchange:
    """One request to a function URL, known or not. ``target``: path and query as the function sees them."""

    __slots__ = ("_connection", "_head", "_host", "_owner", "_target", "_url")

    def __init__(self, owner: FunctionUrls, url_id: bytes, host: bytes, target: bytes, head: Head, connection: Connection) -> None:
        self._owner = owner
        self._url = owner.catalogue.urls.get(url_id.decode("latin-1"))
        self._host = host
        self._target = target
        self._head = head
        self._connection = connection

    def serve(self, body: bytes, *, too_large: bool, learnt: bool = False) -> None:
        """The request is complete: answer it, or start an invocation that will."""
        try:
            if too_large:
                raise _too_large()
            self._serve(body)
        except AwsError as e:
            verifier = None if learnt else self._owner.verifier
            access_key = e.access_key if isinstance(e, UnrecognizedClient) else None
            if verifier is None or not verifier.learn(access_key, lambda: self.serve(body, too_large=too_large, learnt=True)):
                UrlReply(self._connection, self._head, None, b"", self._stats()).refuse(e, ids.request_id())

    def _serve(self, body: bytes) -> None:
        url, head = self._url, self._head
        if url is None:
            raise AccessDenied(None)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
        rules, fields = url.config.cors, dict(headers)
        method = head.method.decode("latin-1")
        if rules and cors.is_preflight(method, fields):
            answer = UrlResponse(200, cors.preflight(rules, fields), b"")
            UrlReply(self._connection, head, rules, b"", self._stats()).send(answer, ids.request_id())
            return
        owner = self._owner
        principal = owner.authenticate(url, head, head.url, body)
        if principal is not None:
            # A credential for the engine, not for the function.
            headers = [(name, value) for name, value in headers if name != "authorization"]
        now_ms, request_id = owner.clock.epoch_ms(), ids.request_id()
        trace = head.header(b"x-amzn-trace-id") or new_trace_id(now_ms // 1000)
        path, _, query = self._target.partition(b"?")
        document = event(
            UrlRequest(method, path.decode("latin-1"), query.decode("latin-1"), headers, body, head.peer),
            UrlContext(
                url_id=url.config.url_id,
                domain=self._host.partition(b":")[0].decode("latin-1"),
                request_id=request_id,
                epoch_ms=now_ms,
                trace_id=trace.decode("latin-1"),
                port=_port(self._host).decode("latin-1")[1:] or "80",
                iam=None if principal is None else _identity(principal),
            ),
        )
        if len(document) > MAX_EVENT:
            raise _too_large()
        reply = UrlReply(self._connection, head, rules, trace, self._stats())
        if url.config.streamed:
            streamed = UrlStream(self._connection, head, rules, trace, self._stats())
            self._connection.replace_passed(streamed)
            reply = streamed
        try:
            owner.api.invoke_url(url, document, request_id, trace, reply)
        except (TooManyRequests, ServiceError):
            raise
        except AwsError:
            reply.internal_error(request_id)

    def _stats(self) -> FunctionStats | None:
        return None if self._url is None else self._owner.catalogue.stats(self._url.ref)


def _too_large() -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"Request must be smaller than {MAX_EVENT} bytes for the InvokeFunction operation")


def _port(host: bytes) -> bytes:
    """``:4566`` of a Host header, or nothing."""
    _, colon, port = host.rpartition(b":")
    return colon + port if port.isdigit() else b""


def _identity(principal: Principal) -> dict[str, Any]:
    """``requestContext.authorizer.iam``. Who it is is known where policies decide."""
    identity = principal.identity
    user_id = principal.access_key_id if identity is None else identity.user_id
    return {
        "accessKey": principal.access_key_id,
        "accountId": principal.account,
        "callerId": user_id,
        "cognitoIdentity": None,
        "principalOrgId": None,
        "userArn": f"arn:aws:iam::{principal.account}:root" if identity is None else identity.arn,
        "userId": user_id,
    }
