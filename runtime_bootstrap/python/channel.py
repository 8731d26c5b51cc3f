"""Frames over a blocking socket: fixed offsets for what is usual, msgpack for the rest.

Byte layout: docs/protocol.md. One ``recv`` and one ``send`` per small invocation.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any, NamedTuple, Optional

from runtime_bootstrap import packing

VERSION = 1
HELLO, INIT, NEXT, INVOKE, RESPONSE, ERROR, INIT_ERROR, LOG, SHUTDOWN = 1, 2, 3, 4, 5, 6, 7, 8, 9
TOO_LARGE = 0x10
MAX_PAYLOAD = 6 * 1024 * 1024 + 100
_RECV = 65536
_SMALL = 65536
_NEXT_FRAME = b"\x00\x00\x00\x02\x91\x03"


class Closed(Exception):
    """The supervisor closed the channel."""


class Event(NamedTuple):
    """One INVOKE. Strings may be None; ``deadline_ms`` is epoch milliseconds."""

    request_id: str
    deadline_ms: int
    function_arn: str
    trace_id: Optional[str]
    client_context: Optional[str]
    identity: Optional[str]
    tenant_id: Optional[str]
    payload: bytes


class Channel:
    """The worker's end. Sending is safe from any thread; reading is the main thread's."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._recv = sock.recv
        self._buffer = b""
        self._lock = threading.Lock()
        self.foreign = False
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """A child of the function's own must not speak for it: its output goes to the plain descriptors."""
        self.foreign = True
        self._lock = threading.Lock()

    def read(self) -> Any:
        """The next frame's body. Raises Closed at the end of the stream."""
        data = self._buffer
        while len(data) < 4:
            piece = self._recv(_RECV)
            if not piece:
                raise Closed
            data = data + piece if data else piece
        size = int.from_bytes(data[:4], "big") + 4
        have = len(data)
        if have == size:
            self._buffer = b""
            return data[4:]
        if have > size:
            self._buffer = data[size:]
            return data[4:size]
        self._buffer = b""
        whole = bytearray(size)
        whole[:have] = data
        view = memoryview(whole)
        while have < size:
            got = self._sock.recv_into(view[have:])
            if not got:
                raise Closed
            have += got
        return view[4:]

    def send(self, *parts: bytes) -> None:
        """Send one frame made of ``parts`` (its length is put in front)."""
        size = sum(map(len, parts))
        with self._lock:
            if size < _SMALL:
                self._sock.sendall(size.to_bytes(4, "big") + b"".join(parts))
                return
            self._sock.sendall(size.to_bytes(4, "big") + b"".join(parts[:-1]))
            self._sock.sendall(parts[-1])

    def hello(self, runtime: str, version: str) -> None:
        self.send(packing.pack([HELLO, VERSION, {"runtime": runtime, "version": version}]))

    def next(self) -> None:
        """Init is done."""
        with self._lock:
            self._sock.sendall(_NEXT_FRAME)

    def init_error(self, error_type: str, document: bytes) -> None:
        self.send(b"\x93\x07" + _str8(error_type), _bin32(document))

    def response(self, request_id: str, payload: bytes, content_type: Optional[str]) -> None:
        """Answer; a payload over the limit is reported by its size only."""
        size = len(payload)
        if size > MAX_PAYLOAD:
            self.send(packing.pack([TOO_LARGE, request_id, size, True]))
        elif content_type is None and size < _SMALL:
            with self._lock:
                self._sock.sendall(
                    b"%b\x95\x05\xd9\x24%b\xc3\xc0\xc6%b%b"
                    % ((47 + size).to_bytes(4, "big"), request_id.encode(), size.to_bytes(4, "big"), payload)
                )
        else:
            kind = b"\xc0" if content_type is None else _str8(content_type)
            self.send(b"\x95\x05\xd9\x24" + request_id.encode() + b"\xc3" + kind + b"\xc6" + size.to_bytes(4, "big"), payload)

    def error(self, request_id: str, error_type: str, document: bytes) -> None:
        self.send(b"\x95\x06\xd9\x24" + request_id.encode() + b"\xc3" + _str8(error_type), _bin32(document))

    def log(self, request_id: Optional[str], level: int, data: bytes) -> None:
        """One log event, at most as long as a frame allows."""
        name = b"\xc0" if request_id is None else _str8(request_id)
        at_us = time.time_ns() // 1000
        data = data[:MAX_PAYLOAD]
        self.send(b"\x95\x08" + name + b"\xcf" + at_us.to_bytes(8, "big") + bytes((level,)), _bin32(data))

    def close(self) -> None:
        self._sock.close()


def _str8(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")[:255].decode("utf-8", "ignore").encode()
    return b"\xd9" + bytes((len(raw),)) + raw


def _bin32(data: bytes) -> bytes:
    return b"\xc6" + len(data).to_bytes(4, "big") + data


def event_of(body: Any) -> Event:
    """Read an INVOKE. Raises ValueError when it is none."""
    if body[0] == 0x99 and body[1] == INVOKE and body[2] == 0xD9 and body[3] == 36 and body[40] == 0xCF and body[49] == 0xDA:
        at = 52 + (body[50] << 8 | body[51])
        arn = str(body[52:at], "utf-8")
        texts: "list[Optional[str]]" = []
        for _ in range(4):
            mark = body[at]
            if mark == 0xC0:
                texts.append(None)
                at += 1
            elif mark == 0xD9:
                end = at + 2 + body[at + 1]
                texts.append(str(body[at + 2 : end], "utf-8"))
                at = end
            elif mark == 0xDA:
                end = at + 3 + (body[at + 1] << 8 | body[at + 2])
                texts.append(str(body[at + 3 : end], "utf-8"))
                at = end
            else:
                break
        else:
            if body[at] == 0xC6:
                payload = bytes(body[at + 5 :])
                deadline_ms = int.from_bytes(body[41:49], "big")
                return Event(str(body[4:40], "ascii"), deadline_ms, arn, texts[0], texts[1], texts[2], texts[3], payload)
    parts = packing.unpack(bytes(body))
    if not isinstance(parts, list) or len(parts) != 9 or parts[0] != INVOKE:
        raise ValueError("not an INVOKE")
    return Event(*parts[1:])
