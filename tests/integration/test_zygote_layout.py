"""What an engine learns about its zygotes' objects before their first start, and that functions see nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import load
from tests.framework import host
from tests.framework.engine import engine

SHOWING = (
    "import os\ndef f(event, context):\n"
    "    shown = open('/proc/self/environ', 'rb').read()\n"
    "    return [sorted(k for k in os.environ if k.startswith(('LD_PRELOAD', 'LAMBDA_ENGINE'))), b'PRELOAD' in shown or b'LAMBDA_ENGINE' in shown]\n"
)


@pytest.mark.slow
def test_it_is_learnt_once_kept_for_all_engines_and_no_function_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.require("no C compiler")
    cache = tmp_path / "lambda-engine"
    cache.mkdir()
    # What takes long to make, where somebody has made it.
    known = load().cache_dir()
    for other in known.iterdir() if known.is_dir() else ():
        if other.name != "layouts":
            (cache / other.name).symlink_to(other)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = cache / "layouts"
    seen = []
    for _ in range(2):
        with engine() as e:
            e.deploy("showing", {"m.py": SHOWING})
            answer = e.client().invoke(FunctionName="showing")
            assert json.loads(answer["Payload"].read()) == [[], False]
            seen.append([(p.name, p.stat().st_size, p.stat().st_ino) for p in kept.iterdir()])
    # One file for the runtime that was used, and nothing of what led to it.
    assert len(seen[0]) == 1
    assert seen[0][0][1] > 0
    assert seen[1] == seen[0]
