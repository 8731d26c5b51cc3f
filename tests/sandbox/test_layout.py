"""Where a zygote's objects lie: what is learnt makes forks write to fewer pages, for every interpreter here, and programs notice nothing."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.sandbox import layout, layouts
from engine.sandbox.interpreters import discover
from engine.sandbox.peers import Loop
from engine.sandbox.zygotes import ZygoteProcess
from tests.framework import host
from tests.sandbox.rig import alive, until

_ROOT = Path(__file__).parents[2]
_PYTHONS = sorted((n for n in discover() if n.startswith("python")), key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
# Stands for a zygote: imports, something that its forks will do, and what this module's mode asks for. Prints what a fork wrote to.
_PROGRAM = """
import gc, os, sys
sys.path.insert(0, {root!r})
gc.disable()
from engine.sandbox import layout
layout.mark()
import argparse, collections, dataclasses, decimal, hashlib, json, logging, mmap, random, re, resource, statistics, urllib.parse

class Thing:
    def __init__(self, n):
        self.n, self.text = n, str(n)

KEPT = [Thing(n) for n in range(500)]
OF_FILE = mmap.mmap(os.open(sys.executable, os.O_RDONLY), mmap.PAGESIZE, flags=mmap.MAP_PRIVATE)

def rehearse():
    for n in range(0, 500, 50):
        KEPT[n].n += 1
    json.loads(json.dumps({{"a": [1, 2.5, None], "b": "c" * 40}}))
    re.sub("a+", "b", "caaat")
    urllib.parse.urlsplit("http://localhost:80/x?y=z")
    logging.getLogger("some.name").info("unseen")
    argparse.ArgumentParser().parse_args([])
    statistics.median([3, 1, 2])

rehearse()
gc.collect()
if {learns}:
    layout.learn(int(sys.argv[1]), rehearse)
else:
    def mappings():
        return [line.split()[1] for line in open("/proc/self/maps")]

    before = len(mappings())
    layout.finish()
    # Constants lie with code, in no mapping that can be written.
    assert not any(access.startswith("rwx") for access in mappings())
    joined = before - len(mappings())
    large = sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
    gc.freeze()

    def live():
        rehearse()
        # Which is nothing where the others are forked.
        KEPT.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        KEPT[-1].write(bytes(1 << 20))
        OF_FILE[0] = 1

    watched = layout.watch(live)
    if not {may_pin}:
        from engine.sandbox import kernel
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        kernel.keep_capabilities()
    if not {files_too}:
        # Stands for a kernel that pins no pages of files.
        import ctypes
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(OF_FILE))), mmap.PAGESIZE, mmap.PROT_READ) == 0
    pinned = layout.pin()
    rings = sum(os.readlink("/proc/self/fd/" + n) == "anon_inode:[io_uring]" for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + n))

    def faults_of(what):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        what()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    read_end, write_end = os.pipe()
    if os.fork() == 0:
        faults = faults_of(rehearse)
        os.write(write_end, b"%d %d " % (layout._library.pages_own(), faults))
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        touched = layout.touch()
        os.write(write_end, b"%d %d" % (touched, faults_of(rehearse)))
        os._exit(0)
    os.wait()
    # Blocks of all sizes that grow, shrink and go, which they would not survive in the wrong hands.
    numbers = random.Random(7)
    rows = {{}}
    for turn in range(4000):
        key, size = numbers.randrange(300), numbers.choice((1, 30, 200, 600, 5000, 70000))
        row = rows.setdefault(key, bytearray())
        assert row == bytes([key % 251]) * len(row)
        if numbers.random() < 0.2:
            del rows[key]
        else:
            row[:] = bytes([key % 251]) * numbers.randrange(size)
    KEPT.clear()
    del sys.modules["json"]
    import json
    kept = [k for k in os.environ if k.startswith(("LD_", "LAMBDA_"))]
    shown = open("/proc/self/environ", "rb").read()
    print(json.dumps([[joined, large, watched, pinned, rings, *map(int, os.read(read_end, 80).split())], kept, b"PRELOAD" in shown or b"LAYOUT" in shown, os.environ.get("OTHER")]))
