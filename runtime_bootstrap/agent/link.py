"""The agent's end of the frame channel: never blocking, byte layout as in docs/protocol.md."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Callable, Optional

from runtime_bootstrap import packing
from runtime_bootstrap.agent.loop import READ, WRITE, Loop, Timer

VERSION = 1
HELLO, INIT, NEXT, INVOKE, RESPONSE, ERROR, INIT_ERROR, LOG, SHUTDOWN = 1, 2, 3, 4, 5, 6, 7, 8, 9
STREAM_START, STREAM_CHUNK, STREAM_END, TOO_LARGE = 0x0D, 0x0E, 0x0F, 0x10
# Lambda's limit for a response: 6 MiB and room for 100 bytes.
MAX_PAYLOAD = 6 * 1024 * 1024 + 100
# A read of more has the C library map memory for it and unmap it again, every time: only for what does not fit.
_READ, _READ_BIG = 16 * 1024, 256 * 1024
# AWS's client for Java, and others, report an error first and log it then: the log of an invocation ends with its answer here.
_LOGGED_S = 0.25
_NEXT_FRAME = b"\x00\x00\x00\x02\x91\x03"
_JSON = ("", "application/json")


class Invoke:
    """One event. Absent texts are None."""

    __slots__ = ("arn", "client_context", "deadline_ms", "identity", "payload", "request_id", "tenant_id", "trace_id")

    def __init__(self, parts: "list[Any]") -> None:
        if len(parts) != 9:
            raise ValueError("INVOKE has 9 elements")
        self.request_id: str = parts[1]
        self.deadline_ms: int = parts[2]
        self.arn: str = parts[3]
        self.trace_id: Optional[str] = parts[4]
        self.client_context: Optional[str] = parts[5]
        self.identity: Optional[str] = parts[6]
        self.tenant_id: Optional[str] = parts[7]
        self.payload: bytes = parts[8]


class Link:
    """Frames to and from the supervisor. ``on_frame(parts, body)`` gets every message; the end of the stream ends the process."""

    def __init__(self, loop: Loop, sock: socket.socket, on_frame: "Callable[[list[Any], bytes], Any]") -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._on_frame = on_frame
        self._in = b""
        self._out: "list[memoryview]" = []
        # An answer that waits for what the runtime has yet to log, and until when.
        self._late: "Optional[tuple[bytes, Timer]]" = None
        # Called when everything held has been sent.
        self.on_drained: "Optional[Callable[[], Any]]" = None
        sock.setblocking(False)
        loop.watch(self._fd, self._ready)

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if mask & ~WRITE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BIG if self._in else _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            os._exit(0)
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Bytes that were read."""
        if self._in:
            data = self._in + data
        at = 0
        while len(data) - at >= 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if len(data) < end:
                break
            body = data[at + 4 : end]
            at = end
            self._on_frame(message(body), body)
        self._in = data[at:]

    def fileno(self) -> int:
        return self._fd

    @property
    def busy(self) -> bool:
        """Whether a part of a frame has been read, or is still to be sent."""
        return bool(self._in or self._out)

    @property
    def held(self) -> bool:
        """Whether the supervisor has yet to take something."""
        return bool(self._out)

    def send(self, *pieces: bytes) -> None:
        """Send one or more frames, given in pieces."""
        if self._out:
            self._out += map(memoryview, pieces)
            return
        size = sum(map(len, pieces))
        try:
            sent = self._sock.send(pieces[0]) if len(pieces) == 1 else self._sock.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            os._exit(1)
        if sent < size:
            rest = [memoryview(p) for p in pieces]
            while sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            rest[0] = rest[0][sent:]
            self._out = rest
            self._loop.change(self._fd, READ | WRITE)

    def hold(self, rest: bytes) -> None:
        """Send what the socket did not take of something before."""
        if rest:
            self._out.append(memoryview(rest))
            self._loop.change(self._fd, READ | WRITE)

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._sock.send(self._out[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                os._exit(1)
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
            else:
                self._out.pop(0)
        self._loop.change(self._fd, READ)
        if self.on_drained is not None:
            self.on_drained()

    def settle(self) -> None:
        """Send what is held, whatever it takes: the process is about to end."""
        self.release()
        self._sock.setblocking(True)
        try:
            while self._out:
                self._sock.sendall(self._out.pop(0))
        except OSError:
            pass

    def release(self) -> None:
        """Nothing more is logged: send what waited for it. Idempotent."""
        if self._late is not None:
            (frame, timer), self._late = self._late, None
            timer.cancel()
            self.send(frame)

    def next(self) -> None:
        """Ready for an event."""
        self.send(_NEXT_FRAME)

    def response(self, request_id: str, content_type: str, payload: bytes) -> None:
        """The answer, not yet ready for the next event."""
        kind = kind_of(content_type)
        size = len(payload)
        head = b"%b\x95\x05\xd9\x24%b\xc2%b\xc6%b" % (
            (46 + len(kind) + size).to_bytes(4, "big"), request_id.encode(), kind, size.to_bytes(4, "big"),
        )  # fmt: skip
        if size < 16384:
            self.send(head + payload)
        else:
            self.send(head, payload)

    def error(self, request_id: str, error_type: str, document: bytes, *, logged: bool = True) -> None:
        """``logged``: nothing will be; else it goes with ``release``, or a moment later by itself."""
        frame = framed(b"\x95\x06" + str8(request_id) + b"\xc2" + str8(error_type) + bin32(document))
        if logged:
            self.send(frame)
        else:
            self._late = frame, self._loop.later(_LOGGED_S, self.release)

    def too_large(self, request_id: str, size: int) -> None:
        self.send(framed(b"\x94\x10" + str8(request_id) + b"\xcf" + size.to_bytes(8, "big") + b"\xc2"))

    def init_error(self, error_type: str, document: bytes) -> None:
        self.send(framed(b"\x93\x07" + str8(error_type) + bin32(document)))

    def stream_start(self, request_id: str, content_type: str) -> None:
        self.send(framed(b"\x94\x0d" + str8(request_id) + (str8(content_type) if content_type else b"\xc0") + b"\xc0"))

    def stream_chunk(self, request_id: str, data: bytes) -> None:
        self.send(b"%b\x93\x0e\xd9\x24%b\xc6%b" % ((45 + len(data)).to_bytes(4, "big"), request_id.encode(), len(data).to_bytes(4, "big")), data)

    def stream_end(self, request_id: str, error_type: Optional[str], document: Optional[bytes]) -> None:
        kind = b"\xc0" if error_type is None else str8(error_type)
        body = b"\xc0" if document is None else bin32(document)
        self.send(framed(b"\x95\x0f" + str8(request_id) + b"\xc2" + kind + body))

    def log(self, request_id: Optional[str], level: int, data: bytes) -> None:
        """One log event."""
        who = b"\xc0" if request_id is None else str8(request_id)
        stamp = (time.time_ns() // 1000).to_bytes(8, "big")
        self.send(framed(b"\x95\x08%b\xcf%b%b%b" % (who, stamp, bytes((level,)), bin32(data))))


def kind_of(content_type: str) -> bytes:
    """A content type as a RESPONSE has it."""
    return b"\xc0" if content_type in _JSON else str8(content_type)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def str8(text: str) -> bytes:
    """msgpack ``str 8``; longer than 255 bytes it is cut between characters."""
    raw = text.encode("utf-8", "replace")
    if len(raw) > 255:
        raw = raw[:255].decode("utf-8", "ignore").encode()
    return b"\xd9" + bytes((len(raw),)) + raw


def bin32(data: bytes) -> bytes:
    return b"\xc6" + len(data).to_bytes(4, "big") + data


def message(body: bytes) -> "list[Any]":
    """A frame's parts; an INVOKE in canonical form without a copy of its payload through a decoder. Ends the process on nonsense."""
    try:
        if body[:4] == b"\x99\x04\xd9\x24" and body[40] == 0xCF and body[49] == 0xDA:
            at = 52 + (body[50] << 8 | body[51])
            parts: "list[Any]" = [INVOKE, body[4:40].decode(), int.from_bytes(body[41:49], "big"), body[52:at].decode()]
            for _ in range(4):
                start, at = _text(body, at)
                parts.append(None if start > at else body[start:at].decode())
            if body[at] == 0xC6 and len(body) - at - 5 == int.from_bytes(body[at + 1 : at + 5], "big"):
                parts.append(body[at + 5 :])
                return parts
        parts = packing.unpack(body)
        if isinstance(parts, list) and parts:
            return parts
    except (ValueError, IndexError):
        pass
    os._exit(1)


def _text(body: bytes, at: int) -> "tuple[int, int]":
    """Where the text of the str 8 or str 16 at ``at`` starts and ends; for nil it starts after its end. Raises ValueError for anything else."""
    mark = body[at]
    if mark == 0xC0:
        return at + 2, at + 1
    if mark == 0xD9:
        return at + 2, at + 2 + body[at + 1]
    if mark == 0xDA:
        return at + 3, at + 3 + (body[at + 1] << 8 | body[at + 2])
    raise ValueError
