"""Requests that are not ours to answer: streamed to another server and its answer streamed back.

Both directions with back-pressure, over a kept connection where the caller has some, else over one of the request's own. The head is
rewritten only where HTTP/1.1 says hop by hop (RFC 9110 section 7.6.1); bodies are never buffered beyond what waits for the connection
to open.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httptools

from engine.errors import AwsError, ServiceError
from engine.supervisor import replies
from engine.supervisor.exchanges import Head
from engine.supervisor.front import Connection
from engine.supervisor.upstreams import Upstream, Upstreams

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"upgrade", b"expect", b"trailer")
)
# In a head that no more than one header has to be added to.
_HOP_BY_HOP = re.compile(rb"\r\n(?:%b):" % b"|".join(HOP_BY_HOP))
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,12})\r\n")
# Waiting bytes at which the client is asked to pause.
HIGH_WATER = 1024 * 1024

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]


def unreachable(reason: str) -> AwsError:
    """ServiceException with 502: whoever was to answer is not there, or broke off before it said anything."""
    error = ServiceError(reason)
    error.status = 502
    return error


class Passing(asyncio.Protocol):
    """One request on its way: ``exchanges.Passed`` on one side, the upstream's protocol on the other."""

    def __init__(
        self,
        head: Head,
        client: Connection,
        connect: Connect,
        extra: list[tuple[bytes, bytes]],
        answered: Callable[[], None] | None = None,
        kept: Upstreams | None = None,
    ) -> None:
        """``extra`` headers are ours: what the client calls by those names is not passed on. ``answered`` is called before the answer is.

        ``kept``: where ``connect``'s connections are taken from and given back to.
        """
        self._answered = answered
        self._kept = kept
        self._link: Upstream | None = None
        self._head = head
        self._client = client
        self._upstream: asyncio.Transport | None = None
        self._chunked = head.header(b"transfer-encoding") is not None
        self._waiting: list[bytes] = [self._request_head(head, extra, keep=kept is not None, chunked=self._chunked)]
        self._waiting_size = 0
        self._request_done = False
        self._response_started = False
        self._response_done = False
        self._dropped = False
        self._held_back = False
        self._keeps = False
        self._parser: Any = None
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._rechunk = False
        self._bodiless = False
        self._out: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._link = None if kept is None else kept.take(self)
        if self._link is None:
            self._task = asyncio.ensure_future(self._open(connect))
        else:
            # The head waits for the body, or for the end of the request: one segment in place of two.
            self._upstream = self._link.transport

    @staticmethod
    def _request_head(head: Head, extra: list[tuple[bytes, bytes]], *, keep: bool, chunked: bool) -> bytes:
        lines = [b"%b %b HTTP/1.1\r\n" % (head.method, head.url)]
        not_passed = HOP_BY_HOP.union([k for k, _ in extra])
        lines += [
            b"%b: %b\r\n" % header
            for header in head.headers
            if header[0] not in not_passed and not header[0].startswith(b"x-lambda-engine-")
        ]
        lines += [b"%b: %b\r\n" % header for header in extra]
        if chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n" if keep else b"connection: close\r\n\r\n")
        return b"".join(lines)

    async def _open(self, connect: Connect) -> None:
        protocol: asyncio.Protocol = self
        if self._kept is not None:
            protocol = self._link = Upstream(self._kept, self)
        try:
            await connect(lambda: protocol)
        except (OSError, TimeoutError) as e:
            self._fail(f"{e}" or type(e).__name__)

    # exchanges.Passed

    def body(self, data: bytes) -> None:
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if self._upstream is None:
            self._waiting_size += len(data)
            if self._waiting_size > HIGH_WATER:
                self._client.transport.pause_reading()

    def end(self) -> None:
        self._request_done = True
        self._send(b"0\r\n\r\n" if self._chunked else b"")
        if self._response_done:
            self._client.done()

    def _send(self, data: bytes) -> None:
        """Send, after what waits; without a connection it waits too."""
        if self._waiting or self._upstream is None:
            self._waiting.append(data)
            data = b""
            if self._upstream is not None:
                waiting, self._waiting = self._waiting, []
                data = b"".join(waiting)
        if data and self._upstream is not None:
            self._upstream.write(data)

    def abort(self) -> None:
        """The client went away."""
        self._dropped = True
        if self._task is not None:
            self._task.cancel()
        if self._upstream is not None:
            self._upstream.abort()

    def pause(self) -> None:
        if self._upstream is not None:
            self._held_back = True
            self._upstream.pause_reading()

    def resume(self) -> None:
        if self._upstream is not None:
            self._held_back = False
            self._upstream.resume_reading()

    # asyncio.Protocol, the upstream side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._dropped:
            transport.close()
            return
        self._upstream = transport  # type: ignore[assignment]
        self._send(b"")
        if self._waiting_size > HIGH_WATER:
            self._client.transport.resume_reading()

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._response_done:
            return
        if self._parser is None:
            whole = self._at_once(data) if self._kept is not None and self._request_done else None
            if whole is not None:
                self._response_started = self._response_done = self._keeps = True
                if self._answered is not None:
                    self._answered()
                if not self._dropped:
                    self._client.transport.write(whole)
                self._finish()
                return
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("the upstream server does not speak HTTP/1.1")
        if self._out and not self._dropped:
            out, self._out = self._out, []
            self._client.transport.write(b"".join(out))
        if self._response_done:
            # It knows this object as this object knows it, and the collector of cycles comes by rarely.
            self._parser = None
            self._finish()

    def _at_once(self, data: bytes) -> bytes | None:
        """The answer for the client, if this is all of it and its head says so in the plainest way; only for a server of our own."""
        end = data.find(b"\r\n\r\n")
        status = _STATUS.match(data)
        if end < 0 or status is None or self._head.method == b"HEAD" or not self._head.keep_alive:
            return None
        head = data[: end + 2].lower()
        if _HOP_BY_HOP.search(head):
            return None
        length = _LENGTH.search(head)
        size = 0 if status[1] in {b"204", b"304"} else -1 if length is None else int(length[1])
        if len(data) != end + 4 + size:
            return None
        return b"%b\r\nConnection: keep-alive%b" % (data[:end], data[end:])

    def connection_lost(self, exc: Exception | None) -> None:
        self._parser = None
        if self._response_done or self._dropped:
            return
        if self._response_started and self._rechunk and exc is None and not self._has(b"transfer-encoding"):
            self._client.transport.write(b"0\r\n\r\n")
            self._response_done = True
            self._finish()
        else:
            self._fail("the upstream server closed the connection")

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers = []
            return
        self._response_started = True
        self._keeps = self._parser.should_keep_alive()
        if self._answered is not None:
            self._answered()
        self._bodiless = self._head.method == b"HEAD" or status in (204, 304)
        self._rechunk = not self._bodiless and not self._has(b"content-length")
        reason = replies.REASONS.get(status, "Unknown")
        lines = [f"HTTP/1.1 {status} {reason}\r\n".encode()]
        lines += [k + b": " + v + b"\r\n" for k, v in self._headers if k.lower() not in HOP_BY_HOP]
        if self._rechunk:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        keep = self._head.keep_alive and self._request_done
        lines.append(b"Connection: keep-alive\r\n\r\n" if keep else b"Connection: close\r\n\r\n")
        if not keep:
            self._head.keep_alive = False
        self._out.append(b"".join(lines))
        if self._bodiless:
            self._response_done = True

    def _has(self, name: bytes) -> bool:
        return any(k.lower() == name for k, _ in self._headers)

    def on_body(self, data: bytes) -> None:
        self._out.append(b"%x\r\n%b\r\n" % (len(data), data) if self._rechunk else data)

    def on_message_complete(self) -> None:
        if not self._response_started:
            return
        if self._rechunk and not self._response_done:
            self._out.append(b"0\r\n\r\n")
        self._response_done = True

    def _finish(self) -> None:
        if self._upstream is not None:
            if self._kept is not None and self._link is not None and self._may_be_kept():
                self._kept.give(self._link)
            else:
                self._upstream.close()
        if self._dropped:
            return
        if self._request_done:
            self._client.done()
        else:
            self._client.transport.close()

    def _may_be_kept(self) -> bool:
        return self._request_done and not self._dropped and not self._held_back and self._keeps

    def _fail(self, reason: str) -> None:
        if self._response_done or self._dropped:
            return
        self._response_done = True
        if self._upstream is not None:
            self._upstream.abort()
        if self._response_started:
            self._client.broken()
            return
        self._head.keep_alive = False
        self._client.transport.write(replies.error(unreachable(reason), keep_alive=False))
        self._client.transport.close()


class Collecting:
    """``exchanges.Passed`` that keeps the whole request and hands it over at its end, for checks that need the body.

    One of more than ``limit`` bytes is read to its end, not kept, and answered by ``refuse``.
    """

    def __init__(self, limit: int, then: Callable[[bytes], None], refuse: Callable[[], None]) -> None:
        self._limit = limit
        self._then = then
        self._refuse = refuse
        self._chunks: list[bytes] = []
        self._size = 0

    def body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._chunks.append(data)
        else:
            self._chunks.clear()

    def end(self) -> None:
        if self._size > self._limit:
            self._refuse()
        else:
            self._then(b"".join(self._chunks))

    def abort(self) -> None:
        self._chunks.clear()

    def pause(self) -> None:
        """Nothing flows."""

    def resume(self) -> None:
        """Nothing flows."""
