"""The golden frames at the worker's end: it reads what the engine may send, and what it sends is the vector, byte for byte."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from runtime_bootstrap.python import channel as ch

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text(encoding="utf-8"))["messages"]
TO_WORKER = [v for v in VECTORS if v["type"] in (m.INIT, m.INVOKE, m.SHUTDOWN, m.RESTORE)]


def real(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) and set(value) == {"hex"} else value


def by_name(name: str) -> tuple[bytes, list[Any]]:
    (vector,) = [v for v in VECTORS if v["name"] == name]
    return bytes.fromhex(vector["frame"]), [real(e) for e in vector["elements"]]


@pytest.fixture
def pair() -> Iterator[tuple[ch.Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield ch.Channel(ours), theirs


@pytest.mark.parametrize("vector", TO_WORKER, ids=lambda v: v["name"])
def test_the_worker_reads(pair: tuple[ch.Channel, socket.socket], vector: dict[str, Any]) -> None:
    link, peer = pair
    peer.sendall(bytes.fromhex(vector["frame"]))
    frame = link.receive()
    elements = [real(e) for e in vector["elements"]]
    assert ch.message_of(frame) == [vector["type"], *elements]
    if vector["type"] == m.INVOKE:
        event = ch.event_of(frame)
        assert [*event[:-1], bytes(event[-1])] == elements


def _log(link: ch.Channel, elements: list[Any]) -> None:
    link.request_id = elements[0]
    link.log([elements[3]], elements[2])


WRITTEN: dict[str, Callable[[ch.Channel, list[Any]], None]] = {
    "next": lambda link, e: link.ready(),
    "response": lambda link, e: link.respond(e[0], e[3], e[2]),
    "error": lambda link, e: link.error(e[0], e[2], e[3]),
    "init error": lambda link, e: link.init_error(*e),
    "restore next": lambda link, e: link.restore_next(),
    "restore error": lambda link, e: link.restore_error(*e),
    "too large": lambda link, e: link.respond(e[0], bytes(e[1]), None),
    "log line": _log,
    "log line outside an invocation, not UTF-8": _log,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_worker_writes(pair: tuple[ch.Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    link, peer = pair
    frame, elements = by_name(name)
    if name.startswith("log"):
        monkeypatch.setattr(ch, "_time_ns", lambda: elements[1] * 1000)
    WRITTEN[name](link, elements)
    assert peer.recv(65536) == frame


def test_hello(pair: tuple[ch.Channel, socket.socket]) -> None:
    link, peer = pair
    _, elements = by_name("hello")
    link.hello(elements[1]["runtime"], elements[1]["version"])
    # Names as str 8 where the vector has fixstr: the same message in another encoding.
    assert m.unpack(peer.recv(65536)[4:]) == [m.HELLO, *elements]
