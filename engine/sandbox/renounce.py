"""How the engine's unprivileged processes stop being root: for good, before they read a byte from anybody.

Started by root, only the keeper and the broker need its powers. The supervisor, and with it the control plane and the embedded AWS it starts,
give up every capability and the ability to get one back, and may write only below the engine's own directories (Landlock). When the data
directory belongs to another user than root, they become that user as well.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigurationError
from engine.sandbox import kernel, landlock

_ENDING_S = 10.0
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx")


def renounce(data_dir: Path, writable: Sequence[Path], needed: Sequence[Path]) -> str | None:
    """Give up root's powers in this process and all it starts; says what it is now, None when it is not root anyway.

    ``writable``: directories that stay writable, besides ``data_dir`` and single files among them. ``needed``: what has to be readable
    afterwards. Raises ConfigurationError when the data directory's owner could not work here, or when threads would keep the powers.
    """
    if os.geteuid() != 0:
        return None
    threads = _threads()
    if threads > 1:
        raise ConfigurationError(f"root's powers cannot be given up by one of {threads} threads")
    with contextlib.suppress(PermissionError):
        # A container's root may lack even this; no_new_privs then stands alone between exec and more.
        kernel.drop_bounding_set()
    owner = data_dir.stat()
    if owner.st_uid != 0:
        _become(owner.st_uid, owner.st_gid)
        _require(data_dir, (data_dir, *needed))
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    # A change of user made /proc/self root's.
    kernel.set_dumpable(True)
    who = f"uid {owner.st_uid}, no capabilities"
    try:
        landlock.restrict([str(p) for p in (data_dir, *writable)], _DEVICES)
    except OSError as e:
        return f"{who}; files by ownership only: Landlock: {os.strerror(e.errno or 0)}"
    return f"{who}, writes below its own directories only (Landlock)"


def _threads() -> int:
    """How many threads there are, once those that Python has joined are the kernel's no more: they still end when ``join`` returns."""
    give_up_s = time.monotonic() + _ENDING_S
    while (threads := len(os.listdir("/proc/self/task"))) > 1 and threading.active_count() == 1 and time.monotonic() < give_up_s:
        time.sleep(0.001)
    return threads


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _require(data_dir: Path, needed: Sequence[Path]) -> None:
    """Raise ConfigurationError naming what this user cannot reach."""
    for path in needed:
        if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
            raise ConfigurationError(
                f"{data_dir} belongs to uid {os.getuid()}, as whom the engine would run, but {path} is closed to that user; "
                "give the directory to root or install the engine where its owner can read it"
            )
