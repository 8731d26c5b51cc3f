"""Choosing the isolation level by trying: a level is offered only when a complete sandbox of it has just been made here.

The trial runs the very code that makes real sandboxes, up to a locked-down worker, in a child process that is thrown away.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from engine.sandbox import cgroups, hints, holder, kernel, landlock, packets, seccomp, zygote

_TRIAL_S = 10.0
# Above every range distributions and container engines hand out, below 2**31, which some file systems cannot store.
_FIRST_ID = 2_000_000_000
_IDS = 2 * 65536


@dataclass(frozen=True)
class Level:
    """A level that works here. ``first_id``: first of the host ids given to sandboxes (level full)."""

    name: str
    network: str
    landlock: bool
    groups: cgroups.Groups
    first_id: int

    @property
    def namespaces(self) -> bool:
        """Whether sandboxes have namespaces of their own."""
        return self.name != "process"


@dataclass(frozen=True)
class Refusal:
    """Why a level cannot be had."""

    level: str
    step: str
    reason: str

    def __str__(self) -> str:
        return f"sandbox level {self.level} is not available: {self.step}: {self.reason}; to fix it: {hints.fix(self.level)}"


def choose(config: dict[str, Any]) -> tuple[Level | None, dict[str, Any], str]:
    """(level, report, refusal): the asked level or the best one; without one the refusal says why.

    Enters the user namespace when the level is ``user``: call it once, in the broker.
    """
    asked = config["level"]
    refusals: list[Refusal] = []
    fence, fence_text = _landlock()
    for name in ("full", "user") if asked == "auto" else (asked,):
        if name == "process":
            break
        refusal = _attempt(name, config, fence)
        if refusal is None:
            if name == "user":
                own_user_namespace()
            groups = cgroups.Groups(frozenset({os.getpid(), int(config["supervisor_pid"]), *config.get("beside", ())}))
            level = Level(name, config["network"], fence, groups, first_id())
            return level, _report(asked, level, fence_text, refusals), ""
        refusals.append(refusal)
    if asked not in ("auto", "process"):
        return None, {}, str(refusals[0])
    groups = cgroups.Groups.none("level process uses resource limits only")
    level = Level("process", "host", False, groups, 0)
    return level, _report(asked, level, "none: level process", refusals), ""


def _landlock() -> tuple[bool, str]:
    try:
        return True, f"ABI {landlock.version()}"
    except OSError as e:
        return False, f"none: {os.strerror(e.errno or 0)}"


def first_id() -> int:
    """First host user id for sandboxes: two billion, or the upper end of what this user namespace maps."""
    with open("/proc/self/uid_map") as f:
        ranges = [(int(line.split()[0]), int(line.split()[2])) for line in f]
    for start, count in ranges:
        if start <= _FIRST_ID and start + count >= _FIRST_ID + _IDS:
            return _FIRST_ID
    start, count = max(ranges, key=lambda r: r[1])
    return start + max(0, count - min(_IDS, count // 2))


def own_user_namespace() -> None:
    """Become root of a new user and mount namespace in which only our own ids exist. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)


def _attempt(name: str, config: dict[str, Any], fence: bool) -> Refusal | None:
    """Make one sandbox of this level and throw it away."""
    if not sys.platform.startswith("linux") or platform.machine() not in seccomp.MACHINES:
        return Refusal(name, "platform", f"{sys.platform} on {platform.machine()} is not supported")
    if name == "full" and os.geteuid() != 0:
        return Refusal(name, "privilege", "not root")
    plan = {
        "level": name,
        "network": config["network"],
        "resolver": "",
        "landlock": fence,
        "mountpoint": config["mountpoint"],
        "runtime_dir": config["mountpoint"],
        "prefixes": [],
        "preload": [],
        "nice": 0,
        "trial": True,
    }
    ours, theirs = packets.pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _trial_child(theirs, plan)
    theirs.close()
    try:
        ours.settimeout(_TRIAL_S)
        return _watch_trial(name, ours)
    except (OSError, packets.PacketError) as e:
        return Refusal(name, "trial", str(e))
    finally:
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _reap_all()


