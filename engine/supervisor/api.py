"""The Invoke API: from a request's URL and headers to a running invocation. Shared by HTTP and the binary protocol.

Source: docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

from __future__ import annotations

import base64
import binascii
import itertools
import random
from collections.abc import Callable
from typing import Protocol, cast
from urllib.parse import parse_qsl, unquote

import msgspec

from engine.arn import FunctionRef, check_qualifier, function_arn, parse_function_name
from engine.auth.principals import Principal
from engine.auth.sigv4 import Repeat
from engine.clock import Clock
from engine.core import lineage, tenancy
from engine.core.json_faults import explain
from engine.core.model import LATEST
from engine.errors import (
    InvalidParameterValue,
    InvalidRequestContent,
    NotImplementedHere,
    RecursiveInvocation,
    RequestEntityTooLarge,
    ResourceNotFound,
    ServiceError,
    ValidationError,
)
from engine.ids import is_request_id, request_id
from engine.supervisor import tenants
from engine.supervisor.catalogue import Catalogue, Function, FunctionUrl, Version
from engine.supervisor.event_lane import Accepting, EventLane
from engine.supervisor.invoker import Invoker
from engine.supervisor.lanes import Caller, Lane, Lanes
from engine.supervisor.request import ReplyTo, Request
from engine.wire import messages

raw_json = msgspec.json.Decoder(msgspec.Raw).decode
MAX_CLIENT_CONTEXT = 3583
MAX_ROUTES = 4096
MAX_EVENT = 1_048_576
MAX_TRACE = 255
# A trace goes into answers, queues and messages as text: what is not printable ASCII is no trace anyway.
_PRINTABLE = bytes(c if 0x20 <= c < 0x7F else 0x3F for c in range(256))
# So that a parent finds room behind it.
MAX_ROOT = 200
# Invocation type, log type, client context, trace id and tenant of a request that may take the compiled lane.
_PLAIN = (None, None, None, None, None)
_bits = random.Random(random.SystemRandom().getrandbits(64)).getrandbits  # noqa: S311 - trace ids are names, not secrets


# Account (None: the default one), invocation type, log type, client context, trace id: raw header values; and the tenant, checked.
InvokeOptions = tuple[bytes | None, bytes | None, bytes | None, bytes | None, bytes | None, str | None]
LOG_TYPES = (None, b"Tail", b"None")
# Options of an Invoke that would have to be obeyed, by header: members that the refusal names.
NOT_OBEYED = {b"x-amz-durable-execution-name": "DurableExecutionName"}


class HttpReplyTo(ReplyTo, Protocol):
    """A ReplyTo that can also answer a dry run."""

    peer: str

    def dry_run(self, request_id: str) -> None: ...


class Verifier(Protocol):
    """Checks a request's signature, raising AwsError; and learns a key that is not known, if it can."""

    def verify(
        self,
        method: str,
        raw_path: str,
        raw_query: str,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        now_epoch_s: float,
        service: bytes | None = None,
        /,
    ) -> Principal: ...

    def learn(self, access_key: str | None, then: Callable[[], None], /) -> bool: ...

    @property
    def repeat(self) -> Repeat | None:
        """What the last successful ``verify`` lets a connection keep."""

    def holds(self, repeat: Repeat, body: bytes, now_epoch_s: float) -> bool:
        """Whether a head seen before is verified with this body too."""


class Authorize(Protocol):
    """Says whether the right of a caller to invoke may be remembered. Raises AccessDenied when it has none."""

    def __call__(self, principal: Principal, ref: FunctionRef, catalogue: Catalogue, peer: str, /) -> bool: ...


class _Nobody:
    """Stands for the function of a route that was not resolved yet."""

    revision = 0


_NOBODY = _Nobody()


class Route:
    """What a URL invokes, resolved once per revision of its function. ``allowed`` are the access keys that may."""

    __slots__ = ("allowed", "arn", "drawn", "function", "head", "key", "lane", "ref", "revision", "version")

    def __init__(self, key: tuple[bytes, bytes], ref: FunctionRef, arn: str) -> None:
        self.key = key
        self.ref = ref
        self.arn = messages.str16(arn)
        self.head = arn
        self.function: Function | _Nobody = _NOBODY
        self.revision = -1
        self.drawn = False
        self.version: Version | None = None
        self.allowed: set[str] = set()
        self.lane: Lane | None = None