"""


def _run(interpreter: str, *, learns: bool, variables: dict[str, str], out: Path | None = None, may_pin: bool = True, files_too: bool = True) -> Any:
    """The program in such an environment; what it prints."""
    program = _PROGRAM.format(root=str(_ROOT), learns=learns, may_pin=may_pin, files_too=files_too)
    learnt = os.open(out, os.O_WRONLY | os.O_CREAT) if out is not None else os.open("/dev/null", os.O_RDONLY)
    try:
        done = subprocess.run(
            [interpreter, "-I", "-S", "-B", "-c", program, str(learnt)], capture_output=True, text=True, check=False, timeout=120,
            pass_fds=[learnt], env={"OTHER": "kept", **variables},
        )  # fmt: skip
    finally:
        os.close(learnt)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout) if done.stdout else None


def _loaded(mode: str, path: Path | str = "") -> dict[str, str]:
    return {"LD_PRELOAD": layout.LIBRARY, "LAMBDA_ENGINE_LAYOUT": f"{mode}{path}"}


_GUARDED = """
import sys
sys.path.insert(0, {root!r})
from engine.sandbox import layout
layout.guard()
print(layout._guards[0])
"""


def test_who_keeps_pages_apart_ends_with_who_made_it() -> None:
    _needs_the_helper()
    program = [sys.executable, "-I", "-S", "-B", "-c", _GUARDED.format(root=str(_ROOT))]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=120, env=_loaded("watch"))
    assert int(done.stdout) > 0
    until(lambda: not alive(int(done.stdout)), "it has ended")


def _needs_the_helper() -> None:
    host.require("no C compiler")
    assert Path(layout.LIBRARY).exists()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in (_PYTHONS[0], _PYTHONS[-1]) else pytest.mark.slow) for n in _PYTHONS])
def test_forks_write_to_fewer_pages_and_programs_notice_nothing(name: str, tmp_path: Path) -> None:
    _needs_the_helper()
    interpreter = discover()[name].path
    _run(interpreter, learns=True, variables=_loaded("w"), out=tmp_path / "spread")
    assert _run(interpreter, learns=True, variables=_loaded("s", tmp_path / "spread"), out=tmp_path / "learnt") is None
    candidates, chosen = ((tmp_path / n).stat().st_size // layout.KEY for n in ("spread", "learnt"))
    assert 0 < chosen < candidates / 4

    (joined, large, watched, pinned, rings, pages, faults, touched, faults_then), variables, seen, other = _run(
        interpreter, learns=False, variables=_loaded("u", tmp_path / "learnt"), may_pin=False
    )
    (*_, usual, _, _, _), *_ = _run(interpreter, learns=False, variables={})

    assert (variables, seen, other) == ([], False, "kept")
    assert pages < 0.9 * usual, "a third fewer, more or less: where hashes send objects is another place each time"
    assert joined > 0, "every library has constants"
    assert large > 0 or not _has_large_pages()
    assert 0 < watched < 1.2 * pages, (large, watched, pages, faults, touched, faults_then)
    assert (pinned, rings) == (False, 0), "nothing may be locked into memory"
    # What is left are pages of files, and what the touching itself needs.
    assert (touched, faults_then < 0.5 * faults) == ((True, True) if _touches() else (False, False))

    for files_too in (True, False) if _pins() else ():
        (_, _, watched, pinned, rings, pages, faults_of_copies, touched, _), variables, *_ = _run(
            interpreter, learns=False, variables=_loaded("u", tmp_path / "learnt"), files_too=files_too
        )
        assert (variables, pinned, rings, touched) == ([], True, 1, True)
        assert faults_of_copies < 0.5 * faults
        assert 0 < watched < 1.2 * pages < 1.2 * usual


def _pins() -> bool:
    """Whether io_uring is for us, with so much memory (``ulimit -l``): asked for a ring, the kernel gives one, and takes a buffer of more than those pages."""
    library, memory = ctypes.CDLL(None), ctypes.create_string_buffer(4 << 20)
    ring = library.syscall(425, 1, ctypes.create_string_buffer(120))
    if ring < 0:
        return False
    buffers = (ctypes.c_size_t * 2)(ctypes.addressof(memory), len(memory))
    try:
        return bool(library.syscall(427, ring, 0, buffers, 1) == 0)
    finally:
        os.close(ring)


_LARGER_PAGES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
long sysconf(int name) {
    return name == _SC_PAGESIZE ? 1 << 16 : ((long (*)(int))dlsym(RTLD_NEXT, "sysconf"))(name);
}
"""
_WATCHING = """
import sys
sys.path.insert(0, {root!r})
from engine.sandbox import layout
kept = [bytearray(600) for _ in range(999)]
layout.finish()

def live():
    for one in kept:
        one[0] = 1

print(layout.watch(live) > 0, layout.pin(), layout.touch())
"""


@pytest.mark.parametrize("larger", [False, True])
def test_where_pages_are_larger_none_is_watched_and_none_given_up(larger: bool, tmp_path: Path) -> None:
    _needs_the_helper()
    (tmp_path / "larger.c").write_text(_LARGER_PAGES)
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", "larger.c", "-o", "larger.so", "-ldl"], check=True, cwd=tmp_path, timeout=100)
    libraries = [str(tmp_path / "larger.so")] if larger else []
    program = [sys.executable, "-I", "-S", "-B", "-c", _WATCHING.format(root=str(_ROOT))]
    env = {**_loaded("watch"), "LD_PRELOAD": ":".join((*libraries, layout.LIBRARY))}
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=120, env=env)
    assert done.stdout == ("False False False\n" if larger else f"True {_pins()} {_touches()}\n")


