"""Mixed load while workers die: every request is answered exactly once, and afterwards nothing is left over."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.framework.census import census, memory_bytes
from tests.framework.engine import Engine
from tests.framework.soak import FUNCTIONS, Soak

DURATION_S = float(os.environ.get("LAMBDA_ENGINE_SOAK_S", "60"))
SETTLE_S = 60.0
# Caches fill, and the allocator keeps what it had at the peak.
GROWTH_BYTES = 24 * 1024 * 1024


def settled(running: Engine, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """The census once it no longer changes (or equals ``like``); the last one when that takes too long."""
    deadline_s = time.monotonic() + SETTLE_S
    last: dict[str, Any] = {}
    since_s = time.monotonic()
    while time.monotonic() < deadline_s:
        now = census(running)
        if now != last:
            last, since_s = now, time.monotonic()
        calm = not now["instances"] and not now["functions"] and not now["zombies"]
        if calm and (now == like if like is not None else time.monotonic() - since_s > 2):
            break
        time.sleep(0.1)
    return last


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {k: (before.get(k), after.get(k)) for k in {**before, **after} if before.get(k) != after.get(k)}


def reported(running: Engine) -> Counter[str]:
    """How often the log tells the end of each request."""
    ends: Counter[str] = Counter()
    for name in FUNCTIONS:
        for path in (running.data_dir / "logs" / "000000000000").glob(f"{name}.log*"):
            with path.open(errors="replace") as log:
                ends.update(m[1] for line in log if (m := re.search(r"\tREPORT RequestId: (\S+)\t", line)))
    return ends


@pytest.mark.slow
@pytest.mark.timeout(DURATION_S + 400)
def test_everything_is_answered_once_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    # This process is to find the engine's sockets where the engine puts them.
    monkeypatch.setattr(tempfile, "tempdir", None)
    running = Engine(tmp_path / "data", pool_size=4, log_file_mib=4096)
    try:
        running.start()
        warm = Soak(running, workers=8, seed=1, kill_every_s=0.5)
        warm.deploy()
        warm.run(min(10.0, DURATION_S))
        warm.delete()
        before, memory_before = settled(running), memory_bytes(running)
        soak = Soak(running, workers=8, seed=2, kill_every_s=0.25)
        soak.deploy()
        soak.run(DURATION_S)
        soak.delete()
        after, memory_after = settled(running, before), memory_bytes(running)
        print(f"\n{sum(soak.outcomes.values())} requests: {dict(soak.outcomes)}; {soak.kills} kills, {soak.churned} brief functions")
        print({role: f"{memory_before[role] >> 20} -> {memory_after[role] >> 20} MiB" for role in memory_before})
        assert not soak.wrong, soak.wrong[:20]
        assert soak.outcomes["success"] > 100
        assert soak.outcomes["killed"] > 0, "the kills hit nothing"
        assert difference(before, after) == {}
        asked = [*warm.requests, *soak.requests]
        assert len(set(asked)) == len(asked), "two answers with one id"
        assert reported(running) == Counter(asked)
        grown = {role: memory_after[role] - memory_before[role] for role in memory_before}
        assert all(size < GROWTH_BYTES for size in grown.values()), grown
        assert running.stop() == 0
    finally:
        running.stop()


def test_the_census_sees_what_is_left(tmp_path: Path) -> None:
    expected = {"instances", "functions", "processes", "supervisor descriptors", "files"}
    running = Engine(tmp_path / "data", pool_size=1)
    try:
        running.start()
        before = settled(running)
        assert difference(before, census(running)) == {}
        running.deploy("left", {"m.py": "def f(e, c): pass"})
        running.client().invoke(FunctionName="left")
        with socket.socket(socket.AF_UNIX) as held:
            held.connect(str(running.run_dir() / "engine.sock"))
            (running.data_dir / "forgotten").touch()
            # The sandbox that the instance took is replaced a moment later.
            deadline_s = time.monotonic() + SETTLE_S
            seen: set[str] = set()
            while not expected <= seen and time.monotonic() < deadline_s:
                seen = set(difference(before, census(running)))
        assert expected <= seen
    finally:
        running.stop()
