"""docs/security.md and tests/security say the same: every promise has its test, every test its line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def _tests() -> set[str]:
    found = set()
    for path in (ROOT / "tests" / "security").glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.name}::{node.name}")
    return found


def test_every_line_names_a_test_that_exists_and_every_test_has_a_line() -> None:
    named = set(re.findall(r"`(test_\w+\.py::test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    assert named - _tests() == set(), "the page names tests that do not exist"
    assert _tests() - named == set(), "tests without a line on the page"


def test_there_are_at_least_forty_kinds_of_attempt() -> None:
    assert len(_tests()) >= 40
