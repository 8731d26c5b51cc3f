"""The documentation says what the code does: generated pages are current, links lead somewhere, tables match."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from engine import __version__
from engine.config import Settings
from engine.protocol.model import load
from tests.structure import pages

ROOT = pages.ROOT
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [pages.CONFIGURATION, pages.COVERAGE, pages.DESIGN], ids=_name)
def test_generated_page_is_current(path):
    assert path.read_text() == pages.pages()[path], f"{_name(path)} is out of date: make docs"


def test_every_setting_and_operation_has_a_row():
    configuration, coverage = pages.CONFIGURATION.read_text(), pages.COVERAGE.read_text()
    assert all(f"| `{name}` |" in configuration for name in Settings.model_fields)
    assert all(f"| {name} |" in coverage for name in load().operation_names())


def test_served_operations_exist():
    assert set(pages.served()) <= set(load().operation_names())
    assert "CreateFunction" in pages.served()


@pytest.mark.parametrize("path", MARKDOWN, ids=_name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{_name(path)} links to {target}"


def test_decisions_are_numbered_without_gaps():
    numbers = sorted(int(p.name[:4]) for p in (ROOT / "docs" / "adr").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_version_is_the_same_everywhere():
    assert PROJECT["version"] == __version__


def test_changelog_knows_the_version_or_says_unreleased():
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", __version__)
