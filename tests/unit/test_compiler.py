"""Helpers that compile: used again, replaced when they are gone, never waited for too long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from engine.control.compiler import MOST_KEPT, Compiler, CompilerFailed
from tests.framework import wait


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    with contextlib.closing(Compiler(30.0)) as made:
        yield made


def tree(folder: Path, source: str = "x = 1\n") -> Path:
    folder.mkdir()
    (folder / "m.py").write_text(source)
    return folder


def helpers() -> set[int]:
    found = set()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "compileall" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def compiled(folder: Path) -> bytes:
    (found,) = (folder / "__pycache__").glob("m.*.pyc")
    return found.read_bytes()


def test_one_helper_compiles_one_tree_after_the_other(compiler: Compiler, tmp_path: Path) -> None:
    before = helpers()
    seen: set[int] = set()
    for n in range(3):
        folder = tree(tmp_path / str(n))
        compiler.compile(folder, sys.executable, "/var/task")
        data = compiled(folder)
        assert data[4:8] == b"\1\0\0\0", "unchecked hash"
        assert b"/var/task/m.py" in data
        assert str(tmp_path).encode() not in data
        (pid,) = helpers() - before
        seen.add(pid)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 10
    assert len(seen) == 1
    compiler.close()
    assert helpers() == before


def test_an_engine_at_a_low_priority_compiles_too(tmp_path: Path) -> None:
    """Who may not raise a priority was refused the helper's, and had no bytecode."""
    program = f"""
import os, sys
from pathlib import Path
from engine.control.compiler import NICENESS, Compiler
os.setpriority(os.PRIO_PROCESS, 0, NICENESS + 4)
if os.getuid() == 0:
    from engine.sandbox import kernel
    kernel.drop_capabilities()
compiler = Compiler()
compiler.compile(Path({str(tree(tmp_path / "low"))!r}), sys.executable, "/var/task")
compiler.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert compiled(tmp_path / "low")


def test_what_does_not_compile_is_left_to_the_import(compiler: Compiler, tmp_path: Path) -> None:
    folder = tree(tmp_path / "t", "def (:\n")
    (folder / "good.py").write_text("y = 1\n")
    compiler.compile(folder, sys.executable, "/opt")
    assert [p.name.split(".")[0] for p in (folder / "__pycache__").iterdir()] == ["good"]


def test_what_the_bytecode_spares_is_measured(compiler: Compiler, tmp_path: Path) -> None:
    small = compiler.compile(tree(tmp_path / "small"), sys.executable, "/var/task")
    folder = tree(tmp_path / "big", "".join(f"def f{n}(a, b): return [a * {n} + x for x in b if x]\n" for n in range(2000)))
    (folder / "package").mkdir()
    (folder / "package" / "part.py").write_text("y = 1\n")
    big = compiler.compile(folder, sys.executable, "/var/task")
    assert (small.modules, big.modules) == (1, 2)
    assert big.compile_us > big.load_us > 0
    assert big.compile_us > 3 * small.compile_us


def test_a_helper_that_has_gone_is_replaced(compiler: Compiler, tmp_path: Path) -> None:
    before = helpers()
    compiler.compile(tree(tmp_path / "a"), sys.executable, "/var/task")
    (pid,) = helpers() - before
    os.kill(pid, signal.SIGKILL)
    folder = tree(tmp_path / "b")
    compiler.compile(folder, sys.executable, "/var/task")
    assert compiled(folder)
    assert len(helpers() - before - {pid}) == 1


def test_a_helper_that_ended_while_it_waited_leaves_nothing(compiler: Compiler, tmp_path: Path) -> None:
    children, descriptors = {p.pid for p in psutil.Process().children()}, psutil.Process().num_fds()
    compiler.compile(tree(tmp_path / "t"), sys.executable, "/var/task")
    (pid,) = helpers() - children
    os.kill(pid, signal.SIGKILL)
    wait.until(lambda: pid not in {p.pid for p in psutil.Process().children()}, "no zombie of it is left")
    wait.until(lambda: psutil.Process().num_fds() <= descriptors, "its pipes are closed")


def test_many_at_once_each_have_one_and_few_are_kept(compiler: Compiler, tmp_path: Path) -> None:
    before = helpers()
    folders = [tree(tmp_path / str(n)) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda folder: compiler.compile(folder, sys.executable, "/var/task"), folders))
    assert all(compiled(folder) for folder in folders)
    assert 1 <= len(helpers() - before) <= MOST_KEPT


@pytest.mark.parametrize(
    ("script", "text"),
    [("exit 3", "it ended"), ("read line; exit 0", "it ended"), ("read line; echo nonsense", "it ended"), ("exec sleep 60", "longer than 2 s")],
)
def test_a_helper_that_gives_no_answer_is_an_error(tmp_path: Path, script: str, text: str) -> None:
    fake, calls = tmp_path / "python", tmp_path / "calls"
    fake.write_text(f"#!/bin/sh\necho started >> {calls}\n{script}\n")
    fake.chmod(0o755)
    folder = tree(tmp_path / "t")
    with contextlib.closing(Compiler(2.0)) as compiler, pytest.raises(CompilerFailed, match=text):
        compiler.compile(folder, str(fake), "/var/task")
    assert calls.read_text()== "started\n"
    with contextlib.closing(Compiler(2.0)) as compiler, pytest.raises(CompilerFailed, match="No such file"):
        compiler.compile(folder, str(tmp_path / "missing"), "/var/task")
