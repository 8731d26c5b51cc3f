"""How streamed answers of function URLs are written, piece by piece, against a connection that records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.core import invocation as inv
from engine.core.stats import FunctionStats
from engine.errors import TooManyRequests
from engine.supervisor.exchanges import Head
from engine.supervisor.streaming import PRELUDE_TYPE
from engine.supervisor.url_replies import MAX_PRELUDE, UrlStream


class Recorder:
    """A connection as far as a reply knows it."""

    def __init__(self) -> None:
        self.written = b""
        self.ended: list[str] = []
        self.transport = self

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(parts)

    def answer(self, head: bytes, payload: bytes = b"") -> None:
        self.written += head + payload
        self.done()

    def done(self) -> None:
        self.ended.append("done")

    def broken(self) -> None:
        self.ended.append("broken")


class Case:
    """One streamed exchange."""

    def __init__(self, method: bytes = b"GET") -> None:
        self.connection = Recorder()
        self.stats = FunctionStats()
        self.resumed = 0
        head = Head(method, b"/", [], "")
        self.stream = UrlStream(self.connection, head, None, b"Root=1", self.stats)  # type: ignore[arg-type]
        self.request: Any = SimpleNamespace(request_id="r-1")

    def begin(self, content_type: str = PRELUDE_TYPE) -> None:
        self.stream.begin(self.request, content_type, self._resume)

    def _resume(self) -> None:
        self.resumed += 1

    @property
    def status(self) -> bytes:
        return self.connection.written.partition(b"\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.connection.written.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_prelude_may_come_in_any_pieces(cut: int) -> None:
    case = Case()
    case.begin()
    data = b'{"statusCode":201}' + bytes(8) + b"body"
    for at in range(0, len(data), cut):
        case.stream.piece(data[at : at + cut])
    case.stream.answered(case.request, inv.success(b""))
    assert case.status == b"HTTP/1.1 201 Created"
    assert b"".join(part for part in case.body.split(b"\r\n")[1::2] if part) == b"body"
    assert case.body.endswith(b"0\r\n\r\n")
    assert case.connection.ended == ["done"]
    assert case.stats.urls == {"2xx": 1}


def test_nothing_of_the_function_gets_into_the_head() -> None:
    case = Case()
    case.begin("text/plain\r\nSet-Cookie: a=b")
    case.stream.piece(b"x")
    case.stream.answered(case.request, inv.success(b""))
    assert case.status == b"HTTP/1.1 502 Bad Gateway"
    assert b"Set-Cookie" not in case.connection.written
    assert case.connection.ended == ["done"], "answered once"
    assert case.stats.urls == {"5xx": 1}


def test_a_prelude_without_an_end_is_given_up() -> None:
    case = Case()
    case.begin()
    for _ in range(MAX_PRELUDE // 65536 + 1):
        case.stream.piece(b"x" * 65536)
    assert case.status == b"HTTP/1.1 502 Bad Gateway"
    case.stream.piece(b"more")
    case.stream.answered(case.request, inv.success(b""))
    assert case.connection.ended == ["done"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_failure_is_a_502_until_something_was_sent(begun: bool) -> None:
    case = Case()
    case.begin()
    if begun:
        case.stream.piece(b"{}" + bytes(8) + b"half")
    case.stream.answered(case.request, inv.timed_out("r-1", 3.0))
    assert case.connection.ended == ["broken" if begun else "done"]
    assert case.status == (b"HTTP/1.1 200 OK" if begun else b"HTTP/1.1 502 Bad Gateway")


def test_throttled_head_and_bodiless_answers() -> None:
    throttled = Case()
    throttled.stream.failed(throttled.request, TooManyRequests("Rate Exceeded.", fields={"Reason": "x"}))
    assert throttled.status == b"HTTP/1.1 429 Too Many Requests"
    for case, head in ((Case(b"HEAD"), b"{}"), (Case(), b'{"statusCode":204}'), (Case(), b'{"statusCode":304}')):
        case.begin()
        case.stream.piece(head + bytes(8) + b"body")
        case.stream.answered(case.request, inv.success(b""))
        assert case.body == b""
        assert b"chunked" not in case.connection.written
        assert case.connection.ended == ["done"]


def test_back_pressure_goes_to_the_function_and_a_lost_client_frees_it() -> None:
    case = Case()
    case.begin("text/plain")
    assert case.stream.piece(b"1")
    case.stream.pause()
    assert not case.stream.piece(b"2")
    case.stream.resume()
    assert case.resumed == 1
    assert case.stream.piece(b"3")
    written = case.connection.written
    case.stream.abort()
    assert case.resumed == 2
    assert case.stream.piece(b"4")
    case.stream.answered(case.request, inv.success(b""))
    assert case.connection.written == written
    assert case.connection.ended == []
