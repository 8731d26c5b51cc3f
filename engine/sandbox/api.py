"""The sandbox as the supervisor sees it.

Theory of operation. A *holder* is an empty, fully isolated sandbox with one worker process waiting in it; it belongs to a
*zygote* (one per runtime version and preload set). The supervisor asks the broker to ``make`` holders ahead of need,
``specialise`` turns one into the instance of a function (code mounted, limits written), ``reset`` kills everything the
function started but keeps the sandbox and its /tmp with a fresh worker in it, ``kill`` ends it. Every call is
fire-and-forget and idempotent; what happened comes back as an event, in this order per holder:

    holder_ready  (worker_exited  worker_reset?)*  holder_gone

``holder_gone`` is always the last event and always comes, also after ``holder_failed``; when it does, no process,
mount, cgroup or file of that holder is left. Calls on a holder that is gone are ignored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from engine.sandbox.freezer import Freezer
from engine.sandbox.wishes import VpcDone

# The step whose failure is the file system's.
MOUNTING = "mount the file system"
# The step that failed when the broker may have no more descriptors: a matter of the host, not of what was asked for.
NO_ROOM = "find room for the sandbox"
# Why level process refuses them.
NO_MOUNTS = "nothing can be mounted at sandbox level process"
NO_IMAGES = "container images need a file system of the sandbox's own: level user or full"


class Cause(StrEnum):
    """Why a worker ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OOM_KILLED = "oom_killed"


@dataclass(frozen=True, slots=True)
class ExitCause:
    """How a worker process ended: ``status`` is the exit code for EXITED, the signal number otherwise."""

    cause: Cause
    status: int


@dataclass(frozen=True, slots=True)
class ZygoteSpec:
    """What a zygote is: ``key`` names it, ``interpreter`` is exec'd, ``preload`` modules are imported before forking.

    ``entry``: the module of the bootstrap whose ``serve`` a worker runs. ``shows``: directories besides the interpreter's own that its
    sandboxes can see. ``command`` is handed to ``serve``: what a worker executes that does not stay Python; ``most`` bounds its stock.
    ``files``: its sandboxes can be given a ``file_system``. ``language``: the program that functions find first when they run ``python3``,
    ``node`` and so on; none where functions bring their own.
    """

    key: str
    runtime: str
    interpreter: str
    preload: tuple[str, ...] = ()
    entry: str = "runtime_bootstrap.python.worker"
    shows: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    most: int = 512
    files: bool = False
    language: str = ""


@dataclass(frozen=True, slots=True)
class SpecialiseSpec:
    """What a holder becomes. Directories are absolute host paths; sizes in MiB; ``cpu_shares`` as cgroup v1's.

    ``image``: ``code_dir`` is the file system of a container image, which becomes the sandbox's root. ``cpu_quota_us``: CPU time per ``group.CPU_PERIOD_US`` once the init phase is over (``initialised``); 0 for no quota. ``reserved_mib``: beyond the memory, where allocations are limited and not use, for what the interpreter maps and does not use.
    ``file_system``: an ARN, the place below /mnt where its directory goes, and where the setting ``file_systems`` does not know it what EFS says
    (``core.model.EfsPlace``).
    """

    code_dir: str
    layers: tuple[str, ...] = ()
    memory_mib: int = 128
    tmp_mib: int = 512
    pids: int = 1024
    cpu_shares: int = 74
    cpu_quota_us: int = 0
    hostname: str = "lambda"
    image: bool = False
    reserved_mib: int = 0
    file_system: tuple[str, str, tuple[Any, ...] | None] | None = None


@dataclass(slots=True)
class HolderFds:
    """What connects the supervisor to one worker; whoever receives this owns and closes them.

    Descriptors, for one of each comes with every cold start and an object around it costs as much as what is done with it.
    ``channel``: stream socket that carries frames. ``output_fd``: read end of the worker's stdout and stderr, non-blocking.
    ``endpoint``: a listening TCP socket on 127.0.0.1:4566 *inside* the sandbox's network namespace, to be accepted from out
    here so that the function reaches the engine and nothing else of the host; -1 when the function shares the host's network.
    ``freezer`` stops the sandbox between invocations; ``peak_file`` holds the peak of memory use in bytes as text, ``cpu_file`` counts
    CPU time (v1 nanoseconds, v2 ``usage_usec``), of which ``cpu_before_s`` was used before this sandbox. These and ``endpoint`` come with the first worker only and stay valid after a reset.
    """

    channel: int
    output_fd: int
    endpoint: int = -1
    freezer: Freezer | None = None
    peak_file: str | None = None
    cpu_file: str | None = None
    cpu_before_s: float = 0.0

    def close(self) -> None:
        """Close everything; for what nobody took over."""
        for fd in (self.channel, self.output_fd, self.endpoint):
            if fd >= 0:
                os.close(fd)
        if self.freezer is not None:
            self.freezer.close()


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Which level runs here and what each mechanism rests on (``doctor``, ``/_engine/state``, start-up log).

    ``mechanisms`` maps a mechanism (``memory``, ``pids``, ``cpu``, ``mount namespace``, ``seccomp`` ...) to how it is
    enforced (``cgroup v2``, ``cgroup v1``, ``rlimit``, ``none: <reason>``). ``advice`` says how to get a better level. ``network`` is
    what functions without a VPC have: ``nat``, ``isolated`` or ``host``. ``no_vpc`` says why VpcConfig cannot be obeyed, or is empty.
    """

    level: str
    asked: str
    network: str
    mechanisms: dict[str, str] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    no_vpc: str = ""


class SandboxListener(Protocol):
    """Receives events on the event loop, in the order above."""

    def zygote_ready(self, key: str, pid: int) -> None: ...

    def zygote_failed(self, key: str, reason: str) -> None: ...

    def holder_ready(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        """``pid`` is the worker's on the host."""

    def holder_failed(self, holder_id: int, step: str, reason: str) -> None: ...

    def worker_exited(self, holder_id: int, cause: ExitCause) -> None: ...

    def worker_reset(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        """A fresh worker in the same sandbox; ``fds.endpoint`` is -1, the first one stays valid."""

    def holder_gone(self, holder_id: int) -> None: ...

    def broker_lost(self, reason: str) -> None:
        """The broker died: every holder is gone without further events; a new broker is being started."""


class Sandbox(Protocol):
    """The calls. None of them blocks; unknown holders are ignored."""

    def add_zygote(self, spec: ZygoteSpec) -> None: ...

    def make(self, holder_id: int, zygote_key: str, network: str = "", *, template: bool = False, hurried: bool = False) -> None:
        """``network``: ``vpc/subnet,subnet/group,group`` for a sandbox in a VPC, empty for any other. ``template``: a sandbox whose worker can be copied once its init is over.
        ``zygote_key`` may name a template then declared. ``hurried``: somebody waits for it, so it prepares itself no further than it must.
        """

    def declare_template(self, key: str, holder_id: int) -> None:
        """The worker of a template sandbox waits to be copied. ``zygote_ready(key)`` follows, ``zygote_failed(key)`` when it ends."""

    def drop_template(self, key: str) -> None:
        """End a template; its copies go on."""

    def vpc(self, name: str, document: dict[str, Any] | None, then: VpcDone) -> None:
        """Keep a VPC as the document says, from now on also for sandboxes that are there; None: no longer."""

    def specialise(self, holder_id: int, spec: SpecialiseSpec) -> None: ...

    def initialised(self, holder_id: int) -> None:
        """The init phase is over: the CPU quota holds from now on."""

    def reset(self, holder_id: int) -> None: ...

    def kill(self, holder_id: int) -> None: ...