def _advised(advice: int, size: int) -> bool:
    """Whether the kernel follows such advice, which Python's module has no name for."""
    with mmap.mmap(-1, 2 * size) as memory:
        memory[:] = b"x" * (2 * size)
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return ctypes.CDLL(None).madvise(ctypes.c_void_p(-at % size + at), ctypes.c_size_t(size), advice) == 0


def _has_large_pages() -> bool:
    return _advised(25, 2 << 20)  # MADV_COLLAPSE


def _touches() -> bool:
    return _advised(23, 4096)  # MADV_POPULATE_WRITE


def _keys(*keys: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("=II", *key) for key in keys)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(_keys((64, 3))[:-1], id="half a key"),
        pytest.param(_keys((64, 3), (64, 3)), id="the same twice"),
        pytest.param(_keys((80, 3), (64, 3)), id="not in order"),
        pytest.param(_keys((64, 3), (0xFFFF, 3)), id="too large"),
        pytest.param(_keys((64, 3), (2 << 16 | 64, 3)), id="a phase that there is not"),
        pytest.param(_keys((0, 0), (1, 0), (64, 3), (64, 0xFFFFFFFF)), id="what never comes"),
        pytest.param(_keys(*((size, nth) for size in range(0, 4080, 16) for nth in range(900))), id="nearly everything"),
        pytest.param(random.Random(1).randbytes(8000), id="noise"),
    ],
)  # fmt: skip
def test_whatever_the_file_says_the_program_runs(content: bytes, tmp_path: Path) -> None:
    _needs_the_helper()
    path = tmp_path / "learnt"
    path.write_bytes(content)
    for mode in "us":
        if mode == "u":
            assert _run(discover()[_PYTHONS[-1]].path, learns=False, variables=_loaded(mode, path))[1:] == [[], False, "kept"]
        else:
            _run(discover()[_PYTHONS[-1]].path, learns=True, variables=_loaded(mode, path), out=tmp_path / "out")


@pytest.mark.parametrize("value", ["", "x", "u/nowhere/at/all", "u" + 5000 * "x"])
def test_a_layout_that_is_not_there_is_none(value: str) -> None:
    _needs_the_helper()
    variables = {"LD_PRELOAD": layout.LIBRARY, "LAMBDA_ENGINE_LAYOUT": value}
    assert _run(discover()[_PYTHONS[-1]].path, learns=False, variables=variables)[1:] == [[], False, "kept"]


PLAN = {"entry": "runtime_bootstrap.python.worker", "level": "full", "preload": [], "runtime_dir": str(_ROOT), "engine_root": str(_ROOT)}


def _course(cache: Path, interpreter: Path, **plan: object) -> layouts.Course:
    made = layouts.course(str(cache), str(interpreter), {**PLAN, **plan})
    assert made is not None
    return made


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    path = tmp_path / "python3.11"
    path.write_bytes(b"an interpreter")
    return path


def _say(out: int, text: bytes) -> None:
    if text:
        os.write(out, text)
    os.close(out)


def test_two_that_learn_come_before_the_zygote_and_the_next_one_knows(tmp_path: Path, interpreter: Path) -> None:
    _needs_the_helper()
    course = _course(tmp_path, interpreter)
    first, out = course.begin()
    _say(out, b"candidates")
    assert (first["LAMBDA_ENGINE_LAYOUT"], course.learning) == ("w", True)
    course.ended()
    second, out = course.begin()
    spread = Path(second["LAMBDA_ENGINE_LAYOUT"][1:])
    assert (second["LAMBDA_ENGINE_LAYOUT"][0], spread.read_bytes(), course.learning) == ("s", b"candidates", True)
    _say(out, b"learnt")
    course.ended()
    third, out = course.begin()
    learnt = Path(third["LAMBDA_ENGINE_LAYOUT"][1:])
    assert (third["LAMBDA_ENGINE_LAYOUT"][0], learnt.read_bytes(), out, course.learning) == ("u", b"learnt", -1, False)
    assert list((tmp_path / "layouts").iterdir()) == [learnt]

    assert _course(tmp_path, interpreter).begin() == (third, -1)


@pytest.mark.parametrize("spoken", [(b"",), (b"candidates", b"")])
def test_a_zygote_starts_without_when_nothing_was_learnt_and_nothing_is_left(spoken: tuple[bytes, ...], tmp_path: Path, interpreter: Path) -> None:
    _needs_the_helper()
    course = _course(tmp_path, interpreter)
    for text in spoken:
        _, out = course.begin()
        _say(out, text)
        course.ended()
    assert (course.begin(), course.learning) == (({}, -1), False)
    assert not list((tmp_path / "layouts").iterdir())
    assert _course(tmp_path, interpreter).begin()[0]["LAMBDA_ENGINE_LAYOUT"] == "w"


