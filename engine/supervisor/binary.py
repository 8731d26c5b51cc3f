"""The binary protocol's server side: clients that invoke, and the control plane's link.

The peer's first frame says which it is; docs/protocol.md has the order. Frames of a client are hostile input: a broken one closes
the connection, never more. The link is reachable only through its Unix socket (mode 0600).
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from engine import __version__
from engine.core.invocation import Outcome
from engine.errors import AwsError, RequestEntityTooLarge, WireError
from engine.ids import request_id
from engine.sandbox.wishes import VpcDone
from engine.supervisor.api import InvokeApi
from engine.supervisor.catalogue import Catalogue, parse_entry
from engine.supervisor.lanes import LaneCalls
from engine.supervisor.request import ReplyTo, Request
from engine.wire import messages
from engine.wire.frames import MAX_CONTROL_FRAME, MAX_FRAME, FrameDecoder

MAX_REQUEST = 6 * 1024 * 1024
# Request id, client context and trace id of a plain call.
_NO_OPTIONS = (None, None, None)


class _Waiting:
    """Answers one CALL. ``ReplyTo``."""

    __slots__ = ("_call_id", "_connection")

    def __init__(self, connection: ClientConnection, call_id: int) -> None:
        self._connection = connection
        self._call_id = call_id

    def answered(self, request: Request, outcome: Outcome) -> None:
        self._connection.send_result(
            messages.Result(
                self._call_id,
                200,
                None,
                request.version.config.version,
                outcome.function_error,
                request.request_id,
                request.log_tail(),
                outcome.payload,
            )
        )

    def failed(self, request: Request, error: AwsError) -> None:
        self._connection.refuse(self._call_id, error, request.request_id)


class _FrameConnection(asyncio.Protocol):
    """Bytes to frames; a WireError closes the connection."""

    max_frame = MAX_FRAME

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._decoder = FrameDecoder(self.max_frame)
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._decoder.feed(data):
                self.frame(body)
        except WireError:
            self.transport.abort()

    def frame(self, body: bytes) -> None:
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        if not self._gone:
            self.transport.write(data)


class ClientConnection(_FrameConnection):
    """A client that invokes. ``keys`` (access key id to secret) makes it prove one of them first."""

    def __init__(
        self, api: InvokeApi, account_id: str, connections: set[asyncio.Protocol], keys: dict[str, str] | None
    ) -> None:
        super().__init__()
        self._api = api
        self._account_id = account_id
        self._connections = connections
        self._keys = keys
        self._nonce = ""
        self._greeted = False
        self._declined = False
        self._calls: LaneCalls | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.add(self)
        if self._keys is not None:
            self._nonce = secrets.token_hex(16)
            hello = {"engine": __version__, "nonce": self._nonce}
            self.send(messages.pack(messages.SERVER_HELLO, messages.VERSION, hello))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connections.discard(self)
        # It knows this object as this object knows it, and the collector of cycles comes by rarely.
        self._calls = None

    def data_received(self, data: bytes) -> None:
        if self._calls is not None and not self._decoder.buffered:
            try:
                data = self._calls.feed(data)
            except WireError:
                self.transport.abort()
                return
            if not data:
                return
        super().data_received(data)

    def frame(self, body: bytes) -> None:
        if self._declined:
            return
        if not self._greeted:
            self._hello(messages.unpack(body))
            return
        call = messages.decode_call(body)
        if call.flags & messages.FLAG_EVENT and self._keys is not None:
            # Only who may open the engine's own socket is believed to run asynchronous invocations.
            call = call._replace(flags=call.flags & ~messages.FLAG_EVENT)
        try:
            if len(call.payload) > MAX_REQUEST:
                raise RequestEntityTooLarge(
                    f"Request must be smaller than {MAX_REQUEST} bytes for the InvokeFunction operation"
                )
            version = self._api.call(call, self._account_id, _Waiting(self, call.call_id))
            if self._calls is not None and call.qualifier is None and not call.flags and call[4:7] == _NO_OPTIONS and body[0] == 0x99 and body[7] == 0xDA:
                self._calls.learn(body, partial(self._api.lane_of_call, call, self._account_id))
        except AwsError as e:
            self.refuse(call.call_id, e, call.request_id or request_id())
            return
        if call.flags & messages.FLAG_DRY_RUN:
            name = version.config.version
            self.send_result(messages.Result(call.call_id, 204, None, name, None, request_id(), None, b""))

    def _hello(self, parts: list[Any]) -> None:
        options = greeting(parts)
        if options.get("role", "client") != "client":
            raise WireError("only clients connect here")
        if self._keys is not None and not self._proves(options):
            self._declined = True
            error = {"error": "the access key is unknown or its token is wrong"}
            self.send(messages.pack(messages.SERVER_HELLO, messages.VERSION, error))
            self.transport.close()
            return
        account = options.get("account")
        if isinstance(account, str) and len(account) == 12 and account.isdigit() and self._keys is None:
            self._account_id = account
        self._greeted = True
        if self._api.lanes is not None:
            self._calls = self._api.lanes.Calls(self)
        self.send(messages.pack(messages.SERVER_HELLO, messages.VERSION, {"engine": __version__}))

    def _proves(self, options: dict[Any, Any]) -> bool:
        key, token = options.get("access_key"), options.get("token")
        secret = (self._keys or {}).get(key) if isinstance(key, str) else None
        if secret is None or not isinstance(token, str):
            return False
        wanted = hmac.new(secret.encode(), self._nonce.encode(), hashlib.sha256).hexdigest()
        return hmac.compare_digest(wanted, token)

    def deliver(self, reply: bytes) -> None:
        """The answer to a call that took the compiled lane."""
        if not self._gone:
            self.transport.write(reply)

    def reply_to(self, call_id: int) -> ReplyTo:
        """Who answers a call that left the compiled lane."""
        return _Waiting(self, call_id)

    def send_result(self, result: messages.Result) -> None:
        self.send(messages.encode_result(result))

    def refuse(self, call_id: int, error: AwsError, request: str) -> None:
        payload = msgspec.json.encode(error.body())
        self.send_result(messages.Result(call_id, error.status, error.code, None, None, request, None, payload))


def greeting(parts: list[Any]) -> dict[Any, Any]:
    """The options of a CLIENT_HELLO. Raises WireError."""
    if parts[0] != messages.CLIENT_HELLO or len(parts) != 3 or not isinstance(parts[2], dict):
        raise WireError("the first frame is CLIENT_HELLO")
    if parts[1] != messages.VERSION:
        raise WireError(f"protocol version {parts[1]} is not {messages.VERSION}")
    return parts[2]


def _put_all(catalogue: Catalogue, entries: list[Any]) -> str | None:
    """Put each that can be; a line about each that cannot, None without any."""
    problems = []
    for entry in entries:
        try:
            catalogue.put(parse_entry(entry))
        except (WireError, KeyError, TypeError) as e:
            name = f"{entry.get('account')}:{entry.get('name')}" if isinstance(entry, dict) else "an entry"
            problems.append(f"{name}: {type(e).__name__}: {e}")
    return "\n".join(problems) or None


class LinkServices(Protocol):
    """What the control plane may ask for."""

    catalogue: Catalogue

    def link_hello(self) -> dict[str, Any]: ...

    def accepted(self, seq: int, problem: str | None) -> None:
        """Events handed over under this number are kept, or are not."""

    def vpc(self, name: str, document: dict[str, Any] | None, then: VpcDone) -> None:
        """Keep a VPC as the document says, or no longer."""
        ...

    def queries(self) -> Mapping[str, Callable[[], Any]]:
        """What may be asked for, by name."""
        ...

    def identity(self, access_key: str, answer: Callable[[dict[str, Any] | None], None]) -> None:
        """What the embedded IAM knows of an access key."""


class LinkConnection(_FrameConnection):
    """The control plane. The newest connection is the valid one; an older one is closed by the supervisor."""

    max_frame = MAX_CONTROL_FRAME

    def __init__(
        self,
        services: LinkServices,
        on_open: Callable[[LinkConnection], None],
        on_closed: Callable[[Callable[[bytes], None]], None] = lambda _: None,
    ) -> None:
        """``on_closed`` is called with this connection's ``send``."""
        super().__init__()
        self._services = services
        self._on_closed = on_closed
        self._on_open = on_open
        self._greeted = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_closed(self.send)

    def frame(self, body: bytes) -> None:
        parts = messages.unpack(body)
        if not self._greeted:
            if greeting(parts).get("role") != "control":
                raise WireError("only the control plane connects here")
            self._greeted = True
            self.send(messages.pack(messages.SERVER_HELLO, messages.VERSION, self._services.link_hello()))
            self._on_open(self)
        elif parts[0] == messages.ACCEPTED and len(parts) == 3:
            self._services.accepted(parts[1], parts[2])
        elif parts[0] == messages.CATALOGUE and len(parts) == 4:
            self._catalogue(parts)
        elif parts[0] == messages.QUERY and len(parts) == 3 and parts[2] in (queries := self._services.queries()):
            self._answer(parts[1], queries[parts[2]]())
        elif parts[0] == messages.QUERY and len(parts) == 3 and str(parts[2]).startswith(messages.IDENTITY_QUERY):
            self._services.identity(parts[2].removeprefix(messages.IDENTITY_QUERY), partial(self._answer, parts[1]))
        else:
            raise WireError("not for the link")

    def _answer(self, seq: int, value: Any) -> None:
        if not self.transport.is_closing():
            self.send(messages.pack(messages.ANSWER, seq, msgspec.msgpack.encode(value)))

    def _catalogue(self, parts: list[Any]) -> None:
        _, seq, op, value = parts
        catalogue = self._services.catalogue
        problem: str | None = None
        try:
            if op == "vpc":
                self._services.vpc(str(value["vpc"]), value["document"], partial(self._vpc_done, seq))
                return
            if op == "begin":
                catalogue.begin()
            elif op == "put":
                catalogue.put(parse_entry(value))
            elif op == "puts":
                problem = _put_all(catalogue, value)
            elif op == "delete":
                catalogue.delete(str(value["account"]), str(value["name"]))
            elif op == "commit":
                catalogue.commit()
                # What was just learned stays: with thousands of functions a full collection would look through it for a good part of
                # a second.
                gc.freeze()
            else:
                problem = f"unknown operation {op}"
        except (WireError, KeyError, TypeError) as e:
            problem = f"{type(e).__name__}: {e}"
        self.send(messages.pack(messages.ACK, seq, problem))

    def _vpc_done(self, seq: int, problems: dict[str, str], reason: str) -> None:
        """The broker has answered, perhaps after this connection ended."""
        lines = [reason] if reason else [f"{name}: {why}" for name, why in problems.items()]
        if not self.transport.is_closing():
            self.send(messages.pack(messages.ACK, seq, "\n".join(lines) or None))

    def close(self) -> None:
        self.transport.abort()
