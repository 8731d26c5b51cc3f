"""In CI a skip without a reason that this host bears out fails the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.framework import host

ROOT = Path(__file__).parents[2]
INNER = """
import pytest
from tests.conftest import *  # noqa: F403
"""


def _run(tmp_path, body, ci):
    (tmp_path / "conftest.py").write_text(INNER)
    (tmp_path / "test_inner.py").write_text(body)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "true" if ci else "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)


LAZY = "import pytest\n\ndef test_a():\n    pytest.skip('not today')\n\ndef test_b():\n    pass\n"
HONEST = (
    "from tests.framework import host\n\ndef test_a():\n    host.require('not root')\n    host.require('root')\n\ndef test_b():\n    pass\n"
)
LYING = "import os, pytest\n\ndef test_a():\n    pytest.skip('root' if os.geteuid() else 'not root')\n\ndef test_b():\n    pass\n"


def test_unexplained_skip_fails_the_run_in_ci(tmp_path):
    done = _run(tmp_path, LAZY, ci=True)
    assert done.returncode == 1
    assert "not today" in done.stdout


def test_reason_that_does_not_hold_fails_the_run_in_ci(tmp_path):
    assert _run(tmp_path, LYING, ci=True).returncode == 1


def test_module_that_skips_itself_fails_the_run_in_ci(tmp_path):
    body = "import pytest\npytest.importorskip('no_such_module_at_all')\n"
    done = _run(tmp_path, body + "\ndef test_a():\n    pass\n", ci=True)
    assert done.returncode != 0


def test_skip_that_the_host_bears_out_passes_in_ci(tmp_path):
    done = _run(tmp_path, HONEST, ci=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_laptop_may_skip(tmp_path):
    assert _run(tmp_path, LAZY, ci=False).returncode == 0


def test_unknown_reason_is_refused():
    with pytest.raises(ValueError, match="not a reason to skip"):
        host.require("it is Friday")
