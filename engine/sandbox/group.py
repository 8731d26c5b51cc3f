"""The control groups of one sandbox: joining, limits, counters, freezing, removal, and use by the next one.

``places`` maps what a group can do to (cgroup version, directory). The first three are controllers; ``cpu time`` and ``freeze`` rest on
v1's ``cpuacct`` and ``freezer`` hierarchies or on any v2 directory, which counts time and freezes without a controller.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from engine.sandbox import kernel
from engine.sandbox.opened import Files, Shelf

# AWS's own period is believed to be 20 ms (functions of 128 MB are seen to stall for up to 19 ms). The kernel's default of 100 ms would
# let short work of small functions run at full speed and stall long work for 93 ms at a time.
CPU_PERIOD_US = 20_000
# The kernel refuses less.
_LEAST_QUOTA_US = 1000
# What may still be charged to a group nothing runs in (the kernel charges ahead, per processor): more than that belongs to somebody.
_LEFT_OVER = 256 << 10
# What waits in a sandbox's TCP connections. v2 charges it as memory, v1 only where it has a limit of its own: otherwise a function of 128 MB
# can have the kernel hold a gigabyte for it, and three of them all that the host allows for connections.
SOCKET_BYTES = 64 << 20
SOCKET_FILE = "memory.kmem.tcp.limit_in_bytes"
# Written in every life of a sandbox, so they stay open.
_OFTEN = frozenset({"cpu.shares", "cpu.weight", "cpu.cfs_quota_us", "cpu.max"})
FREEZE_FILES = {1: ("freezer.state", b"FROZEN", b"THAWED"), 2: ("cgroup.freeze", b"1", b"0")}


def read(path: str) -> str:
    """A control file's text. Raises OSError."""
    # Without the machinery of buffered files, which costs more than the reading.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while piece := os.read(fd, 65536):
            text += piece
        return text.decode()
    finally:
        os.close(fd)


