"""Load from one thread of Python over raw sockets: closed loop (a fixed number in flight) or open loop (a fixed rate).

Closed-loop tools hide queueing: a slow answer delays the next question. The open loop sends on its own schedule and counts each
latency from the moment the request was *due*, so time spent waiting for a free connection or for the generator itself is in the
figure (no coordinated omission). The generator's own lateness is reported apart.

    python -m bench.loadgen http://127.0.0.1:4566/2015-03-31/functions/f/invocations --rate 500 --seconds 10
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import select
import socket
import struct
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from bench import http1
from bench.rows import Latencies, from_array
from engine.wire import messages as m
from engine.wire.dialogue import ClientDialogue

Tag = object
Source = Callable[[int], tuple[bytes, Tag]]
# Says what kind of sample an answer is; None counts it as an error.
Check = Callable[[Tag, int, bytes], str | None]
_READ = 256 * 1024
_GIVE_UP_S = 30.0
_OK = 200


class Dialect(Protocol):
    """How requests and answers look on a connection. ``depth``: how many may be in flight on one."""

    many: bool

    def greet(self, sock: socket.socket) -> None: ...

    def number(self, request: bytes, call_id: int) -> bytes: ...

    def next(self, buffer: bytearray, at: int, want_body: bool) -> tuple[int, int, int, bytes] | None:
        """(size, call id, status, body) of the answer at ``at``; None when it is not complete."""


class Http:
    """HTTP/1.1 keep-alive, one request at a time per connection."""

    many = False

    def greet(self, sock: socket.socket) -> None:
        return

    def number(self, request: bytes, call_id: int) -> bytes:
        return request

    def next(self, buffer: bytearray, at: int, want_body: bool) -> tuple[int, int, int, bytes] | None:
        reply = http1.find(buffer, at)
        if reply is None:
            return None
        body = bytes(buffer[reply.body_at : at + reply.size]) if want_body else b""
        return reply.size, 0, reply.status, body


class Frames:
    """The engine's binary protocol; requests are framed CALLs, their number at offset 7 is filled in here.

    ``echo``: the peer returns frames as they are (the C dispatcher), so there is no status to read and no greeting.
    """

    many = True

    def __init__(self, *, echo: bool = False, key: tuple[str, str] | None = None) -> None:
        self._echo = echo
        self._key = key

    def greet(self, sock: socket.socket) -> None:
        if self._echo:
            return
        dialogue = ClientDialogue(self._key)
        sock.sendall(dialogue.opening())
        while not dialogue.is_open:
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("closed during the handshake")
            dialogue.receive(data)
            sock.sendall(dialogue.take_reply())

    def number(self, request: bytes, call_id: int) -> bytes:
        return b"".join((request[:7], call_id.to_bytes(4, "big"), request[11:]))

    def next(self, buffer: bytearray, at: int, want_body: bool) -> tuple[int, int, int, bytes] | None:
        if len(buffer) - at < 4:
            return None
        size = 4 + int.from_bytes(buffer[at : at + 4], "big")
        if len(buffer) - at < size:
            return None
        call_id = int.from_bytes(buffer[at + 7 : at + 11], "big")
        if self._echo:
            return size, call_id, _OK, b""
        if want_body:
            result = m.decode_result(bytes(buffer[at + 4 : at + size]))
            return size, call_id, result.status, result.payload
        return size, call_id, int.from_bytes(buffer[at + 12 : at + 14], "big"), b""


@dataclass
class Plan:
    """What load to make; it ends after ``seconds`` or ``count`` requests, whichever is first. ``rate`` None is a closed loop.

    What is sent (or due) in the first ``lead_s`` is answered but no sample: the connections are new to the server then. An open loop also ends
    once ``until`` says so.
    """

    address: str
    dialect: Dialect
    source: Source
    connections: int = 1
    depth: int = 1
    seconds: float = 5.0
    count: int = 10_000_000
    rate: float | None = None
    check: Check | None = None
    lead_s: float = 0.0
    until: Callable[[], bool] = lambda: False


@dataclass
class Outcome:
    """What came back. ``kinds`` holds raw nanoseconds per kind of sample (``ok`` without a check); ``lag`` the generator's lateness."""

    kinds: dict[str, array[int]] = field(default_factory=dict)
    errors: int = 0
    first_error: str = ""
    seconds: float = 0.0
    lag: array[int] = field(default_factory=lambda: array("q"))

    def latencies(self, kind: str = "ok") -> Latencies:
        return from_array(self.kinds.get(kind, array("q")))


