"""Processes the supervisor starts and keeps: the control plane and the embedded AWS.

Ends are noticed through a pidfd on the loop; whether and when to start again is ``core.restart``'s decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable

from engine.clock import Clock
from engine.core.restart import RestartPolicy


class Child:
    """One supervised process. ``make`` gives argv and environment for each start; ``on_end(status)`` is told of each end.

    ``begun``: a process that runs already and is taken over by the first start.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        name: str,
        make: Callable[[], tuple[list[str], dict[str, str]]],
        on_end: Callable[[int], None],
        begun: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self._begun = begun
        self.name = name
        self.pid: int | None = None
        self._loop = loop
        self._clock = clock
        self._make = make
        self._on_end = on_end
        self._policy = RestartPolicy()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Start it unless it runs. Raises OSError when the program cannot be executed."""
        self._timer = None
        if self._process is not None or self._stopping:
            return
        self._ended.clear()
        begun, self._begun = self._begun, None
        self._process = begun or self._execute()
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._exited)

    def _execute(self) -> subprocess.Popen[bytes]:
        argv, env = self._make()
        return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL)  # noqa: S603 - our own program

    def _exited(self) -> None:
        process = self._process
        if process is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        status = process.wait()
        self._process = None
        self.pid = None
        self._ended.set()
        if self._stopping:
            return
        self._on_end(status)
        self._timer = self._loop.call_later(self._policy.delay_s(self._clock.monotonic()), self.start)

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL after ``timeout_s``. Idempotent."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await self._ended.wait()
