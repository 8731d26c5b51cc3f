"""The compiled part of a zygote, on its own: what it does not know goes to Python, and what it cannot do is told. In a process of its own, whose
children it reaps.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.sandbox import forge
from tests.framework import host

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import ctypes, json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from engine.sandbox import calls, copier, forge, kernel, packets
helper = ctypes.PyDLL(sys.argv[2])
copier.forge_run, copier.forge_init_of, copier.forge_memory = helper.forge_run, helper.forge_init_of, helper.forge_memory
copier.forge_memory.restype = ctypes.c_void_p
ours, theirs = packets.pair()
null = os.open("/dev/null", os.O_RDONLY)
children = kernel.child_signal_fd()
# The entry and the stack are nobody's: nothing that is sent here comes to the making of a process.
one = forge.begin(forge.Home(theirs.fileno(), children, null, null, os.getpid(), False), (0, 0, 0), 1, False, calls.Table(None, []))
said = []
def ask(message, fds=()):
    packets.send(ours, message, fds)
def passed_on():
    assert one.run() == forge.PACKET
    packet = one.packet()
    said.append([packet.kind, packet.args, len(packet.fds)])
    packet.close()
before = len(os.listdir("/proc/self/fd"))
make = ["make", 7, 400, 100000, False, False, False, True]
ask(["fresh", 7, 400, False, False, False, False], [null] * 4)
passed_on()
ask(["plan", {"name": "x" * 5000}])
passed_on()
for place, value in ((5, True), (7, False), (4, True)):  # a template, no network, a directory to be born in
    other = list(make)
    other[place] = value
    ask(other, [null] * 5)
    passed_on()
ask(make, [null] * 4)  # a descriptor less than it should bring
passed_on()
ask(make, [null] * 5)  # none is a network namespace
ask(["end"])
passed_on()
failed = packets.receive(ours)
said.append([failed.kind, failed.args[0], failed.args[1], failed.args[2].startswith("[Errno ")])
assert len(os.listdir("/proc/self/fd")) == before
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(3)
for _ in range(2):  # that it was stopped, and that it has ended
    assert one.run() == forge.REAPED
    said.append([one.reaped()[0] == pid, one.reaped()[1], one.init_of(7)])
    os.kill(pid, signal.SIGCONT) if os.WIFSTOPPED(one.reaped()[1]) else None
ours.send(b"no packet")
assert one.run() == forge.PACKET
try:
    one.packet()
except packets.PacketError:
    said.append("no packet")
ours.close()
assert one.run() == forge.PACKET
said.append(one.packet())
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled part, built as an installation builds it."""
    host.require("no C compiler")
    library = tmp_path_factory.mktemp("forge") / "_copy.so"
    flags = ["-O2", "-fPIC", "-shared", "-Wall", "-Werror", "-U_FORTIFY_SOURCE"]
    subprocess.run([shutil.which("cc") or "gcc", *flags, str(ROOT / "engine/sandbox/_copy.c"), "-o", str(library)], check=True, timeout=100)
    return str(library)


def test_what_it_does_not_know_is_passed_on_and_what_it_cannot_do_is_told(compiled: str) -> None:
    command = [sys.executable, "-I", "-c", PROGRAM, str(ROOT), compiled]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    plain = [7, 400, 100000, False, False, False, True]
    assert json.loads(done.stdout) == [
        ["fresh", [7, 400, False, False, False, False], 4],
        ["plan", [{"name": "x" * 5000}], 0],
        ["make", [*plain[:4], True, *plain[5:]], 5],
        ["make", [*plain[:6], False], 5],
        ["make", [*plain[:3], True, *plain[4:]], 5],
        ["make", plain, 4],
        ["end", [], 0],
        ["make_failed", 7, "fork the sandbox", True],
        [True, signal.SIGSTOP << 8 | 0x7F, -1],
        [True, 3 << 8, -1],
        "no packet",
        None,
    ]


def test_a_helper_of_another_version_is_not_used(compiled: str) -> None:
    helper = ctypes.PyDLL(compiled)
    helper.forge_memory.restype = ctypes.c_void_p
    size = ctypes.sizeof(forge._State)
    assert helper.forge_memory(ctypes.c_long(size))
    assert helper.forge_memory(ctypes.c_long(size - 8)) is None
