"""A worker that speaks frames itself, behind the agent: where a managed runtime has extensions beside it, or a wrapper before it.

Frames pass in both directions as they are. What the agent must know is read from them on the way, and a worker's "answered and ready" is
taken apart into its two halves, since the instance is ready only when the extensions are too.
"""

from __future__ import annotations

import os
import socket
from typing import Optional

from runtime_bootstrap import packing
from runtime_bootstrap.agent import link as frames
from runtime_bootstrap.agent.http import Exchange, Sink
from runtime_bootstrap.agent.link import Invoke, Link
from runtime_bootstrap.agent.loop import READ, WRITE, Loop
from runtime_bootstrap.agent.runtime import INVOCATION, Discard, Events, Runtime, fault

_READ, _READ_BIG = 16 * 1024, 256 * 1024
_ANSWERS = (frames.RESPONSE, frames.ERROR, frames.STREAM_END)
# In these ``then_next`` follows type and request id.
_THEN_NEXT = 40
# Before the data of a STREAM_CHUNK: type, request id, ``bin 32``.
_CHUNK_HEAD = 45


class Relay:
    """The runtime's side, with the same face as ``Runtime``: ``begin`` gives it an event, ``invoke`` is the one under way."""

    def __init__(self, loop: Loop, link: Link, events: Events, init_frame: bytes) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.invoke: Optional[Invoke] = None
        self.ready = False
        # Whether a worker of ours is there at all: a wrapper may start something else in its place.
        self.greeted = False
        self._loop = loop
        self._link = link
        self._events = events
        self._init_frame = init_frame
        self._sock = ours
        self._in = b""
        # What of the answer has passed in pieces.
        self._streamed = 0
        self._out: "list[memoryview]" = []
        loop.watch(ours.fileno(), self._readable)

    def end(self) -> None:
        """Nobody will ever speak here."""
        self._loop.forget(self._sock.fileno())
        self._sock.close()

    def begin(self, invoke: Invoke, body: bytes) -> None:
        self.invoke = invoke
        self._send(frames.framed(body))

    def _send(self, data: bytes) -> None:
        self._out.append(memoryview(data))
        self._flush()

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._sock.send(self._out[0])
            except (BlockingIOError, InterruptedError):
                self._watch()
                return
            except OSError:
                self._out.clear()
                return
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
            else:
                self._out.pop(0)
        self._watch()

    def _watch(self) -> None:
        self._loop.change(self._sock.fileno(), (0 if self._link.held else READ) | (WRITE if self._out else 0))

    def _readable(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if not mask & ~WRITE:
            return
        try:
            data = self._sock.recv(_READ_BIG if self._in else _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.forget(self._sock.fileno())
            return
        data = self._in + data if self._in else data
        at = 0
        while len(data) - at >= 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if len(data) < end:
                break
            self._take(data[at + 4 : end])
            at = end
        self._in = data[at:]
        if self._link.held:
            self._link.on_drained = self._watch
            self._watch()

    def _take(self, body: bytes) -> None:
        kind = body[1]
        if kind == frames.HELLO:
            self.greeted = True
            self._send(self._init_frame)
        elif kind == frames.NEXT:
            self._next()
        elif kind in _ANSWERS or kind == frames.TOO_LARGE:
            self._answer(kind, body)
        else:
            if kind == frames.LOG:
                self._events.runtime_logged(_text_of(body))
            elif kind == frames.STREAM_START and self.invoke is not None:
                self._streamed = 0
                self._events.runtime_streaming(self.invoke)
            elif kind == frames.STREAM_CHUNK:
                self._streamed += len(body) - _CHUNK_HEAD
            elif kind == frames.INIT_ERROR:
                self._events.runtime_init_error(_error_type_of(body), b"")
            self._link.send(frames.framed(body))

    def _next(self) -> None:
        if not self.ready:
            self.ready = True
            self._events.runtime_ready()
            return
        invoke, self.invoke = self.invoke, None
        if invoke is not None:
            self._events.runtime_done(invoke)

    def _answer(self, kind: int, body: bytes) -> None:
        at = len(body) - 1 if kind == frames.TOO_LARGE else _THEN_NEXT
        also_next = body[at] == 0xC3
        invoke = self.invoke
        if invoke is not None:
            size = self._streamed if kind == frames.STREAM_END else 0 if kind == frames.TOO_LARGE else _size_of(body)
            self._events.runtime_answered(invoke, size, _error_type_of(body) if kind == frames.ERROR else None)
        self._link.send(frames.framed(body[:at] + b"\xc2" + body[at + 1 :]))
        if also_next:
            self._next()


class Bystander(Runtime):
    """The Runtime API for the code of a function whose worker speaks frames: it may look at the event under way, and answers are the worker's."""

    def __init__(self, link: Link, relay: Relay) -> None:
        super().__init__(link, Events())
        self._relay = relay

    def _look(self) -> None:
        self.invoke = self._relay.invoke
        self.state = "Running" if self.invoke is not None else "Ready" if self._relay.ready else "Started"

    def next(self, exchange: Exchange) -> None:
        self._look()
        if self.invoke is None:
            self._forbidden(exchange, "Ready")
        else:
            self._deliver(exchange, self.invoke)

    def response(self, exchange: Exchange) -> Sink:
        self._refuse(exchange, exchange.path[len(INVOCATION) : -len(b"/response")], "InvocationResponse")
        return Discard()

    def error(self, exchange: Exchange, body: bytes) -> None:
        self._refuse(exchange, exchange.path[len(INVOCATION) : -len(b"/error")], "InvocationErrorResponse")

    def init_error(self, exchange: Exchange, body: bytes) -> None:
        self._look()
        self._forbidden(exchange, "InitError")

    def _refuse(self, exchange: Exchange, request_id: bytes, wanted: str) -> None:
        self._look()
        if self.invoke is None or request_id != self.invoke.request_id.encode():
            exchange.reply(400, fault("InvalidRequestID", "Invalid request ID"))
        else:
            self._forbidden(exchange, wanted)


def _text_of(body: bytes) -> bytes:
    """The data of a LOG: ``bin 32``, last."""
    # 95 08, request id or nil, cf and 8 bytes, level, c6 and 4 bytes.
    at = 3 if body[2] == 0xC0 else 4 + body[3]
    return body[at + 15 :]


def _size_of(body: bytes) -> int:
    """How long the payload of a RESPONSE or ERROR is: ``bin 32``, last, after a content type, an error type or nil."""
    at = _THEN_NEXT + 1
    return len(body) - (at + 1 if body[at] == 0xC0 else at + 2 + body[at + 1]) - 5


def _error_type_of(body: bytes) -> str:
    """The error type of an ERROR or INIT_ERROR: ``str 8``."""
    at = _THEN_NEXT + 1 if body[1] == frames.ERROR else 2
    return body[at + 2 : at + 2 + body[at + 1]].decode("utf-8", "replace") if body[at] == 0xD9 else "Runtime.Unknown"


def library_root() -> str:
    """The directory that holds ``runtime_bootstrap``: /var/runtime, or where it lies without a sandbox."""
    return os.path.dirname(os.path.dirname(os.path.abspath(packing.__file__)))
