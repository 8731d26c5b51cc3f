"""HTTP/1.1, the server's side of one connection: requests in order, one at a time, each answered with one write.

What a client of the APIs sends is nearly always what it sent before, with another invocation's id and another length: that is recognised
without the general parser (``Shape``). Bodies are collected up to a cap, or handed on piece by piece to whoever asked for that (a streamed response). Chunked bodies may have trailers.
"""

from __future__ import annotations

import re
import socket
from typing import Any, Callable, Optional, Tuple

from runtime_bootstrap.agent.loop import READ, WRITE, Loop
from runtime_bootstrap.agent.shapes import Headers, Shape

# A read of more has the C library map memory for it and unmap it again, every time: only for what does not fit.
_READ, _READ_BIG = 16 * 1024, 256 * 1024
_MAX_HEAD = 64 * 1024
# Unread bytes that a client may pile up behind a request that is still being answered.
_MAX_AHEAD = 1024 * 1024
# Ends in an id and one more part.
_ID_PATH = re.compile(rb"[^ ]*/[0-9a-fA-F-]{36}/[a-z]+")
_REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 410: "Gone", 413: "Request Entity Too Large", 500: "Internal Server Error"}
_HEADS = {
    (status, kind): ("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: " % (status, reason, kind)).encode()
    for status, reason in _REASONS.items()
    for kind in ("application/json", "text/plain")
}
# The whole answer to nearly every request that tells something.
ACCEPTED = _HEADS[202, "application/json"] + b'15\r\n\r\n{"status":"OK"}'


class Malformed(Exception):
    """The bytes are no HTTP request; the connection ends."""


class Sink:
    """Takes the body of one request. ``data`` comes any number of times, then ``end`` or, when the client broke off, ``broken``."""

    def data(self, piece: bytes) -> None:
        raise NotImplementedError

    def end(self, trailers: "dict[bytes, bytes]") -> None:
        raise NotImplementedError

    def broken(self) -> None:
        """The connection ended in the middle."""


class Exchange:
    """A request on its connection, to be answered exactly once with ``reply``."""

    __slots__ = ("_headers", "answered", "connection", "keep_alive", "method", "path")

    def __init__(self, connection: "Connection", method: bytes, path: bytes, headers: Headers) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self._headers = headers
        self.keep_alive = True
        self.answered = False

    def value(self, name: bytes) -> Optional[bytes]:
        """A header by its name in lower case; None when it is absent."""
        return self._headers.value(name)

    def header(self, name: bytes) -> str:
        """As text, "" when it is absent."""
        return (self.value(name) or b"").decode("latin-1")

    def reply(self, status: int, body: bytes, kind: str = "application/json", more: bytes = b"") -> None:
        """Answer. ``more`` is whole header lines. Nothing when the connection is gone."""
        self.reply_raw(b"%b%d\r\n%b" % (_HEADS[status, kind], len(body), more), body)

    def accept(self) -> None:
        """Answer 202, as nearly every request that tells something is."""
        if self.keep_alive and not self.answered:
            self.answered = True
            self.connection.finish(self, ACCEPTED, b"")
        else:
            self.reply(202, b'{"status":"OK"}')

    def reply_raw(self, head: bytes, body: bytes) -> None:
        """Answer with a head of one's own, without its last empty line."""
        if self.answered:
            return
        self.answered = True
        end = b"\r\n" if self.keep_alive else b"Connection: close\r\n\r\n"
        self.connection.finish(self, head + end, body)


# Chooses what to do with a request from its head: a sink for its body, or None to have it collected and given to ``whole``.
Begin = Callable[[Exchange], Optional[Sink]]
Whole = Callable[[Exchange, bytes], Any]
# A poll and its path; the head of an answer before its id, before its length and after it, and its headers.
Heads = Tuple[bytes, bytes, bytes, bytes, bytes, Headers]


