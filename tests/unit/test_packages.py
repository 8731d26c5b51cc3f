"""Packages: what runs is what was uploaded, compiled; what should not be unpacked is not."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import marshal
import os
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.clock import ManualClock
from engine.control import archive, packages
from engine.control.packages import Packages, preload
from engine.errors import InvalidParameterValue
from engine.store.code import DiskCodeStore, remove_tree
from engine.store.database import Database

RUNTIME = f"python3.{sys.version_info.minor}"
NOT_A_ZIP = "Could not unzip uploaded file. Please check your file, then try to upload again."
Content = bytes | tuple[int, bytes]


def archive_of(entries: dict[str, Content], compression: int = zipfile.ZIP_DEFLATED, system: int = 3) -> bytes:
    """A zip of {name: data} or {name: (mode, data)}."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        for name, content in entries.items():
            mode, data = content if isinstance(content, tuple) else (0o100600, content)
            info = zipfile.ZipInfo(name)
            info.create_system = system
            info.external_attr = mode << 16
            info.compress_type = compression
            z.writestr(info, data)
    return out.getvalue()


def link(target: str) -> tuple[int, bytes]:
    return stat.S_IFLNK | 0o777, target.encode()


@pytest.fixture
def code(tmp_path: Path) -> Any:
    database = Database(tmp_path / "engine.db")
    yield DiskCodeStore(database, tmp_path, ManualClock())
    database.close()


@pytest.fixture
def installed(code: DiskCodeStore) -> Any:
    made = Packages(code)
    yield made
    made.close()


def install(packages_: Packages, entries: dict[str, Content]) -> packages.Package:
    return packages_.install(archive_of(entries), RUNTIME, sys.executable)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_package_is_named_by_its_bytes_and_readable_by_everybody(installed: Packages, code: DiskCodeStore, tmp_path: Path) -> None:
    data = archive_of({"m.py": b"x = 1", "bin/tool": (0o100700, b"#!/bin/sh"), "d/": b"", "d/deep/data.txt": b"y"})
    package = installed.install(data, RUNTIME, sys.executable)
    assert package.sha256 == hashlib.sha256(data).hexdigest()
    assert package.size == len(data)
    assert package.tree == tmp_path / "code" / package.sha256
    assert code.blob(package.sha256).read_bytes() == data
    assert {n: mode(package.tree / n) for n in ("", "m.py", "bin", "bin/tool", "d", "d/deep", "d/deep/data.txt")} == {
        "": 0o755, "m.py": 0o644, "bin": 0o755, "bin/tool": 0o755, "d": 0o755, "d/deep": 0o755, "d/deep/data.txt": 0o644,
    }  # fmt: skip
    assert installed.install(data, RUNTIME, sys.executable) == package
    assert installed.known(package.sha256, RUNTIME, len(data)) == package
    assert installed.known(package.sha256, "python3.99", len(data)) is None
    # Collected, and brought again by a function of another runtime: what was compiled for this one is gone.
    code.compiled(package.sha256, RUNTIME).unlink()
    assert installed.known(package.sha256, RUNTIME, len(data)) is None
    assert installed.install(data, RUNTIME, sys.executable) == package
    code.blob(package.sha256).unlink()
    assert installed.known(package.sha256, RUNTIME, len(data)) is None
    assert not [p for p in (tmp_path / "code").iterdir() if p.name.startswith(".")]


def test_bytecode_is_unchecked_shows_the_sandbox_path_and_is_used(installed: Packages) -> None:
    package = install(installed, {"m.py": b"def f():\n    return 41\n", "bad.py": b"def (:", "p/__init__.py": b""})
    pyc = Path(importlib.util.cache_from_source(str(package.tree / "m.py")))
    raw = pyc.read_bytes()
    assert struct.unpack("<I", raw[4:8])[0] == 0b01
    assert marshal.loads(raw[16:]).co_filename == "/var/task/m.py"
    assert mode(pyc) == 0o644
    assert not list(package.tree.glob("__pycache__/bad*"))
    assert list(package.tree.glob("p/__pycache__/__init__*"))
    (package.tree / "m.py").write_text("def f():\n    return 0\n")
    out = subprocess.check_output([sys.executable, "-c", "import m; print(m.f())"], cwd=package.tree, text=True)
    assert out == "41\n"


def test_stale_bytecode_in_the_upload_is_replaced(installed: Packages) -> None:
    cached = importlib.util.cache_from_source("m.py")
    package = install(installed, {"m.py": b"x = 1", cached: b"rubbish"})
    assert (package.tree / cached).read_bytes() != b"rubbish"


