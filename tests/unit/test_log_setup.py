"""The engine's own log: level, form, and that nothing happens to the engine when nobody reads it any more."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging, sys, structlog
from engine.telemetry.logs import configure
configure(sys.argv[1])
structlog.get_logger("a").info("started", port=1)
logging.getLogger("b").warning("odd %s", "thing")
try:
    raise ValueError("inside")
except ValueError:
    logging.getLogger("b").exception("failed")
logging.getLogger("botocore").info("chatter")
print("alive", flush=True)
"""


def run(level: str, **options) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", PROGRAM, level]
    return subprocess.run(argv, text=True, stdout=subprocess.PIPE, timeout=30, check=False, **options)


def events(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines_are_json_where_no_terminal_is():
    started, odd, failed = events(run("info", stderr=subprocess.PIPE).stderr)
    assert (started["event"], started["level"], started["port"]) == ("started", "info", 1)
    assert (odd["event"], odd["level"], odd["logger"]) == ("odd thing", "warning", "b")
    assert "ValueError: inside" in str(failed["exception"])
    assert all("timestamp" in e for e in (started, odd, failed))


def test_level_hides_what_is_below():
    assert [e["event"] for e in events(run("error", stderr=subprocess.PIPE).stderr)] == ["failed"]


def test_broken_stderr_stops_nothing():
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as gone:
        gone.wait()
        done = run("info", stderr=gone.stdin)
    assert (done.returncode, done.stdout) == (0, "alive\n")