class InvokeApi:
    """Parses, resolves, checks and submits."""

    def __init__(self, catalogue: Catalogue, invoker: Invoker, clock: Clock, *, region: str, account_id: str) -> None:
        self._catalogue = catalogue
        self._invoker = invoker
        self._monotonic = clock.monotonic
        self._epoch_ms = clock.epoch_ms
        self._region = region
        self._account_id = account_id
        self._default = account_id.encode()
        self._routes: dict[tuple[bytes, bytes], Route] = {}
        # Where each function is remembered: its routes hold on to its versions and go with its old state.
        self._of_function: dict[Function, set[tuple[bytes, bytes]]] = {}
        catalogue.on_stale = self._forget
        self.draining = False
        self.authorize: Authorize | None = None
        self.lanes: Lanes | None = None
        self.events: EventLane | None = None

    @property
    def takes_events(self) -> bool:
        """Whether ``invoke`` does asynchronous invocations: not before it is known what there is. From then on, always."""
        return self.events is not None and self._catalogue.loaded

    def invoke(
        self,
        url: bytes,
        options: InvokeOptions,
        body: bytes,
        reply_to: HttpReplyTo,
        caller: Principal | None = None,
        *,
        lane: bool = False,
    ) -> None:
        """Start what an HTTP Invoke asks for; ``caller`` has signed it, ``lane``: a compiled lane may answer it.

        Raises AwsError when it cannot be started.
        """
        account, kind, log_type, client_context, trace, tenant = options
        if caller is not None:
            account = caller.account.encode()
        elif account is None:
            account = self._default
        route = self._routes.get((account, url)) or self._route(account, url)
        if caller is not None and (caller.access_key_id not in route.allowed or route.revision != route.function.revision):
            self._admit(caller, route, reply_to.peer)
        if kind is not None and kind == b"Event":
            self._accept(route.ref, body, trace, tenant, cast("Accepting", reply_to))
            return
        version = route.version
        if version is None or route.drawn or route.revision != route.function.revision:
            version = self._resolve(route)
        if lane and route.lane is not None and options[1:] == _PLAIN and route.lane.run(cast("Caller", reply_to), body):
            return
        if kind == b"DryRun":
            tenancy.check(version.tenants is not None, tenant)
            reply_to.dry_run(request_id())
            return
        context = _client_context(client_context) if client_context else None
        self._submit(route, version, body, None, context, trace, reply_to, log_type == b"Tail", tenant=tenant)

    def _accept(self, ref: FunctionRef, body: bytes, trace: bytes | None, tenant: str | None, sender: Accepting) -> None:
        """Have an asynchronous invocation kept. Raises AwsError; nothing is throttled here."""
        assert self.events is not None  # noqa: S101 - see ``takes_events``
        if self.draining:
            raise ServiceError("The engine is shutting down.")
        if len(body) > MAX_EVENT:
            raise RequestEntityTooLarge(f"Request must be smaller than {MAX_EVENT} bytes for the InvokeFunction operation")
        function = self._catalogue.named(ref)
        if function is None:
            arn = function_arn(ref.region, ref.account, ref.name, ref.qualifier or LATEST)
            raise ResourceNotFound(f"Function not found: {arn}")
        if function.tenants_apart or tenant is not None:
            tenancy.check(function.tenants_apart, tenant)
        if body:
            check_json(body)
        # Whoever has no trace gets the root of one, which the invocations will have too: whether they are sampled is theirs to decide.
        root = trace[:MAX_TRACE].translate(_PRINTABLE) if trace else new_trace_id(self._epoch_ms() // 1000).partition(b";")[0]
        self.events.put(ref, body or b"{}", root.decode("ascii"), tenant, sender)

    def _admit(self, caller: Principal, route: Route, peer: str) -> None:
        """Raises AccessDenied unless the caller may invoke; whether there is such a function is none of its business before."""
        if route.revision != route.function.revision:
            route.allowed.clear()
        if self.authorize is None or self.authorize(caller, route.ref, self._catalogue, peer):
            route.allowed.add(caller.access_key_id)

    def forget_decisions(self) -> None:
        """What callers may do has changed."""
        self._forget_all()

    def _forget_all(self) -> None:
        self._routes.clear()
        self._of_function.clear()

    def _forget(self, function: Function) -> None:
        """What this function's names mean has changed."""
        for key in self._of_function.pop(function, ()):
            self._routes.pop(key, None)

    def call(self, call: messages.Call, account_id: str, reply_to: ReplyTo) -> Version:
        """Start what a binary CALL asks for. Raises AwsError when it cannot be started."""
        key = (account_id.encode(), f"{call.function}\0{call.qualifier or ''}".encode())
        route = self._routes.get(key)
        if route is None:
            ref = parse_function_name(call.function, account=account_id, region=self._region, qualifier=call.qualifier)
            route = self._remember(key, ref)
        version = self._resolve(route)
        if call.flags & messages.FLAG_DRY_RUN:
            tenancy.check(version.tenants is not None, call.tenant_id)
            return version
        if call.request_id is not None and not is_request_id(call.request_id):
            raise InvalidParameterValue("a request id is a UUID in its canonical form of 36 characters")
        trace = call.trace_id.encode() if call.trace_id else None
        tenant = None if call.tenant_id is None else tenancy.read(call.tenant_id.encode())
        tail = bool(call.flags & messages.FLAG_TAIL)
        event = bool(call.flags & messages.FLAG_EVENT)
        self._submit(route, version, call.payload, call.request_id, call.client_context, trace, reply_to, tail, event=event, tenant=tenant)
        return version

    def invoke_url(self, url: FunctionUrl, body: bytes, wanted_id: str, trace: bytes, reply_to: ReplyTo) -> None:
        """Invoke what a function URL belongs to. Raises AwsError when it cannot be started."""
        key = (b"url", url.config.url_id.encode())
        route = self._routes.get(key) or self._remember(key, url.ref)
        self._submit(route, self._resolve(route), body, wanted_id, None, trace, reply_to, want_tail=False)

    def invoke_function(self, ref: FunctionRef, body: bytes, trace: bytes | None, reply_to: ReplyTo, tenant: str | None = None) -> None:
        """Invoke for another part of the engine, which has seen to it that it may. Raises AwsError when it cannot be started."""
        key = (b"arn", ref.arn().encode())
        route = self._routes.get(key) or self._remember(key, ref)
        self._submit(route, self._resolve(route), body, None, None, trace, reply_to, want_tail=False, tenant=tenant)

    def lane_of_call(self, call: messages.Call, account_id: str) -> Lane | None:
        """The compiled lane for further CALLs like this one, which has just been started; None when there is none."""
        route = self._routes.get((account_id.encode(), f"{call.function}\0{call.qualifier or ''}".encode()))
        return None if route is None else route.lane

    def _submit(
        self,
        route: Route,
        version: Version,
        body: bytes,
        wanted_id: str | None,
        client_context: str | None,
        trace: bytes | None,
        reply_to: ReplyTo,
        want_tail: bool,
        *,
        event: bool = False,
        tenant: str | None = None,
    ) -> None:
        """Raises AwsError. A version that keeps its tenants apart has its ``tenant``'s invocations run by another."""
        if self.draining:
            raise ServiceError("The engine is shutting down.")
        if version.tenants is not None or tenant is not None:
            version = tenants.version_for(version, tenant)
        if not body:
            body = b"{}"
        else:
            check_json(body)
        now_s = self._monotonic()
        now_ms = self._epoch_ms()
        if trace is not None and not (event and b";" not in trace):
            trace = _continued(trace, version)
        if version.tracer is not None:
            trace = version.tracer.begin(trace)
        elif event and trace is not None and b";" not in trace:
            # An event that begins a chain, see ``_accept``.
            trace = b"%b;Parent=%016x;Sampled=0" % (trace[:MAX_ROOT], _bits(64))
        elif trace is None:
            trace = new_trace_id(now_ms // 1000)
        middle = b"%b\xd9%c%b%b\xc0\xc0" % (
            route.arn, len(trace), trace, b"\xc0" if client_context is None else messages.str16(client_context),
        )  # fmt: skip
        if tenant is not None:
            middle = middle[:-1] + messages.str16(tenant)
        request = Request(wanted_id or request_id(), body, now_s, now_ms, version, middle, trace, reply_to, want_tail=want_tail)
        if event:
            self._invoker.submit(request, rated=False)
        else:
            self._invoker.submit(request)

    def _resolve(self, route: Route) -> Version:
        version = route.version
        if version is None or route.drawn or route.revision != route.function.revision:
            version, route.drawn = self._catalogue.resolve(route.ref)
            route.version = version
            function = version.function
            if function is not route.function:
                self._of_function.setdefault(function, set()).add(route.key)
            route.function = function
            route.revision = function.revision
            route.lane = None
            plain = version.config.log_format != "JSON" and version.tracer is None and version.tenants is None
            if self.lanes is not None and not route.drawn and plain:
                route.lane = self.lanes.Lane(self, self._invoker, version, route.arn)
        return version

    def _route(self, account: bytes, url: bytes) -> Route:
        """Read ``/2015-03-31/functions/<name>/invocations[?Qualifier=q]``."""
        path, _, query = url.partition(b"?")
        parts = path.decode("latin-1").strip("/").split("/")
        name = unquote(parts[2]) if len(parts) == 4 else ""
        options = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        if "Qualifier" in options:
            check_qualifier(options["Qualifier"])
        ref = parse_function_name(
            name, account=account.decode("ascii"), region=self._region, qualifier=options.get("Qualifier") or None
        )
        return self._remember((account, url), ref)

    def _remember(self, key: tuple[bytes, bytes], ref: FunctionRef) -> Route:
        if len(self._routes) >= MAX_ROUTES:
            self._forget_all()
        route = self._routes[key] = Route(key, ref, ref.arn())
        return route


def _continued(trace: bytes, version: Version) -> bytes:
    """The trace header of an invocation that another one has sent. Raises RecursiveInvocation for one too many of the same function."""
    if len(trace) > 255 or not trace.isascii():
        trace = trace.decode("ascii", "replace").encode("ascii", "replace")[:255]
    config = version.config
    trace, count = lineage.met(trace, lineage.mark(config.account, config.name))
    function = version.function.config
    if count > lineage.MAX_MET and function is not None and not function.may_loop:
        version.function.stats.recursions += 1
        raise RecursiveInvocation(
            f"Lambda Engine stopped a recursive loop: {config.name} was invoked {count} times in one chain of requests."
        )
    return trace[:255]


def check_json(body: bytes) -> None:
    """Prove that ``body`` is one JSON value without building it. Raises InvalidRequestContent with AWS's opening words."""
    try:
        raw_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidRequestContent(
            f"Could not parse request body into json: Could not parse payload into json: {explain(body, str(e))}"
        ) from None


def _client_context(value: bytes) -> str:
    if len(value) > MAX_CLIENT_CONTEXT:
        raise InvalidRequestContent(
            f"Client context must be smaller than {MAX_CLIENT_CONTEXT} bytes"
        )
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidRequestContent("Client context must be a valid Base64-encoded JSON object.") from None


_trace_count = itertools.count()
_trace_prefix = b""
_trace_parent = b""
_trace_s = -1


def new_trace_id(epoch_s: int) -> bytes:
    """An X-Ray trace header value: root with the time, a parent, not sampled. Random halves are renewed every second."""
    global _trace_prefix, _trace_parent, _trace_s  # noqa: PLW0603 - the random halves
    if epoch_s != _trace_s:
        _trace_s = epoch_s
        bits = _bits(128)
        _trace_prefix = b"Root=1-%08x-%014x" % (epoch_s, bits & 0xFFFFFFFFFFFFFF)
        _trace_parent = b"%08x" % (bits >> 96)
    n = next(_trace_count)
    return b"%b%010x;Parent=%b%08x;Sampled=0" % (_trace_prefix, n, _trace_parent, n & 0xFFFFFFFF)


def options_of(headers: list[tuple[bytes, bytes]]) -> InvokeOptions:
    """Read the options of an Invoke from its headers (names in lower case). Raises ValidationError for one that cannot be, and
    NotImplementedHere for one that nothing obeys.
    """
    account = kind = log_type = client_context = trace = tenant = None
    for name, value in headers:
        if name == b"authorization":
            account = account_of(value)
        elif name == b"x-amz-invocation-type":
            kind = value
        elif name == b"x-amz-log-type":
            if value not in LOG_TYPES:
                raise ValidationError(
                    f"1 validation error detected: Value '{value.decode('latin-1')}' at 'logType' failed to satisfy constraint: "
                    "Member must satisfy enum value set: [Tail, None]"
                )
            log_type = value
        elif name == b"x-amz-client-context":
            client_context = value
        elif name == b"x-amzn-trace-id":
            trace = value
        elif name == b"x-amz-tenant-id":
            tenant = tenancy.read(value)
        elif name in NOT_OBEYED:
            raise NotImplementedHere(f"Invoke with {NOT_OBEYED[name]} is not implemented by this engine.")
    return account, kind, log_type, client_context, trace, tenant


def check_streamed(options: InvokeOptions) -> None:
    """Raises ValidationError for an invocation type that cannot be streamed."""
    kind = options[1]
    if kind is not None and kind not in (b"RequestResponse", b"DryRun"):
        raise ValidationError(
            f"1 validation error detected: Value '{kind.decode('latin-1')}' at 'invocationType' failed to satisfy constraint: "
            "Member must satisfy enum value set: [RequestResponse, DryRun]"
        )


def account_of(authorization: bytes) -> bytes | None:
    """The account that a 12-digit access key selects, or None."""
    at = authorization.find(b"Credential=")
    if at >= 0 and authorization[at + 23 : at + 24] == b"/" and authorization[at + 11 : at + 23].isdigit():
        return authorization[at + 11 : at + 23]
    return None
