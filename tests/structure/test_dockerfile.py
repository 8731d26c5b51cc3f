"""The image: linted, two stages, not root, healthy by its own word, and with its privileges named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.framework import host

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
TEXT = DOCKERFILE.read_text()
FINAL = TEXT.rpartition("\nFROM ")[2]


def _lint(path: Path) -> subprocess.CompletedProcess[str]:
    host.require("no hadolint wheel for this processor")
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run([str(program), str(path)], capture_output=True, text=True, timeout=60, check=False)


def test_linter_has_nothing_to_say():
    done = _lint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_linter_sees_a_fault(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nRUN cd /tmp && apt-get install curl\n")
    assert _lint(bad).returncode == 1


def test_build_tools_stay_in_the_first_stage():
    assert len(re.findall(r"^FROM ", TEXT, re.MULTILINE)) == 2
    assert "pip install" not in FINAL
    assert "COPY --from=build" in FINAL


def test_default_user_is_not_root():
    (user,) = re.findall(r"^USER (\S+)$", FINAL, re.MULTILINE)
    assert user not in ("0", "root")


def test_health_is_the_engines_own_word():
    assert re.search(r"^HEALTHCHECK .*?/readyz", FINAL, re.MULTILINE | re.DOTALL)


def test_level_full_names_its_privileges():
    for word in ("--privileged", "--cap-add SYS_ADMIN", "--user 0", "systempaths=unconfined"):
        assert word in TEXT


def test_everything_copied_exists_and_is_let_through():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--)(.+) \S+$", TEXT, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert source in allowed
