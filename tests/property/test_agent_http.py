"""The agent's HTTP: however requests are cut into segments they mean the same, and no bytes do worse than end their connection."""

from __future__ import annotations

import itertools
import socket
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime_bootstrap.agent.http import Connection, Exchange, Sink
from runtime_bootstrap.agent.loop import Loop

CAP = 100


class Recorder(Sink):
    def __init__(self, exchange: Exchange, seen: list[Any]) -> None:
        self.exchange = exchange
        self.seen = seen
        self.body = b""

    def data(self, piece: bytes) -> None:
        self.body += piece

    def end(self, trailers: dict[bytes, bytes]) -> None:
        self.seen.append((self.exchange.method, self.exchange.path, self.body, trailers))
        self.exchange.reply(202, b"{}")

    def broken(self) -> None:
        self.seen.append("broken")


class Server:
    """A connection of the agent's whose other end is ours."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.ours, theirs = socket.socketpair()
        self.seen: list[Any] = []
        self.connection = Connection(self.loop, theirs, self.begin, self.whole, lambda _exchange: CAP)
        self.theirs = theirs

    def begin(self, exchange: Exchange) -> Sink | None:
        return Recorder(exchange, self.seen) if exchange.path.startswith(b"/stream") else None

    def whole(self, exchange: Exchange, body: bytes) -> None:
        self.seen.append((exchange.method, exchange.path, body))
        exchange.reply(200, b"{}")

    def feed(self, data: bytes) -> None:
        if data:
            self.ours.sendall(data)
        self.loop.drain()
        self.loop.later(0, lambda: None)
        self.loop.turn()
        self.loop.drain()

    def close(self) -> None:
        self.connection.close()
        self.ours.close()


def encoded(request: tuple[bytes, bytes, bool], more: bytes = b"") -> bytes:
    path, body, chunked = request
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nX-Other: y\r\n%b" % (path, more)
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\nT: 1\r\n\r\n"


REQUESTS = st.lists(
    st.tuples(st.sampled_from([b"/whole", b"/stream/x"]), st.binary(max_size=CAP), st.booleans()), min_size=1, max_size=4
)


@given(REQUESTS, st.lists(st.integers(0, 600), max_size=8))
@settings(max_examples=100, deadline=None)
def test_segments_do_not_matter(requests: list[tuple[bytes, bytes, bool]], cuts: list[int]) -> None:
    data = b"".join(map(encoded, requests))
    places = sorted({0, *(c for c in cuts if c < len(data)), len(data)})
    server = Server()
    try:
        for a, b in itertools.pairwise(places):
            server.feed(data[a:b])
        for _ in range(2 * len(requests)):
            server.feed(b"")
        expected = [
            (b"POST", path, body, {b"t": b"1"} if chunked else {}) if path == b"/stream/x" else (b"POST", path, body)
            for path, body, chunked in requests
        ]
        assert server.seen == expected
    finally:
        server.close()


_IDS = [b"%08x-1111-4222-8333-444444444444" % n for n in range(3)]
ALIKE = st.lists(
    st.one_of(
        st.just(("poll", b"", b"")),
        st.tuples(st.just("poll"), st.just(b""), st.sampled_from([b"X: 1\r\n"])),
        st.tuples(
            st.sampled_from([b"/stream/%b/response" % i for i in _IDS] + [b"/whole/%b/error" % i for i in _IDS] + [b"/whole"]),
            st.binary(max_size=30),
            st.sampled_from([b"", b"", b"", b"X: 1\r\n", b"Expect: 100-continue\r\n", b"Connection: keep-alive\r\n"]),
        ),
    ),
    min_size=1,
    max_size=8,
)


@given(ALIKE, st.lists(st.integers(0, 1200), max_size=8))
@settings(max_examples=150, deadline=None)
def test_what_was_sent_before_means_the_same(requests: list[tuple[Any, bytes, bytes]], cuts: list[int]) -> None:
    sent = [
        b"GET /next HTTP/1.1\r\nHost: x\r\n%b\r\n" % more if path == "poll" else encoded((path, body, False), more)
        for path, body, more in requests
    ]
    expected: list[Any] = []
    for path, body, _ in requests:
        streamed = path != "poll" and path.startswith(b"/stream")
        expected.append((b"GET", b"/next", b"") if path == "poll" else (b"POST", path, body, {}) if streamed else (b"POST", path, body))
    data = b"".join(sent)
    wholes = list(itertools.accumulate(map(len, sent), initial=0))
    # As clients send, one request after the other, and cut anywhere.
    for places in (wholes, sorted({0, *(c for c in cuts if c < len(data)), len(data)})):
        server = Server()
        try:
            for a, b in itertools.pairwise(places):
                server.feed(data[a:b])
            for _ in range(2 * len(requests)):
                server.feed(b"")
            assert server.seen == expected
        finally:
            server.close()


def test_a_known_request_that_breaks_off_is_heard_of() -> None:
    server = Server()
    try:
        whole = encoded((b"/stream/%b/response" % _IDS[0], b"body", False))
        server.feed(whole)
        server.feed(whole[:-2])
        assert server.seen == [(b"POST", b"/stream/%b/response" % _IDS[0], b"body", {})]
        server.ours.shutdown(socket.SHUT_WR)
        server.feed(b"")
        assert server.seen[1:] == ["broken"]
    finally:
        server.close()


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes(data: bytes, after_a_head: bool) -> None:
    server = Server()
    try:
        server.feed((b"POST /stream HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" if after_a_head else b"") + data)
        assert server.connection.closed or server.theirs.fileno() >= 0
    finally:
        server.close()


def test_a_body_over_the_cap_is_refused_and_swallowed() -> None:
    server = Server()
    try:
        server.feed(b"POST /whole HTTP/1.1\r\nContent-Length: 300\r\n\r\n" + bytes(150))
        server.feed(bytes(150) + encoded((b"/whole", b"next", False)))
        server.feed(b"")
        assert server.seen == [(b"POST", b"/whole", b"next")]
        assert server.ours.recv(4096).startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
    finally:
        server.close()
