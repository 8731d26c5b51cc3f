"""Starting the function's own programs and hearing of their end."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any, Callable, Optional

from runtime_bootstrap.agent.loop import Loop

# What the agent itself ignores must not stay ignored in a program.
_DEFAULTS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)


class Process:
    """A running program. ``on_exit(wait status)`` comes once."""

    def __init__(
        self,
        loop: Loop,
        argv: "list[str]",
        env: "dict[str, str]",
        output: int,
        on_exit: "Callable[[int], Any]",
        keep: "Optional[dict[int, int]]" = None,
    ) -> None:
        """Start it with its output on the descriptor ``output`` (-1: ours), and with our descriptors ``keep`` under new numbers.

        Raises OSError as execve does.
        """
        actions: "list[tuple[Any, ...]]" = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)] if output >= 0 else []
        # No descriptor of ours below 16 is in the way: 3 is the channel, which ends at exec, and the others come after it.
        actions += [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in (keep or {}).items()]
        self.pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setpgroup=0, setsigmask=[], setsigdef=_DEFAULTS)
        self._loop = loop
        self._on_exit = on_exit
        self._pidfd = os.pidfd_open(self.pid)
        self.status: Optional[int] = None
        loop.watch(self._pidfd, self._ended)

    def _ended(self, _mask: int) -> None:
        _, self.status = os.waitpid(self.pid, 0)
        self._loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._on_exit(self.status)

    def signal(self, number: int) -> None:
        """Nothing when it has ended."""
        if self.status is None:
            os.kill(self.pid, number)


# As Go prints them.
_SIGNALS = {1: "hangup", 2: "interrupt", 3: "quit", 4: "illegal instruction", 5: "trace/breakpoint trap", 6: "aborted", 7: "bus error", 8: "floating point exception", 9: "killed", 10: "user defined signal 1", 11: "segmentation fault", 12: "user defined signal 2", 13: "broken pipe", 14: "alarm clock", 15: "terminated"}
_ERRORS = {errno.EACCES: "permission denied", errno.ENOENT: "no such file or directory", errno.ENOEXEC: "exec format error"}


def error_text(error: OSError) -> str:
    """Why a program does not start, in the words of AWS's agent."""
    return _ERRORS.get(error.errno or 0, (error.strerror or str(error)).lower())


def exit_text(status: int) -> str:
    """A wait status as AWS's agent prints it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "signal: %s" % _SIGNALS.get(number, "signal %d" % number)
    return "exit status %d" % os.WEXITSTATUS(status) if os.WEXITSTATUS(status) else "exit code 0"


def end_like(status: int) -> None:
    """End this process as another one ended, so that whoever waits for it sees the same. Never returns."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass
        os.kill(os.getpid(), number)
        os._exit(128 + number)
    os._exit(os.WEXITSTATUS(status))
