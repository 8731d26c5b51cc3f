"""An answer in pieces at the supervisor: limits, back-pressure, preludes, and messages that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from engine.core.invocation import Outcome, Status
from engine.errors import AwsError, WireError
from engine.supervisor import streaming
from engine.wire import messages as m

ID = "11111111-2222-4333-8444-555555555555"


class Channel:
    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Client:
    """A caller that takes streams, as long as ``eager``."""

    def __init__(self) -> None:
        self.eager = True
        self.content_type = ""
        self.pieces: list[bytes] = []
        self.resume: Callable[[], None] = lambda: None

    def begin(self, request: Any, content_type: str, resume: Callable[[], None]) -> None:
        self.content_type, self.resume = content_type, resume

    def piece(self, data: bytes) -> bool:
        self.pieces.append(data)
        return self.eager

    def answered(self, request: Any, outcome: Outcome) -> None: ...

    def failed(self, request: Any, error: AwsError) -> None: ...


class Buffering:
    def answered(self, request: Any, outcome: Outcome) -> None: ...

    def failed(self, request: Any, error: AwsError) -> None: ...


def started(to: Any, content_type: str | None = None, prelude: bytes | None = None) -> tuple[Any, Any]:
    instance = SimpleNamespace(response=None, channel=Channel())
    request = SimpleNamespace(reply_to=to)
    assert streaming.take(instance, request, [m.STREAM_START, ID, content_type, prelude]) is None  # type: ignore[arg-type]
    return instance, request


def chunk(instance: Any, request: Any, data: bytes) -> None:
    assert streaming.take(instance, request, [m.STREAM_CHUNK, ID, data]) is None


def paced(rate_mib_s: float) -> tuple[Any, Any, Client, list[Any], list[float]]:
    """A stream with a limit: instance, request, client, the timers asked for, and the time as a list of one."""
    client, timers, now = Client(), [], [100.0]
    instance, request = SimpleNamespace(response=None, channel=Channel()), SimpleNamespace(reply_to=client)
    pacing = streaming.Pacing(rate_mib_s, lambda: now[0], lambda *what: timers.append(what))
    streaming.take(instance, request, [m.STREAM_START, ID, None, None], pacing)  # type: ignore[arg-type]
    return instance, request, client, timers, now


def test_a_stream_is_slowed_down_to_the_bandwidth_after_its_first_6_mib() -> None:
    instance, request, client, timers, now = paced(2)
    mib = 1024 * 1024
    for _ in range(6):
        chunk(instance, request, bytes(mib))
    assert (timers, instance.channel.paused) == ([], False)
    chunk(instance, request, bytes(mib))
    [(wait_s, release)] = timers
    assert (wait_s, instance.channel.paused) == (0.5, True)
    # The client's own readiness changes nothing before the time has come.
    client.resume()
    assert instance.channel.paused
    now[0] += wait_s
    release()
    assert not instance.channel.paused
    chunk(instance, request, bytes(mib // 2))
    assert timers[1][0] == 0.25
    now[0] += 60
    timers[1][1]()
    for _ in range(6):
        chunk(instance, request, bytes(mib))
    assert len(timers) == 2, "the bucket is full again"
    assert end(instance, request).status is Status.SUCCESS


def test_a_stream_without_a_limit_is_not_slowed_down() -> None:
    client = Client()
    instance, request = started(client)
    for _ in range(20):
        chunk(instance, request, bytes(1024 * 1024))
    assert not instance.channel.paused


def end(instance: Any, request: Any, error_type: str | None = None, document: bytes | None = None) -> Outcome:
    whole = streaming.take(instance, request, [m.STREAM_END, ID, True, error_type, document])
    assert whole is not None
    assert whole[1] is True
    assert instance.response is None
    return whole[0]


def test_pieces_go_on_at_once() -> None:
    client = Client()
    pair = started(client, "text/x")
    chunk(*pair, b"a")
    chunk(*pair, b"b")
    assert (client.content_type, client.pieces) == ("text/x", [b"a", b"b"])
    outcome = end(*pair)
    assert (outcome.status, outcome.payload) == (Status.SUCCESS, b"")


def test_a_slow_client_stops_the_worker_until_it_has_caught_up() -> None:
    client = Client()
    instance, request = started(client)
    client.eager = False
    chunk(instance, request, b"a")
    assert instance.channel.paused
    client.resume()
    assert not instance.channel.paused


@pytest.mark.parametrize("hurried", [False, True])
def test_the_end_of_a_stream_lets_the_worker_go_on_though_the_client_has_not_caught_up(hurried: bool) -> None:
    """The client's readiness is nobody's business then: what the worker said to its next invocation was never read."""
    instance, request, client, timers, _ = paced(2)
    client.eager = False
    chunk(instance, request, bytes(7 << 20) if hurried else b"a")
    assert (instance.channel.paused, len(timers)) == (True, hurried)
    end(instance, request)
    assert not instance.channel.paused


def test_a_prelude_comes_first_with_its_end() -> None:
    client = Client()
    started(client, "ignored", b'{"statusCode":201}')
    assert client.content_type == streaming.PRELUDE_TYPE
    assert client.pieces == [b'{"statusCode":201}' + bytes(8)]


def test_a_stream_over_its_limit_is_cut_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MAX_STREAM", 10)
    client = Client()
    pair = started(client)
    for _ in range(4):
        chunk(*pair, b"12345")
    assert client.pieces == [b"12345", b"12345"]
    outcome = end(*pair)
    assert (outcome.status, outcome.error_type) == (Status.ERROR, "Function.ResponseSizeTooLarge")


def test_a_buffering_caller_gets_all_of_it_up_to_lambdas_limit() -> None:
    pair = started(Buffering())
    for data in (b"a", b"b"):
        chunk(*pair, data)
    assert end(*pair).payload == b"ab"
    pair = started(Buffering())
    for _ in range(7):
        chunk(*pair, bytes(1 << 20))
    assert end(*pair).error_type == "Function.ResponseSizeTooLarge"


def test_a_failure_carries_its_document() -> None:
    outcome = end(*started(Client()), error_type="Function.Half", document=b"{}")
    assert (outcome.status, outcome.error_type, outcome.payload) == (Status.ERROR, "Function.Half", b"{}")
    assert end(*started(Buffering()), error_type="Runtime.TruncatedResponse", document=None).platform


@pytest.mark.parametrize(
    "parts",
    [
        [m.STREAM_START, ID, None, None],
        [m.STREAM_CHUNK, ID],
        [m.STREAM_CHUNK, ID, "text"],
        [m.STREAM_END, ID, True, 3, None],
        [m.STREAM_END, ID, True, None],
    ],
)
def test_nonsense_in_a_stream(parts: list[Any]) -> None:
    pair = started(Client())
    with pytest.raises(WireError):
        streaming.take(*pair, parts)


@pytest.mark.parametrize(
    "parts", [[m.STREAM_CHUNK, ID, b""], [m.STREAM_END, ID, True, None, None], [m.STREAM_START, ID], [m.STREAM_START, ID, 3, None]]
)
def test_nonsense_before_one(parts: list[Any]) -> None:
    instance: Any = SimpleNamespace(response=None, channel=Channel())
    request: Any = SimpleNamespace(reply_to=Client())
    with pytest.raises(WireError):
        streaming.take(instance, request, parts)
