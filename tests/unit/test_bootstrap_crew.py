"""Several events at once in the real worker: threads and coroutines, and whose each line is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from tests.framework.python_worker import ARN, DEADLINE_MS, Make, PythonWorker, making

# Both wait until the other is there: it only ends when they run at once.
THREADS = """
import logging, sys, threading
together = threading.Barrier(2)
def f(event, context):
    sys.stdout.write("half of %s " % event)
    together.wait(30)
    print("and the rest of", event)
    logging.getLogger().warning("logged by %s", event)
    if event == "fail":
        raise ValueError(event)
    if event == "exit":
        sys.exit(3)
    return [event, context.aws_request_id, threading.current_thread() is threading.main_thread()]
"""
COROUTINES = """
import asyncio
here, both = [], asyncio.Event()
async def f(event, context):
    here.append(event)
    print("start of", event)
    if len(here) == 2:
        both.set()
    await asyncio.wait_for(both.wait(), 30)
    print("end of", event)
    if event == "fail":
        raise ValueError(event)
    if event == "exit":
        raise SystemExit(3)
    return [event, context.aws_request_id]
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


def name(n: int) -> str:
    return f"8f507cfc-4697-455f-9f0e-{n:012d}"


def both(make: Make, code: str, first: str, second: str, **options: Any) -> PythonWorker:
    """A worker that has been sent two events."""
    worker = make(code, max_concurrency=2, log_format="JSON", **options)
    assert worker.start().kind == m.NEXT
    for n, event in enumerate((first, second)):
        invoke = m.Invoke(name(n), DEADLINE_MS, ARN, "Root=1", None, None, None, json.dumps(event).encode())
        worker.socket.sendall(m.pack(m.INVOKE, *invoke))
    return worker


def gathered(worker: PythonWorker, number: int = 2) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Answers and lines by request id."""
    answers: dict[str, Any] = {}
    lines: dict[str, list[str]] = {}
    while len(answers) < number:
        kind, request_id, *rest = worker.read()
        if kind == m.LOG:
            lines.setdefault(request_id, []).append(rest[2].decode())
        else:
            answers[request_id] = (kind, json.loads(rest[-1]))
    return answers, lines


def test_threads_run_at_once_and_each_line_is_its_invocations(make: Make) -> None:
    worker = both(make, THREADS, "a", "b")
    answers, lines = gathered(worker)
    for n, event in enumerate("ab"):
        assert answers[name(n)] == (m.RESPONSE, [event, name(n), False])
        printed, logged = lines[name(n)]
        assert printed == f"half of {event} and the rest of {event}"
        assert json.loads(logged)["requestId"] == name(n)
        assert json.loads(logged)["message"] == f"logged by {event}"
    for n, event in enumerate(("c", "d"), 5):
        invoke = m.Invoke(name(n), DEADLINE_MS, ARN, None, None, None, None, json.dumps(event).encode())
        worker.socket.sendall(m.pack(m.INVOKE, *invoke))
    assert gathered(worker)[0].keys() == {name(5), name(6)}
    worker.socket.close()
    assert worker.ended() == 0


def test_coroutines_run_at_once_on_one_loop(make: Make) -> None:
    worker = both(make, COROUTINES, "a", "b")
    answers, lines = gathered(worker)
    for n, event in enumerate("ab"):
        assert answers[name(n)] == (m.RESPONSE, [event, name(n)])
        assert lines[name(n)] == [f"start of {event}", f"end of {event}"]
    worker.socket.close()
    assert worker.ended() == 0


@pytest.mark.parametrize("code", [THREADS, COROUTINES])
def test_an_error_is_one_invocations_and_an_exit_is_the_processs(make: Make, code: str) -> None:
    answers, _ = gathered(both(make, code, "fine", "fail"))
    assert answers[name(0)][1][0] == "fine"
    kind, document = answers[name(1)]
    assert (kind, document["errorType"], document["errorMessage"], document["requestId"]) == (m.ERROR, "ValueError", "fail", name(1))
    worker = both(make, code, "exit", "exit")
    assert worker.ended() == 3
