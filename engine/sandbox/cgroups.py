"""Control groups of the sandboxes, on v2 or on separately mounted v1 hierarchies, each controller found by trying.

Every engine keeps its groups in directories called ``lambda-engine.<pid>.<start time>.<pid namespace>`` after the broker that made them, one
child per holder, so that what a killed broker left can be told from what a live one uses, also by one in a container that sees the host's. Joining never moves a running process into
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

from engine.sandbox import kernel, unified
from engine.sandbox.group import FREEZE_FILES, SOCKET_BYTES, SOCKET_FILE, Group, limits, quota, read
from engine.sandbox.opened import Files, Shelf
from engine.sandbox.witness import Witness

_CONTROLLERS = ("memory", "pids", "cpu")
# What needs no controller on v2, and the v1 hierarchy that offers it.
_FEATURES = {"cpu time": "cpuacct", "freeze": "freezer"}
_OWNED = re.compile(r"^lambda-engine\.(\d+)\.(\d+)\.(\d+)$")
_SWEEP_S = 2.0

# All functions together against the rest of the host. With the default weight they get no more than one ordinary process, and on a busy
# core the engine itself then outweighs its workers: at eight invocations in flight on one core p99 was 42 to 65 ms, with four times the
# weight 13 to 17 ms, at the same rate.
_TRUNK_WEIGHT = {1: ("cpu.shares", b"4096"), 2: ("cpu.weight", b"400")}

# A sandbox that is being made for the stock, against the functions at work: as much as the smallest of those. By default it would
# have fourteen times as much, and serving would wait for what is only made ahead of need.
MAKING_SHARES = 64
# Groups kept for the next holders at most.
SPARE = 256


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
    return f"lambda-engine.{os.getpid()}.{start_time(os.getpid())}.{_pid_namespace()}"


def _pid_namespace() -> str:
    """In another one the same number is another process."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _mounts() -> dict[str, list[tuple[int, list[str]]]]:
    """Controller or feature -> (version, candidate directories: our own group first, then the root of the hierarchy), best first.

    A controller is in one hierarchy at a time; freezing and counting are cheapest on v2, wherever that is mounted.
    """
    own: dict[str, str] = {}
    for line in read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path
    found: dict[str, list[tuple[int, list[str]]]] = {}
    on_v2: list[str] = []
    wanted = {name: name for name in _CONTROLLERS} | {v1: name for name, v1 in _FEATURES.items()}
    for line in read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, mountpoint = before.split()[3:5]
        fstype, _, options = after.split(maxsplit=2)
        if fstype == "cgroup":
            for name in set(options.split(",")) & set(wanted):
                found.setdefault(wanted[name], [(1, _candidates(mountpoint, root, own.get(name, "/")))])
        elif fstype == "cgroup2" and not on_v2:
            on_v2 = unified.ways(_candidates(mountpoint, root, own.get("", "/"))[0], mountpoint)
    if on_v2:
        for name in _CONTROLLERS:
            found.setdefault(name, [(2, on_v2)])
        for name in _FEATURES:
            found[name] = [(2, on_v2), *found.get(name, [])]
    return found


def _candidates(mountpoint: str, root: str, own: str) -> list[str]:
    inside = own[len(root) :] if root != "/" and own.startswith(root) else own
    here = os.path.normpath(mountpoint + "/" + inside.lstrip("/"))
    return list(dict.fromkeys(d for d in (here, mountpoint) if os.path.isdir(d)))


