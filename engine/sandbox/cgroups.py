"""Control groups of the sandboxes, on v2 or on separately mounted v1 hierarchies, each controller found by trying.

Every engine keeps its groups in directories called ``lambda-engine.<pid>.<start time>`` after the broker that made them, one child
per holder, so that what a killed broker left can be told from what a live one uses. Joining never moves a running process into
a group through ``cgroup.procs``: that can wait for an RCU grace period of many milliseconds. On v1 the
single-threaded child writes ``0`` to a ``tasks`` file opened here; on v2 it is cloned into the group.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from dataclasses import dataclass

from engine.sandbox import kernel

_CONTROLLERS = ("memory", "pids", "cpu")
_OWNED = re.compile(r"^lambda-engine\.(\d+)\.(\d+)$")
_SWEEP_S = 2.0

# All functions together against the rest of the host. With the default weight they get no more than one ordinary process, and on a busy
# core the engine itself then outweighs its workers: at eight invocations in flight on one core p99 was 42 to 65 ms, with four times the
# weight 13 to 17 ms, at the same rate.
_TRUNK_WEIGHT = {1: ("cpu.shares", b"4096"), 2: ("cpu.weight", b"400")}


@dataclass(frozen=True)
class Place:
    """Where one controller can be used: ``version`` 1 or 2, ``parent`` the directory of this engine's groups."""

    controller: str
    version: int
    parent: str


def start_time(pid: int) -> str | None:
    """When a process started, in kernel ticks; with its number this names it for ever. None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[19].decode()
    except (OSError, IndexError):
        return None


def own_name() -> str:
    """Name of this process's groups."""
    return f"lambda-engine.{os.getpid()}.{start_time(os.getpid())}"


def _read(path: str) -> str:
    with open(path) as f:
        return f.read()


def _mounts() -> dict[str, tuple[int, list[str]]]:
    """Controller -> (version, candidate directories: our own group first, then the root of the hierarchy)."""
    own: dict[str, str] = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    found: dict[str, tuple[int, list[str]]] = {}
    unified: list[str] = []
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, mountpoint = before.split()[3:5]
        fstype, _, options = after.split(maxsplit=2)
        if fstype == "cgroup":
            for name in set(options.split(",")) & set(_CONTROLLERS):
                found.setdefault(name, (1, _candidates(mountpoint, root, own.get(name, "/"))))
        elif fstype == "cgroup2" and not unified:
            unified = _candidates(mountpoint, root, own.get("", "/"))
    for name in _CONTROLLERS:
        if name not in found and unified:
            found[name] = (2, unified)
    return found


def _candidates(mountpoint: str, root: str, own: str) -> list[str]:
    inside = own[len(root) :] if root != "/" and own.startswith(root) else own
    here = os.path.normpath(mountpoint + "/" + inside.lstrip("/"))
    return list(dict.fromkeys(d for d in (here, mountpoint) if os.path.isdir(d)))


class Groups:
    """This engine's control groups. ``mechanisms`` says what each controller rests on, or why there is none."""

    def __init__(self, movable: frozenset[int] = frozenset()) -> None:
        """``movable``: processes of the engine itself, which may be moved to a leaf where v2 demands empty inner groups."""
        self.mechanisms: dict[str, str] = {}
        self._places: list[Place] = []
        self._movable = movable
        self._name = own_name()
        self._trunks: set[str] = set()
        self._serial = 0
        try:
            mounts = _mounts()
        except OSError as e:
            mounts = {}
            reason = f"none: {e.strerror}"
        else:
            reason = "none: not mounted"
        for controller in _CONTROLLERS:
            self.mechanisms[controller] = self._try(controller, *mounts[controller]) if controller in mounts else reason

    @classmethod
    def none(cls, reason: str) -> Groups:
        """No groups at all, everywhere the same reason."""
        groups = cls.__new__(cls)
        groups.mechanisms = dict.fromkeys(_CONTROLLERS, f"none: {reason}")
        groups._places = []
        groups._trunks = set()
        groups._serial = 0
        groups._movable = frozenset()
        groups._name = ""
        return groups

    def _try(self, controller: str, version: int, candidates: list[str]) -> str:
        reason = ""
        for base in candidates:
            parent = os.path.join(base, self._name)
            try:
                os.makedirs(parent, exist_ok=True)
                self._trunks.add(parent)
                if version == 2:
                    self._enable(base, parent, controller)
                self._prove(parent, controller, version)
                if controller == "cpu":
                    name, weight = _TRUNK_WEIGHT[version]
                    kernel.write_file(os.path.join(parent, name), weight)
            except OSError as e:
                reason = reason or f"{os.strerror(e.errno or 0)} ({e.filename or base})"
                continue
            self._places.append(Place(controller, version, parent))
            return f"cgroup v{version}"
        return f"none: {reason}"

    def _enable(self, base: str, parent: str, controller: str) -> None:
        """Hand a v2 controller down to the groups of the holders."""
        try:
            kernel.write_file(os.path.join(base, "cgroup.subtree_control"), f"+{controller}".encode())
        except OSError as e:
            if e.errno != errno.EBUSY or not self._vacate(base):
                raise
            kernel.write_file(os.path.join(base, "cgroup.subtree_control"), f"+{controller}".encode())
        kernel.write_file(os.path.join(parent, "cgroup.subtree_control"), f"+{controller}".encode())

    def _vacate(self, base: str) -> bool:
        """Move the engine's processes out of ``base`` into a leaf; only when nobody else is in there."""
        members = {int(p) for p in _read(os.path.join(base, "cgroup.procs")).split()}
        if not members <= self._movable:
            return False
        leaf = os.path.join(base, "lambda-engine-processes")
        os.makedirs(leaf, exist_ok=True)
        for pid in members:
            kernel.write_file(os.path.join(leaf, "cgroup.procs"), b"%d" % pid)
        return True

    def _prove(self, parent: str, controller: str, version: int) -> None:
        trial = os.path.join(parent, "trial")
        os.makedirs(trial, exist_ok=True)
        try:
            for name, text in _limits(controller, version, 64 << 20, 32, 64):
                kernel.write_file(os.path.join(trial, name), text.encode())
        finally:
            os.rmdir(trial)

    def create(self) -> Group:
        """New groups for a holder. Raises OSError; nothing is left then."""
        self._serial += 1
        group = Group({p.controller: (p.version, os.path.join(p.parent, f"h{self._serial}")) for p in self._places})
        try:
            for directory in group.directories():
                os.mkdir(directory)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Remove this engine's own directories; children that are still busy keep theirs (the next start sweeps them)."""
        for trunk in self._trunks:
            with contextlib.suppress(OSError):
                os.rmdir(trunk)
        self._trunks.clear()


