"""Helpers of the broker for the two calls that would stop it: setting a memory threshold on v1 waits for an RCU grace period, and taking
memory back takes as long as there is any.

Each is a process of its own, which is told descriptors and a number, and says when the kernel is done. The marker has a few threads: many waits
share one grace period. The taker has one, and takes only so much processor time for an order, since a function that goes on reading files
could keep it at work for ever. It is started when it is needed first, which is seldom.

Whoever kills one of them between an order and its answer must not leave a function unwatched: what was not answered is told to whoever ordered it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable

from engine.sandbox import kernel, packets
from engine.sandbox.peers import Loop, Peer

_THREADS = 16
_TAKING_S = 0.5


class Marker:
    """The broker's end. ``done`` is called with the number of what was marked, or where memory was taken back if it is a ``taker``; ``lost`` when
    the helper ended and nobody knows whether it was.
    """

    def __init__(self, loop: Loop, done: Callable[[int], None], lost: Callable[[int], None], *, taker: bool = False) -> None:
        self._loop = loop
        self._done = done
        self._lost = lost
        # Orders without an answer, by number.
        self._open: Counter[int] = Counter()
        self._serve = _take if taker else _serve
        self._peer: Peer | None = None
        self.pid = 0

    def start(self) -> None:
        """Fork it. Raises OSError."""
        self._peer = self._start()

    def mark(self, number: int, mark: int, fds: list[int]) -> None:
        """Have ``mark`` set: ``fds`` are an eventfd, the usage file and the control file of a memory group. A taker's is the one file by which
        memory is taken back. Raises OSError.
        """
        if self._peer is None or self._peer.closed:
            self.start()
        assert self._peer is not None  # noqa: S101 - started
        self._open[number] += 1
        self._peer.send([str(number), mark], fds)

    def _start(self) -> Peer:
        ours, theirs = packets.pair()
        self.pid = os.fork()
        if self.pid == 0:
            self._serve(theirs)
        theirs.close()
        return Peer(self._loop, ours, lambda packet: self._answered(int(packet.kind)), lambda _reason: self._ended())

    def _answered(self, number: int) -> None:
        self._open[number] -= 1
        if self._open[number] <= 0:
            del self._open[number]
        self._done(number)

    def _ended(self) -> None:
        """It was killed. Its successor starts with the next order."""
        unanswered, self._open = self._open, Counter()
        for number in unanswered:
            self._lost(number)

    def close(self) -> None:
        """Its socket's end is its order to end."""
        if self._peer is not None:
            self._peer.close()


def _serve(sock: socket.socket) -> None:
    """In the child. Never returns."""
    try:
        kernel.close_from(3, [sock.fileno()])
        kernel.die_with_parent()
        kernel.set_name("lambda-marker")
        work: queue.SimpleQueue[packets.Packet] = queue.SimpleQueue()
        for _ in range(_THREADS):
            threading.Thread(target=_work, args=(sock, work), daemon=True).start()
        while (packet := packets.receive(sock)) is not None:
            work.put(packet)
    except BaseException:  # nothing may return into the broker's loop
        traceback.print_exc()
    finally:
        os._exit(0)


def _take(sock: socket.socket) -> None:
    """In the child. Never returns."""
    try:
        kernel.close_from(3, [sock.fileno()])
        kernel.die_with_parent()
        kernel.set_name("lambda-taker")
        signal.signal(signal.SIGPROF, _enough)
        while (packet := packets.receive(sock)) is not None:
            with contextlib.suppress(OSError):
                signal.setitimer(signal.ITIMER_PROF, _TAKING_S)
                try:
                    os.write(packet.fds[0], b"%d" % packet.args[0])
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
            packet.close()
            packets.send(sock, [packet.kind])
    except BaseException:  # nothing may return into the broker's loop
        traceback.print_exc()
    finally:
        os._exit(0)


def _enough(_number: int, _frame: object) -> None:
    raise TimeoutError


def _work(sock: socket.socket, work: queue.SimpleQueue[packets.Packet]) -> None:
    while True:
        packet = work.get()
        event, usage, control = packet.fds
        try:
            os.write(control, b"%d %d %d" % (event, usage, packet.args[0]))
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENODEV):  # the sandbox has ended
                traceback.print_exc()
        packet.close()
        with contextlib.suppress(OSError):
            packets.send(sock, [packet.kind])
