"""Everything of one engine that could leak, counted from outside."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.framework.engine import Engine

# Long-lived processes whose descriptors are counted; workers and their inits come and go.
_COUNTED = ("supervisor", "broker", "control")
_EVENT = "anon_inode:[eventfd]"
# Files that a running engine appends to or that stay by design: what functions logged, what was uploaded.
_KEPT = ("logs", "blobs", "code", "engine.db")


def family(engine: Engine) -> list[psutil.Process]:
    """Every live process below the supervisor."""
    assert engine.process is not None
    found = []
    for process in psutil.Process(engine.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def census(engine: Engine) -> dict[str, Any]:
    """Counts by name. Two of an engine that does nothing are equal, whatever it did in between."""
    state = engine.state()
    assert engine.process is not None
    pids = {"supervisor": engine.process.pid, **state["processes"]}
    counts: dict[str, Any] = {"instances": len(state["instances"]), "in flight": state["in_flight"], "functions": len(state["functions"])}
    children = family(engine)
    # The compilers that the control plane keeps for half a minute come and go by their own clock, each with two pipes.
    compilers = [p for p in children if _compiles(p)]
    counts["processes"] = 1 + len(children) - len(compilers)
    counts["zombies"] = sum(1 for p in psutil.Process(engine.process.pid).children(recursive=True) if p not in children)
    for role in _COUNTED:
        counts[f"{role} descriptors"] = Counter(_descriptors(pids[role]))
    # A sandbox in stock may have its control groups, and the threshold in them, from one that has ended.
    stock = sum(p["ready"] for p in state["pool"].values())
    counts["broker descriptors"] -= Counter({_EVENT: stock})
    # Connections to the store are opened as they are needed, up to the size of the pool.
    control = {k: n for k, n in counts["control descriptors"].items() if "/engine.db" not in k}
    counts["control descriptors"] = control | {"pipe": control.get("pipe", 0) - 2 * len(compilers)}
    for role in ("supervisor", "broker", *(r for r in pids if r.startswith("zygote"))):
        lines = Path(f"/proc/{pids[role]}/mountinfo").read_text().splitlines()
        # Supervisor and broker are in the host's mount namespace, where others mount too.
        ours = lines if role.startswith("zygote") else [line for line in lines if str(engine.data_dir.parent) in line]
        counts[f"{role} mounts"] = len(ours)
    counts["control groups"] = len(control_groups(pids["broker"]))
    counts["files"] = sorted(_files(engine.data_dir))
    return counts


def _compiles(process: psutil.Process) -> bool:
    try:
        return "compileall" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _descriptors(pid: int) -> list[str]:
    """The kind of every open descriptor: socket, pipe, network namespace, anon_inode:[eventpoll], or the file's name."""
    kinds = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith("/sys/fs/cgroup"):
                if os.path.exists(target):
                    # As long as the group is there, which is counted; how many have been opened depends on what happened in it.
                    continue
                target = "file of a control group that is gone"
            elif "/net/sockstat" in target:
                # Named after whoever opened it.
                target = "count of sockets"
            kinds.append(target.split(":[")[0] if target.startswith(("socket", "pipe", "net:")) else target)
    return kinds


def control_groups(broker: int) -> list[str]:
    """Directories of the control groups that this broker made."""
    mark = f"lambda-engine.{broker}."
    return [
        f"{folder}/{name}" for folder, below, _ in os.walk("/sys/fs/cgroup") for name in below if folder.find(mark) >= 0 or mark in name
    ]


def _files(data_dir: Path) -> list[str]:
    """Files of the engine and in its temporary directory, apart from those that stay by design."""
    names = []
    for base in (data_dir, data_dir.parent / "tmp"):
        for folder, _, files in os.walk(base):
            for name in files:
                path = Path(folder, name).relative_to(data_dir.parent)
                if not any(part.startswith(_KEPT) for part in path.parts) and "runtime" not in path.parts:
                    names.append(str(path))
    return names


def memory_bytes(engine: Engine) -> dict[str, int]:
    """Resident memory of the long-lived processes."""
    state = engine.state()
    assert engine.process is not None
    pids = {"supervisor": engine.process.pid, **state["processes"]}
    return {role: psutil.Process(pid).memory_info().rss for role, pid in pids.items()}
