"""What is installed is used, what is used is declared, and each has its line in docs/dependencies.md."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECTIONS = {"Core": PROJECT["dependencies"], **{f"Extra `{k}`": v for k, v in PROJECT["optional-dependencies"].items()}}
# Where the module is not called like the package.
MODULES = {
    "pydantic-settings": "pydantic_settings",
    "prometheus-client": "prometheus_client",
    "aws-sam-translator": "samtranslator",
    "pyyaml": "yaml",
    "confluent-kafka": "confluent_kafka",
    "pyjwt": "jwt",
}
# Imported, and brought by a declared package that is about nothing else.
BROUGHT = {"flask": "moto", "xmltodict": "moto", "botocore": "boto3", "pydantic": "pydantic-settings", "werkzeug": "moto", "pydantic_core": "pydantic-settings"}
# Not imported but shown to sandboxes, by this file.
SHOWN = {"msgpack": ROOT / "engine" / "sandbox" / "bundle.py"}


def _package(requirement: str) -> str:
    return re.split(r"[>=<~!; ]", requirement, maxsplit=1)[0]


def _imported(folder: str) -> set[str]:
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        if "examples" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"engine", "runtime_bootstrap"}


IMPORTED = _imported("engine")


@pytest.mark.parametrize("package", [_package(r) for r in PROJECT["dependencies"]])
def test_core_dependency_is_used(package):
    if package in SHOWN:
        assert package in SHOWN[package].read_text()
    else:
        assert MODULES.get(package, package) in IMPORTED, f"nothing imports {package}: take it out of pyproject.toml"


def test_imports_are_declared():
    extras = PROJECT["optional-dependencies"]
    used = [r for name in ("embedded", "signing", "sam", "gateway", "kafka", "mq") for r in extras[name]]
    declared = {_package(r).partition("[")[0] for r in PROJECT["dependencies"] + used}
    modules = {MODULES.get(p, p) for p in declared} | {m for m, by in BROUGHT.items() if by in declared}
    # The plugin for users' tests is imported by pytest itself, which is there then.
    assert modules | {"pytest"} >= IMPORTED


@pytest.mark.parametrize("section", SECTIONS)
def test_page_has_a_line_for_each(section):
    page = (ROOT / "docs" / "dependencies.md").read_text()
    part = page.partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\S+) \| .+ \|$", part, re.MULTILINE)
    assert sorted(r for r in rows if r != "package") == sorted(_package(r) for r in SECTIONS[section])
