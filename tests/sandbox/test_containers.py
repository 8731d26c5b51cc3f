"""Inside containers with the extra privileges that docs/sandbox.md names: a function runs there, at the level that is promised.

What a container with less gets, and what it is told, is in test_surroundings.py. The containers are made of what container engines make theirs of.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.framework.host import require
from tests.framework.wait import until

pytestmark = pytest.mark.root

ROOT = Path(__file__).parent.parent.parent
# docs.docker.com/engine/containers/run: what a container's root keeps by default.
DEFAULT = (
    "chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service", "net_raw", "sys_chroot", "mknod",
    "audit_write", "setfcap",
)  # fmt: skip
BODY = """
import json, sys
from pathlib import Path
sys.path[:0] = {path!r}
from tests.sandbox.rig import Rig
with Rig(Path({home!r}), "auto", runtime={runtime!r}, interpreter={interpreter!r}) as rig:
    box = rig.instance()
    status = box.run("result = open('/proc/self/status').read()")
    rig.end(box)
print("SEEN" + json.dumps([rig.report.level, rig.report.mechanisms, status]))
"""


# Where v2 is all there is, a container has a group of its own, in which it sees nobody else, and the hierarchy from there on.
UNIFIED = Path("/sys/fs/cgroup")
JOIN = 'echo 0 > "$0" && exec "$@"'
MOUNT = 'cd /sys/fs && umount -l cgroup && mount -t cgroup2 cgroup cgroup && mount -o "remount,bind,$0" cgroup && cd - && exec "$@"'


@contextlib.contextmanager
def _own_group() -> Iterator[list[str]]:
    """What makes a program begin in a group of its own, where there is such a hierarchy."""
    if not (UNIFIED / "cgroup.controllers").exists():
        yield []
        return
    group = UNIFIED / f"le-container-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        yield ["sh", "-c", JOIN, str(group / "cgroup.procs")]
    finally:
        # Whoever was in there is dead, but not gone yet.
        for directory in [*sorted((found for found in group.rglob("*") if found.is_dir()), reverse=True), group]:
            until(lambda d=directory: not (d / "cgroup.procs").read_text(), "the container's processes are gone", 60)  # type: ignore[misc]
            directory.rmdir()


def container(tmp_path: Path, *limits: str, groups: str = "rw") -> tuple[str, dict[str, str], str]:
    """(level, mechanisms, a function's /proc/self/status) of an engine in there. ``groups``: how it sees control groups v2, "" for the host's."""
    require("no container tools")
    path = [str(ROOT), *[p for p in sys.path if "site-packages" in p]]
    body = BODY.format(path=path, home=str(tmp_path / "data"), runtime=f"python3.{sys.version_info.minor}", interpreter=os.path.realpath(sys.executable))
    argv: list[Any] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "container": "simulated"}
    with _own_group() as joins:
        argv += [*joins, "unshare", "--cgroup"]
        if joins and groups:
            argv += ["sh", "-c", MOUNT, groups]
        argv += [*limits, sys.executable, "-c", body]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False, env=env, cwd=tmp_path)
    seen = done.stdout.rpartition("SEEN")[2]
    assert seen, done.stdout + done.stderr
    level, mechanisms, status = json.loads(seen)
    return level, mechanisms, status


def test_with_default_capabilities_and_no_filter_it_is_user(tmp_path: Path) -> None:
    """``--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined``."""
    level, mechanisms, status = container(
        tmp_path, "setpriv", "--bounding-set", "-all," + ",".join(f"+{name}" for name in DEFAULT), groups="ro"
    )
    assert level == "user"
    assert mechanisms["user namespace"] == "one host id shared by all instances"
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status


@pytest.mark.slow
@pytest.mark.parametrize("groups", ["rw", ""])
def test_privileged_it_is_full(tmp_path: Path, groups: str) -> None:
    """Also when it was started with ``-v /sys/fs/cgroup:/sys/fs/cgroup``."""
    level, mechanisms, status = container(tmp_path, groups=groups)
    assert level == "full"
    assert mechanisms["user namespace"] == "two host ids per instance"
    if (UNIFIED / "cgroup.controllers").exists():
        assert mechanisms["memory"].startswith("cgroup v2" if groups else "rlimit (outside of this process's namespace of control groups")
    assert "CapEff:\t0000000000000000" in status