class Groups:
    """This engine's control groups. ``mechanisms`` says what each controller rests on, or why there is none."""

    def __init__(self, movable: frozenset[int] = frozenset()) -> None:
        """``movable``: processes of the engine itself, which may be moved to a leaf, with all that they have started, where v2 demands empty
        inner groups.
        """
        self.mechanisms: dict[str, str] = {}
        self._places: list[Place] = []
        self._movable = movable
        self._name = own_name()
        self._trunks: set[str] = set()
        self._kept: list[str] = []
        self._serial = 0
        self._shelf = Shelf()
        self._spare: list[Group] = []
        self._idle = 0
        try:
            mounts = _mounts()
        except OSError as e:
            mounts = {}
            reason = f"none: {e.strerror}"
        else:
            reason = "none: not mounted"
        self._on_v2 = self._settle(mounts)
        for name in (*_CONTROLLERS, *_FEATURES):
            self.mechanisms[name] = self._try_all(name, mounts[name]) if name in mounts else reason
        self.mechanisms["cpu quota"] = self._try_quota()
        self.mechanisms["socket memory"] = self._try_sockets()

    @classmethod
    def none(cls, reason: str) -> Groups:
        """No groups at all, everywhere the same reason."""
        groups = cls.__new__(cls)
        groups.mechanisms = dict.fromkeys((*_CONTROLLERS, *_FEATURES, "cpu quota", "socket memory"), f"none: {reason}")
        groups._places = []
        groups._trunks = set()
        groups._kept = []
        groups._spare = []
        groups._idle = 0
        groups._serial = 0
        groups._shelf = Shelf()
        groups._movable = frozenset()
        groups._name = ""
        return groups

    def _settle(self, mounts: dict[str, list[tuple[int, list[str]]]]) -> dict[str, str]:
        """Everything that v2 is wanted for, in the first directory that has all of it, else in the one that has most; what each rests on there."""
        places = {name: ways for name, tried in mounts.items() for version, ways in tried if version == 2}
        best: dict[str, str] = {}
        chosen: list[Place] = []
        for base in next(iter(places.values()), []):
            found, usable = self._try_v2(base, list(places))
            if not best or len(usable) > len(chosen):
                _remove(chosen)
                best, chosen = found, usable
            else:
                _remove(usable)
            if len(chosen) == len(places):
                break
        self._places += chosen
        self._trunks |= {place.parent for place in chosen}
        return best

    def _try_v2(self, base: str, names: list[str]) -> tuple[dict[str, str], list[Place]]:
        """What each of ``names`` would rest on in ``base``, or why there is none; and the places of those that work."""
        parent = os.path.join(base, self._name)
        busy: OSError | None = None
        try:
            if not os.access(os.path.join(base, "cgroup.procs"), os.W_OK):
                # Nothing could be cloned into groups below.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), base)
            os.makedirs(parent, exist_ok=True)
            unified.prove_joining(parent)
        except OSError as e:
            _remove([Place("", 2, parent)])
            return dict.fromkeys(names, f"none: {_why(e, base)}"), []
        try:
            if set(names) & set(_CONTROLLERS):
                unified.vacate(base, self._movable)
        except OSError as e:
            busy = e
        found: dict[str, str] = {}
        for name in names:
            try:
                if name in _CONTROLLERS:
                    if busy is not None:
                        raise busy
                    unified.offer(base, name)
                    unified.hand_down(base, name)
                    unified.hand_down(parent, name)
                self._prove(parent, name, 2)
            except OSError as e:
                found[name] = f"none: {_why(e, base)}"
            else:
                found[name] = "cgroup v2"
        usable = [Place(name, 2, parent) for name, how in found.items() if how == "cgroup v2"]
        if not usable:
            _remove([Place("", 2, parent)])
        return found, usable

    def _try_all(self, name: str, places: list[tuple[int, list[str]]]) -> str:
        """The first place that works; without one the reason of the first."""
        tried = []
        for version, candidates in places:
            tried.append(self._on_v2[name] if version == 2 else self._try_v1(name, candidates))
            if not tried[-1].startswith("none"):
                return tried[-1]
        return tried[0]

    def _try_quota(self) -> str:
        """Quotas are an option of the kernel's own: some have shares only.

        The group that proves them stays, empty, as long as the engine: where no group has a quota the kernel takes the code for them
        out, and with the next one in again, for which every processor has to stop (10 to 20 ms at p99 of cold starts).
        """
        place = next((p for p in self._places if p.controller == "cpu"), None)
        if place is None:
            return self.mechanisms["cpu"]
        keep = os.path.join(place.parent, "quota")
        try:
            os.makedirs(keep, exist_ok=True)
            self._kept.append(keep)
            for name, text in quota(place.version, 1000):
                kernel.write_file(os.path.join(keep, name), text.encode())
        except OSError as e:
            return f"none: {os.strerror(e.errno or 0)} ({e.filename or place.parent}); shares only"
        self._places.append(Place("cpu quota", place.version, place.parent))
        return f"cgroup v{place.version}"

    def _try_sockets(self) -> str:
        """Whether what waits in connections is counted. On v1 too the first group with a limit changes the kernel's code, so one stays."""
        place = next((p for p in self._places if p.controller == "memory"), None)
        if place is None or place.version == 2:
            return self.mechanisms["memory"]
        keep = os.path.join(place.parent, "sockets")
        try:
            os.makedirs(keep, exist_ok=True)
            self._kept.append(keep)
            kernel.write_file(os.path.join(keep, SOCKET_FILE), b"%d" % SOCKET_BYTES)
        except OSError as e:
            return f"none: {os.strerror(e.errno or 0)} ({e.filename or place.parent})"
        return "cgroup v1"

    def _try_v1(self, controller: str, candidates: list[str]) -> str:
        reason = ""
        for base in candidates:
            parent = os.path.join(base, self._name)
            try:
                os.makedirs(parent, exist_ok=True)
                self._trunks.add(parent)
                self._prove(parent, controller, 1)
            except OSError as e:
                reason = reason or _why(e, base)
                continue
            self._places.append(Place(controller, 1, parent))
            return "cgroup v1"
        return f"none: {reason}"

    def _prove(self, parent: str, controller: str, version: int) -> None:
        trial = os.path.join(parent, "trial")
        os.makedirs(trial, exist_ok=True)
        try:
            for name, text in limits(controller, version, 64 << 20, 32, 64):
                kernel.write_file(os.path.join(trial, name), text.encode())
            if controller == "freeze":
                name, freeze, thaw = FREEZE_FILES[version]
                for word in (freeze, thaw):
                    kernel.write_file(os.path.join(trial, name), word)
            elif controller == "cpu time":
                with open(os.path.join(trial, "cpuacct.usage" if version == 1 else "cpu.stat"), "rb") as f:
                    f.read()
        finally:
            os.rmdir(trial)
        if controller == "cpu":
            name, weight = _TRUNK_WEIGHT[version]
            kernel.write_file(os.path.join(parent, name), weight)

    @property
    def weigh(self) -> bool:
        """Whether sandboxes are weighed against each other when the processors are busy."""
        return any(place.controller == "cpu" for place in self._places)

    def witness(self) -> Witness | None:
        """What sees every IP socket made in these groups; None where there is no v2 directory that every sandbox is in, or no such thing."""
        for place in self._places:
            if place.version == 2:
                with contextlib.suppress(OSError):
                    return Witness(place.parent)
        return None

    def create(self) -> Group:
        """Groups for a holder: what another one left, or new ones. Raises OSError; nothing is left then."""
        group = self._spare.pop() if self._spare else self._new()
        self._idle = min(self._idle, len(self._spare))
        try:
            group.weigh(MAKING_SHARES)
        except OSError:
            # Only a matter of turns: what cannot be weighed is made all the same.
            return group
        return group

    def give_back(self, group: Group) -> bool:
        """Keep the groups of a holder that has ended for another one; False when they are better removed.

        Making and removing them costs half a millisecond, mostly in the kernel's own threads. A function does not see its groups.
        """
        if len(self._spare) >= SPARE or not group.renew():
            return False
        self._spare.append(group)
        return True

    def unneeded(self) -> list[Group]:
        """Those that nobody took since this was last called: the caller removes them. None are left after two calls with no ``create``."""
        unneeded, self._spare = self._spare[: self._idle], self._spare[self._idle :]
        self._idle = len(self._spare)
        return unneeded

    @property
    def spare(self) -> int:
        """How many are kept for others."""
        return len(self._spare)

    def _new(self) -> Group:
        self._serial += 1
        group = Group({p.controller: (p.version, os.path.join(p.parent, f"h{self._serial}")) for p in self._places}, Files(self._shelf))
        try:
            for directory in group.directories():
                os.mkdir(directory)
            group.bound_sockets()
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Remove this engine's own directories; children that are still busy keep theirs (the next start sweeps them)."""
        for group in self._spare:
            group.remove()
        self._spare.clear()
        for trunk in (*self._kept, *self._trunks):
            with contextlib.suppress(OSError):
                os.rmdir(trunk)
        self._trunks.clear()
        self._kept.clear()


