"""Micro benchmarks of the wire: ``pytest bench/micro``."""

from __future__ import annotations

from typing import Any

import pytest

from engine.wire import messages as m
from engine.wire.connection import SUPERVISOR, WORKER_CHANNEL, Order
from engine.wire.frames import FrameDecoder, frame

RID = "8f507cfc-4697-455f-9f0e-2d1a1b0c7a55"
SMALL, BIG = b"x" * 100, b"x" * 1_000_000
MIDDLE = m.invoke_tail("arn:aws:lambda:us-east-1:000000000000:function:echo", "Root=1-5759e988-bd862e3fe1be46a994272793")


@pytest.mark.parametrize("payload", [SMALL, BIG], ids=["100B", "1MB"])
def test_encode_invoke(benchmark: Any, payload: bytes) -> None:
    benchmark(m.encode_invoke, RID, 1700000003000, MIDDLE, payload)


@pytest.mark.parametrize("payload", [SMALL, BIG], ids=["100B", "1MB"])
def test_decode_reply(benchmark: Any, payload: bytes) -> None:
    body = m.encode_reply(m.RESPONSE, RID, payload)[4:]
    assert benchmark(m.decode_reply, body).payload == payload


def test_decode_call(benchmark: Any) -> None:
    body = m.encode_call(m.Call(7, "echo", None, 0, None, None, None, SMALL))[4:]
    assert benchmark(m.decode_call, body).call_id == 7


def test_decode_call_with_options(benchmark: Any) -> None:
    body = m.encode_call(m.Call(7, "echo", "live", 1, RID, None, "Root=1", SMALL))[4:]
    assert benchmark(m.decode_call, body).qualifier == "live"


def test_encode_result(benchmark: Any) -> None:
    benchmark(m.encode_result, m.Result(7, 200, None, "$LATEST", None, RID, None, SMALL))


def test_decode_result(benchmark: Any) -> None:
    body = m.encode_result(m.Result(7, 200, None, "$LATEST", None, RID, None, SMALL))[4:]
    assert benchmark(m.decode_result, body).status == 200


def test_decoder_one_frame_per_read(benchmark: Any) -> None:
    data = frame(SMALL)
    decoder = FrameDecoder()
    assert benchmark(decoder.feed, data) == [SMALL]


def test_decoder_64_frames_per_read(benchmark: Any) -> None:
    data = frame(SMALL) * 64
    decoder = FrameDecoder()
    assert len(benchmark(decoder.feed, data)) == 64


def test_decoder_6_mb_in_64_kib_reads(benchmark: Any) -> None:
    data = frame(b"x" * 6_000_000)
    pieces = [data[i : i + 65536] for i in range(0, len(data), 65536)]
    decoder = FrameDecoder()

    def feed() -> int:
        return sum(len(body) for piece in pieces for body in decoder.feed(piece))

    assert benchmark(feed) == 6_000_000


def test_order_of_one_invocation(benchmark: Any) -> None:
    order = Order(WORKER_CHANNEL, SUPERVISOR)
    order.state = "idle"

    def once() -> str:
        order.sent(m.INVOKE)
        order.received(m.RESPONSE)
        order.received(m.NEXT)
        return order.state

    assert benchmark(once) == "idle"