def limits(controller: str, version: int, memory: int, pids: int, shares: int) -> list[tuple[str, str]]:
    """(file, text) pairs of one controller; none for what has no limits."""
    if controller == "memory":
        return [("memory.limit_in_bytes" if version == 1 else "memory.max", str(memory))]
    if controller == "pids":
        return [("pids.max", str(pids))]
    if controller != "cpu":
        return []
    if version == 1:
        return [("cpu.shares", str(shares))]
    # The scale of v1 (2..262144) laid over that of v2 (1..10000), as systemd and runc do.
    return [("cpu.weight", str(max(1, 1 + (shares - 2) * 9999 // 262142)))]


def quota(version: int, quota_us: int) -> list[tuple[str, str]]:
    """(file, text) pairs that give a group ``quota_us`` of CPU time in every CPU_PERIOD_US."""
    quota_us = max(_LEAST_QUOTA_US, quota_us)
    if version == 1:
        return [("cpu.cfs_period_us", str(CPU_PERIOD_US)), ("cpu.cfs_quota_us", str(quota_us))]
    return [("cpu.max", f"{quota_us} {CPU_PERIOD_US}")]


def cpu_used_s(path: str | None) -> float:
    """What ``Group.cpu_file`` says, in seconds; 0.0 without one or when its group is gone."""
    if path is None:
        return 0.0
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return _seconds(os.read(fd, 256))
    except OSError:
        return 0.0
    finally:
        os.close(fd)


def _seconds(text: bytes) -> float:
    """Of a counter of CPU time."""
    if text.startswith(b"usage_usec "):
        return int(text.split(None, 2)[1]) / 1e6
    return int(text) / 1e9


@dataclass
class Group:
    """The control groups of one holder. ``cpu_before_s``: CPU time that its counter already showed when they were given to it."""

    places: dict[str, tuple[int, str]]
    files: Files = field(default_factory=lambda: Files(Shelf(1)))
    cpu_before_s: float = 0.0
    # What files were last written with: a group that is used again mostly gets the limits it has.
    _written: dict[str, str] = field(default_factory=dict)
    _memory: int = 0
    # Limits that are written: memory, and processes and threads.
    _limited: tuple[int, int] = (-1, -1)
    # A threshold that the kernel was told of (v1): bytes, and the descriptor it tells by.
    _mark: tuple[int, int] = (0, -1)
    _forget_mark: Callable[[int], None] = lambda _fd: None

    def _set(self, directory: str, name: str, text: str) -> None:
        path = f"{directory}/{name}"
        if self._written.get(path) != text:
            self._written.pop(path, None)
            if name in _OFTEN:
                self.files.write(path, text.encode())
            else:
                kernel.write_file(path, text.encode())
            self._written[path] = text

    def leave_mark(self, mark: int, fd: int, forget: Callable[[int], None]) -> None:
        """Let a threshold stand: the next sandbox in these groups mostly has the same limit, and setting one takes grace periods of RCU.
        ``forget`` is called before the descriptor is closed, if nobody takes it.
        """
        self._drop_mark()
        self._mark = (mark, fd)
        self._forget_mark = forget

    def take_mark(self, mark: int) -> int:
        """The descriptor of a threshold at ``mark`` that stands, to be given back or closed; -1 without one."""
        kept, fd = self._mark
        if kept != mark or fd < 0:
            self._drop_mark()
            return -1
        self._mark = (0, -1)
        return fd

    def _drop_mark(self) -> None:
        _, fd = self._mark
        self._mark = (0, -1)
        if fd >= 0:
            self._forget_mark(fd)
            os.close(fd)

    def __post_init__(self) -> None:
        # Each directory once: controllers may share one.
        self._directories = list(dict.fromkeys(directory for _, directory in self.places.values()))
        # By which files, or directory, a process joins.
        self._joins = [(f"{d}/tasks", os.O_WRONLY) for d in dict.fromkeys(d for v, d in self.places.values() if v == 1)]
        unified = next((d for v, d in self.places.values() if v == 2), None)
        if unified is not None:
            self._joins.append((unified, os.O_RDONLY | os.O_DIRECTORY))
        self._unified = unified is not None

    def directories(self) -> list[str]:
        """Each directory once."""
        return self._directories

    def joins(self) -> tuple[list[int], bool]:
        """Descriptors to join by, which stay the group's: v1 ``tasks`` files, then, if the flag is set, a v2 directory to clone into. Raises OSError."""
        return [self.files.descriptor(path, flags) for path, flags in self._joins], self._unified

    def open_moves(self) -> list[int]:
        """Descriptors for a process to join by writing 0 to each. On v2 that takes milliseconds, which ``joins`` avoids."""
        names = {1: "tasks", 2: "cgroup.procs"}
        fds: list[int] = []
        try:
            for version, directory in dict.fromkeys(self.places.values()):
                fds.append(os.open(os.path.join(directory, names[version]), os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def limit(self, memory: int, pids: int, shares: int) -> None:
        """Write the limits: bytes, processes and threads, v1 CPU shares. Raises OSError naming the file."""
        if self._limited != (memory, pids):
            self._limited = (-1, -1)
            # With swap is never less than without: the one that makes room goes first.
            grows = 0 < self._memory < memory
            if grows:
                self._forbid_swap(memory)
            for controller in ("memory", "pids"):
                version, directory = self.places.get(controller, (0, ""))
                for name, text in limits(controller, version, memory, pids, shares) if version else ():
                    self._set(directory, name, text)
            if not grows:
                self._forbid_swap(memory)
            self._memory = memory
            self._limited = (memory, pids)
        self.weigh(shares)

    def weigh(self, shares: int) -> None:
        """Write only how much it weighs against its siblings when the processors are busy. Raises OSError naming the file."""
        version, directory = self.places.get("cpu", (0, ""))
        for name, text in limits("cpu", version, 0, 0, shares) if version else ():
            self._set(directory, name, text)

    def _forbid_swap(self, memory: int) -> None:
        """A function that swaps is neither limited nor fast; without swap accounting there is nothing to write."""
        version, directory = self.places.get("memory", (0, ""))
        name, text = ("memory.swap.max", "0") if version == 2 else ("memory.memsw.limit_in_bytes", str(memory))
        if version:
            with contextlib.suppress(OSError):
                self._set(directory, name, text)

    def bound_sockets(self) -> None:
        """Limit what waits in TCP connections, for a new group."""
        version, directory = self.places.get("memory", (0, ""))
        if version == 1:
            # A kernel may have been built or booted without it: Groups has said so.
            with contextlib.suppress(OSError):
                kernel.write_file(os.path.join(directory, SOCKET_FILE), b"%d" % SOCKET_BYTES)

    def cap_cpu(self, quota_us: int) -> None:
        """At most ``quota_us`` of CPU time per CPU_PERIOD_US from now on. Raises OSError naming the file."""
        version, directory = self.places.get("cpu quota", (0, ""))
        if not version:
            return
        try:
            for name, text in quota(version, quota_us):
                self._set(directory, name, text)
        except OSError as e:
            # v1 refuses more than a group above has (an engine in a container with fewer CPUs): that one's quota then is the limit.
            if e.errno != errno.EINVAL:
                raise

    def freezer(self) -> tuple[int, int]:
        """(cgroup version, descriptor to write FREEZE_FILES' words to, which stays the group's); (0, -1) where there is none. Raises OSError."""
        version, directory = self.places.get("freeze", (0, ""))
        if not version:
            return 0, -1
        return version, self.files.descriptor(f"{directory}/{FREEZE_FILES[version][0]}", os.O_WRONLY)

    def let_die(self) -> None:
        """Thaw what v1 has frozen: it does not even die before."""
        version, directory = self.places.get("freeze", (0, ""))
        if version == 1:
            with contextlib.suppress(OSError):
                self.files.write(f"{directory}/freezer.state", b"THAWED")

    def kill_all_but(self, spared: int) -> None:
        """SIGKILL to every process of the memory group except one."""
        _, directory = self.places.get("memory", (0, ""))
        with contextlib.suppress(OSError, ValueError):
            for pid in map(int, read(f"{directory}/cgroup.procs").split()):
                if pid != spared:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def oom_kills(self) -> int:
        """Processes the kernel has killed in this group for want of memory."""
        version, directory = self.places.get("memory", (0, ""))
        if not version:
            return 0
        try:
            text = b"\n" + self.files.read(f"{directory}/{'memory.oom_control' if version == 1 else 'memory.events'}")
            return int(text.partition(b"\noom_kill ")[2].split(None, 1)[0])
        except (OSError, ValueError, IndexError):
            return 0

    def memory_used(self) -> int:
        """Bytes charged to it. Raises OSError."""
        version, directory = self.places["memory"]
        return int(self.files.read(f"{directory}/{'memory.usage_in_bytes' if version == 1 else 'memory.current'}"))

    def peak_file(self) -> str | None:
        """File with the highest memory use so far in bytes, where the kernel keeps one."""
        version, directory = self.places.get("memory", (0, ""))
        if version == 1:
            return f"{directory}/memory.max_usage_in_bytes"
        # Since Linux 5.19.
        return f"{directory}/memory.peak" if version and os.path.exists(f"{directory}/memory.peak") else None

    @cached_property
    def counters(self) -> bytes:
        """Where ``peak_file`` and ``cpu_file`` are, as members of a JSON object: the same for all sandboxes that these groups have been."""
        return json.dumps({"peak_file": self.peak_file(), "cpu_file": self.cpu_file()}, separators=(",", ":"))[1:-1].encode()

    def cpu_file(self) -> str | None:
        """File that counts the CPU time used: v1 nanoseconds, v2 a table that begins with ``usage_usec``."""
        version, directory = self.places.get("cpu time", (0, ""))
        if not version:
            return None
        return f"{directory}/{'cpuacct.usage' if version == 1 else 'cpu.stat'}"

    def empty(self) -> bool:
        """Whether no process is in here; False where that cannot be seen."""
        version, directory = next(iter(self.places.values()), (0, ""))
        try:
            # v1 remembers for an open file what it said a second ago.
            return version > 0 and not (read(f"{directory}/cgroup.procs") if version == 1 else self.files.read(f"{directory}/cgroup.procs"))
        except OSError:
            return False

    def renew(self) -> bool:
        """Make the groups of a sandbox that has ended fit for another. False where they are not: something is left in them or charged to
        them, or they count what cannot be taken back, as v2 does with the highest memory use.
        """
        version, directory = self.places.get("memory", (0, ""))
        try:
            if version != 1 or not self.empty() or self.oom_kills():
                return False
            peak = f"{directory}/memory.max_usage_in_bytes"
            self.files.write(peak, b"0", os.O_RDWR)
            if int(self.files.read(peak)) > _LEFT_OVER:
                return False
            self._uncap_cpu()
            freezer, directory = self.places.get("freeze", (0, ""))
            if freezer:
                name, _, thawed = FREEZE_FILES[freezer]
                self.files.write(f"{directory}/{name}", thawed)
            counter = self.cpu_file()
            self.cpu_before_s = 0.0 if counter is None else _seconds(self.files.read(counter))
        except (OSError, ValueError):
            return False
        return True

    def _uncap_cpu(self) -> None:
        version, directory = self.places.get("cpu quota", (0, ""))
        name, text = ("cpu.cfs_quota_us", "-1") if version == 1 else ("cpu.max", f"max {CPU_PERIOD_US}")
        if f"{directory}/{name}" in self._written:
            self._set(directory, name, text)

    def remove(self) -> bool:
        """Remove the directories; False while a process is still leaving one of them."""
        self._drop_mark()
        self.files.close()
        gone = True
        for directory in self.directories():
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone
