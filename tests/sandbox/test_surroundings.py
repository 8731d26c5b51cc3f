"""Levels under the restrictions that containers and distributions put on a process, imposed on a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

ROOT = Path(__file__).parent.parent.parent

# The capabilities Docker leaves by default: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
# sys_chroot, mknod, audit_write, setfcap. The filter stands for the container engine's, which refuses the same calls (mount, unshare,
# clone with namespaces).
_WITHOUT = """
import ctypes, os, platform, struct, sys
from engine.sandbox import kernel, seccomp
kept = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
libc = ctypes.CDLL(None)
for n in range(64):
    if n not in kept: libc.prctl(24, n, 0, 0, 0)
mask = sum(1 << n for n in kept)
assert libc.capset(struct.pack('Ii', 0x20080522, 0), struct.pack('6I', mask, mask, 0, 0, 0, 0)) == 0
if sys.argv.pop(1) == 'filtered':
    kernel.perform((kernel.NO_NEW_PRIVILEGES, kernel.filter_step(seccomp.program(platform.machine()))))
os.execv(sys.executable, [sys.executable, '-m', 'engine.cli.main', *sys.argv[1:]])
"""


def doctor(tmp_path: Path, how: str, *, level: str = "auto", unshare: str = "") -> tuple[int, list[dict[str, Any]], str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAMBDA_ENGINE_")}
    env |= {"LAMBDA_ENGINE_DATA_DIR": str(tmp_path), "LAMBDA_ENGINE_SANDBOX": level, "LAMBDA_ENGINE_PORT": "0"}
    argv = [sys.executable, "-c", _WITHOUT, how, "doctor", "--json"]
    if unshare:
        argv = ["unshare", "-m", "sh", "-c", f'{unshare} && exec "$@"', "sh", *argv]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=110, check=False, cwd=ROOT)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def said(findings: list[dict[str, Any]], subject: str) -> list[str]:
    return [f["text"] for f in findings if f["subject"] == subject]


def test_a_container_with_default_privileges_gets_process_and_is_told_loudly(tmp_path: Path) -> None:
    status, findings, _ = doctor(tmp_path, "filtered")
    assert status == 0
    assert "level process" in said(findings, "sandbox")[0]
    assert "NOT ISOLATED" in said(findings, "sandbox")[0]
    advice = said(findings, "advice")
    assert any("level full is not available" in line for line in advice)
    assert any("level user is not available" in line for line in advice)


def test_a_container_with_default_privileges_refuses_what_was_asked_for_by_name(tmp_path: Path) -> None:
    status, findings, _ = doctor(tmp_path, "filtered", level="user")
    assert status == 1
    (text,) = [f["text"] for f in findings if f["verdict"] == "problem" and f["subject"] == "sandbox"]
    assert "to fix it: " in text


def test_with_user_namespaces_allowed_it_gets_user(tmp_path: Path) -> None:
    """As documented: --security-opt seccomp=unconfined and its like, without --privileged."""
    status, findings, _ = doctor(tmp_path, "unfiltered")
    assert status == 0
    assert "level user" in said(findings, "sandbox")[0]
    assert said(findings, "freeze")
    assert said(findings, "cpu quota")


@pytest.mark.timeout(330)
def test_an_engine_of_low_priority_makes_sandboxes_too(tmp_path: Path) -> None:
    source = (
        "import sys; from pathlib import Path; from tests.sandbox.rig import Rig\n"
        "with Rig(Path(sys.argv[1])) as rig: print(rig.instance().run('import os; result = os.nice(0)'))"
    )
    done = subprocess.run(["nice", "-n", "15", sys.executable, "-c", source, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.stdout == "19\n", done.stderr


def test_a_masked_proc_is_named(tmp_path: Path) -> None:
    status, findings, _ = doctor(tmp_path, "unfiltered", level="user", unshare="mount -t tmpfs -o ro none /proc/irq")
    assert status == 1
    (text,) = [f["text"] for f in findings if f["verdict"] == "problem" and f["subject"] == "sandbox"]
    assert "unmask /proc" in text
    assert "/proc/irq" in text


_IMAGE = """
import json, sys
from pathlib import Path
sys.path[:0] = {path!r}
from tests.sandbox.rig import Rig
def mounts():
    return sorted(line.split()[4] for line in open("/proc/self/mountinfo"))
with Rig(Path({home!r}), "full", runtime={runtime!r}, interpreter={interpreter!r}) as rig:
    root = rig.code("image", {{}})
    for name in ("proc", "dev", "tmp", "mnt", "etc"):
        (root / name).mkdir()
    for name in ("hosts", "resolv.conf"):
        (root / "etc" / name).touch()
    before = mounts()
    box = rig.instance(code_dir=str(root), image=True)
    seen = sorted(box.run("import os; result = os.listdir('/')"))
    after = mounts()
    rig.end(box)
print("SEEN" + json.dumps([seen, before, after]))
"""


def test_what_a_sandbox_mounts_is_not_mounted_on_a_host_that_shares_its_mounts(tmp_path: Path) -> None:
    """Systemd has every mount shared among all namespaces: a copy of one shared too cannot become a root, and shows the host what is mounted there."""
    path = [str(ROOT), *[p for p in sys.path if "site-packages" in p]]
    runtime = f"python3.{sys.version_info.minor}"
    body = _IMAGE.format(path=path, home=str(tmp_path / "data"), runtime=runtime, interpreter=os.path.realpath(sys.executable))
    # Twice: what is mounted outside meanwhile would come into mounts shared with it, not into those that are private first.
    argv = ["unshare", "--mount", "unshare", "--mount", "--propagation", "shared", sys.executable, "-c", body]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)
    answer = done.stdout.rpartition("SEEN")[2]
    assert answer, done.stderr
    seen, before, after = json.loads(answer)
    assert seen == ["dev", "etc", "mnt", "proc", "tmp"]
    assert after == before
