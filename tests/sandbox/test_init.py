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


@pytest.mark.skipif(platform.machine() not in init._CODE, reason="no instructions of ours for this machine")
def test_an_init_whose_maker_was_killed_before_it_could_ask_to_die_with_it_ends_by_itself():
    """It asks after the fact: the kernel has cleared the word by which it knows that its maker lives."""
    maker, (first, _, _, _) = _make(platform.machine(), "import ctypes; ctypes.memset(spawn.place[0] + init._ALIVE_AT, 0, 4); print(spawn(0)[0], flush=True); sys.stdin.read()")
    try:
        late = int(maker.stdout.readline())
        # Nobody has reaped it.
        until(lambda: not alive(late), "it has ended")
        assert alive(first)
    finally:
        maker.kill()
        maker.communicate()


_KILLED = """
import ctypes, os, sys
sys.path.insert(0, {root!r})
from engine.sandbox import init, kernel
kernel.become_subreaper()
read_end, write_end = os.pipe()
maker = os.fork()
if maker == 0:
    # One that neither asks to die with its maker nor closes anything: only pause, for ever.
    init._CODE["x86_64"] = bytes.fromhex("b8220000000f05ebf7")
    spawn = init.spawner("x86_64")
    address = spawn.place[0] + init._ALIVE_AT
    assert ctypes.c_int.from_address(address).value == os.getpid()
    os.write(write_end, b"%d %d" % (spawn(0)[0], address))
    import signal
    signal.pause()
stray, address = map(int, os.read(read_end, 64).split())
def word():
    with open("/proc/%d/mem" % stray, "rb", buffering=0) as f:
        f.seek(address)
        return int.from_bytes(f.read(4), "little")
before = word()
os.kill(maker, 9)
os.waitpid(maker, 0)
print(before == maker, word(), flush=True)
from engine.sandbox import holder
holder.end_children()
print(os.waitpid(stray, 0)[1], flush=True)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions of this test are x86-64's")
def test_the_kernel_clears_the_word_of_a_maker_that_is_killed():
    done = subprocess.run([sys.executable, "-I", "-S", "-c", _KILLED.format(root=str(ROOT))], capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"True", b"0", b"9"]


def _in_space(space: str) -> set[int]:
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/ns/pid") == space:
                found.add(int(name))
        except OSError:
            continue
    return found
