"""Load beside what is measured, from processes of their own that step back: what its client computes is to be no part of the figure."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from bench.loadgen import Generator, Plan
from engine import turns

# How long it runs before and after what is measured, so that all of that is beside it.
_MARGIN_S = 0.15
_NEVER_S = 3600.0
_NICER = 10


class Companion:
    """Carries out ``plan``, an open loop, whenever it is told to, from the making of this object to ``close``. ``counts``: answers by kind so far."""

    def __init__(self, plan: Plan) -> None:
        context = multiprocessing.get_context("fork")
        self._enough = mmap.mmap(-1, 1)
        enough = self._enough
        plan = replace(plan, seconds=_NEVER_S, until=lambda: enough[0] > 0)
        self._here, there = context.Pipe()
        self._process = context.Process(target=_carry_out, args=(plan, self._here, there), daemon=True)
        self._process.start()
        there.close()
        self.counts: Counter[str] = Counter()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid or 0

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """The load runs before, during and after the block. Raises EOFError when its process has ended."""
        self._enough[0] = 0
        self._here.send("begin")
        self._here.recv()
        time.sleep(_MARGIN_S)
        yield
        time.sleep(_MARGIN_S)
        self._enough[0] = 1
        self.counts.update(self._here.recv())

    def close(self) -> None:
        """End the process. Idempotent."""
        self._process.kill()
        self._process.join()
        self._here.close()


@contextlib.contextmanager
def stand_in(body_size: int) -> Iterator[str]:
    """The address of a server that answers the load in the place of the one that is measured, and does nothing else: what is slower beside it
    is so because of the load's client.
    """
    context = multiprocessing.get_context("fork")
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        process = context.Process(target=_answer, args=(listener, body_size), daemon=True)
        process.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield address
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """This process runs the moment it wakes, if it has the right to demand that: a client that waits for a processor measures its own wait."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    turns.short()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _step_back() -> None:
    """Where each session has its own share of the processors (``sched_autogroup``), niceness counts within it only: the session's has to follow."""
    os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICER), encoding="ascii")
    os.nice(_NICER)
    turns.long()


def _carry_out(plan: Plan, other_end: Connection, told: Connection) -> None:
    other_end.close()
    _step_back()
    with contextlib.suppress(EOFError):
        while told.recv():
            told.send("begins")
            outcome = Generator(plan).run()
            told.send({kind: len(values) for kind, values in outcome.kinds.items()})


def _answer(listener: socket.socket, body_size: int) -> None:
    _step_back()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % body_size + b"x" * body_size
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                ready.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            connection: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                data = connection.recv(65536)
            except ConnectionError:
                data = b""
            if data:
                connection.sendall(answer)
            else:
                ready.unregister(connection)
                connection.close()