def test_a_zygote_starts_without_when_nothing_can_be_kept(tmp_path: Path, interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _needs_the_helper()
    course = _course(tmp_path, interpreter)
    (tmp_path / "layouts").rmdir()
    assert (course.begin(), course.learning) == (({}, -1), False)
    monkeypatch.setattr(layout, "LIBRARY", str(tmp_path / "a b.so"))
    (tmp_path / "a b.so").write_bytes(b"")
    assert layouts.course(str(tmp_path), str(interpreter), PLAN) is None, "the dynamic linker takes it for two"


def test_a_rehearsal_that_hangs_is_given_up(tmp_path: Path) -> None:
    _needs_the_helper()
    program = (
        f"import os, sys, threading; sys.path.insert(0, {str(_ROOT)!r}); from engine.sandbox import layout; layout.PATIENCE_S = 1; "
        "layout.learn(int(sys.argv[1]), threading.Event().wait); print('went on')"
    )
    with (tmp_path / "learnt").open("wb") as out:
        command = [sys.executable, "-I", "-S", "-B", "-c", program, str(out.fileno())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, pass_fds=[out.fileno()], env=_loaded("w"))
    assert (done.stdout, done.stderr) == ("went on\n", "")
    assert not (tmp_path / "learnt").read_bytes()


def _learn(course: layouts.Course) -> None:
    for stage in range(2):
        _, out = course.begin()
        _say(out, b"%d" % stage)
        course.ended()


def test_another_interpreter_or_other_imports_have_a_layout_of_their_own(tmp_path: Path, interpreter: Path) -> None:
    _needs_the_helper()
    course = _course(tmp_path, interpreter)
    _learn(course)
    assert course.begin()[0]["LAMBDA_ENGINE_LAYOUT"][0] == "u"
    assert _course(tmp_path, interpreter, preload=["boto3"]).begin()[0]["LAMBDA_ENGINE_LAYOUT"] == "w"
    (tmp_path / "runtime_bootstrap" / "python").mkdir(parents=True)
    shutil.copy(_ROOT / "runtime_bootstrap" / "packing.py", tmp_path / "runtime_bootstrap")
    other = _course(tmp_path, interpreter, runtime_dir=str(tmp_path))
    (tmp_path / "runtime_bootstrap" / "packing.py").write_text("")
    assert other._path != _course(tmp_path, interpreter, runtime_dir=str(tmp_path))._path, "another version of what workers run"
    interpreter.write_bytes(b"a newer interpreter")
    assert _course(tmp_path, interpreter).begin()[0]["LAMBDA_ENGINE_LAYOUT"] == "w"


def test_a_zygote_that_comes_to_nothing_with_a_layout_starts_without(tmp_path: Path, interpreter: Path) -> None:
    _needs_the_helper()
    course = _course(tmp_path, interpreter)
    _learn(course)
    (learnt,) = (tmp_path / "layouts").iterdir()
    # Stands for an interpreter that crashes for as long as there is a layout.
    crashing = tmp_path / "crashing"
    crashing.write_text(f"#!/bin/sh\n[ -e {learnt} ] && kill -SEGV $$\nexec sleep 100\n")
    crashing.chmod(0o755)
    loop = Loop()
    process = ZygoteProcess(loop, "key", {"prefixes": [], "engine_root": str(_ROOT)}, str(crashing), lambda *_: None, course)
    try:
        assert os.WTERMSIG(os.waitpid(process.pid, 0)[1]) == signal.SIGSEGV
        assert process.goes_on()
        assert not list((tmp_path / "layouts").iterdir())
    finally:
        process.kill()
        _, status = os.waitpid(process.pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, "it was still there"
    assert not process.goes_on()
    process.close()
    loop.close()


def test_only_what_can_rehearse_learns(tmp_path: Path, interpreter: Path) -> None:
    assert layouts.course(str(tmp_path), str(interpreter), {**PLAN, "entry": "runtime_bootstrap.agent.zygote"}) is None
    threaded, linked = interpreter.with_name("python3.13t"), interpreter.with_name("python3")
    threaded.touch()
    linked.symlink_to(threaded)
    assert layouts.course(str(tmp_path), str(threaded), PLAN) is None
    assert layouts.course(str(tmp_path), str(linked), PLAN) is None
    assert layouts.course("/proc/nowhere", str(interpreter), PLAN) is None


def test_what_nobody_used_for_a_month_goes(tmp_path: Path, interpreter: Path) -> None:
    _needs_the_helper()
    (tmp_path / "layouts").mkdir()
    old, new = (tmp_path / "layouts" / name for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    _course(tmp_path, interpreter)
    assert [p.name for p in (tmp_path / "layouts").iterdir()] == ["new"]
