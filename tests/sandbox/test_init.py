"""Process 1 of a sandbox, made in both ways: in its parent's memory and as a copy of it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.sandbox import init
from tests.sandbox.rig import alive, until

pytestmark = pytest.mark.root
ROOT = Path(__file__).parent.parent.parent
# In a process of its own: what is made here shares the memory of its maker.
_MAKER = """
import json, os, signal, sys, time
sys.path.insert(0, {root!r})
from engine.sandbox import init, kernel
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
spawn = init.spawner({machine!r})
flags = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET
first, pidfd = spawn(flags)
second, _ = spawn(flags)
own = os.open("/proc/self/ns/pid", os.O_RDONLY)
kernel.setns(pidfd, kernel.CLONE_NEWPID)
read_end, write_end = os.pipe()
worker, _ = kernel.clone3(0, -1, 777)
if worker == 0:
    if os.fork() == 0:
        orphan = os.fork()
        if orphan == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
    os.write(write_end, b"%d %d" % (os.getpid(), os.getppid()))
    os.read(os.pipe()[0], 1)
kernel.setns(own, kernel.CLONE_NEWPID)
print(json.dumps([first, second, worker, os.read(read_end, 64).decode()]), flush=True)
{then}
"""


def _make(machine: str, then: str) -> tuple[subprocess.Popen[bytes], list]:
    source = _MAKER.format(root=str(ROOT), machine=machine, then=then)
    maker = subprocess.Popen([sys.executable, "-I", "-S", "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return maker, json.loads(maker.stdout.readline())


def _status(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/status") as f:
        return next(line.split(":", 1)[1].strip() for line in f if line.startswith(name + ":"))


MACHINES = [pytest.param(platform.machine(), id="this machine"), pytest.param("unknown", id="a machine without instructions of ours")]


@pytest.mark.parametrize("machine", MACHINES)
def test_an_init_holds_nothing_reaps_and_dies_with_its_maker(machine):
    maker, (first, second, worker, said) = _make(machine, "sys.stdin.read()")
    try:
        assert said == "777 0"
        for pid in (first, second):
            until(lambda pid=pid: _status(pid, "Name") == init.NAME, "it has its name")
            assert _status(pid, "NSpid").split()[-1] == "1"
            until(lambda pid=pid: not os.listdir(f"/proc/{pid}/fd"), "it has closed everything")
        if machine in init._CODE:
            until(lambda: _status(first, "VmRSS") == _status(maker.pid, "VmRSS"), "its memory is its maker's")
        space = os.readlink(f"/proc/{worker}/ns/pid")
        until(lambda: _in_space(space) == {first, worker}, "the orphan has been reaped")
    finally:
        maker.kill()
        maker.communicate()
    until(lambda: not any(alive(p) for p in (first, second, worker)), "all of it is dead")


@pytest.mark.parametrize("machine", MACHINES)
def test_killing_an_init_ends_what_runs_in_its_namespace_and_nothing_else(machine):
    then = f"os.kill(first, {int(signal.SIGKILL)}); print(os.waitpid(worker, 0)[1], os.waitpid(first, 0)[1], flush=True); sys.stdin.read()"
    maker, (_, second, _, _) = _make(machine, then)
    try:
        assert maker.stdout.readline().split() == [b"9", b"9"]
        assert alive(second)
    finally:
        maker.kill()
        maker.communicate()


def _in_space(space: str) -> set[int]:
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/ns/pid") == space:
                found.add(int(name))
        except OSError:
            continue
    return found