def _why(e: OSError, base: str) -> str:
    return f"{e.strerror or os.strerror(e.errno or 0)} ({e.filename or base})"


def _remove(places: list[Place]) -> None:
    for parent in {place.parent for place in places}:
        with contextlib.suppress(OSError):
            os.rmdir(parent)


def sweep() -> list[str]:
    """Kill and remove what brokers that are no longer alive have left; the directories removed."""
    removed: list[str] = []
    try:
        bases = {base for places in _mounts().values() for _, candidates in places for base in candidates}
    except OSError:
        return removed
    for base in bases:
        for name in os.listdir(base):
            match = _OWNED.match(name)
            if match is None or match[3] != _pid_namespace() or start_time(int(match[1])) == match[2]:
                continue
            if _sweep_one(os.path.join(base, name)):
                removed.append(os.path.join(base, name))
    return removed


def _sweep_one(trunk: str) -> bool:
    deadline = time.monotonic() + _SWEEP_S
    while True:
        for directory, _, _ in os.walk(trunk, topdown=False):
            with contextlib.suppress(OSError):
                # What v1 has frozen does not die before it is thawed.
                kernel.write_file(os.path.join(directory, "freezer.state"), b"THAWED")
            with contextlib.suppress(OSError, ValueError):
                for pid in map(int, read(os.path.join(directory, "cgroup.procs")).split()):
                    if pid:  # 0 is somebody in a pid namespace that is not below this one, and to kill it our own process group
                        os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if not os.path.isdir(trunk):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
