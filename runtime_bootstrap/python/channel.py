"""Frames over a blocking socket: fixed offsets for what is usual, msgpack for the rest.

Byte layout: docs/protocol.md. A small invocation costs one ``recv`` and one ``send``. Reading is the main thread's alone; any thread may
send. Sending must survive what user code does to it: a signal handler that prints while a frame is going out (its frame waits), a
handler that raises in the middle of a big one (signals wait until the frame is whole), and ``fork`` (the child loses the channel).
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from typing import Any, Callable, Optional, Tuple, Union

from runtime_bootstrap import packing

VERSION = 1
HELLO, INIT, NEXT, INVOKE, RESPONSE, ERROR, INIT_ERROR, LOG, SHUTDOWN = 1, 2, 3, 4, 5, 6, 7, 8, 9
RESTORE_NEXT, RESTORE, RESTORE_ERROR = 0x0A, 0x0B, 0x0C
TOO_LARGE = 0x10
IMPORTS = 0x11
# Lambda's limit for a response: 6 MiB and room for 100 bytes.
MAX_PAYLOAD = 6 * 1024 * 1024 + 100
# A bigger read would cost every small frame the making of a bigger buffer (0.6 us at 64 KiB); what is longer is gathered.
_READ = 16384
# The kernel takes a stream write up to this size whole or not at all, also when a signal comes.
_ATOMIC = 16384
_SMALL = _ATOMIC - 64

_INVOKE_HEAD = b"\x99\x04\xd9\x24"
# nil for client context, identity and tenant, and the payload's mark.
_NO_CONTEXT = b"\xc0\xc0\xc0\xc6"
_ALL_SIGNALS = signal.valid_signals()
_plain_response = struct.Struct(">I4s36s3sI").pack
_NEXT_FRAME = b"\x00\x00\x00\x02\x91\x03"
_LOG_OUTSIDE = b"\x95\x08\xc0\xcf"
_time_ns = time.time_ns

Frame = Union[bytes, memoryview]
# request id, deadline in epoch ms, ARN, trace id, client context, identity, tenant, payload
Event = Tuple[str, int, str, Optional[str], Optional[str], Optional[str], Optional[str], Frame]


class Closed(Exception):
    """The supervisor closed the channel."""


class Channel:
    """The worker's end of its connection to the supervisor.

    ``foreign`` turns true in a process that user code forked: nothing is sent from there, and the socket is closed.
    """

    _sock: socket.socket
    _recv: "Callable[[int], bytes]"
    _send_once: "Callable[[bytes], int]"

    def __init__(self, sock: Optional[socket.socket] = None) -> None:
        self._left = b""
        self._lock = threading.RLock()
        self._sending = False
        self._waiting: "list[bytes]" = []
        # The invocation that log events are part of; None outside one.
        self.request_id: Optional[str] = None
        self.foreign = False
        os.register_at_fork(after_in_child=self._forked)
        if sock is not None:
            self.adopt(sock)

    def _forked(self) -> None:
        self.foreign = True
        self._lock = threading.RLock()
        self._waiting = []
        self._sending = False
        try:
            self._sock.close()
        except (OSError, AttributeError):
            pass

    def receive(self) -> Frame:
        """The next frame, its four bytes of length included. Raises Closed at the end of the stream."""
        try:
            data = self._left or self._recv(_READ)
            size = int.from_bytes(data[:4], "big") + 4
            if len(data) == size:
                self._left = b""
                return data
            return self._gather(data)
        except ConnectionResetError:
            raise Closed from None

    @property
    def buffered(self) -> bool:
        """Whether something of the next frame has been read already."""
        return bool(self._left)

    def _gather(self, data: bytes) -> Frame:
        """The frame that ``data`` begins, or begins with."""
        while len(data) < 4:
            piece = self._recv(_READ)
            if not data or not piece:
                raise Closed
            data += piece
        size = int.from_bytes(data[:4], "big") + 4
        have = len(data)
        if have >= size:
            self._left = data[size:]
            return data[:size]
        self._left = b""
        whole = bytearray(size)
        whole[:have] = data
        view = memoryview(whole)
        while have < size:
            got = self._sock.recv_into(view[have:], 0, socket.MSG_WAITALL)
            if not got:
                raise Closed
            have += got
        return view

    def _send(self, data: bytes, payload: bytes = b"") -> None:
        """Send ``data`` and ``payload``. Ends the process when the supervisor is gone: nobody is left to run for."""
        with self._lock:
            if self._sending:
                self._waiting.append(data + payload)
                return
            if self.foreign:
                return
            try:
                if not payload and len(data) <= _ATOMIC:
                    # Whole or not at all, so that nothing need be put in line behind it.
                    sent = self._send_once(data)
                    if sent == len(data):
                        return
                    data = data[sent:]
                self._send_long(data, payload)
            except (BrokenPipeError, ConnectionResetError):
                os._exit(1)

    def _send_long(self, data: bytes, payload: bytes) -> None:
        """In pieces; what a signal handler sends meanwhile comes after it."""
        self._sending = True
        try:
            self._write_whole([memoryview(data), memoryview(payload)])
            while self._waiting:
                self._write_whole([memoryview(self._waiting.pop(0))])
        finally:
            self._sending = False

    def _write_whole(self, rest: "list[memoryview]") -> None:
        """All of it, with no signal handler in between."""
        # Asked for first: blocking runs handlers of signals that came before, and one that raises must not leave all blocked.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
            while rest:
                sent = self._sock.sendmsg(rest)
                while rest and sent >= len(rest[0]):
                    sent -= len(rest.pop(0))
                if sent:
                    rest[0] = rest[0][sent:]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def hello(self, runtime: str, version: str) -> None:
        """The worker waits for its function."""
        body = b"\x93\x01\x01\x82" + b"".join(map(_str8, ("runtime", runtime, "version", version)))
        self._send(_framed(body))

    def ready(self) -> None:
        """Init is done (NEXT)."""
        self._send(_NEXT_FRAME)

    def restore_next(self) -> None:
        """Init is done and the process may be copied."""
        self._send(_framed(bytes((0x91, RESTORE_NEXT))))

    def fileno(self) -> int:
        return self._sock.fileno()

    def adopt(self, sock: socket.socket) -> None:
        """This process has a connection of its own."""
        sock.setblocking(True)
        sock.set_inheritable(False)
        self._sock = sock
        self._recv = sock.recv
        self._send_once = sock.send
        self._left = b""
        self.request_id = None
        self.foreign = False

    def init_error(self, error_type: str, document: bytes) -> None:
        self._send(_framed(b"\x93\x07" + _str8(error_type) + _bin32(_fitting(document))))

    def restore_error(self, error_type: str, document: bytes) -> None:
        self._send(_framed(bytes((0x93, RESTORE_ERROR)) + _str8(error_type) + _bin32(_fitting(document))))

    def imports(self, document: bytes) -> None:
        """What was learnt about imports, or why something must not be imported ahead."""
        self._send(_framed(bytes((0x92, IMPORTS)) + _bin32(document)))

    def respond(self, request_id: str, payload: bytes, content_type: Optional[str]) -> None:
        """Answer; of a payload over the limit only the size is told."""
        size = len(payload)
        if content_type is None and size < _SMALL:
            self._send(_plain_response(47 + size, b"\x95\x05\xd9\x24", request_id.encode(), b"\xc3\xc0\xc6", size) + payload)
            return
        if size > MAX_PAYLOAD:
            self._refuse(request_id, size)
            return
        kind = b"\xc0" if content_type is None else _str8(content_type)
        head = b"%b\x95\x05\xd9\x24%b\xc3%b\xc6%b" % (
            (46 + len(kind) + size).to_bytes(4, "big"),
            request_id.encode(),
            kind,
            size.to_bytes(4, "big"),
        )
        self._send(head, payload)

    def _refuse(self, request_id: str, size: int) -> None:
        self._send(_framed(b"\x94\x10" + _str8(request_id) + b"\xce" + size.to_bytes(4, "big") + b"\xc3"))

    def error(self, request_id: str, error_type: str, document: bytes) -> None:
        """The handler failed; of a document over the limit only the size is told."""
        if len(document) > MAX_PAYLOAD:
            self._refuse(request_id, len(document))
            return
        self._send(_framed(b"\x95\x06" + _str8(request_id) + b"\xc3" + _str8(error_type) + _bin32(document)))

    def stream_start(self, request_id: str, content_type: Optional[str], prelude: Optional[bytes]) -> None:
        """An answer in pieces begins."""
        kind = b"\xc0" if content_type is None else _str8(content_type)
        self._send(_framed(b"\x94\x0d" + _str8(request_id) + kind + (b"\xc0" if prelude is None else _bin32(prelude))))

    def stream_chunk(self, request_id: str, data: bytes) -> None:
        self._send(b"%b\x93\x0e\xd9\x24%b\xc6%b" % ((45 + len(data)).to_bytes(4, "big"), request_id.encode(), len(data).to_bytes(4, "big")), data)

    def stream_end(self, request_id: str, error_type: Optional[str], document: Optional[bytes]) -> None:
        """The last of it, which also means NEXT."""
        kind = b"\xc0" if error_type is None else _str8(error_type)
        self._send(_framed(b"\x95\x0f" + _str8(request_id) + b"\xc3" + kind + (b"\xc0" if document is None else _bin32(document))))

    def log(self, events: "list[bytes]", level: int) -> None:
        """Log events, each at most MAX_PAYLOAD bytes, sent at once and in order."""
        request_id = self.request_id
        head = _LOG_OUTSIDE if request_id is None else b"\x95\x08%b\xcf" % _str8(request_id)
        head += (_time_ns() // 1000).to_bytes(8, "big") + bytes((level, 0xC6))
        size = len(head) + 4
        out = [b"%b%b%b%b" % ((size + len(data)).to_bytes(4, "big"), head, len(data).to_bytes(4, "big"), data) for data in events]
        self._send(out[0] if len(out) == 1 else b"".join(out))


def _fitting(document: bytes) -> bytes:
    """What stands for an error that is told outside an invocation, where there is no answer to refuse."""
    if len(document) <= MAX_PAYLOAD:
        return document
    message = b"Response payload size exceeded maximum allowed payload size (%d bytes)." % MAX_PAYLOAD
    return b'{"errorMessage":"%b","errorType":"Function.ResponseSizeTooLarge"}' % message


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def _str8(text: str) -> bytes:
    """msgpack ``str 8``; an error type longer than 255 bytes is cut between characters."""
    raw = text.encode("utf-8", "replace")
    if len(raw) > 255:
        raw = raw[:255].decode("utf-8", "ignore").encode()
    return b"\xd9" + bytes((len(raw),)) + raw


def _bin32(data: bytes) -> bytes:
    return b"\xc6" + len(data).to_bytes(4, "big") + data


def message_of(frame: Frame) -> "list[Any]":
    """Any frame as a list. Raises ValueError when it is no message."""
    parts = packing.unpack(bytes(frame[4:]))
    if not isinstance(parts, list) or not parts:
        raise ValueError("a message is an array that begins with its type")
    return parts


# Canonical: 99 04 d9 24 <36> cf <8> da <2> arn, then trace, client context, identity, tenant (c0 | d9 | da), then c6 <4> payload.
# An instance rarely sees two ARNs or lengths of trace ids, so the usual event is of the shape of the last: how to take that apart, what is
# then between deadline and trace, where the payload begins, and the ARN as text.
_shape: "Tuple[struct.Struct, bytes, int, str]" = (struct.Struct(">4x4s36scQ0s0s4sI"), b"never", 1 << 62, "")


def _learn(frame: Frame, arn_end: int, trace_end: int, arn: str) -> None:
    global _shape
    shape = struct.Struct(">4x4s36scQ%ds%ds4sI" % (arn_end + 2 - 53, trace_end - arn_end - 2))
    _shape = (shape, bytes(frame[53 : arn_end + 2]), shape.size, arn)


def event_of(frame: Frame) -> Event:
    """The elements of an INVOKE frame. Raises ValueError when it is none."""
    shape, raw, start, arn = _shape
    if len(frame) >= start:
        head, request_id, mark, deadline_ms, between, trace, rest, size = shape.unpack_from(frame)
        if between == raw and head == _INVOKE_HEAD and mark == b"\xcf" and rest == _NO_CONTEXT and size == len(frame) - start:
            return str(request_id, "ascii"), deadline_ms, arn, str(trace, "utf-8"), None, None, None, frame[start:]
    if frame[4:8] != _INVOKE_HEAD or frame[44] != 0xCF or frame[53] != 0xDA:
        return _any_event_of(frame)
    arn_end = at = 56 + (frame[54] << 8 | frame[55])
    arn = str(frame[56:arn_end], "utf-8")
    trace_id = None
    if frame[at] == 0xD9:
        at += 2 + frame[at + 1]
        trace_id = str(frame[arn_end + 2 : at], "utf-8")
        _learn(frame, arn_end, at, arn)
    elif frame[at] == 0xC0:
        at += 1
    client = identity = tenant = None
    if frame[at : at + 4] == _NO_CONTEXT:
        at += 3
    else:
        client, at = _text_at(frame, at)
        identity, at = _text_at(frame, at)
        tenant, at = _text_at(frame, at)
    if frame[at] != 0xC6 or len(frame) - at - 5 != int.from_bytes(frame[at + 1 : at + 5], "big"):
        return _any_event_of(frame)
    return (
        str(frame[8:44], "ascii"),
        int.from_bytes(frame[45:53], "big"),
        arn,
        trace_id,
        client,
        identity,
        tenant,
        frame[at + 5 :],
    )


def _text_at(frame: Frame, at: int) -> "tuple[Optional[str], int]":
    """nil, str 8 or str 16 at ``at``, and where it ends; what is something else ends where it began."""
    mark = frame[at]
    if mark == 0xD9:
        start = at + 2
        end = start + frame[at + 1]
    elif mark == 0xDA:
        start = at + 3
        end = start + (frame[at + 1] << 8 | frame[at + 2])
    else:
        return None, at + (mark == 0xC0)
    return str(frame[start:end], "utf-8"), end


def _any_event_of(frame: Frame) -> Event:
    parts = message_of(frame)
    if len(parts) != 9 or parts[0] != INVOKE:
        raise ValueError("INVOKE has 9 elements")
    return tuple(parts[1:])
