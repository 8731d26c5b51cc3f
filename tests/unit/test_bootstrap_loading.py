"""A function's modules are read as they were compiled at deployment, and as Python reads any others where they were not."""

from __future__ import annotations

import importlib
import py_compile
import subprocess
import sys
from importlib.machinery import FileFinder
from pathlib import Path
from typing import Any

import pytest

from runtime_bootstrap.python import loading

UNCHECKED, CHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH, py_compile.PycInvalidationMode.CHECKED_HASH


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory at the head of the search path, as a function's."""
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.path_importer_cache[str(tmp_path)] = FileFinder(str(tmp_path), *loading.LOADERS)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str, mode: py_compile.PycInvalidationMode | None = None) -> None:
    path.write_text(text)
    if mode is not None:
        py_compile.compile(str(path), dfile="elsewhere.py", invalidation_mode=mode, doraise=True)


def test_what_was_compiled_at_deployment_is_not_compared_with_its_source(place):
    write(place / "own_compiled.py", "def f(): return 1\n", UNCHECKED)
    (place / "own_compiled.py").write_text("def f(): return 2\n")
    module: Any = importlib.import_module("own_compiled")
    assert (module.f(), module.__file__, module.f.__code__.co_filename) == (1, *[str(place / "own_compiled.py")] * 2)
    assert module.__cached__.endswith(".pyc")
    assert module.__loader__.get_source("own_compiled") == "def f(): return 2\n"


@pytest.mark.parametrize("mode", [CHECKED, None], ids=["to be compared", "not compiled"])
def test_anything_else_is_loaded_as_usual(place, mode):
    write(place / "own_other.py", "x = 1\n", mode)
    (place / "own_other.py").write_text("x = 2\n")
    assert importlib.import_module("own_other").x == 2


@pytest.mark.parametrize(
    "stored",
    [b"", b"\0" * 40, loading._UNCHECKED[:6], loading._UNCHECKED + b"\0" * 7],
    ids=["empty", "of another Python", "cut off", "not even a whole head"],
)
def test_bytecode_that_is_none_is_passed_over(place, stored):
    write(place / "own_broken.py", "x = 3\n", UNCHECKED)
    (compiled,) = (place / "__pycache__").iterdir()
    compiled.write_bytes(stored)
    assert importlib.import_module("own_broken").x == 3


def test_modules_longer_than_is_read_at_once(place):
    write(place / "own_long.py", "x = %r\n" % ("long" * loading._MOST), UNCHECKED)
    assert len(importlib.import_module("own_long").x) == 4 * loading._MOST


_SHOW = """
import sys, traceback
sys.path[:0] = [{place!r}, {root!r}]
if {by_us}:
    from importlib.machinery import FileFinder
    from runtime_bootstrap.python import loading
    sys.path_importer_cache[{place!r}] = FileFinder({place!r}, *loading.LOADERS)
try:
    import own_outer
except SyntaxError:
    traceback.print_exc(file=sys.stdout)
"""


def test_errors_look_as_they_do_without(place):
    write(place / "own_outer.py", "import own_inner\n", UNCHECKED)
    write(place / "own_inner.py", "x = (\n")
    root = str(Path(__file__).parents[2])
    ours, usual = (
        subprocess.run([sys.executable, "-c", _SHOW.format(place=str(place), root=root, by_us=by_us)], capture_output=True, text=True, check=True, timeout=100)
        for by_us in (True, False)
    )
    assert "own_inner.py" in ours.stdout
    assert ours.stdout == usual.stdout
