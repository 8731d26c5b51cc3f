"""One sandbox as the broker knows it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import dataclass, field

from engine.sandbox.group import Group
from engine.sandbox.memory import MemoryWatch
from engine.sandbox.nets import Net
from engine.sandbox.peers import Peer
from engine.sandbox.sources import Source

_DESCRIPTORS = ("pidfd", "channel", "output", "endpoint", "sockets")


@dataclass(slots=True)
class Holder:
    """-1 stands for a descriptor that is not there."""

    id: int
    zygote: Source
    control: Peer | None = None
    group: Group | None = None
    slot: int = -1
    init_pid: int = 0
    pidfd: int = -1
    worker_pid: int = 0
    channel: int = -1
    output: int = -1
    endpoint: int = -1
    # The kernel's count of the sockets in its network namespace.
    sockets: int = -1
    announced: bool = False
    worker_alive: bool = False
    dying: bool = False
    # By the supervisor, which has closed what it had of it.
    let_go: bool = False
    oom_seen: int = 0
    over_limit: bool = False
    watch: MemoryWatch | None = None
    network: str = ""
    wired: bool = True
    # It begins in a network that was there before.
    netted: bool = False
    net: Net | None = None
    # Its init has been: no process of it is left.
    reaped: bool = False
    memory: tuple[int, int] = (0, 0)
    cpu_quota_us: int = 0
    # Its init does nothing: what is to be done inside is done from outside.
    visited: bool = False
    task_root: bytes = b""
    data_limit: int = 0
    sweeping: bool = False
    # By signals, while it is idle.
    stopped: bool = False
    fresh_wanted: bool = False
    # How its worker ended, until that has been told.
    ended: int | None = None
    # Of a template: the socket its orders go through. Of a copy: its process number inside, and what the copy will be given.
    orders: socket.socket | None = None
    inner_pid: int = 0
    lent: list[int] = field(default_factory=list)
    is_template: bool = False
    hurried: bool = False

    def close_fds(self, *names: str) -> None:
        """Close the named descriptors, or all."""
        for name in names or _DESCRIPTORS:
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)
        if not names:
            self.take_back()

    def take_back(self) -> None:
        """Close what was to be given to a copy."""
        for fd in self.lent:
            os.close(fd)
        self.lent.clear()

    def cause(self, status: int) -> tuple[str, int]:
        """Of its worker's end: (cause, status) as ``api.Cause`` names them. A SIGKILL with a risen counter was the kernel's, for memory."""
        if not os.WIFSIGNALED(status):
            self.over_limit = False
            return "exited", os.WEXITSTATUS(status)
        number = os.WTERMSIG(status)
        if self.over_limit:
            self.over_limit = False
            return "oom_killed", number
        kills = self.group.oom_kills() if self.group and number == signal.SIGKILL else self.oom_seen
        if kills > self.oom_seen:
            self.oom_seen = kills
            return "oom_killed", number
        return "signalled", number

    def has_ended(self) -> bool:
        """Whether its init has ended, which may not have been told yet."""
        if self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def last_words(self) -> str:
        """What a worker that never became ready has written, for the error message."""
        with contextlib.suppress(OSError):
            return os.read(self.output, 4000).decode(errors="replace") or "no output"
        return "no output"
