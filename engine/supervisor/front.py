"""The HTTP port: invocations are handled here, everything else is passed through.

One ``asyncio.Protocol`` per connection on httptools; no task, future or stream per invocation. A connection handles one request at a
time: bytes that arrive while one is being answered are held back, and so is what the parser found behind it in the same bytes, so answers
keep the order of requests.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import httptools

from engine.auth.sigv4 import Repeat
from engine.core import tenancy
from engine.core.invocation import Outcome
from engine.errors import AwsError, RequestEntityTooLarge, UnrecognizedClient
from engine.supervisor import replies
from engine.supervisor.api import LOG_TYPES, HttpReplyTo, InvokeApi, InvokeOptions, Verifier, check_streamed, options_of
from engine.supervisor.exchanges import Exchange, Head, Passed, Upgraded
from engine.supervisor.gateway.addresses import MARK as API_MARK
from engine.supervisor.request import Request
from engine.supervisor.stream_reply import StreamReply
from engine.supervisor.urls import MARK, FunctionUrls

FUNCTIONS = b"/2015-03-31/functions/"
STREAMED = b"/2021-11-15/functions/"
# How paths of Lambda's operations begin, and those of no function URL, API or load balancer that are known by their path.
OPERATIONS = b"/20"
HOT_START = b"POST /2015-03-31/functions/"
# A head seen before, the size of the request, its URL and options.
Known = tuple[bytes, int, bytes, InvokeOptions]
_NOTHING_KNOWN: Known = (b"", 0, b"", (None, None, None, None, None, None))
MAX_FAST_HEAD = 8192
MAX_BODY = 6 * 1024 * 1024
MAX_HEAD = 1024 * 1024
# An offer to go on in HTTP/2, which a server that does not know it ignores (RFC 9110 section 7.8).
_HTTP_2 = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n|$)", re.IGNORECASE)
# Below this, joining head and payload is cheaper than a second buffer.
SMALL = 16384


class FindsExchange(Protocol):
    """Says whether a request is for an API, and begins its exchange then."""

    def exchange(self, head: Head, connection: Connection) -> Exchange | None: ...


class FrontServices(Protocol):
    """What the front hands requests to."""

    api: InvokeApi
    urls: FunctionUrls
    verifier: Verifier | None

    @property
    def gateways(self) -> FindsExchange:
        """Those that know which requests are for an API."""

    def local(self, head: Head) -> tuple[int, bytes, bytes] | None:
        """Status, content type and body of the supervisor's own pages; None for all others."""

    def pass_through(self, head: Head, client: Connection) -> Passed: ...


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, services: FrontServices, connections: set[Connection], peer: str | None = None) -> None:
        self._services = services
        self._connections = connections
        self.peer = peer or ""
        self._parser: Any = None
        self._fresh = True
        self._keep_alive = True
        self._known = _NOTHING_KNOWN
        self._repeat: Repeat | None = None
        self.transport: asyncio.Transport
        self._held: list[bytes] = []
        # What the parser has found of requests behind the one that is being answered.
        self._ahead: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._begun = False
        self._releasing = False
        self._answering = False
        self._closing = False
        self._body_size = 0
        self._chunks: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._names: list[bytes] = []
        self._head_size = 0
        self._url = b""
        self._head: Head | None = None
        self._passed: Passed | None = None
        self._hot = False
        self._exchange: Exchange | None = None
        # The last host whose requests are nobody's but the engine's own, save by their path.
        self._plain: bytes | None = None
        self._upgraded: Upgraded | None = None
        self._refused: AwsError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        peer = transport.get_extra_info("peername")
        if not self.peer and isinstance(peer, tuple):
            self.peer = str(peer[0])
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        # Parser and connection know each other, and the collector of cycles comes by rarely.
        self._parser = None
        self._chunks, self._held = [], []
        self._ahead.clear()
        if self._passed is not None:
            self._passed.abort()
            self._passed = None

    def pause_writing(self) -> None:
        if self._passed is not None:
            self._passed.pause()

    def resume_writing(self) -> None:
        if self._passed is not None:
            self._passed.resume()

    def data_received(self, data: bytes) -> None:
        if self._answering:
            if self._upgraded is not None:
                self._upgraded.received(data)
                return
            self._held.append(data)
            self.transport.pause_reading()
            return
        if self._fresh and data.startswith(HOT_START) and (self._once_more(data) or self._fast(data)):
            return
        if self._fresh and _HTTP_2.search(data, 0, data.find(b"\r\n\r\n")):
            # Curl and Java offer it with every request. Whoever does not want it ignores it; the parser would ignore the body.
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _HTTP_2.sub(b"", head) + end + rest
        self._fresh = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            # The rest is for whoever has switched protocols; where nobody does, the offer is ignored and it is the next request.
            if not self._closing and (rest := data[e.args[0] :]):
                self.data_received(rest)
        except httptools.HttpParserError:
            self._in_turn(self._bad_request)

    def _once_more(self, data: bytes) -> bool:
        """Take a request with the very head that this client sent last, as load generators and plain HTTP clients do."""
        known, size, url, options = self._known
        if len(data) != size or not data.startswith(known):
            return False
        body = data[len(known) :]
        caller = None
        if self._repeat is not None:
            verifier = self._services.verifier
            if verifier is None or not verifier.holds(self._repeat, body, time.time()):
                return False
            caller = self._repeat.principal
        self._answering = self._keep_alive = True
        try:
            self._services.api.invoke(url, options, body, self, caller, lane=True)
        except AwsError as e:
            self.answer(replies.error(e, keep_alive=True))
        return True

    def _fast(self, data: bytes) -> bool:
        """Take a whole, plain Invoke request that came in one piece; False leaves everything to the full parser.

        Only requests that no parser could read in two ways qualify: one Content-Length that matches the bytes at hand, no transfer
        coding, no expectation, no change of connection, HTTP/1.1. The engine is the last reader of such a request, so nothing
        behind it can be made to see another one.
        """
        end = data.find(b"\r\n\r\n", 27, MAX_FAST_HEAD)
        line_end = data.find(b" HTTP/1.1\r\n", 27, end)
        if end < 0 or line_end < 0:
            return False
        head = data[line_end + 9 : end + 2].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0 or head.find(b"\r\ncontent-length:", at + 17) >= 0:
            return False
        length = head[at + 17 : head.find(b"\r\n", at + 17)].strip()
        if not length.isdigit() or int(length) != len(data) - end - 4 or int(length) > MAX_BODY:
            return False
        # A function URL or an API may have any path, this one too.
        if b"\r\ntransfer-encoding:" in head or b"\r\nexpect:" in head or b"\r\nupgrade:" in head or MARK in head or API_MARK in head:
            return False
        if b"\r\nconnection:" in head and b"\r\nconnection: keep-alive\r\n" not in head:
            return False
        url = data[5:line_end]
        path = url.partition(b"?")[0] if b"?" in url else url
        if not path.endswith((b"/invocations", b"/invocations/")) or b" " in url:
            return False
        account = kind = log_type = context = trace = tenant = None
        if b"\r\nx-am" in head:
            if b"\r\nx-amz-invocation-type:" in head:
                kind = self._value(data, head, b"\r\nx-amz-invocation-type:", line_end + 9)
                if kind != b"RequestResponse" and (kind != b"Event" or not self._services.api.takes_events):
                    return False
            log_type = self._value(data, head, b"\r\nx-amz-log-type:", line_end + 9)
            tenant = tenancy.plain(self._value(data, head, b"\r\nx-amz-tenant-id:", line_end + 9)) if b"\r\nx-amz-tenant-id:" in head else None
            if b"\r\nx-amz-durable-execution-name:" in head or log_type not in LOG_TYPES or tenant == "":
                return False
            context = self._value(data, head, b"\r\nx-amz-client-context:", line_end + 9)
            trace = self._value(data, head, b"\r\nx-amzn-trace-id:", line_end + 9)
        at = head.find(b"credential=")
        if at >= 0 and head[at + 23 : at + 24] == b"/" and head[at + 11 : at + 23].isdigit():
            account = head[at + 11 : at + 23]
        self._answering = self._keep_alive = True
        body = data[end + 4 :]
        options = (account, kind if kind == b"Event" else None, log_type, context, trace, tenant)
        try:
            if self._services.verifier is not None:
                self._known = _NOTHING_KNOWN
                self._signed(url, _split(data[line_end + 11 : end]), options, body, self, lane=True)
                self._repeat = self._services.verifier.repeat
                if self._repeat is not None:
                    self._known = (data[: end + 4], len(data), url, options)
            else:
                self._known = (data[: end + 4], len(data), url, options)
                self._services.api.invoke(url, options, body, self, lane=True)
        except AwsError as e:
            self.answer(replies.error(e, keep_alive=True))
        return True

    @staticmethod
    def _value(data: bytes, head: bytes, name: bytes, offset: int) -> bytes | None:
        """A header's value from the original bytes; ``head`` is their lower-case copy from ``offset``."""
        at = head.find(name)
        if at < 0:
            return None
        return data[offset + at + len(name) : offset + head.find(b"\r\n", at + len(name))].strip()

    def _bad_request(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.transport.write(replies.simple(400, b"text/plain", b"Bad Request\n", keep_alive=False))
        self.transport.close()

    # httptools callbacks

    def _in_turn(self, act: Callable[..., None], *found: Any) -> None:
        """``act`` on what was found, after the requests before it are answered."""
        if self._answering or self._ahead:
            self._ahead.append((act, found))
        else:
            act(*found)

    def on_message_begin(self) -> None:
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self._in_turn(self._take_url, url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._in_turn(self._take_header, name, value)

    def on_headers_complete(self) -> None:
        parser = self._parser
        found = (parser.get_method(), parser.should_keep_alive(), parser.get_http_version() == "1.1", parser.should_upgrade())
        self._in_turn(self._take_head, *found)

    def on_body(self, body: bytes) -> None:
        self._in_turn(self._take_body, body)

    def on_message_complete(self) -> None:
        self._begun = False
        self._in_turn(self._take_end, self._parser.should_keep_alive())

    def _take_url(self, url: bytes) -> None:
        self._url += url
        self._grow(len(url))

    def _take_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))
        self._names.append(name)
        self._grow(len(name) + len(value))

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise httptools.HttpParserError("request head too large")

    def _take_head(self, method: bytes, keep_alive: bool, may_expect: bool, offers: bool) -> None:
        if method == b"CONNECT":
            raise httptools.HttpParserError("not a proxy")
        if self._url.startswith(b"http://"):
            # As asked of a proxy (RFC 9112 section 3.2.2).
            self._url = b"/" + self._url[7:].partition(b"/")[2]
        head = self._head = Head(method, self._url, self._headers, self.peer, self._names)
        host, by_host = head.header(b"host"), self._url.startswith(OPERATIONS)
        if not by_host or host != self._plain:
            self._exchange = self._services.urls.exchange(head, self) or self._services.gateways.exchange(head, self)
            if by_host and self._exchange is None:
                self._plain = host or b""
        if offers and self._exchange is None and (head.header(b"transfer-encoding") or head.header(b"content-length") not in {None, b"0"}):
            raise httptools.HttpParserError("the parser takes the body for another protocol")
        streamed = self._url.startswith(STREAMED) and head.path.rstrip(b"/").endswith(b"/response-streaming-invocations")
        invoked = streamed or (self._url.startswith(FUNCTIONS) and self._is_invoke(head))
        self._hot = method == b"POST" and invoked and self._exchange is None
        if may_expect and (head.header(b"expect") or b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._exchange is not None:
            head.keep_alive = keep_alive and head.header(b"upgrade") is None
        elif not self._hot and self._services.local(head) is None:
            head.keep_alive = keep_alive
            self._passed = self._services.pass_through(head, self)

    def _is_invoke(self, head: Head) -> bool:
        if not head.path.rstrip(b"/").endswith(b"/invocations"):
            return False
        kind = head.header(b"x-amz-invocation-type")
        return kind is None or kind in (b"RequestResponse", b"DryRun") or (kind == b"Event" and self._services.api.takes_events)

    def _take_body(self, body: bytes) -> None:
        if self._passed is not None:
            self._passed.body(body)
            return
        self._body_size += len(body)
        if self._body_size <= MAX_BODY:
            self._chunks.append(body)

    def _take_end(self, keep_alive: bool) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - headers come before the end
        self._keep_alive = head.keep_alive = head.keep_alive and keep_alive
        self._answering = True
        if self._passed is not None:
            self._passed.end()
            return
        if self._hot or self._exchange is not None:
            chunks = self._chunks
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if self._exchange is not None:
                self._exchange.serve(body, too_large=self._body_size > MAX_BODY)
            else:
                self._invoke(head, body)
            return
        page = self._services.local(head)
        status, kind, body = page if page is not None else (404, b"text/plain", b"Not Found\n")
        self.answer(replies.simple(status, kind, body, keep_alive=head.keep_alive, head_only=head.method == b"HEAD"))

    def _invoke(self, head: Head, body: bytes) -> None:
        services = self._services
        try:
            if self._body_size > MAX_BODY:
                raise RequestEntityTooLarge(
                    f"Request must be smaller than {MAX_BODY} bytes for the InvokeFunction operation"
                )
            options = options_of(head.headers)
            reply: HttpReplyTo = self
            if head.url.startswith(STREAMED):
                check_streamed(options)
                streamed = StreamReply(self, keep_alive=head.keep_alive)
                self._passed = reply = streamed
            if services.verifier is not None:
                self._signed(head.url, head.headers, options, body, reply)
            else:
                services.api.invoke(head.url, options, body, reply)
        except AwsError as e:
            self.answer(replies.error(e, keep_alive=head.keep_alive))

    def _signed(
        self,
        url: bytes,
        headers: list[tuple[bytes, bytes]],
        options: InvokeOptions,
        body: bytes,
        reply: HttpReplyTo,
        *,
        learnt: bool = False,
        lane: bool = False,
    ) -> None:
        """Invoke for whoever has signed. Raises AwsError. A key that nobody knows yet may have to be asked for first."""
        verifier = self._services.verifier
        assert verifier is not None  # noqa: S101 - asked by the caller
        path, _, query = url.partition(b"?")
        try:
            caller = verifier.verify("POST", path.decode("latin-1"), query.decode("latin-1"), headers, body, time.time(), b"lambda")
        except UnrecognizedClient as e:
            if not learnt and verifier.learn(e.access_key, lambda: self._again(url, headers, options, body, reply)):
                return
            raise
        self._services.api.invoke(url, options, body, reply, caller, lane=lane)

    def _again(
        self, url: bytes, headers: list[tuple[bytes, bytes]], options: InvokeOptions, body: bytes, reply: HttpReplyTo
    ) -> None:
        try:
            self._signed(url, headers, options, body, reply, learnt=True)
        except AwsError as e:
            self.answer(replies.error(e, keep_alive=self._keep_alive))

    # ReplyTo

    def answered(self, request: Request, outcome: Outcome) -> None:
        """The invocation's answer: payload untouched."""
        payload = outcome.payload
        head = replies.invoked(request, outcome, keep_alive=self._keep_alive)
        if self._fresh:
            if not self._closing:
                if len(payload) < SMALL:
                    self.transport.write(head + payload)
                else:
                    self.transport.writelines((head, payload))
            self._answering = False
            if not self._keep_alive:
                self._closing = True
                self.transport.close()
            elif self._held:
                self._release()
            return
        self.answer(head, payload)

    def deliver(self, reply: bytes) -> None:
        """The whole answer to an invocation that took the compiled lane."""
        if not self._closing:
            self.transport.write(reply)
        self._answering = False
        if not self._keep_alive:
            self._closing = True
            self.transport.close()
        elif self._held:
            self._release()

    def reply_to(self, _call_id: int) -> Connection:
        """Who answers an invocation that left the compiled lane."""
        return self

    def failed(self, request: Request, error: AwsError) -> None:
        self.answer(replies.error(error, request_id=request.request_id, keep_alive=self._keep_alive))

    def dry_run(self, request_id: str) -> None:
        """204: the parameters and permissions are fine."""
        self.answer(replies.no_content(request_id, keep_alive=self._keep_alive))

    def accepted(self, request_id: str, trace: str) -> None:
        """202: the event is on the disk."""
        self.answer(replies.accepted(request_id, trace, keep_alive=self._keep_alive))

    def refused(self, request_id: str, error: AwsError) -> None:
        """The event was not accepted."""
        self.answer(replies.error(error, request_id=request_id, keep_alive=self._keep_alive))

    def answer(self, head: bytes, payload: bytes = b"") -> None:
        """Write a whole answer and turn to the next request."""
        if not self._closing:
            if len(payload) < SMALL:
                self.transport.write(head + payload)
            else:
                self.transport.writelines((head, payload))
        self.done()

    def done(self) -> None:
        """The current request is answered."""
        keep_alive = self._keep_alive if self._head is None else self._head.keep_alive
        self._head = None
        self._passed = None
        self._answering = False
        self._fresh = not self._begun and not self._ahead
        self._hot = False
        self._exchange = None
        self._url = b""
        self._headers = []
        self._names = []
        self._head_size = 0
        self._chunks = []
        self._body_size = 0
        if self._closing:
            return
        if not keep_alive:
            self._closing = True
            self._ahead.clear()
            self.transport.close()
        elif self._ahead or self._held:
            self._release()

    def _release(self) -> None:
        """Turn to what was found, and then to the bytes that came, while a request was being answered."""
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._ahead and not self._answering and not self._closing:
                act, found = self._ahead.popleft()
                act(*found)
        except httptools.HttpParserError:
            self._bad_request()
        finally:
            self._releasing = False
        if self._held and not self._answering and not self._closing:
            held, self._held = self._held, []
            self.transport.resume_reading()
            self.data_received(b"".join(held))

    def broken(self) -> None:
        """The other server ended in the middle of its answer: the client must see a broken connection."""
        self._closing = True
        self._passed = None
        self.transport.abort()

    def replace_passed(self, passed: Passed) -> Passed:
        """Another takes over the current request."""
        self._passed = passed
        return passed

    def upgrade(self, upgraded: Upgraded, head: bytes) -> None:
        """Answer with a switch of protocols: from now on the client's bytes are for ``upgraded``."""
        self.transport.write(head)
        self._passed = self._upgraded = upgraded
        held, self._held = self._held, []
        self.transport.resume_reading()
        for data in held:
            upgraded.received(data)

    def close_when_idle(self) -> None:
        """Drain: close now when nothing is being answered, else after the answer."""
        if self._upgraded is not None:
            self._upgraded.going_away()
        elif self._head is None and not self._answering:
            self.transport.close()
        else:
            self._keep_alive = False
            if self._head is not None:
                self._head.keep_alive = False


def _split(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Header lines as pairs; a line without a colon gets an empty value and can then only fail its signature."""
    pairs = (line.partition(b":") for line in lines.split(b"\r\n"))
    return [(name, value.strip()) for name, _, value in pairs]
