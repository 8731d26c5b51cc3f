"""Import directions, and what the bootstrap may import at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOOTSTRAP = sorted(p for p in (ROOT / "runtime_bootstrap").rglob("*.py") if "vendor" not in p.parts)
ALLOWED = {*sys.stdlib_module_names, "runtime_bootstrap", "msgpack"}
# Imported when the function's package or a layer brings them.
OF_THE_FUNCTION = {"boto3", "botocore", "numpy", "snapshot_restore_py"}


def _imports(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _lint(config: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--config", str(config), "--no-cache"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_contracts_are_kept():
    done = _lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_contract_is_noticed(tmp_path):
    config = tmp_path / "contracts.ini"
    config.write_text(
        "[importlinter]\nroot_packages =\n    engine\n"
        "[importlinter:contract:c]\nname = upside down\ntype = layers\nlayers =\n    engine.errors\n    engine.config\n"
    )
    done = _lint(config)
    assert done.returncode == 1
    assert "engine.config is not allowed to import engine.errors" in done.stdout


@pytest.mark.parametrize("path", BOOTSTRAP, ids=lambda p: str(p.relative_to(ROOT)))
def test_bootstrap_needs_only_the_standard_library_and_msgpack(path):
    assert _imports(path.read_text()) <= ALLOWED | OF_THE_FUNCTION


@pytest.mark.parametrize("path", BOOTSTRAP, ids=lambda p: str(p.relative_to(ROOT)))
def test_bootstrap_is_python_3_9(path):
    ast.parse(path.read_text(), feature_version=(3, 9))