class Connection:
    """One client. ``begin`` and ``whole`` are the router's two halves; ``cap`` bounds a collected body."""

    def __init__(self, loop: Loop, sock: socket.socket, begin: Begin, whole: Whole, cap: "Callable[[Exchange], int]") -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._begin = begin
        self._whole = whole
        self._cap = cap
        self._in = b""
        self._big = False
        # Of the last request with a body, and of the last without.
        self._posts: Optional[Shape] = None
        self._polls: Optional[Shape] = None
        self._poll_path = b""
        # What ``repeats`` tells, and of what.
        self._heads: "Optional[Heads]" = None
        self._heads_of: Optional[Shape] = None
        self._heads_with: Optional[Shape] = None
        self._out: "list[memoryview]" = []
        self._exchange: Optional[Exchange] = None
        self._sink: Optional[Sink] = None
        self._left = 0
        self._chunked = False
        self._trailers: "Optional[dict[bytes, bytes]]" = None
        self._receiving = False
        self._paused = False
        self._closing = False
        self.closed = False
        # Called once when the client has gone, whatever it was waiting for.
        self.on_closed: "Optional[Callable[[], Any]]" = None
        loop.watch(self._fd, self._ready)

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if mask & ~WRITE and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BIG if self._big or self._receiving else _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            if self._in:
                # The rest of it will not come: whoever waits for its body must hear that.
                self._advance()
            self.close()
            return
        self._big = len(data) >= _READ
        self._take(data)

    def _take(self, data: bytes) -> None:
        if self._in:
            data = self._in + data
        if self._exchange is None and not self._receiving and self._known(data):
            return
        self._in = data
        self._advance()

    def fileno(self) -> int:
        return self._fd

    def repeats(self, exchange: Exchange) -> "Optional[Heads]":
        """What this client's next requests will look like, when it waits for the answer to ``exchange``, a request that it has made before,
        and nothing else is under way here; else None.
        """
        polls, posts = self._polls, self._posts
        if polls is None or posts is None or self._exchange is not exchange or self._in or self._out or self._closing or self._paused or self.closed:
            return None
        if self._heads is None or self._heads_of is not polls or self._heads_with is not posts:
            self._heads_of, self._heads_with = polls, posts
            self._heads = (polls.head, self._poll_path, *posts.parts, posts.headers)
        return self._heads if exchange.path == self._poll_path and exchange.keep_alive else None

    def resume_after(self, unsent: bytes, data: bytes) -> None:
        """The current request was answered elsewhere, but for ``unsent``, and ``data`` was read after it."""
        self._exchange = None
        if unsent:
            self._out = [memoryview(unsent)]
            self._watch()
        if data:
            self._take(data)

    def _known(self, data: bytes) -> bool:
        """Whether these bytes are one whole request, or the beginning of one, as this connection has had before; then it is dealt with."""
        shape = self._polls
        if shape is not None and shape.matches(data) is not None:
            self._in = b""
            exchange = self._exchange = Exchange(self, shape.method, self._poll_path, shape.headers)
            self._whole(exchange, b"")
            return True
        shape = self._posts
        found = None if shape is None else shape.matches(data)
        if shape is None or found is None:
            return False
        path, start, size = found
        if not size or size > _READ or len(data) > start + size:
            return False
        if len(data) < start + size:
            # Its body comes by itself: no use to look at the head before it is there.
            self._in = data
            return True
        self._in = b""
        exchange = self._exchange = Exchange(self, shape.method, path, shape.headers)
        body = data[start:]
        sink = self._begin(exchange)
        if sink is None:
            self._whole(exchange, body)
        else:
            sink.data(body)
            sink.end({})
        return True

    def _advance(self) -> None:
        """Use up what has been read, as far as it can be."""
        try:
            while self._in and not self.closed:
                if self._receiving:
                    if not self._body():
                        break
                elif self._exchange is not None:
                    # A request ahead of the answer to the former one: it waits.
                    if len(self._in) > _MAX_AHEAD:
                        self.close()
                    break
                elif not self._head():
                    break
        except Malformed:
            self._closing = True
            self._write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"")

    def _head(self) -> bool:
        """Read a request's head; False when it is not all there."""
        data = self._in
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MAX_HEAD:
                raise Malformed
            return False
        line_end = data.find(b"\r\n", 0, end)
        parts = (data[:end] if line_end < 0 else data[:line_end]).split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            raise Malformed
        headers = Headers(b"" if line_end < 0 else data[line_end:end])
        exchange = self._exchange = Exchange(self, parts[0], parts[1], headers)
        self._in = data[end + 4 :]
        connection = exchange.value(b"connection")
        if connection is not None or parts[2] == b"HTTP/1.0":
            wanted = (connection or b"").lower()
            exchange.keep_alive = wanted != b"close" if parts[2] != b"HTTP/1.0" else wanted == b"keep-alive"
        self._chunked = (exchange.value(b"transfer-encoding") or b"").lower() == b"chunked"
        length = exchange.value(b"content-length") or b"0"
        if not length.isdigit():
            raise Malformed
        self._left = 0 if self._chunked else int(length)
        self._trailers = None
        expect = exchange.value(b"expect")
        if expect is not None and expect.lower() == b"100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        if exchange.keep_alive and not self._chunked and expect is None and connection is None and line_end >= 0:
            self._remember(data[: end + 4], line_end, exchange, headers)
        self._start_body(exchange)
        return True

    def _remember(self, head: bytes, line_end: int, exchange: Exchange, headers: Headers) -> None:
        if exchange.method == b"GET" and headers.length_at() < 0:
            self._polls, self._poll_path = Shape(head, line_end, exchange.method, exchange.path, headers), exchange.path
        elif _ID_PATH.fullmatch(exchange.path) and headers.length_at() >= 0:
            self._posts = Shape(head, line_end, exchange.method, exchange.path, headers)

    def _start_body(self, exchange: Exchange) -> None:
        if self._left == 0 and not self._chunked:
            sink = self._begin(exchange)
            if sink is None:
                self._whole(exchange, b"")
            else:
                sink.end({})
            return
        if not self._chunked and len(self._in) == self._left:
            # The usual case: the whole request came in one piece.
            body, self._in, self._left = self._in, b"", 0
            sink = self._begin(exchange)
            if sink is None:
                self._whole(exchange, body)
            else:
                sink.data(body)
                sink.end({})
            return
        self._receiving = True
        sink = self._begin(exchange)
        self._sink = sink if sink is not None else _Collector(exchange, self._whole, self._cap(exchange))

    def _body(self) -> bool:
        """Use up bytes of a body; False when more must be read first."""
        if self._chunked:
            return self._chunk()
        sink = self._sink
        assert sink is not None
        data = self._in
        if len(data) > self._left:
            data, self._in = data[: self._left], data[self._left :]
        else:
            self._in = b""
        self._left -= len(data)
        if data:
            sink.data(data)
        if self._left == 0:
            self._end_body({})
        return True

    def _chunk(self) -> bool:
        """All whole and partial chunks at hand go on in one piece."""
        sink = self._sink
        assert sink is not None
        data, at, pieces = self._in, 0, []
        ended = False
        while True:
            if self._trailers is not None:
                at, ended = self._read_trailers(data, at)
                break
            if self._left == 0:
                end = data.find(b"\r\n", at)
                if end < 0:
                    if len(data) - at > 1024:
                        raise Malformed
                    break
                try:
                    # Two more for the line's end that follows the data.
                    size = int(data[at:end].split(b";")[0], 16)
                except ValueError:
                    raise Malformed from None
                at = end + 2
                if size == 0:
                    self._trailers = {}
                    continue
                self._left = size + 2
            piece = data[at : at + max(0, self._left - 2)]
            taken = min(self._left, len(data) - at)
            if piece:
                pieces.append(piece)
            at += taken
            self._left -= taken
            if self._left:
                break
        self._in = data[at:]
        if pieces:
            sink.data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended:
            trailers, self._trailers = self._trailers, None
            self._end_body(trailers or {})
            return True
        return False

    def _read_trailers(self, data: bytes, at: int) -> "tuple[int, bool]":
        assert self._trailers is not None
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > _MAX_HEAD * 128:
                    raise Malformed
                return at, False
            line = data[at:end]
            at = end + 2
            if not line:
                return at, True
            name, _, value = line.partition(b":")
            self._trailers[name.strip().lower()] = value.strip()

    def _end_body(self, trailers: "dict[bytes, bytes]") -> None:
        sink, self._sink = self._sink, None
        self._receiving = False
        if sink is not None:
            sink.end(trailers)

    def pause(self) -> None:
        """Read no more until ``resume``: whoever takes the body cannot keep up."""
        if not self._paused:
            self._paused = True
            self._watch()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._watch()

    def _watch(self) -> None:
        if not self.closed:
            self._loop.change(self._fd, (0 if self._paused else READ) | (WRITE if self._out else 0))

    def finish(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """The answer to the current request; a rest of its body that is still to come is for its sink to swallow."""
        if self.closed or exchange is not self._exchange:
            return
        if not exchange.keep_alive:
            self._closing = True
        self._exchange = None
        self._write(head, body)
        if self._in and not self.closed and not self._closing:
            self._loop.later(0.0, self._advance)

    def _write(self, head: bytes, body: bytes) -> None:
        if self.closed:
            return
        if self._out:
            self._out += [memoryview(head), memoryview(body)]
            return
        size = len(head) + len(body)
        try:
            sent = self._sock.sendmsg([head, body]) if len(body) > 4096 else self._sock.send(head + body)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        if sent < size:
            rest = [memoryview(head), memoryview(body)]
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            rest[0] = rest[0][sent:]
            self._out = rest
            self._watch()
        elif self._closing:
            self.close()

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._sock.send(self._out[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.close()
                return
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
            else:
                self._out.pop(0)
        self._watch()
        if self._closing:
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._loop.forget(self._fd)
        self._sock.close()
        self._exchange = None
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.broken()
        if self.on_closed is not None:
            self.on_closed()


class _Collector(Sink):
    """Puts a body together; of one over its cap only the size is remembered."""

    def __init__(self, exchange: Exchange, whole: Whole, cap: int) -> None:
        self._exchange = exchange
        self._whole = whole
        self._cap = cap
        self._pieces: "list[bytes]" = []
        self._size = 0

    def data(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._cap:
            self._pieces.append(piece)
        elif self._pieces:
            self._pieces.clear()

    def end(self, trailers: "dict[bytes, bytes]") -> None:
        if self._size > self._cap:
            self._exchange.reply(413, b'{"errorMessage":"Exceeded maximum allowed payload size (%d bytes).","errorType":"RequestEntityTooLarge"}' % self._cap)
            return
        self._whole(self._exchange, self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
