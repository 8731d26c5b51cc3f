"""A helper of the broker for the one call that would stop it: setting a memory threshold on v1 waits for an RCU grace period.

A process of its own with a few threads: many waits share one grace period. It is told descriptors and a number, and says when the
kernel has taken them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket
import threading
import traceback
from collections.abc import Callable

from engine.sandbox import kernel, packets
from engine.sandbox.peers import Loop, Peer

_THREADS = 16


class Marker:
    """The broker's end. ``done`` is called with the number of what was marked."""

    def __init__(self, loop: Loop, done: Callable[[int], None]) -> None:
        self._loop = loop
        self._done = done
        self._peer: Peer | None = None
        self.pid = 0

    def start(self) -> None:
        """Fork it. Raises OSError."""
        self._peer = self._start()

    def mark(self, number: int, mark: int, fds: list[int]) -> None:
        """Have ``mark`` set: ``fds`` are an eventfd, the usage file and the control file of a memory group. Raises OSError."""
        if self._peer is None or self._peer.closed:
            self.start()
        assert self._peer is not None  # noqa: S101 - started
        self._peer.send([str(number), mark], fds)

    def _start(self) -> Peer:
        ours, theirs = packets.pair()
        self.pid = os.fork()
        if self.pid == 0:
            _serve(theirs)
        theirs.close()
        return Peer(self._loop, ours, lambda packet: self._done(int(packet.kind)), lambda _reason: None)

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
