"""How a template forks: by a fork of Python's in between, and by the compiled part that does without. Each in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.framework import host

ROOT = Path(__file__).resolve().parents[2]
# The copy finds the template's memory and Python's hooks run in it; the template goes on, and it is the template that is asked again.
PROGRAM = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
from engine.sandbox import copier, packets
copier._copy_into = ctypes.PyDLL(sys.argv[2]).copy_into if sys.argv[2] else None
fork = copier.Copier._fork_there if sys.argv[2] else copier.Copier._fork_by_another
hooks = []
os.register_at_fork(after_in_child=lambda: hooks.append("child"), after_in_parent=lambda: hooks.append("parent"))
memory = {n: [n] for n in range(50_000)}
read, write = os.pipe()
template = os.getpid()
for n in range(3):
    packet = packets.Packet("copy", [[], "/"], [os.dup(write), os.dup(write)], 0)
    if fork(packet) == 0:
        line = [n, os.getpid() != template, sum(v[0] for v in memory.values()), "child" in hooks, sys.stdout.writable()]
        os.write(write, (repr(line) + "\\n").encode())
        os._exit(0)
    packet.close()
    memory[n] = [0]
os.close(write)
said = b""
while data := os.read(read, 4096): said += data
print(said.decode(), end="")
"""
WRONG = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
from engine.sandbox import copier, packets
copier._copy_into = ctypes.PyDLL(sys.argv[2]).copy_into if sys.argv[2] else None
null = os.open("/dev/null", os.O_RDONLY)
print(copier.Copier._fork_there(packets.Packet("copy", [["mnt"], "/"], [null, 1, 1], 0)), "and on")
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", program, str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled part, built as an installation builds it."""
    host.require("no C compiler")
    library = tmp_path_factory.mktemp("copy") / "_copy.so"
    flags = ["-O2", "-fPIC", "-shared", "-Wall", "-Werror", "-U_FORTIFY_SOURCE"]
    subprocess.run([shutil.which("cc") or "gcc", *flags, str(ROOT / "engine/sandbox/_copy.c"), "-o", str(library)], check=True, timeout=100)
    return str(library)


@pytest.mark.parametrize("by", ["python", "compiled"])
def test_copies_have_the_templates_memory_and_the_template_goes_on(by: str, request: pytest.FixtureRequest) -> None:
    done = run(PROGRAM, request.getfixturevalue("compiled") if by == "compiled" else "")
    assert done.returncode == 0, done.stderr
    whole = sum(range(50_000))
    assert sorted(done.stdout.splitlines()) == [
        repr([0, True, whole, True, True]), repr([1, True, whole, True, True]), repr([2, True, whole - 1, True, True]),
    ]  # fmt: skip


def test_an_order_that_cannot_be_carried_out_is_complained_of(compiled: str) -> None:
    done = run(WRONG, compiled)
    assert (done.stdout, done.returncode) == ("1 and on\n", 0)
    assert done.stderr.startswith("[engine] the copy of a template failed: ")
