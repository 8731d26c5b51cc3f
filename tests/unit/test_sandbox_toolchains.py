"""Finding Node.js and Ruby: overrides first, and only what really is the version it is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.sandbox import toolchains


def fake(folder: Path, name: str, version: str, called: str = "node") -> Path:
    program = folder / name / "bin" / called
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/path/bin:/bin")
    monkeypatch.setenv("NVM_DIR", f"{tmp_path}/nvm")
    monkeypatch.setenv("FNM_DIR", f"{tmp_path}/fnm")
    monkeypatch.setenv("HOME", str(tmp_path))


def test_places_and_their_order(tmp_path: Path) -> None:
    on_path = fake(tmp_path, "path", "v22.1.0")
    fake(tmp_path, "nvm/versions/node/v22.9.0", "v22.9.0")
    managed = fake(tmp_path, "nvm/versions/node/v24.2.0", "v24.2.0")
    found = toolchains.discover()
    assert (found["nodejs22.x"].path, found["nodejs22.x"].version) == (str(on_path), "22.1.0")
    assert found["nodejs24.x"].path == str(managed)
    assert found["nodejs24.x"].shows == (str(managed.parents[1]),)


def test_versions_that_are_no_runtime_are_left_out(tmp_path: Path) -> None:
    fake(tmp_path, "path", "v18.19.0")
    assert "nodejs18.x" not in toolchains.discover()


def test_an_override_is_taken_or_left_out(tmp_path: Path) -> None:
    fake(tmp_path, "path", "v22.1.0")
    chosen = fake(tmp_path, "chosen", "v22.5.0")
    assert toolchains.discover({"nodejs22.x": chosen})["nodejs22.x"].version == "22.5.0"
    wrong = fake(tmp_path, "wrong", "v24.0.0")
    assert "nodejs22.x" not in toolchains.discover({"nodejs22.x": wrong})
    broken = tmp_path / "absent"
    assert "nodejs22.x" not in toolchains.discover({"nodejs22.x": broken})


def test_a_jdk_says_its_version_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    (home / "bin/java").write_text("#!/bin/sh\n")
    (home / "bin/java").chmod(0o755)
    (home / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="99.0.1"\n')
    monkeypatch.setenv("JAVA_HOME", str(home))
    found = toolchains.java()["java99"]
    assert (found.path, found.version, found.shows) == (str(home / "bin/java"), "99.0.1", (str(home),))


def test_rubies_are_found_beside_them(tmp_path: Path) -> None:
    fake(tmp_path, "path", "v22.1.0")
    fake(tmp_path, ".rbenv/versions/3.1.2", "ruby 3.1.2p20 \\(2022-04-12\\) [x86_64-linux]", "ruby")
    managed = fake(tmp_path, ".rbenv/versions/3.3.8", "ruby 3.3.8 \\(2025-04-09\\) +YJIT [x86_64-linux]", "ruby")
    chosen = fake(tmp_path, "mine", "ruby 3.4.1p0 \\(2024-12-25\\) [x86_64-linux]", "ruby")
    found = {k: v for k, v in toolchains.discover({"ruby3.4": chosen}).items() if k.startswith("ruby")}
    assert {k: (v.version, v.path) for k, v in found.items()} == {"ruby3.3": ("3.3.8", str(managed)), "ruby3.4": ("3.4.1", str(chosen))}
    assert found["ruby3.3"].shows == (str(managed.parents[1]),)
    assert "ruby3.3" not in toolchains.discover({"ruby3.3": chosen})
