"""The golden frames: every decoder reads them, every encoder writes them, and msgpack's own library agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from engine.errors import WireError
from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.frames import FrameDecoder

DOCUMENT = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text(encoding="utf-8"))
MESSAGES = DOCUMENT["messages"]
INVALID = DOCUMENT["invalid"]

HOT: dict[int, Callable[[bytes], Any]] = {
    m.INVOKE: m.decode_invoke,
    m.RESPONSE: m.decode_reply,
    m.ERROR: m.decode_reply,
    # Without the tenant, which a CALL has none of; of a TENANT_CALL in its place, before the payload.
    m.CALL: lambda body: m.decode_call(body)[:8],
    m.TENANT_CALL: lambda body: (*(call := m.decode_call(body))[:7], call.tenant_id, call.payload),
    m.RESULT: m.decode_result,
}


def real(value: Any) -> Any:
    """A vector's element as a Python value."""
    if isinstance(value, list):
        return [real(one) for one in value]
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) and set(value) == {"hex"} else value


def encode(kind: int, e: list[Any]) -> bytes | None:
    """What the engine's own encoder makes of these elements; None for the messages that have none of their own."""
    if kind == m.INVOKE:
        return m.encode_invoke(e[0], e[1], m.invoke_tail(*e[2:7]), e[7])
    if kind in (m.RESPONSE, m.ERROR):
        return m.encode_reply(kind, e[0], e[3], e[2], then_next=e[1])
    if kind == m.CALL:
        return m.encode_call(m.Call(*e))
    if kind == m.TENANT_CALL:
        return m.encode_call(m.Call._make((*e[:7], e[8], e[7])))
    if kind == m.RESULT:
        return m.encode_result(m.Result(*e))
    return None


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda v: v["name"])
def test_every_reader_agrees_on_a_golden_frame(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["frame"])
    elements = [real(v) for v in vector["elements"]]
    kind = vector["type"]
    assert m.NAMES[kind] == vector["message"]
    (body,) = FrameDecoder().feed(raw)
    assert msgpack.unpackb(body) == [kind, *elements]
    assert shapes.read(body, kind) == [kind, *elements]
    assert m.kind(body) == kind
    if kind in HOT:
        got = list(HOT[kind](body))
        assert got == ([kind, *elements] if kind in (m.RESPONSE, m.ERROR) else elements)


@pytest.mark.parametrize("vector", [v for v in MESSAGES if v["canonical"]], ids=lambda v: v["name"])
def test_the_engine_writes_the_canonical_bytes(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["frame"])
    elements = [real(v) for v in vector["elements"]]
    written = encode(vector["type"], elements)
    if written is not None:
        assert written.hex() == vector["frame"]
    # A message without its own encoder may use any width; reading it back must give the same elements.
    (body,) = FrameDecoder().feed(m.pack(vector["type"], *elements))
    assert shapes.read(body) == shapes.read(raw[4:])


@pytest.mark.parametrize("vector", INVALID, ids=lambda v: v["why"])
def test_every_reader_refuses_an_invalid_body(vector: dict[str, Any]) -> None:
    (body,) = FrameDecoder().feed(bytes.fromhex(vector["frame"]))
    with pytest.raises(WireError):
        shapes.read(body)
    for decode in HOT.values():
        with pytest.raises(WireError):
            decode(body)


def test_every_message_has_a_shape_and_a_golden_frame() -> None:
    assert set(shapes.SHAPES) == set(m.NAMES)
    assert {v["type"] for v in MESSAGES} == set(m.NAMES)


def test_a_reader_can_name_the_kinds_it_accepts() -> None:
    with pytest.raises(WireError, match="expected HELLO or NEXT, got LOG"):
        shapes.read(m.pack(m.LOG, None, 1, 0, b"x")[4:], m.HELLO, m.NEXT)


@pytest.mark.parametrize(
    ("make", "limit"),
    [(lambda n: m.str8("x" * n), 255), (lambda n: m.str16("x" * n), 65535), (lambda n: m.str8("é" * (n // 2) + "x" * (n % 2)), 255)],
)
def test_a_string_field_says_when_it_is_too_long(make: Callable[[int], bytes], limit: int) -> None:
    assert len(make(limit)) == limit + (2 if limit == 255 else 3)
    with pytest.raises(WireError, match=f"at most {limit}"):
        make(limit + 1)
