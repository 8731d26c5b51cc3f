"""One instance: its sandbox, its worker's channel, what it is doing. Decides nothing; the invoker does."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from functools import partial
from typing import TYPE_CHECKING, Protocol

from engine.core.instance import TRANSITIONS, Event, State, transition
from engine.core.pool import VersionPool
from engine.core.report import init_error_type
from engine.errors import WireError
from engine.ids import hex32
from engine.sandbox.group import cpu_used_s
from engine.supervisor.channel import Channel
from engine.supervisor.door import Door
from engine.supervisor.environment import SNAP_START
from engine.supervisor.logs import MAX_EVENT

if TYPE_CHECKING:
    from engine.sandbox.freezer import Freezer
    from engine.supervisor.catalogue import Version
    from engine.supervisor.ears import Ears
    from engine.supervisor.holders import Holder
    from engine.supervisor.lanes import LaneWorker
    from engine.supervisor.provision import Provision
    from engine.supervisor.request import Request
    from engine.supervisor.sharing import Seat
    from engine.supervisor.streaming import ResponseStream

PEAK_AGE_MS = 50
CPU_AGE_MS = 1000
_NOT_AGAIN_MS = 1 << 62
# How long nobody is let in from inside while this process may have no more descriptors.
_SHORT_S = 0.2
ON_DEMAND = "on-demand"
PROVISIONED = "provisioned-concurrency"
MANAGED = "lambda-managed-instances"


class InstanceEvents(Protocol):
    """What an instance reports to the invoker."""

    def on_frame(self, instance: Instance, body: bytes) -> None: ...

    def on_violation(self, instance: Instance, error: WireError) -> None: ...

    def on_output(self, instance: Instance, text: str) -> None: ...

    def on_connection(self, sock: socket.socket, door: Door) -> None: ...

    def lane_worker(self, instance: Instance, channel: Channel) -> LaneWorker | None: ...


class Instance:
    """An execution environment of one version. Hashable by identity."""

    __slots__ = (
        "_accepting", "_cpu_read_ms", "_current", "_door", "_ears", "_events", "_listening", "_output_fd", "_partial", "_peak_read_ms", "answered",
        "born_s", "capped", "channel", "copied", "cpu_before_s", "cpu_file", "cpu_s", "crew", "deadline_s", "endpoint", "flight", "freezer",
        "frozen", "holder_id", "init_error", "init_failed_in_init", "init_ms", "init_started_s", "init_took_s", "invocations", "kind", "learned",
        "leave_s", "leaving", "memory_bytes", "memory_peak_file", "needs_init", "pid", "pool", "printed_ms", "provisioned", "raw_used", "response",
        "restore_ms", "restored", "said_hello", "snapshot", "state", "stream", "template", "version",
    )  # fmt: skip

    def __init__(
        self,
        ears: Ears,
        version: Version,
        events: InstanceEvents,
        now_s: float,
        day: str,
        *,
        provision: Provision | None = None,
        template: bool = False,
    ) -> None:
        self._ears = ears
        self._events = events
        self._output_fd = -1
        self._listening = self._accepting = False
        self._partial = b""
        self._peak_read_ms = self._cpu_read_ms = 0
        self.version = version
        self.pool = version.pool if provision is None else provision.pool
        self.provisioned = provision is not None
        # Others are copied from it; it serves nobody, so the pool it is in is its own.
        self.template = template
        self._be_of_a_kind(version, provision)
        if template:
            self.pool = VersionPool()
        self.state = State.STARTING
        self.holder_id = 0
        self.pid = 0
        self.channel: Channel | None = None
        self.endpoint = -1
        self._door: Door | None = None
        self.memory_peak_file: str | None = None
        self.memory_bytes = 0
        self.cpu_file: str | None = None
        self.cpu_before_s = 0.0
        self.cpu_s = 0.0
        self.freezer: Freezer | None = None
        self.frozen = False
        self.capped = False
        self._current: Request | None = None
        self.flight: LaneWorker | None = None
        # Its request is answered, its NEXT has not come yet.
        self.answered = False
        self.response: ResponseStream | None = None
        self.deadline_s: float | None = None
        # In a log group that it may share with others the stream says whose it is.
        own = "" if version.log is version.function.log else version.config.name
        self.stream = f"{day}/{own}[{version.config.version}]{hex32()}"
        # When it, or the platform for it, last wrote to the log.
        self.printed_ms = 0
        self.born_s = now_s
        self.init_started_s: float | None = None
        self.init_ms: float | None = None
        # Kept, where ``init_ms`` and ``restore_ms`` are told once.
        self.init_took_s: float | None = None
        self.restore_ms: float | None = None
        self.init_error: tuple[str, bytes] | None = None
        self.init_failed_in_init = False
        self.needs_init = False
        self.said_hello = False
        self.raw_used = False
        self.invocations = 0
        # Epoch seconds after which its credentials do not last for another invocation; None: they do.
        self.leave_s: float | None = None
        self.leaving = False

    def _be_of_a_kind(self, version: Version, provision: Provision | None) -> None:
        """What it is copied from, and what AWS_LAMBDA_INITIALIZATION_TYPE says of it."""
        template = self.template
        learned = version.template is not None and version.template.learned
        # It is such a copy.
        self.copied = version.stock_key != version.zygote_key and not template
        # What is copied has its packages imported, and no more.
        self.learned = template and learned
        # It is a copy whose init is over.
        self.restored = self.copied and not learned
        # Its runtime is to run the hooks of a snapshot.
        self.snapshot = ((template or self.restored) and not learned) or version.config.snap_start
        # Lambda does not have SnapStart and provisioned concurrency together; a copy that is provisioned is what the function asked for.
        self.kind = PROVISIONED if provision is not None else SNAP_START if self.snapshot else ON_DEMAND
        # The invocations in it by request id, where there may be several at once.
        self.crew: dict[str, Seat] | None = None
        if version.limit > 1 and provision is None and not template:
            self.crew = {}
            self.kind = MANAGED

    @property
    def current(self) -> Request | None:
        """The invocation under way. One that a compiled lane started becomes an ordinary one by being asked for."""
        if self.flight is not None:
            flight, self.flight = self.flight, None
            self._current = flight.request()
        return self._current

    @current.setter
    def current(self, request: Request | None) -> None:
        self._current = request

    @property
    def worker(self) -> LaneWorker | None:
        """The worker's side of the compiled lane."""
        return None if self.channel is None else self.channel.worker

    def move(self, event: Event) -> None:
        """Apply a transition; raises IllegalTransition."""
        self.state = TRANSITIONS.get((self.state, event)) or transition(self.state, event)

    def adopt(self, holder: Holder) -> None:
        """Take over a prepared sandbox. Nothing is heard of it until ``listen``."""
        self.holder_id = holder.holder_id
        fds = holder.fds
        self.memory_peak_file, self.cpu_file, self.freezer = fds.peak_file, fds.cpu_file, fds.freezer
        self.cpu_before_s = fds.cpu_before_s
        self._attach(fds.channel, fds.output_fd, holder.pid)
        self.endpoint = fds.endpoint

    def readopt(self, channel: int, output_fd: int, pid: int) -> None:
        """The same sandbox has a fresh worker."""
        self.detach_worker()
        self.said_hello = False
        self.init_error = None
        self._attach(channel, output_fd, pid)

    def _attach(self, channel: int, output_fd: int, pid: int) -> None:
        self.pid = pid
        self._output_fd = output_fd
        self.channel = Channel(self._ears, channel, partial(self._events.on_frame, self), self._broken, self._eof)

    def listen(self) -> None:
        """Hear the worker, its raw output and its connections to the engine; apart from ``adopt`` so that INIT need not wait for it."""
        channel, ears = self.channel, self._ears
        if self._output_fd >= 0 and not self._listening:
            ears.add(self._output_fd, self.read_output)
            self._listening = True
        if self.endpoint >= 0 and not self._accepting:
            ears.add(self.endpoint, self._accept)
            self._accepting = True
        if channel is not None and not channel.listening:
            # Last, for what is heard may be the end of this instance.
            channel.listen(self._events.lane_worker(self, channel))

    def _broken(self, error: WireError) -> None:
        self._events.on_violation(self, error)

    def _eof(self) -> None:
        # The broker reports how the worker ended; until then there is nothing to do.
        return

    def _accept(self) -> None:
        try:
            sock = Door.answer(self.endpoint)
        except OSError:
            # Whoever stands there stays: the loop would come here all the time.
            self._stop_accepting()
            self._ears.loop.call_later(_SHORT_S, self.listen)
            return
        if sock is None:
            return
        # Most functions never come here.
        door = self._door = self._door or Door(self.listen)
        if not door.entered():
            self._stop_accepting()
        self._events.on_connection(sock, door)

    def _stop_accepting(self) -> None:
        self._ears.remove(self.endpoint)
        self._accepting = False

    def read_output(self) -> None:
        """Take what subprocesses and C code wrote to fd 1 and 2; whole lines become log events."""
        fd = self._output_fd
        if fd < 0:
            return
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_output()
            return
        self.raw_used = True
        if self.channel is not None and self.channel.worker is not None:
            self.channel.worker.usable = False
        data = self._partial + data
        *lines, self._partial = data.split(b"\n")
        for line in lines:
            self._events.on_output(self, line.decode("utf-8", "replace"))
        if len(self._partial) > MAX_EVENT:
            self._flush_partial()

    def _flush_partial(self) -> None:
        if self._partial:
            text, self._partial = self._partial.decode("utf-8", "replace"), b""
            self._events.on_output(self, text)

    def _close_output(self) -> None:
        if self._output_fd >= 0:
            if self._listening:
                self._ears.forget(self._output_fd)
                self._listening = False
            os.close(self._output_fd)
            self._output_fd = -1
            self._flush_partial()

    def drain(self) -> None:
        """Handle everything the worker sent or printed before it ended."""
        if self.channel is not None:
            self.channel.drain()
        while self._pending_output() > 0:
            self.read_output()

    def _pending_output(self) -> int:
        if self._output_fd < 0:
            return 0
        with contextlib.suppress(OSError):
            return int(struct.unpack("i", fcntl.ioctl(self._output_fd, termios.FIONREAD, b"\0\0\0\0"))[0])
        return 0

    def send(self, data: bytes) -> None:
        if self.channel is not None:
            self.channel.send(data)

    def peak_memory_mib(self, now_ms: int) -> int | None:
        """Peak memory of the environment in MiB, rounded up; None where nothing measures it.

        Read at most every PEAK_AGE_MS: a busy instance would otherwise spend more on reading than on working.
        """
        if now_ms - self._peak_read_ms >= PEAK_AGE_MS:
            self._peak_read_ms = now_ms
            self.memory_bytes = max(self.memory_bytes, self._read_peak() or 0)
            if not self._cpu_read_ms:
                # Most instances are used for less than that; at their end, or when somebody asks, it is read anyway.
                self._cpu_read_ms = now_ms
            elif now_ms - self._cpu_read_ms >= CPU_AGE_MS:
                self._cpu_read_ms = now_ms
                self.read_cpu()
        if not self.memory_bytes:
            return None
        return min(-(-self.memory_bytes // (1024 * 1024)), self.version.config.memory_mib)

    def _read_peak(self) -> int | None:
        if self.memory_peak_file is not None:
            try:
                fd = os.open(self.memory_peak_file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return self.memory_bytes or None
            try:
                return int(os.read(fd, 32))
            except (OSError, ValueError):
                return self.memory_bytes or None
            finally:
                os.close(fd)
        try:
            with open(f"/proc/{self.pid}/status", "rb") as status:
                for line in status:
                    if line.startswith(b"VmHWM:"):
                        return int(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            pass
        return self.memory_bytes or None

    def read_cpu(self) -> None:
        """Bring ``cpu_s``, the CPU time of everything in the sandbox, and the function's total up to date."""
        used_s = cpu_used_s(self.cpu_file) - self.cpu_before_s
        if used_s > self.cpu_s:
            self.version.function.stats.cpu_s += used_s - self.cpu_s
            self.cpu_s = used_s

    def freeze(self) -> None:
        """Stop everything in the sandbox until ``thaw``. Idempotent; nothing where the host cannot."""
        if self.freezer is not None and not self.frozen:
            self.frozen = True
            if self.worker is not None:
                self.worker.usable = False
            self.freezer.freeze()

    def thaw(self) -> None:
        """Let it go on. Messages it is to find should be sent before: they are there when it wakes."""
        if self.frozen and self.freezer is not None:
            self.frozen = False
            self.freezer.thaw()

    def init_fault(self, *, oom: bool) -> str:
        """The error type of an init that ended with the worker's end."""
        if self.init_error is not None:
            return init_error_type(self.init_error[0])
        return "Runtime.OutOfMemory" if oom else "Runtime.ExitError"

    def detach_worker(self) -> None:
        """Let go of the current worker's channel and output. Idempotent."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        self._close_output()

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self.detach_worker()
        if self._door is not None:
            self._door.shut()
        # REPORT lines still to be written are to show this sandbox's memory, and the next one may have its control groups by then.
        self.peak_memory_mib(self.printed_ms)
        self._peak_read_ms = _NOT_AGAIN_MS
        self.read_cpu()
        self.cpu_file = None
        if self.freezer is not None:
            self.freezer.close()
            self.freezer = None
        if self.endpoint >= 0:
            if self._accepting:
                self._ears.remove(self.endpoint)
            os.close(self.endpoint)
            self.endpoint = -1

