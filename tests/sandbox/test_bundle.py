"""/var/runtime: copied once, compiled once per interpreter, shared, and complete or absent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engine.sandbox.bundle import Bundle
from tests.sandbox.rig import BOOTSTRAP, until


@pytest.fixture
def config(tmp_path):
    library = tmp_path / "site-packages" / "boto3"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("VERSION = 1\n")
    (library / "native.so").write_text("left out")
    (tmp_path / "site-packages" / "six.py").write_text("x = 1\n")
    (tmp_path / "site-packages" / "msgpack").mkdir()
    (tmp_path / "site-packages" / "msgpack" / "__init__.py").write_text("")
    sdk = {"boto3": str(library), "six": str(tmp_path / "site-packages" / "six.py"), "msgpack": str(tmp_path / "site-packages" / "msgpack")}
    return {"cache_dir": str(tmp_path / "cache"), "bootstrap_dir": str(BOOTSTRAP), "sdk": sdk, "sdk_version": "1"}


INTERPRETER = os.path.realpath(sys.executable)


def _ready(bundle: Bundle) -> Path:
    directory = Path(bundle.ready(INTERPRETER))
    marker = directory / ".compiled" / os.path.basename(INTERPRETER)
    until(marker.exists, "the background compilation")
    for pid in list(bundle._children):
        os.waitpid(pid, 0)
        bundle.reaped(pid)
    return directory


def test_holds_bootstrap_sdk_and_a_private_msgpack(config):
    directory = _ready(Bundle(config))
    assert (directory / "runtime_bootstrap" / "python" / "worker.py").is_file()
    assert (directory / "runtime_bootstrap" / "_vendor" / "msgpack" / "__init__.py").is_file()
    assert not (directory / "msgpack").exists()
    assert (directory / "six.py").is_file()
    assert sorted(os.listdir(directory / "boto3")) == ["__init__.py", "__pycache__"]
    tag = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
    (pyc,) = (directory / "boto3" / "__pycache__").iterdir()
    assert pyc.name == f"__init__.{tag}.pyc"
    assert pyc.read_bytes()[4] == 0b01  # hash-based, never checked
    assert directory.stat().st_mode & 0o777 == 0o755


def test_is_compiled_once(config):
    directory = _ready(Bundle(config))
    (pyc,) = (directory / "boto3" / "__pycache__").iterdir()
    before = pyc.stat().st_mtime_ns
    again = Bundle(config)
    assert again.ready(INTERPRETER) == str(directory)
    assert not again._children
    assert pyc.stat().st_mtime_ns == before


def test_an_interrupted_compilation_is_done_again(config):
    bundle = Bundle(config)
    directory = bundle.ready(INTERPRETER)
    bundle.stop()
    for pid in list(bundle._children):
        os.waitpid(pid, 0)
    marker = Path(directory) / ".compiled" / os.path.basename(INTERPRETER)
    marker.unlink(missing_ok=True)
    assert _ready(Bundle(config)) == Path(directory)


def test_another_version_is_another_directory(config):
    first = _ready(Bundle(config))
    second = _ready(Bundle(config | {"sdk_version": "2"}))
    assert first != second
    assert first.is_dir()


def test_what_nobody_started_with_for_a_month_is_removed(config):
    old = _ready(Bundle(config))
    os.utime(old, (0, 0))
    _ready(Bundle(config | {"sdk_version": "2"}))
    assert not old.exists()
