"""The Invoke API: from a request's URL and headers to a running invocation. Shared by HTTP and the binary protocol.

Source: docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

from __future__ import annotations

import base64
import binascii
import random
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from engine.arn import FunctionRef, parse_function_name
from engine.clock import Clock
from engine.errors import AwsError, InvalidParameterValue, InvalidRequestContent, ServiceError, ValidationError
from engine.ids import is_request_id, request_id
from engine.supervisor.catalogue import Catalogue, Version
from engine.supervisor.invoker import Invoker
from engine.supervisor.request import ReplyTo, Request
from engine.wire import messages

_raw = msgspec.json.Decoder(msgspec.Raw)
MAX_CLIENT_CONTEXT = 3583
MAX_ROUTES = 4096
_bits = random.Random(random.SystemRandom().getrandbits(64)).getrandbits  # noqa: S311 - trace ids are names, not secrets


class HttpReplyTo(ReplyTo, Protocol):
    """A ReplyTo that can also answer a dry run."""

    def dry_run(self, request_id: str) -> None: ...


class Verifier(Protocol):
    """Checks a request's signature. Raises AwsError."""

    def verify(
        self, method: str, raw_path: str, raw_query: str, headers: list[tuple[bytes, bytes]], body: bytes, now_epoch_s: float
    ) -> Any: ...


class Route:
    """What a URL invokes, resolved once per catalogue revision."""

    __slots__ = ("arn", "drawn", "head", "ref", "revision", "version")

    def __init__(self, ref: FunctionRef, arn: str) -> None:
        self.ref = ref
        self.arn = messages.str16(arn)
        self.head = arn
        self.revision = -1
        self.drawn = False
        self.version: Version | None = None


class InvokeApi:
    """Parses, resolves, checks and submits."""

    def __init__(self, catalogue: Catalogue, invoker: Invoker, clock: Clock, *, region: str, account_id: str) -> None:
        self._catalogue = catalogue
        self._invoker = invoker
        self._clock = clock
        self._region = region
        self._account_id = account_id
        self._default = account_id.encode()
        self._routes: dict[tuple[bytes, bytes], Route] = {}
        self.draining = False

    def invoke(self, url: bytes, headers: list[tuple[bytes, bytes]], body: bytes, reply_to: HttpReplyTo) -> None:
        """Start what an HTTP Invoke asks for. Raises AwsError when it cannot be started."""
        account = self._default
        kind = log_type = client_context = trace = None
        for name, value in headers:
            if name == b"authorization":
                at = value.find(b"Credential=")
                if at >= 0 and value[at + 23 : at + 24] == b"/" and value[at + 11 : at + 23].isdigit():
                    account = value[at + 11 : at + 23]
            elif name == b"x-amz-invocation-type":
                kind = value
            elif name == b"x-amz-log-type":
                log_type = value
            elif name == b"x-amz-client-context":
                client_context = value
            elif name == b"x-amzn-trace-id":
                trace = value
        route = self._routes.get((account, url)) or self._route(account, url)
        version = self._resolve(route)
        if log_type is not None and log_type not in (b"Tail", b"None"):
            raise ValidationError(
                f"1 validation error detected: Value '{log_type.decode('latin-1')}' at 'logType' failed to satisfy constraint: "
                "Member must satisfy enum value set: [Tail, None]"
            )
        if kind == b"DryRun":
            reply_to.dry_run(request_id())
            return
        context = _client_context(client_context) if client_context else None
        self._submit(route, version, body, None, context, trace, reply_to, want_tail=log_type == b"Tail")

    def call(self, call: messages.Call, account_id: str, reply_to: ReplyTo) -> Version:
        """Start what a binary CALL asks for. Raises AwsError when it cannot be started."""
        key = (account_id.encode(), f"{call.function}\0{call.qualifier or ''}".encode())
        route = self._routes.get(key)
        if route is None:
            ref = parse_function_name(call.function, account=account_id, region=self._region, qualifier=call.qualifier)
            route = self._remember(key, ref)
        version = self._resolve(route)
        if call.flags & messages.FLAG_DRY_RUN:
            return version
        if call.request_id is not None and not is_request_id(call.request_id):
            raise InvalidParameterValue("a request id is a UUID in its canonical form of 36 characters")
        trace = call.trace_id.encode() if call.trace_id else None
        tail = bool(call.flags & messages.FLAG_TAIL)
        self._submit(route, version, call.payload, call.request_id, call.client_context, trace, reply_to, want_tail=tail)
        return version

    def _submit(
        self,
        route: Route,
        version: Version,
        body: bytes,
        wanted_id: str | None,
        client_context: str | None,
        trace: bytes | None,
        reply_to: ReplyTo,
        *,
        want_tail: bool,
    ) -> None:
        if self.draining:
            raise ServiceError("The engine is shutting down.")
        if not body:
            body = b"{}"
        else:
            check_json(body)
        now_s = self._clock.monotonic()
        trace_id = new_trace_id(self._clock.epoch_ms() // 1000) if trace is None else trace.decode("latin-1")[:255]
        middle = route.arn + (
            b"\xd9" + bytes((len(trace_id),)) + trace_id.encode("ascii", "replace") + b"\xc0\xc0\xc0"
            if client_context is None
            else messages.str8(trace_id) + messages.str16(client_context) + b"\xc0\xc0"
        )
        self._invoker.submit(
            Request(wanted_id or request_id(), body, now_s, version, middle, trace_id, reply_to, want_tail=want_tail)
        )

    def _resolve(self, route: Route) -> Version:
        version = route.version
        if version is None or route.drawn or route.revision != self._catalogue.revision:
            version, route.drawn = self._catalogue.resolve(route.ref)
            route.version = version
            route.revision = self._catalogue.revision
        return version

    def _route(self, account: bytes, url: bytes) -> Route:
        """Read ``/2015-03-31/functions/<name>/invocations[?Qualifier=q]``."""
        path, _, query = url.partition(b"?")
        parts = path.decode("latin-1").strip("/").split("/")
        name = unquote(parts[2]) if len(parts) == 4 else ""
        options = dict(parse_qsl(query.decode("latin-1")))
        ref = parse_function_name(
            name, account=account.decode("ascii"), region=self._region, qualifier=options.get("Qualifier") or None
        )
        return self._remember((account, url), ref)

    def _remember(self, key: tuple[bytes, bytes], ref: FunctionRef) -> Route:
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        route = self._routes[key] = Route(ref, ref.arn())
        return route


def check_json(body: bytes) -> None:
    """Prove that ``body`` is one JSON value without building it. Raises InvalidRequestContent with AWS's opening words."""
    try:
        _raw.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidRequestContent(
            f"Could not parse request body into json: Could not parse payload into json: {e}"
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


def new_trace_id(epoch_s: int) -> str:
    """An X-Ray trace header value: root with the time, a parent, not sampled."""
    bits = _bits(160)
    return f"Root=1-{epoch_s:08x}-{bits >> 64:024x};Parent={bits & 0xFFFFFFFFFFFFFFFF:016x};Sampled=0"

