"""The same worker on every interpreter that this host has for a runtime: what differs by version, and that nothing else does."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from engine.sandbox.interpreters import Interpreter, discover
from engine.wire import messages as m
from tests.framework.python_worker import REQUEST, ROOT, PythonWorker

INTERPRETERS = list(discover().values())

CODE = """\
import decimal, logging, os, subprocess, sys, threading
print("at import")

def deep():
    raise KeyError("why")

def f(event, context):
    kind = event["kind"]
    if kind == "plain":
        logging.warning("logged")
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start(), thread.join()
        return {"version": "%d.%d" % sys.version_info[:2], "text": "\\u00e9", "number": decimal.Decimal("1.10"), "pair": (1, None),
                1: float("inf"), "id": context.aws_request_id, "late": context.get_remaining_time_in_millis() > 0}
    if kind == "raise":
        deep()
    if kind == "fork":
        pid = os.fork()
        if pid == 0:
            return "not this one"
        os.waitpid(pid, 0)
        return subprocess.check_output(["echo", "parent"]).decode()
    if kind == "large":
        return "x" * event["size"]
    if kind == "coroutine":
        async def later(): pass
        waiting = later()
        try:
            return waiting
        finally:
            waiting.close()
    sys.exit(5)
"""


def test_the_tests_own_interpreter_is_among_them() -> None:

    assert f"python3.{sys.version_info.minor}" in [i.runtime for i in INTERPRETERS]


@pytest.mark.parametrize("interpreter", INTERPRETERS, ids=lambda i: i.runtime)
def test_a_worker_of_this_version(tmp_path: Path, interpreter: Interpreter) -> None:
    worker = PythonWorker(tmp_path, {"m.py": CODE}, interpreter=interpreter.path, options=("-I", "-S"), log_format="Text")
    try:
        assert worker.hello[2] == {"runtime": interpreter.runtime, "version": interpreter.version}
        init = worker.start()
        assert (init.kind, init.lines) == (m.NEXT, ["at import"])

        plain = worker.invoke({"kind": "plain"})
        minor = int(interpreter.runtime.split(".")[1])
        shown = "é" if minor >= 12 else "\\u00e9"
        assert plain.payload.decode() == (
            f'{{"version": "3.{minor}", "text": "{shown}", "number": 1.10, "pair": [1, null], "1": Infinity, "id": "{REQUEST}", "late": true}}'
        )
        assert plain.lines[0].startswith("[WARNING]\t")
        assert plain.lines[0].endswith(f"Z\t{REQUEST}\tlogged")
        assert plain.lines[1:] == ["from a thread"]

        error = worker.invoke({"kind": "raise"})
        assert (error.kind, error.detail) == (m.ERROR, "KeyError")
        assert error.json["stackTrace"] == [
            f'  File "{tmp_path}/m.py", line {_line("        deep()")}, in f\n    deep()\n',
            f'  File "{tmp_path}/m.py", line {_line("    raise KeyError")}, in deep\n    raise KeyError("why")\n',
        ]

        assert worker.invoke({"kind": "fork"}).json == "parent\n"
        assert len(worker.invoke({"kind": "large", "size": 6_291_554}).payload) == 6_291_556
        assert worker.invoke({"kind": "large", "size": 6_291_555}).size == 6_291_557
        refused = worker.invoke({"kind": "coroutine"})
        assert refused.json["errorMessage"] == "Unable to marshal response: Object of type coroutine is not JSON serializable"
        worker.send({"kind": "exit"})
        worker.rest()
        assert worker.ended() == 5
    finally:
        worker.close()


def _line(start: str) -> int:
    return next(n for n, line in enumerate(CODE.splitlines(), 1) if line.startswith(start))


@pytest.mark.parametrize("path", sorted((ROOT / "runtime_bootstrap").rglob("*.py")), ids=lambda p: p.name)
def test_the_runtime_is_written_for_the_oldest_version(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))
