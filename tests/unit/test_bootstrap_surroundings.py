"""What the function finds around it that took some doing: shared libraries, and no trace of the rehearsal."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.wire import messages as m
from runtime_bootstrap.python import rehearsal
from tests.framework import host
from tests.framework.python_worker import Make, making

INNER = "int inner(void) { return 42; }\n"
OUTER = "int inner(void);\nint outer(void) { return inner() + 1; }\n"
# The stable ABI's module definition, written out: Python's headers need not be installed.
EXTENSION = """
#include <stddef.h>
int outer(void);
extern void *PyLong_FromLong(long);
extern void *PyModule_Create2(void *, int);
static void *answer(void *self, void *args) { return PyLong_FromLong(outer()); }
static struct { const char *name; void *call; int flags; const char *doc; } methods[] = {{"answer", answer, 4, NULL}, {NULL, NULL, 0, NULL}};
static struct { size_t refs; void *type, *init; size_t index; void *copy; const char *name, *doc; size_t size; void *methods, *rest[4]; }
    module = {1, NULL, NULL, 0, NULL, "native", NULL, (size_t)-1, methods, {NULL}};
void *PyInit_native(void) { return PyModule_Create2(&module, 3); }
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


def compiled(folder: Path, name: str, source: str, *needs: str) -> bytes:
    """A shared library of that name that needs others of the folder, without saying where they are."""
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    (folder / f"{name}.c").write_text(source)
    links = [f"-l:{need}" for need in needs]
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", name, f"-Wl,-soname,{name}", f"{name}.c", "-L.", *links], cwd=folder, check=True, timeout=60
    )
    return (folder / name).read_bytes()


@pytest.fixture
def libraries(tmp_path: Path) -> dict[str, bytes]:
    host.require("no C compiler")
    folder = tmp_path / "build"
    folder.mkdir()
    return {
        "libinner.so.1": compiled(folder, "libinner.so.1", INNER),
        "libouter.so.2": compiled(folder, "libouter.so.2", OUTER, "libinner.so.1"),
        "native.so": compiled(folder, "native.so", EXTENSION, "libouter.so.2"),
    }


def test_an_extension_finds_its_libraries_in_the_package_and_in_a_layer(make: Make, libraries: dict[str, bytes], tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "m.py": "import native\ndef f(e, c): return native.answer()\n",
        "native.so": libraries["native.so"],
        "lib/libouter.so.2": libraries["libouter.so.2"],
        "opt/lib/libinner.so.1": libraries["libinner.so.1"],
    }
    folder = tmp_path / "0"
    worker = make(files, env={"LD_LIBRARY_PATH": f"/nowhere:{folder}/lib:{folder}/opt/lib"})
    assert worker.start().kind == m.NEXT
    assert worker.invoke().json == 43


def test_ctypes_finds_a_library_by_its_name(make: Make, libraries: dict[str, bytes], tmp_path: Path) -> None:
    code = "import ctypes\ndef f(e, c): return [ctypes.CDLL('libouter.so.2').outer(), ctypes.CDLL(None).abs(-3)]\n"
    files: dict[str, str | bytes] = {"m.py": code, **{f"lib/{n}": libraries[n] for n in ("libouter.so.2", "libinner.so.1")}}
    worker = make(files, env={"LD_LIBRARY_PATH": f"{tmp_path}/0/lib"})
    worker.start()
    assert worker.invoke().json == [43, 3]


def test_a_library_that_is_nowhere_is_missing_as_ever(make: Make, libraries: dict[str, bytes], tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "m.py": "import native\n",
        "native.so": libraries["native.so"],
        "lib/libouter.so.2": libraries["libouter.so.2"],
    }
    answer = make(files, env={"LD_LIBRARY_PATH": f"{tmp_path}/0/lib"}).start()
    assert answer.detail == "Runtime.ImportModuleError"
    assert "libinner.so.1: cannot open shared object file: No such file or directory" in answer.json["errorMessage"]
    code = "import ctypes\ndef f(e, c): ctypes.CDLL('libnowhere.so.9')\n"
    worker = make({"m.py": code}, env={"LD_LIBRARY_PATH": f"{tmp_path}/1/lib"})
    worker.start()
    assert worker.invoke().json["errorType"] == "OSError"


def test_a_rehearsal_leaves_no_trace(make: Make) -> None:
    code = (
        "import gc, logging, os, sys\n"
        "def f(e, c):\n"
        "    stage = [n for n in sys.modules if '_stage' in n] + [p for p in sys.path if 'fdinfo' in p or 'nonexistent' in p]\n"
        "    return [stage, len(logging.getLogger().handlers), os.environ.get('AWS_LAMBDA_FUNCTION_NAME'), c.function_name,\n"
        "            sorted(os.listdir('/proc/self/fd')) == sorted(os.listdir('/proc/self/fd')), '_X_AMZN_TRACE_ID' in os.environ]\n"
    )
    worker = make(code)
    assert worker.start().logs == []
    assert worker.invoke().json == [[], 1, None, "greet", True, False]


def test_a_rehearsal_restores_everything_but_the_environment_even_when_it_fails(tmp_path: Path) -> None:
    def state() -> list[object]:
        root = logging.getLogger()
        streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        return [*map(id, streams), sys.path[:], os.getcwd(), root.handlers[:], root.level, len(os.listdir("/proc/self/fd"))]

    seen = []

    def perform(sock: object, init: object) -> object:
        seen.append(init)
        sys.path.insert(0, str(tmp_path))
        os.environ["_X_AMZN_TRACE_ID"] = "1"
        os.chdir(tmp_path)
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger().setLevel(1)
        if len(seen) == 1:
            return 1
        raise (OSError if len(seen) == 2 else SystemExit)(1)

    for _ in range(3):
        before = state()
        rehearsal.rehearse(perform)
        assert state() == before
        assert "_X_AMZN_TRACE_ID" not in os.environ
    assert len(seen) == 3
