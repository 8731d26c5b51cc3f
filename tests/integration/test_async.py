"""Asynchronous invocations on a real engine: what got a 202 runs, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.framework.engine import Engine, engine

MARK = {"m.py": "import time\ndef f(e, c):\n    print('ran', e['n'], c.aws_request_id)\n    time.sleep(e.get('sleep', 0))\n"}


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not reached in time"
        time.sleep(0.02)


def send(running: Engine, name: str, event: dict[str, Any]) -> str:
    """The request id of an accepted event."""
    answer = running.client().invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
    assert answer["StatusCode"] == 202
    return str(answer["ResponseMetadata"]["RequestId"])


def runs(running: Engine, name: str) -> list[tuple[int, str]]:
    """(event number, request id) of every run, from the function's log."""
    log = Path(running.data_dir) / "logs" / "000000000000" / f"{name}.log"
    found = re.findall(r"ran (\d+) ([0-9a-f-]{36})", log.read_text()) if log.exists() else []
    return [(int(n), request_id) for n, request_id in found]


def depth(running: Engine) -> int:
    """Events in the queue, as the metrics say."""
    (value,) = re.findall(r"^lambda_engine_async_queue_depth (\S+)$", running.get("/metrics")[1].decode(), re.MULTILINE)
    return int(float(value))


def test_a_failing_event_runs_three_times_under_the_id_of_its_202() -> None:
    with engine(async_retry_base_s=0.3) as running:
        running.deploy("fails", {"m.py": "def f(e, c):\n    print('ran', e['n'], c.aws_request_id)\n    raise RuntimeError('no')\n"})
        request_id = send(running, "fails", {"n": 1})
        until(lambda: len(runs(running, "fails")) == 3)
        until(lambda: depth(running) == 0)
        until(lambda: runs(running, "fails") == [(1, request_id)] * 3)
        assert "RetriesExhausted" in running.log.read_text()


def test_throttled_events_run_when_there_is_room() -> None:
    with engine(account_concurrency=1) as running:
        running.deploy("narrow", MARK)
        ids = [send(running, "narrow", {"n": n, "sleep": 0.2}) for n in range(4)]
        until(lambda: depth(running) == 0)
        until(lambda: sorted(runs(running, "narrow")) == [(n, ids[n]) for n in range(4)])


def test_events_outlive_the_control_plane_and_the_engine() -> None:
    with engine() as running:
        running.deploy("outlives", MARK, Timeout=30)
        wanted = {}
        for n in range(6):
            wanted[n] = send(running, "outlives", {"n": n, "sleep": 1})
        os.kill(running.state()["processes"]["control"], signal.SIGKILL)
        until(lambda: running.get("/_engine/version")[0] == 200)
        for n in range(6, 10):
            # Long enough to be at it when the engine dies: what printed just before would be lost with the log's buffer.
            wanted[n] = send(running, "outlives", {"n": n, "sleep": 3})
        running.stop(signal.SIGKILL)
        running.start()
        until(lambda: depth(running) == 0)
        until(lambda: set(runs(running, "outlives")) == set(wanted.items()), 60)  # Each event ran, under its own id.
        assert max(Counter(runs(running, "outlives")).values()) <= 3, "once per life of the process that ran it"


def test_an_event_of_a_deleted_function_is_given_up() -> None:
    with engine(account_concurrency=1) as running:
        running.deploy("busy", MARK)
        running.deploy("gone", MARK)
        send(running, "busy", {"n": 1, "sleep": 2})
        until(lambda: len(runs(running, "busy")) == 1)
        send(running, "gone", {"n": 2})
        running.client().delete_function(FunctionName="gone")
        until(lambda: depth(running) == 0)
        assert runs(running, "gone") == []
        assert "Function not found" in running.log.read_text()