def test_another_runtime_compiles_the_same_tree_again(installed: Packages, code: DiskCodeStore, tmp_path: Path) -> None:
    package = install(installed, {"m.py": b"x = 1"})
    calls = tmp_path / "calls"
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\necho started >> {calls}\nexec {sys.executable} "$@"\n')
    fake.chmod(0o755)
    assert installed.ensure(package.sha256, "python3.0", str(fake)) == package.tree
    assert installed.ensure(package.sha256, "python3.0", str(fake)) == package.tree
    assert calls.read_text() == "started\n"
    assert code.compiled(package.sha256, "python3.0").exists()
    made = installed.bytecode(package.sha256, "python3.0")
    assert made is not None
    assert installed.figures(f"{package.sha256}/python3.0") == made._asdict()
    assert installed.figures(f"{package.sha256}/python3.1") is None
    assert installed.figures(f"../{package.sha256}/python3.0") is None


@pytest.mark.parametrize("trouble", ["missing", "slow"])
def test_a_compiler_that_fails_costs_speed_only(
    code: DiskCodeStore, tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake, calls = tmp_path / "python", tmp_path / "calls"
    if trouble == "slow":
        fake.write_text(f"#!/bin/sh\nnice >> {calls}\nexec sleep 60\n")
        fake.chmod(0o755)
    data = archive_of({"m.py": b"x = 1"})
    with contextlib.closing(Packages(code, compile_timeout_s=2.0)) as slow:
        package = slow.install(data, RUNTIME, str(fake))
    assert (package.tree / "m.py").read_bytes() == b"x = 1"
    assert not code.compiled(package.sha256, RUNTIME).exists()
    assert caplog.text.count("imports will be slower") == 1
    if trouble == "slow":
        assert len(calls.read_text().splitlines()) == 1, "it is tried once per call"


def test_a_lost_tree_is_unpacked_again_and_a_lost_upload_is_said(installed: Packages, code: DiskCodeStore) -> None:
    package = install(installed, {"m.py": b"x = 1"})
    remove_tree(package.tree)
    assert (installed.ensure(package.sha256, RUNTIME, sys.executable) / "m.py").is_file()
    remove_tree(package.tree)
    code.blob(package.sha256).unlink()
    with pytest.raises(FileNotFoundError):
        installed.ensure(package.sha256, RUNTIME, sys.executable)


UNSAFE: dict[str, tuple[dict[str, Content], str]] = {
    "parent": ({"../x": b""}, "leads out of the package"),
    "inner parent": ({"a/../../x": b""}, "leads out of the package"),
    "harmless parent": ({"a/../x": b""}, "leads out of the package"),
    "absolute": ({"/etc/x": b""}, "absolute"),
    "device": ({"null": (stat.S_IFCHR | 0o666, b"")}, "neither a file"),
    "pipe": ({"fifo": (stat.S_IFIFO | 0o666, b"")}, "neither a file"),
    "socket": ({"s": (stat.S_IFSOCK | 0o666, b"")}, "neither a file"),
    "absolute link": ({"l": link("/etc/passwd")}, "link leads out"),
    "parent link": ({"a/l": link("../../x")}, "link leads out"),
    "link through a link": ({"a/b/d": link("../.."), "a/b/x": link("d/../..")}, "link leads out"),
    "long link": ({"l": (stat.S_IFLNK | 0o777, b"a" * 5000)}, "too long"),
    "deep": ({"d/" * 257: b""}, "more than 256 directories deep"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_entries_that_would_leave_the_package_are_refused_by_name(installed: Packages, tmp_path: Path, name: str) -> None:
    entries, words = UNSAFE[name]
    with pytest.raises(InvalidParameterValue, match=words) as caught:
        install(installed, entries)
    assert any(f"'{entry[:200]}'" in str(caught.value) for entry in entries)
    assert list((tmp_path / "code").iterdir()) == []
    assert list((tmp_path / "blobs").iterdir()) == []


def test_links_inside_the_package_are_kept(installed: Packages) -> None:
    package = install(
        installed, {"lib/x.so.1": b"elf", "lib/x.so": link("x.so.1"), "top": link("lib"), "later": link("nowhere"), "loop": link("loop")}
    )
    assert (package.tree / "lib/x.so").read_bytes() == b"elf"
    assert os.readlink(package.tree / "top") == "lib"
    assert os.readlink(package.tree / "later") == "nowhere"


BROKEN: dict[str, bytes] = {
    "no zip": b"hello",
    "nothing": b"",
    "cut": archive_of({"m.py": b"x" * 999})[:-30],
    "file as directory": archive_of({"a": b"", "a/b": b""}),
    "directory as file": archive_of({"a/b": b"", "a": b""}),
    "write through a link": archive_of({"a": link("b"), "a/x": b""}),
    "nameless": archive_of({".": b"x"}),
    "no name": archive_of({"": b"x"}),
    "empty link": archive_of({"l": link("")}),
    "null in a link": archive_of({"l": link("a\0b")}),
    "long name": archive_of({"n" * 300: b""}),
    "checksum": archive_of({"m.py": b"A" * 50}, zipfile.ZIP_STORED).replace(b"A" * 50, b"B" * 50),
    "method": archive_of({"m.py": b"A" * 50}).replace(b"\x08\x00\x00\x00\x21\x00", b"\x63\x00\x00\x00\x21\x00"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_unzipped_is_said_in_the_words_of_aws(installed: Packages, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameterValue) as caught:
        installed.install(BROKEN[name], RUNTIME, sys.executable)
    assert str(caught.value) == NOT_A_ZIP
    assert list((tmp_path / "code").iterdir()) == []


def test_an_encrypted_package_cannot_be_unzipped(installed: Packages) -> None:
    data = bytearray(archive_of({"m.py": b"x"}, zipfile.ZIP_STORED))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(InvalidParameterValue, match="Could not unzip"):
        installed.install(bytes(data), RUNTIME, sys.executable)


def test_an_empty_package_is_refused(installed: Packages) -> None:
    with pytest.raises(InvalidParameterValue, match=r"^Uploaded file must be a non-empty zip$"):
        install(installed, {})


def test_sizes_are_limited_before_anything_is_written(
    installed: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = archive_of({"zeros": bytes(archive.MAX_UNZIPPED + 1)})
    assert len(bomb) < 300_000
    for call in (lambda: installed.check(bomb), lambda: installed.install(bomb, RUNTIME, sys.executable)):
        with pytest.raises(InvalidParameterValue, match=r"^Unzipped size must be smaller than 262144000 bytes$"):
            call()
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(InvalidParameterValue, match="more than 3 entries"):
        installed.check(archive_of({f"f{n}": b"" for n in range(4)}))
    installed.check(archive_of({f"f{n}": b"" for n in range(3)}))
    assert list((tmp_path / "code").iterdir()) == []


def test_directories_that_no_entry_counts_are_limited_too(installed: Packages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1000)
    with pytest.raises(InvalidParameterValue, match="more than 1000 directories"):
        install(installed, {f"{n}/" + "d/" * 200 + "x": b"" for n in range(6)})
    assert list((tmp_path / "code").iterdir()) == []
    install(installed, {f"{n}/" + "d/" * 200 + "x": b"" for n in range(4)})


def test_more_bytes_than_announced_are_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = archive_of({"a": b"x" * 60, "b": b"x" * 60})
    monkeypatch.setattr(archive, "MAX_UNZIPPED", 100)
    monkeypatch.setattr(archive, "_entries", lambda z: [archive._entry(i) for i in z.infolist()])
    with pytest.raises(InvalidParameterValue, match="Unzipped size"):
        archive.extract(data, tmp_path)


def test_a_full_disk_is_not_the_uploads_fault(installed: Packages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        install(installed, {"m.py": b""})
    assert list((tmp_path / "code").iterdir()) == []


def test_archives_made_elsewhere_have_no_modes_to_believe(installed: Packages) -> None:
    data = archive_of({"m.py": (stat.S_IFCHR | 0o777, b"x = 1")}, system=0)
    package = installed.install(data, RUNTIME, sys.executable)
    assert mode(package.tree / "m.py") == 0o644


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"m.py": b"import boto3\n"}, ("boto3",)),
        ({"m.py": b"import os, json, boto3\n"}, ("boto3",)),
        ({"p/q.py": b"def f():\n    from botocore.config import Config\n"}, ("boto3",)),
        ({"m.py": b"import boto3x\n"}, ()),
        ({"m.py": b"# import boto3\n"}, ()),
        ({"m.txt": b"import boto3\n"}, ()),
        ({"m.py": b"import boto3\n", "boto3/__init__.py": b""}, ()),
        ({"m.py": b"import json\n", "lib/x.py": b"import boto3\n", "lib-1.dist-info/RECORD": b"lib/x.py,,\n"}, ()),
        ({"m.py": b"import boto3\n", "lib-1.dist-info/RECORD": b"lib/x.py,,\nsolo.py,,\n", "solo.py": b"import boto3"}, ("boto3",)),
        ({"solo.py": b"import boto3\n", "lib-1.dist-info/RECORD": b"solo.py,,\n"}, ()),
    ],
)
def test_the_sdk_is_preloaded_for_those_who_import_it(tmp_path: Path, files: dict[str, bytes], wanted: tuple[str, ...]) -> None:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert preload(tmp_path) == wanted


def test_the_search_for_the_sdk_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_SCANNED", 10)
    (tmp_path / "m.py").write_bytes(b"#" * 20 + b"\nimport boto3\n")
    assert preload(tmp_path) == ()
