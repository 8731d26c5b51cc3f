"""The worker's end of the channel without a process: reading msgpack, reading frames, writing them whole."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.core import invocation as inv
from engine.wire import messages as m
from engine.wire.frames import MAX_PAYLOAD, FrameDecoder
from runtime_bootstrap import packing
from runtime_bootstrap.python import channel as ch
from tests.framework.python_worker import REQUEST, ROOT

texts = st.text(st.characters(codec="utf-8"), max_size=40)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 2**64 - 1), texts, texts.map(lambda t: t * 300)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(texts, inner, max_size=20),
    max_leaves=30,
)
anything = st.recursive(
    plain | st.binary(max_size=300) | st.floats(allow_nan=False) | st.integers(-(2**63), -1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-9, 9) | texts, inner, max_size=4),
    max_leaves=10,
)


@given(anything)
def test_packing_reads_what_others_write(value: Any) -> None:
    assert packing.unpack(msgspec.msgpack.encode(value)) == value


@given(plain)
def test_the_quick_reader_needs_no_library(value: Any) -> None:
    data = msgspec.msgpack.encode(value)
    assert packing._value(data, 0) == (value, len(data))


@given(plain, st.data())
def test_what_is_cut_short_or_too_long_is_refused(value: Any, data: st.DataObject) -> None:
    packed = msgspec.msgpack.encode(value)
    with pytest.raises(ValueError, match=r".*"):
        packing.unpack(packed + b"\xc0")
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(ValueError, match=r".*"):
        packing.unpack(cut)


@given(st.binary(max_size=60))
@example(b"\x81\x90\x00")
@example(b"\x81\x90\x00\x00")
def test_noise_is_a_value_or_a_value_error(data: bytes) -> None:
    try:
        value = packing.unpack(data)
    except (ValueError, RecursionError):
        return
    if "ExtType" not in repr(value) and "Timestamp" not in repr(value):
        assert repr(msgspec.msgpack.decode(data)) == repr(value)


def test_the_library_is_private() -> None:
    assert packing._library is not None
    assert sys.modules[packing._PRIVATE] is not sys.modules.get("msgpack")
    program = "import sys\nfrom runtime_bootstrap import packing\nprint(packing._library is not None, 'msgpack' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def test_without_any_library_unusual_messages_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packing, "_VENDOR", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert packing._load() is None
    monkeypatch.setattr(packing, "_library", None)
    assert packing.unpack(b"\x92\x02\xa1x") == [2, "x"]
    with pytest.raises(ValueError, match="needs msgpack"):
        packing.unpack(b"\xca\x00\x00\x00\x00")


def test_a_copy_that_cannot_be_imported_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "msgpack").mkdir()
    (tmp_path / "msgpack" / "__init__.py").write_text("raise ImportError('for another Python')")
    monkeypatch.setattr(packing, "_VENDOR", str(tmp_path))
    library = packing._load()
    assert library is not None
    assert library(b"\xca\x00\x00\x00\x00") == 0.0


optional = st.none() | texts


@given(texts, optional, st.none() | texts.map(lambda t: t * 100), optional, optional, st.integers(0, 2**63), st.binary(max_size=50))
def test_canonical_events(
    arn: str, trace: str | None, client: str | None, identity: str | None, tenant: str | None, deadline_ms: int, payload: bytes
) -> None:
    frame = m.encode_invoke(REQUEST, deadline_ms, m.invoke_tail(arn, trace, client, identity, tenant), payload)
    expected = (REQUEST, deadline_ms, arn, trace, client, identity, tenant, payload)
    assert ch.event_of(frame) == expected
    *head, body = ch.event_of(memoryview(frame))
    assert (*head, bytes(body)) == expected


@given(texts, optional, optional, optional, optional, st.integers(0, 2**63), st.binary(max_size=50))
def test_events_in_any_other_encoding(
    arn: str, trace: str | None, client: str | None, identity: str | None, tenant: str | None, deadline_ms: int, payload: bytes
) -> None:
    frame = m.pack(m.INVOKE, REQUEST, deadline_ms, arn, trace, client, identity, tenant, payload)
    assert ch.event_of(frame) == (REQUEST, deadline_ms, arn, trace, client, identity, tenant, payload)


@pytest.mark.parametrize("body", [b"\x93\x04\xc0\xc0", b"\x99\x05" + b"\xc0" * 8, b"\xc0", b"\x90"])
def test_what_is_no_event(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"INVOKE|message"):
        ch.event_of(len(body).to_bytes(4, "big") + body)


@given(st.integers(4, 190), st.integers(0, 255))
def test_an_event_much_like_the_one_before_is_read_as_what_it_is(at: int, byte: int) -> None:
    tail = m.invoke_tail("arn:aws:lambda:us-east-1:000000000000:function:f", "Root=1-00000000-000000000000000000000000;Sampled=0")
    frame = bytearray(m.encode_invoke(REQUEST, 1, tail, b'{"a": "payload"}'))
    for _ in range(2):
        assert ch.event_of(bytes(frame))[7] == b'{"a": "payload"}'
    frame[at % len(frame)] = byte
    changed = bytes(frame)
    try:
        wanted = ch._any_event_of(changed)
    except Exception:
        with pytest.raises(Exception):  # noqa: B017 - whatever it is, it is no event
            ch.event_of(changed)
    else:
        assert tuple(ch.event_of(changed)) == tuple(wanted)


@pytest.fixture
def pair() -> Iterator[tuple[ch.Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    yield ch.Channel(ours), theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("sizes", [[10], [10, 20, 30], [100_000], [3, 200_000, 5, 6_500_000, 1]])
@pytest.mark.parametrize("piece", [1, 7, 65_536, 10_000_000])
def test_frames_come_whole_however_they_arrive(pair: tuple[ch.Channel, socket.socket], sizes: list[int], piece: int) -> None:
    if sum(sizes) / piece > 20_000:
        piece = 1009
    link, peer = pair
    bodies = [bytes(n % 251 for n in range(size % 1000)).ljust(size, b"z") for size in sizes]
    stream = b"".join(len(b).to_bytes(4, "big") + b for b in bodies)

    def feed() -> None:
        for at in range(0, len(stream), piece):
            peer.sendall(stream[at : at + piece])
        peer.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=feed)
    thread.start()
    got = [bytes(link.receive()) for _ in bodies]
    thread.join()
    assert got == [len(b).to_bytes(4, "big") + b for b in bodies]
    with pytest.raises(ch.Closed):
        link.receive()


@pytest.mark.parametrize("sent", [b"", b"\x00", b"\x00\x00\x00\x09", b"\x00\x00\x00\x09abc"])
def test_an_end_in_the_middle(pair: tuple[ch.Channel, socket.socket], sent: bytes) -> None:
    link, peer = pair
    peer.sendall(sent)
    peer.close()
    with pytest.raises(ch.Closed):
        link.receive()


def received(peer: socket.socket, count: int) -> list[list[Any]]:
    decoder = FrameDecoder()
    frames: list[bytes] = []
    while len(frames) < count:
        frames += [bytes(f) for f in decoder.feed(peer.recv(1 << 20))]
    return [m.unpack(f) for f in frames]


def test_everything_it_says_is_the_protocol(pair: tuple[ch.Channel, socket.socket]) -> None:
    link, peer = pair
    long_type = "É" * 200
    link.hello("python3.12", "3.12.1")
    link.ready()
    link.init_error("Runtime.X", b"{}")
    link.restore_next()
    link.restore_error("E", b"[]")
    link.respond(REQUEST, b"{}", None)
    link.respond(REQUEST, b"", None)
    link.respond(REQUEST, b"\xff", "application/unknown")
    link.error(REQUEST, long_type, b"{}")
    link.respond(REQUEST, bytes(MAX_PAYLOAD + 1), None)
    link.error(REQUEST, "E", bytes(MAX_PAYLOAD + 2))
    link.init_error("E", bytes(MAX_PAYLOAD + 1))
    link.log([b"a", b""], 3)
    link.request_id = REQUEST
    link.log([b"b"], 0)
    got = received(peer, 15)
    assert got[:12] == [
        [m.HELLO, 1, {"runtime": "python3.12", "version": "3.12.1"}],
        [m.NEXT],
        [m.INIT_ERROR, "Runtime.X", b"{}"],
        [m.RESTORE_NEXT],
        [m.RESTORE_ERROR, "E", b"[]"],
        [m.RESPONSE, REQUEST, True, None, b"{}"],
        [m.RESPONSE, REQUEST, True, None, b""],
        [m.RESPONSE, REQUEST, True, "application/unknown", b"\xff"],
        [m.ERROR, REQUEST, True, "É" * 127, b"{}"],
        [m.TOO_LARGE, REQUEST, MAX_PAYLOAD + 1, True],
        [m.TOO_LARGE, REQUEST, MAX_PAYLOAD + 2, True],
        [m.INIT_ERROR, "E", inv.response_too_large(MAX_PAYLOAD).payload],
    ]
    assert [(kind, request_id, level, data) for kind, request_id, _, level, data in got[12:]] == [
        (m.LOG, None, 3, b"a"),
        (m.LOG, None, 3, b""),
        (m.LOG, REQUEST, 0, b"b"),
    ]


def test_answers_are_canonical(pair: tuple[ch.Channel, socket.socket]) -> None:
    link, peer = pair
    link.respond(REQUEST, b"[1]", None)
    assert peer.recv(4096) == m.encode_reply(m.RESPONSE, REQUEST, b"[1]")
    link.error(REQUEST, "E", b"{}")
    assert peer.recv(4096) == m.encode_reply(m.ERROR, REQUEST, b"{}", "E")
    link.respond(REQUEST, b"x", "a/b")
    assert peer.recv(4096) == m.encode_reply(m.RESPONSE, REQUEST, b"x", "a/b")


@pytest.mark.parametrize("size", [16_310, 16_320, 16_321, 16_384, 300_000, MAX_PAYLOAD])
def test_answers_of_any_size_arrive_whole(pair: tuple[ch.Channel, socket.socket], size: int) -> None:
    link, peer = pair
    payload = bytes(size - 1) + b"!"
    thread = threading.Thread(target=link.respond, args=(REQUEST, payload, None))
    thread.start()
    (answer,) = received(peer, 1)
    thread.join()
    assert answer == [m.RESPONSE, REQUEST, True, None, payload]


def test_threads_do_not_mix_their_frames(pair: tuple[ch.Channel, socket.socket]) -> None:
    link, peer = pair
    sizes = [10, 20_000, 100, 200_000]
    threads = [threading.Thread(target=lambda n=n: [link.log([bytes((n,)) * n_size], 0) for n_size in sizes * 5]) for n in range(4)]
    for thread in threads:
        thread.start()
    got = received(peer, 4 * 20)
    for thread in threads:
        thread.join()
    assert all(len({*event[4]}) == 1 for event in got)
    assert sorted(len(event[4]) for event in got) == sorted(sizes * 20)


