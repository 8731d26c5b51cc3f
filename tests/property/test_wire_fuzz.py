"""Hostile bytes: whatever arrives, in whatever pieces, only WireError comes out and memory stays within the cap."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import WireError
from engine.wire import frames as f
from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.connection import CLIENT_CONNECTION, ROLES, SUPERVISOR, Order
from engine.wire.dialogue import ClientDialogue

READERS = (m.unpack, m.kind, shapes.read, m.decode_invoke, m.decode_reply, m.decode_call, m.decode_result)
text = st.text(st.characters(codec="utf-8"), max_size=60)
maybe = st.none() | text
rid = st.uuids().map(str)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


def body_of(raw: bytes) -> bytes:
    (body,) = f.FrameDecoder().feed(raw)
    return body


def readers_survive(body: bytes) -> None:
    for reader in READERS:
        try:
            reader(body)
        except WireError:
            pass


@given(rid, u64, text, maybe, maybe, maybe, maybe, st.binary(max_size=300))
def test_invoke_round_trips(
    request_id: str, deadline: int, arn: str, trace: str | None, context: str | None, who: str | None, tenant: str | None, data: bytes
) -> None:
    raw = m.encode_invoke(request_id, deadline, m.invoke_tail(arn, trace, context, who, tenant), data)
    assert m.decode_invoke(body_of(raw)) == m.Invoke(request_id, deadline, arn, trace, context, who, tenant, data)


@given(st.sampled_from([m.RESPONSE, m.ERROR]), rid, st.booleans(), maybe, st.binary(max_size=300))
def test_replies_round_trip(kind: int, request_id: str, then_next: bool, detail: str | None, data: bytes) -> None:
    raw = m.encode_reply(kind, request_id, data, detail, then_next=then_next)
    want = m.Reply(kind, request_id, then_next, detail, data)
    assert m.decode_reply(body_of(raw)) == want
    # Any other valid encoding of the same elements reads the same.
    assert m.decode_reply(msgpack.packb([kind, request_id, then_next, detail, data])) == want


@given(u32, text, maybe, st.integers(0, 127), maybe, maybe, maybe, st.binary(max_size=300))
def test_calls_round_trip(
    call_id: int, name: str, qualifier: str | None, flags: int, request_id: str | None, context: str | None, trace: str | None, data: bytes
) -> None:
    call = m.Call(call_id, name, qualifier, flags, request_id, context, trace, data)
    assert m.decode_call(body_of(m.encode_call(call))) == call
    assert m.decode_call(msgpack.packb([m.CALL, *call[:8]])) == call
    whose = call._replace(tenant_id=name)
    assert m.decode_call(body_of(m.encode_call(whose))) == whose


@given(u32, st.integers(100, 599), maybe, maybe, maybe, rid, st.none() | st.binary(max_size=50), st.binary(max_size=300))
def test_results_round_trip(
    call_id: int, status: int, error: str | None, version: str | None, failed: str | None, request_id: str, tail: bytes | None, data: bytes
) -> None:
    result = m.Result(call_id, status, error, version, failed, request_id, tail, data)
    assert m.decode_result(body_of(m.encode_result(result))) == result
    assert m.decode_result(msgpack.packb([m.RESULT, *result])) == result


@given(st.binary(max_size=200))
@example(b"\x95\x05\xd9\x24")
@example(b"\x99\x22\xce\x00\x00\x00\x01\xda\xff\xff")
@example(b"\xc7\x0c\xff" + b"\xff" * 12)
@example(b"\x92\x02\x81\x90\xc0")
def test_random_bytes_only_raise_wire_errors(body: bytes) -> None:
    readers_survive(body)


@given(st.sampled_from(sorted(m.NAMES)), st.binary(max_size=120))
def test_random_bytes_after_a_real_head_only_raise_wire_errors(kind: int, rest: bytes) -> None:
    for n in (1, 2, 5, 9):
        readers_survive(bytes((0x90 | n, kind)) + rest)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(m.NAMES)), st.lists(values, max_size=10))
def test_real_msgpack_of_the_wrong_shape_only_raises_wire_errors(kind: int, elements: list[Any]) -> None:
    readers_survive(msgpack.packb([kind, *elements]))


@given(st.data())
def test_one_flipped_byte_only_raises_wire_errors(data: st.DataObject) -> None:
    raw = data.draw(
        st.sampled_from(
            [
                m.encode_invoke("a" * 36, 1, m.invoke_tail("arn", "t"), b"{}"),
                m.encode_reply(m.RESPONSE, "a" * 36, b"{}", "text/plain"),
                m.encode_call(m.Call(1, "f", None, 0, None, None, None, b"{}")),
                m.encode_result(m.Result(1, 200, None, "1", None, "a" * 36, b"tail", b"{}")),
                m.pack(m.INIT, {"handler": "a.b", "env": {"A": "1"}}),
            ]
        )
    )
    body = bytearray(raw[4:])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    readers_survive(bytes(body))


def test_deep_nesting_is_refused_not_a_crash() -> None:
    for opener in (b"\x91", b"\x81\x01"):
        readers_survive(b"\x92\x02" + opener * 500_000 + b"\xc0")


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.lists(st.integers(1, 30), max_size=40))
def test_the_pieces_do_not_matter(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(f.frame, bodies))
    decoder = f.FrameDecoder(64)
    out, at = [], 0
    for cut in [*cuts, len(stream)]:
        out += decoder.feed(stream[at : at + cut])
        at = min(at + cut, len(stream))
        assert decoder.buffered <= 64 + f.PREFIX
    assert out == bodies
    assert decoder.buffered == 0


@given(st.binary(max_size=300), st.lists(st.integers(1, 20), max_size=60))
def test_a_hostile_stream_gives_frames_or_one_wire_error(stream: bytes, cuts: list[int]) -> None:
    decoder = f.FrameDecoder(50)
    at = 0
    try:
        for cut in [*cuts, len(stream)]:
            for body in decoder.feed(stream[at : at + cut]):
                assert 0 < len(body) <= 50
            at += cut
            assert decoder.buffered <= 50 + f.PREFIX
    except WireError:
        with pytest.raises(WireError, match="already"):
            decoder.feed(b"\x00")


def test_an_announcement_over_the_cap_is_refused_before_its_bytes() -> None:
    for size in (f.MAX_FRAME + 1, 0xFFFFFFFF):
        with pytest.raises(f.FrameTooLarge) as caught:
            f.FrameDecoder().feed(size.to_bytes(4, "big"))
        assert caught.value.size == size
        assert caught.value.kind is None
    with pytest.raises(f.FrameTooLarge) as caught:
        f.FrameDecoder(10).feed(f.frame(m.encode_reply(m.RESPONSE, "a" * 36, b"")[4:]))
    assert caught.value.kind == m.RESPONSE
    with pytest.raises(WireError, match="empty"):
        f.FrameDecoder().feed(b"\x00\x00\x00\x00")


def test_a_frame_in_single_bytes_costs_no_multiple_of_its_size() -> None:
    size = 300_000
    stream = f.frame(bytes(size))
    decoder = f.FrameDecoder()
    tracemalloc.start()
    out = []
    for i in range(len(stream)):
        out += decoder.feed(stream[i : i + 1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert out == [bytes(size)]
    # A list of one-byte objects would be over forty times the frame.
    assert peak < 4 * size


@settings(max_examples=60)
@given(st.binary(max_size=120), st.booleans())
def test_a_client_survives_a_hostile_server(stream: bytes, signed: bool) -> None:
    dialogue = ClientDialogue(("id", "secret") if signed else None)
    dialogue.opening()
    try:
        dialogue.receive(m.pack(m.SERVER_HELLO, 1, {"nonce": "0" * 32} if signed else {}))
        dialogue.take_reply()
        dialogue.receive(stream)
    except WireError:
        pass


@given(st.sampled_from(ROLES), st.lists(st.tuples(st.booleans(), st.sampled_from([*sorted(m.NAMES), 0x130, 0x133, 0])), max_size=40))
def test_any_order_of_messages_is_followed_or_refused(role: Any, story: list[tuple[bool, int]]) -> None:
    order = Order(role, SUPERVISOR)
    for mine, kind in story:
        before = order.state
        try:
            (order.sent if mine else order.received)(kind)
            assert role.transitions[before][kind] == order.state
        except WireError:
            assert order.state == before


def test_megabytes_of_noise_do_not_upset_the_decoder() -> None:
    noise = random.Random(7).randbytes(2_000_000)
    order = Order(CLIENT_CONNECTION, SUPERVISOR)
    at = 0
    while at < len(noise):
        decoder = f.FrameDecoder(4096)
        try:
            while at < len(noise):
                frames = decoder.feed(noise[at : at + 1000])
                at += 1000
                for body in frames:
                    readers_survive(body)
        except WireError:
            at += 1000
    assert order.state == "connected"
