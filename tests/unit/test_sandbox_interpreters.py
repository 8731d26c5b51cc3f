"""Finding interpreters: real ones, and directories full of things that only look like them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engine.sandbox import interpreters, rootfs
from engine.sandbox.interpreters import discover, inspect, prefixes_of

OWN = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A host whose only other Pythons are those the test makes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("PYENV_ROOT", "UV_PYTHON_INSTALL_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def _answering(path: Path, version: list[int], *, name: str = "cpython", flags: str = "", free: int = 0) -> Path:
    prefix = str(path.parent.parent)
    answer = f'[{version}, "{name}", "{prefix}", "{prefix}", "{path}", "{flags}", {free}]'
    return _script(path, f"echo '{answer}'")


def test_the_engines_own_interpreter_is_found_under_its_environment():
    found = discover()[OWN]
    assert found.path == os.path.realpath(found.path)
    assert not found.path.startswith(sys.prefix + "/") or sys.prefix == sys.base_prefix
    assert os.path.realpath(sys.base_prefix) in found.prefixes
    assert found.version == ".".join(map(str, sys.version_info[:3]))


def test_order_of_places_and_highest_patch_release(alone):
    _answering(alone / ".pyenv/versions/3.9.1/bin/python3.9", [3, 9, 1])
    _answering(alone / ".pyenv/versions/3.9.18/bin/python3.9", [3, 9, 18])
    _answering(alone / ".pyenv/versions/3.14.0/bin/python3.14", [3, 14, 0])
    _answering(alone / ".local/share/uv/python/cpython-3.14.2/bin/python3.14", [3, 14, 2])
    _answering(alone / ".local/share/uv/python/cpython-3.10.4/bin/python3.10", [3, 10, 4])
    found = discover()
    assert (found["python3.9"].version, found["python3.14"].version) == ("3.9.18", "3.14.0")
    assert found["python3.10"].version == "3.10.4"
    assert list(found) == sorted(found, key=lambda r: int(r.split(".")[1]))


def test_an_override_wins_and_a_wrong_one_is_left_out(alone):
    good = _answering(alone / "mine/bin/python", [3, 13, 7])
    found = discover({"python3.13": good, "python3.12": good, "python3.9": alone / "none"})
    assert found["python3.13"].path == str(good)
    assert "python3.12" not in found
    assert "python3.9" not in found


@pytest.mark.parametrize(
    "text",
    ["exit 1", "echo nonsense", "echo '[]'", "exec /bin/false"],
)
def test_what_does_not_answer_is_no_interpreter(alone, text):
    assert inspect(str(_script(alone / "bin/python3.12", text))) is None


@pytest.mark.parametrize(
    ("version", "options"),
    [([3, 8, 1], {}), ([3, 15, 0], {}), ([2, 7, 18], {}), ([3, 12, 0], {"name": "pypy"}), ([3, 13, 0], {"flags": "t", "free": 1}), ([3, 12, 0], {"flags": "d"})],
)
def test_other_kinds_are_left_out(alone, version, options):
    assert inspect(str(_answering(alone / "bin/python3.12", version, **options))) is None


def test_a_hanging_one_is_given_up(alone, monkeypatch):
    monkeypatch.setattr(interpreters, "_ASK_S", 0.2)
    assert inspect(str(_script(alone / "bin/python3.11", "exec sleep 30"))) is None


def test_shims_are_not_asked(alone, monkeypatch):
    _answering(alone / "pyenv/shims/python3.9", [3, 9, 1])
    monkeypatch.setenv("PATH", str(alone / "pyenv/shims"))
    found = discover().get("python3.9")
    assert found is None or "shims" not in found.path


def test_a_changed_program_is_asked_again(alone):
    path = _answering(alone / "bin/python3.12", [3, 12, 1])
    assert inspect(str(path)).version == "3.12.1"
    path.unlink()
    _answering(path, [3, 12, 22])
    os.utime(path, (1, 1))
    assert inspect(str(path)).version == "3.12.22"


def test_what_was_found_out_is_remembered_until_the_program_changes(alone, monkeypatch):
    memory = alone / "cache" / "found.json"
    own, program = {OWN: Path(sys.executable)}, os.path.realpath(sys.executable)
    monkeypatch.setattr(interpreters, "_known", {})
    found = discover(own, memory)
    monkeypatch.setattr(interpreters, "_known", {})
    asked = []
    real = interpreters._inspect
    monkeypatch.setattr(interpreters, "_inspect", lambda path: asked.append(path) or real(path))
    assert discover(own, memory) == found
    assert program not in asked
    memory.write_text('[[["/x", 1], null]]')
    monkeypatch.setattr(interpreters, "_known", {})
    assert discover(own, memory) == found, "a memory that cannot be read is no memory"
    assert program in asked
    monkeypatch.setattr(interpreters, "_known", {})
    asked.clear()
    discover(own, memory)
    assert program not in asked, "and is replaced"


def test_prefixes_need_an_interpreter():
    assert prefixes_of(sys.executable)
    with pytest.raises(OSError, match="/bin/true"):
        prefixes_of("/bin/true")
    with pytest.raises(OSError, match="/none"):
        prefixes_of("/none")


@pytest.mark.parametrize(
    "prefix",
    ["/", "/home", "/root", "/opt", "/etc", "relative", "/data", "/data/engine", "/data/engine/empty", "/tmp", "/tmp/python", "/proc/x", "/var/task/py"],
)
def test_a_prefix_that_would_show_the_host_is_refused(prefix):
    with pytest.raises(OSError, match="sandbox"):
        rootfs.refuse_wide([prefix], "/data/engine/empty")


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/opt/python3.12", "/home/ada/.pyenv/versions/3.12.1", "/miniconda3", "/data/engine2"])
def test_an_ordinary_prefix_is_shown(prefix):
    rootfs.refuse_wide([prefix], "/data/engine/empty")


@pytest.mark.parametrize(
    ("program", "names"),
    [("/a/bin/python3.12", ["python3.12", "python3", "python"]), ("/a/node", ["node"]), ("/usr/bin/ruby3.3", ["ruby3.3", "ruby3", "ruby"])],
)
def test_a_program_has_the_names_people_call_it_by(program, names):
    assert rootfs.names_of(program) == names


def test_an_interpreter_reached_through_bin_knows_its_prefix():
    for program in ("/bin/python3", "/usr/bin/python3"):
        found = inspect(program)
        if found is not None:
            assert "/" not in found.prefixes


def test_an_interpreter_that_is_installed_where_its_names_belong_keeps_its_own(tmp_path):
    folder = tmp_path / "var/lang/bin"
    folder.mkdir(parents=True)
    (folder / "python3.12").write_text("")
    rootfs._name_language("/var/lang/bin/python3.12", str(folder))
    assert [path.name for path in folder.iterdir()] == ["python3.12"]
    other = tmp_path / "other/bin"
    rootfs._name_language("/opt/python3.12", str(other))
    assert {path.name: str(path.readlink()) for path in other.iterdir()} == dict.fromkeys(("python3.12", "python3", "python"), "/opt/python3.12")
