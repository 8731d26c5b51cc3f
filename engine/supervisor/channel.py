"""A non-blocking stream socket that carries frames to and from one worker.

A raw descriptor and readiness callbacks, not a transport: a cold start must have its channel working in microseconds, and the
usual request is one ``read`` and one ``write``. The loop itself watches only what is heard often (see ``ears``).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from engine.errors import WireError
from engine.supervisor.ears import Ears
from engine.supervisor.lanes import LaneWorker
from engine.wire.frames import MAX_FRAME, FrameDecoder

RECV = 64 * 1024
BIG_RECV = 1024 * 1024
# An instance that is used once is heard this often at most, unless its function logs.
SELDOM = 4


class Channel:
    """One worker's connection, whose descriptor it owns. Calls ``on_frame(body)`` per frame, ``on_error(error)`` for hostile bytes, ``on_eof()`` once.

    After ``close`` no callback comes.
    """

    __slots__ = (
        "_by_loop", "_decoder", "_ears", "_heard", "_loop", "_on_eof", "_on_error", "_on_frame", "_out", "_paused", "_readable", "_watched", "closed",
        "fd", "listening", "worker",
    )  # fmt: skip

    def __init__(
        self,
        ears: Ears,
        fd: int,
        on_frame: Callable[[bytes], None],
        on_error: Callable[[WireError], None],
        on_eof: Callable[[], None],
    ) -> None:
        self._ears = ears
        self._loop = ears.loop
        self._heard = 0
        self._watched = self._by_loop = False
        self.fd = fd
        self._on_frame = on_frame
        self._on_error = on_error
        self._on_eof = on_eof
        # Made when something comes that is not one whole frame.
        self._decoder: FrameDecoder | None = None
        self._out: list[memoryview] = []
        self._paused = False
        self.closed = False
        self.listening = False
        self.worker: LaneWorker | None = None
        self._readable: Callable[[], object] = self.read_once
        os.set_blocking(fd, False)

    def listen(self, worker: LaneWorker | None) -> None:
        """Begin to hear the worker, with its compiled reader where there is one, and at once what it said while it was in stock."""
        self.listening = True
        self.worker = worker
        if worker is not None:
            self._readable = worker.readable
        self._watch()
        self._readable()

    def _seldom(self) -> None:
        """Something came while it was not known yet whether much will."""
        self._readable()
        self._heard += 1
        if self._heard > SELDOM and self._watched:
            self._unwatch()
            self._watch()

    def _watch(self) -> None:
        self._watched = True
        self._by_loop = self._heard > SELDOM
        if self._by_loop:
            self._loop.add_reader(self.fd, self._readable)
        else:
            self._ears.add(self.fd, self._seldom)

    def _unwatch(self) -> None:
        self._watched = False
        if self._by_loop:
            self._loop.remove_reader(self.fd)
        else:
            self._ears.remove(self.fd)

    @property
    def backlog(self) -> bool:
        """Whether something still waits to be sent."""
        return bool(self._out)

    def read_once(self) -> bool:
        """One read; False when there was nothing more."""
        decoder = self._decoder
        try:
            data = os.read(self.fd, RECV if decoder is None or decoder.buffered <= RECV else BIG_RECV)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        return self.received(data)

    def received(self, data: bytes) -> bool:
        """Handle bytes that the worker sent, none at its end; False when nothing more is to be read."""
        decoder = self._decoder
        if not data:
            self._unwatch()
            self._on_eof()
            return False
        try:
            if len(data) == 4 + int.from_bytes(data[:4], "big") and len(data) > 4 and (decoder is None or not decoder.buffered):
                self._on_frame(data[4:])
            else:
                if decoder is None:
                    decoder = self._decoder = FrameDecoder(MAX_FRAME)
                for body in decoder.feed(data):
                    if self.closed:
                        return False
                    self._on_frame(body)
        except WireError as e:
            if not self.closed:
                self._on_error(e)
            return False
        if decoder is not None and self.worker is not None:
            self.worker.clean = not decoder.buffered
        return not self.closed

    def pause(self) -> None:
        """Read no more until ``resume``: the worker's own writes will wait."""
        if not self.closed and not self._paused:
            self._paused = True
            self._unwatch()

    def resume(self) -> None:
        if not self.closed and self._paused:
            self._paused = False
            self._watch()

    def drain(self) -> None:
        """Handle what the worker sent before it ended."""
        while not self.closed and self.read_once():
            pass

    def send(self, data: bytes) -> None:
        """Send, keeping what the socket does not take yet. A broken pipe shows as EOF on the reading side."""
        if self.closed:
            return
        if self._out:
            self._out.append(memoryview(data))
            return
        try:
            sent = os.write(self.fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return
        if sent < len(data):
            self._out.append(memoryview(data)[sent:])
            self._loop.add_writer(self.fd, self._writable)

    def _writable(self) -> None:
        while self._out:
            try:
                sent = os.write(self.fd, self._out[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._out.clear()
                break
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
            else:
                self._out.pop(0)
        self._loop.remove_writer(self.fd)

    def close(self) -> None:
        """Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._watched = False
        if self.worker is not None:
            self.worker.close()
        if self._by_loop:
            self._loop.remove_reader(self.fd)
        else:
            self._ears.forget(self.fd)
        if self._out:
            self._loop.remove_writer(self.fd)
            self._out.clear()
        os.close(self.fd)