def _limits(controller: str, version: int, memory: int, pids: int, shares: int) -> list[tuple[str, str]]:
    """(file, text) pairs of one controller."""
    if controller == "memory":
        return [("memory.limit_in_bytes" if version == 1 else "memory.max", str(memory))]
    if controller == "pids":
        return [("pids.max", str(pids))]
    if version == 1:
        return [("cpu.shares", str(shares))]
    # The scale of v1 (2..262144) laid over that of v2 (1..10000), as systemd and runc do.
    return [("cpu.weight", str(max(1, 1 + (shares - 2) * 9999 // 262142)))]


@dataclass
class Group:
    """The control groups of one holder. ``places`` maps a controller to (version, directory)."""

    places: dict[str, tuple[int, str]]

    def directories(self) -> list[str]:
        """Each directory once (controllers may share one)."""
        return list(dict.fromkeys(directory for _, directory in self.places.values()))

    def open_joins(self) -> tuple[list[int], bool]:
        """Descriptors to join by: v1 ``tasks`` files, then, if the flag is set, a v2 directory to clone into."""
        fds: list[int] = []
        unified = [d for v, d in self.places.values() if v == 2]
        try:
            for directory in dict.fromkeys(d for v, d in self.places.values() if v == 1):
                fds.append(os.open(os.path.join(directory, "tasks"), os.O_WRONLY | os.O_CLOEXEC))
            if unified:
                fds.append(os.open(unified[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        return fds, bool(unified)

    def limit(self, memory: int, pids: int, shares: int) -> None:
        """Write the limits: bytes, processes and threads, v1 CPU shares. Raises OSError naming the file."""
        for controller, (version, directory) in self.places.items():
            for name, text in _limits(controller, version, memory, pids, shares):
                kernel.write_file(os.path.join(directory, name), text.encode())
        self._forbid_swap(memory)

    def _forbid_swap(self, memory: int) -> None:
        """A function that swaps is neither limited nor fast; without swap accounting there is nothing to write."""
        version, directory = self.places.get("memory", (0, ""))
        name, text = ("memory.swap.max", "0") if version == 2 else ("memory.memsw.limit_in_bytes", str(memory))
        if version:
            with contextlib.suppress(OSError):
                kernel.write_file(os.path.join(directory, name), text.encode())

    def oom_kills(self) -> int:
        """Processes the kernel has killed in this group for want of memory."""
        version, directory = self.places.get("memory", (0, ""))
        if not version:
            return 0
        with contextlib.suppress(OSError, ValueError):
            text = _read(os.path.join(directory, "memory.oom_control" if version == 1 else "memory.events"))
            for line in text.splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def peak_file(self) -> str | None:
        """File with the highest memory use so far in bytes, where the kernel keeps one."""
        version, directory = self.places.get("memory", (0, ""))
        if version == 1:
            return f"{directory}/memory.max_usage_in_bytes"
        # Since Linux 5.19.
        return f"{directory}/memory.peak" if version and os.path.exists(f"{directory}/memory.peak") else None

    def remove(self) -> bool:
        """Remove the directories; False while a process is still leaving one of them."""
        gone = True
        for directory in self.directories():
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


def sweep() -> list[str]:
    """Kill and remove what brokers that are no longer alive have left; the directories removed."""
    removed: list[str] = []
    try:
        bases = {base for _, candidates in _mounts().values() for base in candidates}
    except OSError:
        return removed
    for base in bases:
        for name in os.listdir(base):
            match = _OWNED.match(name)
            if match and start_time(int(match[1])) != match[2] and _sweep_one(os.path.join(base, name)):
                removed.append(os.path.join(base, name))
    return removed


def _sweep_one(trunk: str) -> bool:
    deadline = time.monotonic() + _SWEEP_S
    while True:
        for directory, _, _ in os.walk(trunk, topdown=False):
            with contextlib.suppress(OSError, ValueError):
                for pid in _read(os.path.join(directory, "cgroup.procs")).split():
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if not os.path.isdir(trunk):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
