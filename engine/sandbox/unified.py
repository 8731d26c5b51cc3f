"""The one directory of a v2 hierarchy in which an engine's groups are made.

Theory of operation. A process is in one group of v2 only: what the groups of a sandbox do must all be had in the same place. Below a group that has
processes of its own, the root excepted, no group gets a controller of memory, and the kernel makes such of the others as no process can be
cloned into. So the group that the engine was started in is emptied first: its own processes go into a leaf. With somebody else in it, as the
shell that it was started from, another one is taken: the root of the hierarchy, or whatever further up belongs to the user.
"""

from __future__ import annotations

import contextlib
import errno
import os

from engine.sandbox import kernel
from engine.sandbox.group import read

LEAF = "lambda-engine-processes"
# A process that forks while its group is emptied leaves a child behind.
_ROUNDS = 20


def ways(here: str, mountpoint: str) -> list[str]:
    """Directories to try, best first: the one we were started in, the root, and those between, which only a user has a use for."""
    if os.path.basename(here) == LEAF:
        # What an engine was moved to, whose broker is another one by now.
        here = os.path.dirname(here)
    between = []
    folder = os.path.dirname(here)
    while folder.startswith(mountpoint + "/"):
        between.append(folder)
        folder = os.path.dirname(folder)
    return list(dict.fromkeys(d for d in (here, mountpoint, *between) if os.path.isdir(d)))


def vacate(base: str, ours: frozenset[int]) -> None:
    """Move ``ours``, and what they have started, out of ``base`` into a leaf. Raises OSError, EBUSY where others are in there."""
    if not os.path.exists(os.path.join(base, "cgroup.type")):
        return  # the root, which may keep its processes
    for _ in range(_ROUNDS):
        members = [int(pid) for pid in read(os.path.join(base, "cgroup.procs")).split()]
        if not members:
            return
        strangers = [pid for pid in members if not _comes_from(pid, ours)]
        if strangers:
            raise OSError(errno.EBUSY, f"{_name(strangers[0])}, which is not the engine's, is in the same group", base)
        leaf = os.path.join(base, LEAF)
        os.makedirs(leaf, exist_ok=True)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                kernel.write_file(os.path.join(leaf, "cgroup.procs"), b"%d" % pid)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), base)


def prove_joining(parent: str) -> None:
    """Clone a process into a group below ``parent``, as sandboxes are. Raises OSError where that is not allowed.

    In a container that shows the host's hierarchy directories can be made and written to, but nobody can join what lies outside of the
    container's own namespace of control groups.
    """
    trial = os.path.join(parent, "trial")
    os.makedirs(trial, exist_ok=True)
    try:
        fd = os.open(trial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            pid, pidfd = kernel.clone3(0, fd)
            if pid == 0:
                os._exit(0)
            os.close(pidfd)
            os.waitpid(pid, 0)
        except FileNotFoundError:
            raise OSError(errno.ENOENT, "outside of this process's namespace of control groups", parent) from None
        finally:
            os.close(fd)
    finally:
        os.rmdir(trial)


def offer(base: str, controller: str) -> None:
    """Have a controller in ``base``, which those above may not have handed down yet. Raises OSError."""
    if controller in read(os.path.join(base, "cgroup.controllers")).split():
        return
    above = os.path.dirname(base)
    if not os.path.exists(os.path.join(above, "cgroup.controllers")):
        raise OSError(errno.ENOENT, f"no controller {controller}", base)
    offer(above, controller)
    hand_down(above, controller)


def hand_down(folder: str, controller: str) -> None:
    """Let the groups in ``folder`` have it. Raises OSError."""
    kernel.write_file(os.path.join(folder, "cgroup.subtree_control"), f"+{controller}".encode())


def _comes_from(pid: int, ours: frozenset[int]) -> bool:
    """Whether it is one of ``ours`` or was started by one; also when it has ended meanwhile."""
    gone = pid > 0
    while pid > 0:
        if pid in ours:
            return True
        parent = _parent(pid)
        if parent is None:
            return gone
        gone = False
        pid = parent
    return False


def _parent(pid: int) -> int | None:
    try:
        return int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
    except (OSError, IndexError, UnicodeDecodeError):
        return None


def _name(pid: int) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return f"process {pid} ({read(f'/proc/{pid}/comm').strip()})"
    return f"process {pid}" if pid else "a process of another pid namespace"