def connect(address: str) -> socket.socket:
    """A blocking stream socket to a path or host:port."""
    if "/" in address:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(None)
    return sock


class _Connection:
    __slots__ = ("buffer", "free", "out", "sock", "started", "waiting_out")

    def __init__(self, sock: socket.socket, depth: int) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.started: dict[int, tuple[int, Tag]] = {}
        self.free = list(range(depth - 1, -1, -1))
        self.out: deque[memoryview] = deque()
        self.waiting_out = False


class Generator:
    """Runs one Plan. Raises ConnectionError when the server closes a connection, TimeoutError when it falls silent."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._outcome = Outcome()
        self._sent = 0
        self._done = 0
        self._stop_ns = 0
        self._lead_ns = 0
        self._due: deque[int] = deque()
        self._idle: list[_Connection] = []

    def run(self) -> Outcome:
        plan = self._plan
        for _ in range(plan.connections):
            sock = connect(plan.address)
            plan.dialect.greet(sock)
            sock.setblocking(False)
            connection = _Connection(sock, plan.depth)
            self._connections[sock.fileno()] = connection
            self._epoll.register(sock, select.EPOLLIN)
        collecting = gc.isenabled()
        gc.disable()
        begin = time.perf_counter_ns()
        self._stop_ns = begin + int(plan.seconds * 1e9)
        self._lead_ns = begin + int(plan.lead_s * 1e9)
        try:
            if plan.rate is None:
                self._closed_loop()
            else:
                self._open_loop(plan.rate)
        finally:
            if collecting:
                gc.enable()
            self._epoll.close()
            for connection in self._connections.values():
                connection.sock.close()
        self._outcome.seconds = (time.perf_counter_ns() - begin) / 1e9
        return self._outcome

    def _closed_loop(self) -> None:
        for connection in self._connections.values():
            for _ in range(self._plan.depth):
                self._send(connection, time.perf_counter_ns())
        while self._done < self._sent:
            for fd, events in self._wait(_GIVE_UP_S):
                self._ready(fd, events)

    def _open_loop(self, rate: float) -> None:
        timer = _Timer()
        self._epoll.register(timer.fd, select.EPOLLIN)
        gap = 1e9 / rate
        begin = time.perf_counter_ns()
        self._lead_ns = begin + int(self._plan.lead_s * 1e9)
        total = min(self._plan.count, int(self._plan.seconds * rate))
        self._idle = [c for c in self._connections.values() for _ in range(self._plan.depth)]
        offered = 0
        try:
            while self._done < total:
                if self._plan.until():
                    total = min(total, offered)
                    if self._done == total:
                        break
                now = time.perf_counter_ns()
                while offered < total and begin + int(offered * gap) <= now:
                    self._due.append(begin + int(offered * gap))
                    offered += 1
                while self._due and self._idle:
                    due = self._due.popleft()
                    self._outcome.lag.append(time.perf_counter_ns() - due)
                    self._send(self._idle.pop(), due)
                if offered < total:
                    timer.at(max(1, begin + int(offered * gap) - time.perf_counter_ns()))
                for fd, events in self._wait(_GIVE_UP_S):
                    if fd == timer.fd:
                        timer.clear()
                    else:
                        self._ready(fd, events)
        finally:
            timer.close()

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        events = self._epoll.poll(seconds)
        if not events:
            raise TimeoutError(f"no answer for {seconds} s; {self._done} of {self._sent} answered")
        return events

    def _ready(self, fd: int, events: int) -> None:
        connection = self._connections[fd]
        if events & select.EPOLLOUT:
            self._flush(connection)
        if events & ~select.EPOLLOUT:
            self._read(connection)

    def _send(self, connection: _Connection, start_ns: int) -> None:
        """Send one request on a free slot of ``connection``; its latency counts from ``start_ns``."""
        plan = self._plan
        request, tag = plan.source(self._sent)
        call_id = connection.free.pop()
        if plan.dialect.many:
            request = plan.dialect.number(request, call_id)
        connection.started[call_id] = (start_ns, tag)
        self._sent += 1
        if connection.out:
            connection.out.append(memoryview(request))
            return
        try:
            sent = connection.sock.send(request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            connection.out.append(memoryview(request)[sent:])
            self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        out = connection.out
        try:
            while out:
                sent = connection.sock.send(out[0])
                if sent == len(out[0]):
                    out.popleft()
                else:
                    out[0] = out[0][sent:]
        except BlockingIOError:
            pass
        if bool(out) is not connection.waiting_out:
            connection.waiting_out = bool(out)
            self._epoll.modify(connection.sock, select.EPOLLIN | (select.EPOLLOUT if out else 0))

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_READ)
        except BlockingIOError:
            return
        now = time.perf_counter_ns()
        if not data:
            raise ConnectionError(f"the server closed a connection; {self._done} of {self._sent} answered")
        buffer = connection.buffer
        buffer += data
        at = 0
        plan = self._plan
        while True:
            answer = plan.dialect.next(buffer, at, plan.check is not None)
            if answer is None:
                break
            size, call_id, status, body = answer
            at += size
            start, tag = connection.started.pop(call_id)
            connection.free.append(call_id)
            self._done += 1
            if start >= self._lead_ns:
                self._sample(tag, status, body, now - start)
            if plan.rate is not None:
                self._idle.append(connection)
            elif now < self._stop_ns and self._sent < plan.count:
                self._send(connection, time.perf_counter_ns())
        if at:
            del buffer[:at]

    def _sample(self, tag: Tag, status: int, body: bytes, ns: int) -> None:
        check = self._plan.check
        kind = ("ok" if status == _OK else None) if check is None else check(tag, status, body)
        if kind is None:
            self._outcome.errors += 1
            self._outcome.first_error = self._outcome.first_error or f"status {status}: {body[:300]!r}"
            kind = "error"
        values = self._outcome.kinds.get(kind)
        if values is None:
            values = self._outcome.kinds[kind] = array("q")
        values.append(ns)


class _Timer:
    """A timerfd: epoll's own timeout knows only milliseconds, too coarse to keep a rate."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = int(self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def at(self, ns: int) -> None:
        """Become readable ``ns`` from now, once."""
        spec = struct.pack("=qqqq", 0, 0, ns // 1_000_000_000, ns % 1_000_000_000)
        self._libc.timerfd_settime(self.fd, 0, spec, None)

    def clear(self) -> None:
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self.fd)


def main() -> None:
    """Command line for a quick look at any HTTP server."""
    parser = argparse.ArgumentParser(prog="python -m bench.loadgen", description="POST one body at a rate, or as fast as answered.")
    parser.add_argument("url")
    parser.add_argument("--body", default="{}")
    parser.add_argument("--rate", type=float, help="requests per second (open loop); without it a closed loop")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    url = urlsplit(options.url)
    raw = http1.request(url.netloc, url.path or "/", options.body.encode())
    plan = Plan(
        url.netloc, Http(), lambda _n: (raw, None), connections=options.connections, seconds=options.seconds, rate=options.rate
    )
    outcome = Generator(plan).run()
    seen = outcome.latencies()
    print(f"{len(seen)} answers, {outcome.errors} errors, {len(seen) / outcome.seconds:.0f}/s in {outcome.seconds:.2f} s")
    print("  ".join(f"p{p:g} {seen.us(p):.0f} us" for p in (50, 90, 99, 99.9, 100)))
    if outcome.lag:
        print(f"generator late: p50 {Latencies(outcome.lag).us(50):.0f} us, p99 {Latencies(outcome.lag).us(99):.0f} us")


if __name__ == "__main__":
    main()