def _trial_child(control: socket.socket, plan: dict[str, Any]) -> None:
    """A zygote without an exec. Never returns."""
    try:
        kernel.die_with_parent()
        parent = zygote.Zygote(control, plan)
        try:
            if plan["level"] == "user":
                own_user_namespace()
            parent.prepare()
        except OSError as e:
            packets.send(control, ["failed", str(e)])
        else:
            parent.serve()
    finally:
        os._exit(0)


def _watch_trial(name: str, control: socket.socket) -> Refusal | None:
    packet = packets.receive(control)
    if packet is None or packet.kind != "ready":
        return Refusal(name, "root file system", str(packet.args[0]) if packet else "the trial process ended")
    ours, theirs = packets.pair()
    channel, worker_channel = socket.socketpair()
    read_end, write_end = os.pipe()
    try:
        fds = [theirs.fileno(), worker_channel.fileno(), write_end]
        packets.send(control, ["make", 0, 1000, first_id(), False, False, False, False], fds)
        theirs.close()
        return _watch_init(name, control, ours)
    finally:
        for sock in (ours, theirs, channel, worker_channel):
            sock.close()
        os.close(read_end)
        os.close(write_end)


def _watch_init(name: str, control: socket.socket, init: socket.socket) -> Refusal | None:
    """Until the worker reports that it is locked down, or something reports a failure."""
    deadline = time.monotonic() + _TRIAL_S
    sources = [control, init]
    while sources and time.monotonic() < deadline:
        for sock in select.select(sources, [], [], 0.5)[0]:
            packet = packets.receive(sock)
            if packet is None:
                sources.remove(sock)
                continue
            packet.close()
            if packet.kind == "worker":
                return None
            if packet.kind == "failed":
                return Refusal(name, str(packet.args[0]), str(packet.args[1]))
            if packet.kind == "make_failed":
                return Refusal(name, str(packet.args[1]), str(packet.args[2]))
    return Refusal(name, "trial", "the sandbox never became ready")


def _reap_all() -> None:
    """The trial's processes end with it; wait for them, so that nothing is left to be mistaken for a holder.

    One that was too young to end with its parent is ours now, as a subreaper's, and is ended here.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            holder.end_children()
            os.waitpid(-1, 0)


def _report(asked: str, level: Level, fence: str, refusals: list[Refusal]) -> dict[str, Any]:
    """The members of ``api.SandboxReport``."""
    mechanisms = dict(level.groups.mechanisms)
    advice = [str(r) for r in refusals]
    if level.namespaces:
        count = len(seccomp.program(platform.machine())) // 8
        yes = "own, per instance"
        mechanisms |= {
            "mount namespace": "own root file system, read-only",
            "pid namespace": yes,
            "ipc namespace": yes,
            "uts namespace": yes,
            "user namespace": "two host ids per instance" if level.name == "full" else "one host id shared by all instances",
            "network namespace": "none: network=host" if level.network == "host" else f"{yes}, loopback only",
            "seccomp": f"filter of {count} instructions",
            "landlock": fence,
            "/tmp": "tmpfs, size limited",
        }
        advice += _limit_advice(mechanisms)
    else:
        mechanisms |= dict.fromkeys(
            ("mount namespace", "pid namespace", "network namespace", "user namespace", "seccomp", "landlock"),
            "none: level process",
        )
        mechanisms |= {"memory": "rlimit", "/tmp": "none: shared with the host"}
        mechanisms["freeze"] = "signals"
        advice.append("THIS LEVEL DOES NOT ISOLATE: functions run as the engine's own user and see all of its files")
    return {
        "level": level.name,
        "asked": asked,
        "network": level.network,
        "mechanisms": mechanisms,
        "advice": advice,
    }


def _limit_advice(mechanisms: dict[str, str]) -> list[str]:
    """What stands in for control groups that are not there, written into ``mechanisms``, and how to get them."""
    if mechanisms["freeze"].startswith("none"):
        mechanisms["freeze"] = f"signals, which a function can see ({mechanisms['freeze'].removeprefix('none: ')})"
    if not mechanisms["memory"].startswith("none"):
        return []
    mechanisms["memory"] = f"rlimit ({mechanisms['memory'].removeprefix('none: ')})"
    return [
        "no memory control group: MemorySize is enforced by an address limit and allocation fails instead of a kill; "
        "run the engine as root, or with delegation: systemd-run --user --scope -p Delegate=yes lambda-engine serve"
    ]
