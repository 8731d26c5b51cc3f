"""What ``--again`` gives a test that failed: one more run in surroundings that are new, and a line in the summary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

runs = []

@pytest.fixture(scope="session")
def shared():
    made = []
    yield made
    runs.append("down")

@pytest.fixture(scope="module")
def mine(shared):
    return [len(runs)]

def test_before(shared):
    shared.append("before")

def test_fails_once(shared, mine):
    shared.append("x")
    assert shared == ["x"], "the first time"
    assert mine == [1]

def test_fails_twice(shared, mine):
    assert mine == ["never"]

def test_after(shared, mine):
    assert shared == [] and mine == [2]
"""


def test_a_failed_test_runs_once_more_in_fresh_surroundings(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    plugins = ["-p", "tests.framework.again", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--again", "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert "1 failed, 3 passed, 2 rerun" in ran.stdout, ran.stdout + ran.stderr
    assert "test_it.py::test_fails_twice" in ran.stdout.partition("short test summary")[2]
    assert "test_it.py::test_fails_once (call)" in ran.stdout
    assert "the first time" in ran.stdout, "why it failed at first"
    assert ran.returncode == 1
