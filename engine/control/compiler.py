"""Bytecode for packages, made by the runtime's own interpreter.

Theory of operation. Starting an interpreter costs fifty times what compiling a small function does, so one that has done its work waits
for more: it reads a directory per line and answers with a line when that is compiled. Each serves one caller at a time; few are kept,
and callers beyond those wait a moment for one to be done before another is started: small packages need less time than a start, and a
big one must not hold up others. A helper ends by itself when nothing comes for a while, after many packages (a compiler
does not give memory back), and with the process that started it, whose end closes its input.

What it spares is measured on the way: the CPU time that the sources took to compile, and that the bytecode takes to be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

NICENESS = 10
IDLE_S = 30
MOST_KEPT = 2
PATIENCE_S = 0.1
# Clients give up on an API call after 60 s.
TIMEOUT_S = 45.0
# Runs on Python 3.9 to 3.14. Deploying must not slow down what runs; it steps back by itself, for its parent may have no power over a program
# that root starts anew, and one that is further back already stays there. Sources that do not compile are the function's affair, at its first import.
_PROGRAM = """
import os
os.setpriority(os.PRIO_PROCESS, 0, max({niceness}, os.getpriority(os.PRIO_PROCESS, 0)))
import compileall, importlib.machinery, json, marshal, py_compile, select, sys, time
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
source_to_code = importlib.machinery.SourceFileLoader.source_to_code
spent = [0.0, 0]
def timed(self, *args, **kwargs):
    started = time.process_time()
    try:
        return source_to_code(self, *args, **kwargs)
    finally:
        spent[0] += time.process_time() - started
        spent[1] += 1
importlib.machinery.SourceFileLoader.source_to_code = timed
def read(tree):
    total = 0.0
    for directory, _, files in os.walk(tree):
        if os.path.basename(directory) == "__pycache__":
            for name in files:
                with open(os.path.join(directory, name), "rb") as file:
                    started = time.process_time()
                    data = file.read()
                    if name.endswith(sys.implementation.cache_tag + ".pyc"):
                        marshal.loads(data[16:])
                        total += time.process_time() - started
    return total
for _ in range(500):
    if not select.select([0], [], [], {idle_s})[0]:
        break
    line = sys.stdin.readline()
    if not line:
        break
    tree, root = json.loads(line)
    spent[:] = 0.0, 0
    compileall.compile_dir(tree, quiet=2, force=True, invalidation_mode=mode, stripdir=tree, prependdir=root)
    print("done %d %d %d" % (spent[1], spent[0] * 1e6, read(tree) * 1e6), flush=True)
"""


class Bytecode(NamedTuple):
    """What compiling a tree took, in CPU time, and what reading its bytecode takes instead: all of its modules, once."""

    modules: int
    compile_us: int
    load_us: int


class CompilerFailed(Exception):
    """A tree has no bytecode, or not all of it: the helper could not be started, died, or was too slow."""


class Compiler:
    """Compiles trees; for several threads at once."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Condition()
        self._idle: dict[str, list[_Helper]] = {}
        self._busy: Counter[str] = Counter()

    def compile(self, tree: Path, interpreter: str, root: str) -> Bytecode:
        """Give every module below ``tree`` bytecode, as if the tree were at ``root``. Blocks; raises CompilerFailed."""
        waiting = self._take(interpreter)
        try:
            if waiting is not None:
                try:
                    return self._use(waiting, interpreter, tree, root)
                except _Ended:
                    # It had just gone, or this tree is too much for it; a fresh one tells.
                    pass
            helper = _Helper(interpreter)
            threading.Thread(target=self._bury, args=(interpreter, helper), name="end of a compiler", daemon=True).start()
            return self._use(helper, interpreter, tree, root)
        except (_Ended, OSError) as e:
            raise CompilerFailed(str(e)) from e
        finally:
            with self._lock:
                self._busy[interpreter] -= 1

    def close(self) -> None:
        """End the helpers that wait. Idempotent."""
        with self._lock:
            waiting = [helper for helpers in self._idle.values() for helper in helpers]
            for helpers in self._idle.values():
                helpers.clear()
        for helper in waiting:
            helper.end()

    def _take(self, interpreter: str) -> _Helper | None:
        """One that waits, None for the right to start one; either way the caller counts as busy from now on."""
        with self._lock:
            idle = self._idle.setdefault(interpreter, [])
            if not idle and self._busy[interpreter] >= MOST_KEPT:
                self._lock.wait_for(lambda: idle, PATIENCE_S)
            self._busy[interpreter] += 1
            return idle.pop() if idle else None

    def _bury(self, interpreter: str, helper: _Helper) -> None:
        """Wait for the helper's end; one that ended while it waited for work leaves nothing behind."""
        helper.wait()
        with self._lock:
            idle = self._idle.get(interpreter, [])
            waited = helper in idle
            if waited:
                idle.remove(helper)
        if waited:
            helper.end()

    def _use(self, helper: _Helper, interpreter: str, tree: Path, root: str) -> Bytecode:
        try:
            made = helper.compile(tree, root, self._timeout_s)
        except BaseException:
            helper.end()
            raise
        with self._lock:
            idle = self._idle.setdefault(interpreter, [])
            if len(idle) < MOST_KEPT:
                idle.append(helper)
                self._lock.notify()
                return made
        helper.end()
        return made


class _Ended(Exception):
    """The helper gave no answer."""


class _Helper:
    """One interpreter that compiles."""

    def __init__(self, interpreter: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter is configured, the rest is ours
            [interpreter, "-I", "-S", "-c", _PROGRAM.replace("{idle_s}", str(IDLE_S)).replace("{niceness}", str(NICENESS))],
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            umask=0o022,
        )

    def compile(self, tree: Path, root: str, timeout_s: float) -> Bytecode:
        """Raises _Ended, or CompilerFailed when another try would be as slow."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(json.dumps([str(tree), root]).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as e:
            raise _Ended("it ended") from e
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise CompilerFailed(f"it took longer than {timeout_s:g} s")
        done, *numbers = self._process.stdout.readline().split() or [b""]
        if done != b"done" or len(numbers) != len(Bytecode._fields):
            raise _Ended("it ended")
        return Bytecode(*map(int, numbers))

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    def end(self) -> None:
        """Kill it and wait for its end. Idempotent."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
