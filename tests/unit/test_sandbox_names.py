"""The name server's parser: what functions send must not hurt it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sandbox import resolver


def query(name: str, kind: int = 1, number: int = 7, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", number, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def test_a_question_is_read():
    message = query("DB.Internal", 28)
    assert resolver.question(message) == ("db.internal", 28, len(message))


@pytest.mark.parametrize(
    "message",
    [b"", b"\0" * 11, query("a", flags=0x8000), query("a")[:-1], query("a")[:12] + b"\x40" + b"a" * 80, query("a")[:12] + b"\xc0\x0c\0\1\0\1",
     query("a")[:4] + b"\0\2" + query("a")[6:]],
    ids=["empty", "short", "an answer", "cut", "long label", "pointer", "two questions"],
)  # fmt: skip
def test_anything_else_is_no_query(message):
    with pytest.raises(resolver.NotAQuery):
        resolver.question(message)


@given(st.binary(max_size=600))
def test_no_bytes_hurt(message):
    try:
        name, _, end = resolver.question(message)
    except resolver.NotAQuery:
        return
    assert 12 < end <= len(message)
    assert len(name) <= len(message)


def test_the_answer_repeats_the_question_and_gives_the_address():
    message = query("db.internal")
    found = resolver.answer(message, len(message), 1, "10.0.1.5")
    assert found[:2] == message[:2]
    assert struct.unpack_from(">HHHHH", found, 2) == (0x8580, 1, 1, 0, 0)
    assert found[12 : len(message)] == message[12:]
    assert found.endswith(b"\x00\x04\x0a\x00\x01\x05")


def test_a_name_without_such_a_record_has_an_empty_answer():
    message = query("db.internal", 28)
    found = resolver.answer(message, len(message), 28, "10.0.1.5")
    assert struct.unpack_from(">HHH", found, 2) == (0x8580, 1, 0)
    assert found[12:] == message[12:]


def test_a_failure_says_so():
    message = query("x")
    assert struct.unpack_from(">H", resolver.failure(message, len(message)), 2)[0] & 0xF == 2


def test_resolvers_of_the_host():
    text = "# nameserver 1.1.1.1\nsearch x\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver nonsense\n"
    assert resolver.upstreams(text) == ["127.0.0.53", "fe80::1"]
