"""The broker's view of zygotes: starting one, talking to it, noticing its end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from engine.sandbox import kernel, layouts, packets
from engine.sandbox.peers import Loop, Peer

_BOOT = "import sys; sys.path.insert(0, {root!r}); from engine.sandbox.zygote import main; main()"
_CONTROL_FD = 3
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class ZygoteProcess:
    """One running zygote. ``ready`` becomes true when it can fork; ``pid`` is its process."""

    def __init__(
        self,
        loop: Loop,
        key: str,
        plan: dict[str, Any],
        interpreter: str,
        on_packet: Callable[[ZygoteProcess, packets.Packet], None],
        course: layouts.Course | None = None,
    ) -> None:
        """Start it, or with a ``course`` what has to be learnt before. ``on_packet`` also gets what arrives without its descriptors.

        Raises OSError when the interpreter cannot be executed at all (it ends at once otherwise).
        """
        self.key = key
        self.files = bool(plan.get("files"))
        self.opt_taken = any(str(prefix).startswith("/opt/") for prefix in plan["prefixes"])
        self._loop, self._plan, self._interpreter, self._on_packet = loop, plan, interpreter, on_packet
        self._course = course
        self._killed = False
        self._start()

    def _start(self) -> None:
        self.ready = False
        self.failure = ""
        variables, learnt = self._course.begin() if self._course is not None else ({}, -1)
        try:
            ours, theirs = packets.pair()
            with theirs:
                try:
                    self.pid = spawn(self._interpreter, str(self._plan["engine_root"]), theirs, variables)
                except OSError:
                    ours.close()
                    raise
            said = partial(self._on_packet, self)
            self._peer = Peer(self._loop, ours, said, lambda _reason: None, said)
            self.send(["plan", self._plan | {"learns": learnt >= 0}], [learnt] if learnt >= 0 else [])
        finally:
            if learnt >= 0:
                os.close(learnt)

    def goes_on(self) -> bool:
        """Whether another process has taken the place of the one that has ended: because that only learnt for the zygote, or because it came to nothing
        with what was learnt. Raises OSError like the constructor.
        """
        if self._course is None or self._killed:
            return False
        if not self._course.learning and (self.ready or self.failure or not self._course.using):
            return False
        self._peer.close()
        self._course.ended()
        self._start()
        return True

    def send(self, message: list[object], fds: list[int] | None = None) -> None:
        """Queue a packet."""
        self._peer.send(message, fds or [])

    def drain(self) -> None:
        """Handle what it said before it ended."""
        self._peer.drain()

    def kill(self) -> None:
        """SIGKILL; its sandboxes follow by their parent death signal."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Forget its socket, after it has been reaped."""
        self._peer.close()
        if self._course is not None:
            self._course.give_up()


def spawn(interpreter: str, engine_root: str, control: socket.socket, variables: Mapping[str, str]) -> int:
    """Fork and exec the zygote program, with ``variables`` besides its own; the pid."""
    argv = [interpreter, "-I", "-S", "-B", "-c", _BOOT.format(root=engine_root)]
    fd = control.fileno()
    pid = os.fork()
    if pid:
        return pid
    try:
        kernel.die_with_parent()
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        with contextlib.suppress(OSError, ValueError):
            # Lets the sandboxes' inits return to normal priority although the zygote forks at a lower one.
            resource.setrlimit(resource.RLIMIT_NICE, (20, 20))
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(2, 1)
        if fd == _CONTROL_FD:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, _CONTROL_FD)
        kernel.close_from(_CONTROL_FD + 1)
        os.execve(interpreter, argv, {**_ENVIRONMENT, **variables})
    except OSError as e:
        sys.stderr.write(f"zygote: cannot execute {interpreter}: {e}\n")
    finally:
        os._exit(127)
