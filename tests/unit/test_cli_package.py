"""A directory becomes the same package every time, holds what it should and nothing else; a handler is found or asked for."""

from __future__ import annotations

import io
import os
import sys
import zipfile

import pytest

from engine.cli import interpreters, package
from engine.cli.output import CliError

RUNTIME = f"python3.{sys.version_info.minor}"


def entries(data: bytes) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {i.filename: i for i in archive.infolist()}


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "function"
    (root / "lib").mkdir(parents=True)
    (root / "lambda_function.py").write_text("def lambda_handler(event, context):\n    return 1\n")
    (root / "lib" / "data.txt").write_text("x" * 5000)
    return root


def test_equal_sources_give_equal_bytes(source):
    first = package.of_directory(source, RUNTIME)
    os.utime(source / "lambda_function.py", (1, 1))
    assert package.of_directory(source, RUNTIME) == first


def test_changed_source_gives_other_bytes(source):
    first = package.of_directory(source, RUNTIME)
    (source / "lib" / "data.txt").write_text("y")
    assert package.of_directory(source, RUNTIME) != first


def test_litter_stays_out_and_modes_stay(source):
    for litter in (".git/HEAD", "__pycache__/a.cpython-311.pyc", ".venv/bin/python", "lib/__pycache__/b.pyc", "old.pyc"):
        path = source / litter
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("litter")
    tool = source / "tool.sh"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o700)
    found = entries(package.of_directory(source, RUNTIME))
    assert sorted(found) == ["lambda_function.py", "lib/data.txt", "tool.sh"]
    assert found["tool.sh"].external_attr >> 16 == 0o100755
    assert found["lambda_function.py"].external_attr >> 16 == 0o100644


def test_empty_directory_is_refused(tmp_path):
    with pytest.raises(CliError, match="holds no files") as caught:
        package.of_directory(tmp_path, RUNTIME)
    assert caught.value.status == 2


def test_broken_link_is_refused(source):
    (source / "gone.py").symlink_to(source / "nowhere")
    with pytest.raises(CliError, match=r"gone\.py is not a file that can be packaged"):
        package.of_directory(source, RUNTIME)


def test_linked_directory_is_refused(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CliError, match="linked is a link to a directory"):
        package.of_directory(source, RUNTIME)


def make_wheel(folder, version="1.0"):
    folder.mkdir(exist_ok=True)
    path = folder / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "VALUE = 7\n")
        wheel.writestr(f"tiny-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"tiny-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"tiny-{version}.dist-info/RECORD", "")
    return path


def test_requirements_are_installed_and_own_files_win(source, tmp_path):
    wheel = make_wheel(tmp_path / "wheels")
    (source / "requirements.txt").write_text(f"{wheel}\n")
    found = entries(package.of_directory(source, RUNTIME))
    assert {"tiny.py", "lambda_function.py", "requirements.txt", "tiny-1.0.dist-info/METADATA"} <= set(found)
    (source / "tiny.py").write_text("VALUE = 8\n")
    with zipfile.ZipFile(io.BytesIO(package.of_directory(source, RUNTIME))) as archive:
        assert archive.read("tiny.py") == b"VALUE = 8\n"


def test_pip_failure_carries_its_words(source):
    (source / "requirements.txt").write_text("/no/such/wheel-1.0-py3-none-any.whl\n")
    with pytest.raises(CliError, match=r"pip could not install .*requirements\.txt for python3[\s\S]*wheel"):
        package.of_directory(source, RUNTIME)


def test_runtime_without_an_interpreter_takes_wheels_for_it(monkeypatch):
    monkeypatch.setattr(interpreters, "interpreter_of", lambda _runtime: None)
    argv = interpreters.pip_install("python3.14", "r.txt", "out")
    assert argv[-3:] == ["--python-version", "3.14", "--only-binary=:all:"]


def test_runtime_with_pip_installs_with_it():
    argv = interpreters.pip_install(RUNTIME, "r.txt", "out")
    assert argv[:3] == [sys.executable, "-m", "pip"]
    assert "--python-version" not in argv


def test_no_pip_anywhere_says_so(monkeypatch):
    monkeypatch.setattr(interpreters, "has_pip", lambda _interpreter: False)
    with pytest.raises(CliError, match="no Python here has pip"):
        interpreters.pip_install(RUNTIME, "r.txt", "out")


def test_has_pip_of_something_that_is_no_program(tmp_path):
    assert not interpreters.has_pip(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("files", "handler"),
    [
        ({"lambda_function.py": "def lambda_handler(e, c): pass"}, "lambda_function.lambda_handler"),
        ({"app.py": "def handler(e, c): pass", "zebra.py": "def handler(e, c): pass"}, "app.handler"),
        ({"zebra.py": "def lambda_handler(e, c): pass", "alpha.py": "x = 1"}, "zebra.lambda_handler"),
        ({"main.py": "import m\nhandler = m.adapt(1)"}, "main.handler"),
    ],
)
def test_handler_is_found(tmp_path, files, handler):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert package.detect_handler(tmp_path) == handler


def test_no_handler_asks_for_one(tmp_path):
    (tmp_path / "app.py").write_text("class C: pass")
    with pytest.raises(CliError, match="--handler"):
        package.detect_handler(tmp_path)


def test_syntax_error_names_file_and_line(tmp_path):
    (tmp_path / "app.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(CliError, match=r"app\.py, line 2"):
        package.detect_handler(tmp_path)
