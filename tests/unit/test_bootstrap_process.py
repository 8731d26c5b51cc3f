"""What handlers do to their process, and what must not come of it: forks, threads, signals, exits, crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from tests.framework.python_worker import Make, PythonWorker, making


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


def started(make: Make, body: str, before: str = "", **options: Any) -> PythonWorker:
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    worker = make(f"import atexit, os, signal, sys, threading\n{before}\ndef f(event, context):\n{lines}", **options)
    assert worker.start().kind == m.NEXT
    return worker


def last_words(worker: PythonWorker) -> list[str]:
    """Invoke and read until the worker's end: only log events may come."""
    worker.send()
    messages = worker.rest()
    assert all(message[0] == m.LOG for message in messages), messages
    return [message[4].decode() for message in messages]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("sys.exit()", 0),
        ("sys.exit(0)", 0),
        ("sys.exit(3)", 3),
        ("exit_now = SystemExit(256)\nraise exit_now", 0),
        ("sys.exit('text')", 1),
        ("os._exit(7)", 7),
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)\nimport time\ntime.sleep(20)", -signal.SIGTERM),
        ("import ctypes\nctypes.string_at(0)", -signal.SIGSEGV),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("raise GeneratorExit", 1),
        ("class Own(BaseException): pass\nraise Own", 1),
    ],
)
def test_exits(make: Make, body: str, status: int) -> None:
    worker = started(make, body)
    words = last_words(worker)
    assert worker.ended() == status
    assert ("text" in words) == ("'text'" in body)


def test_exit_runs_exit_functions_and_sends_what_is_unfinished(make: Make) -> None:
    worker = started(make, "print('half', end='')\nsys.exit(4)", "atexit.register(lambda: print('+exit', end=''))")
    assert last_words(worker) == ["half+exit"]
    assert worker.ended() == 4


def test_nothing_written_is_no_line(make: Make) -> None:
    worker = started(make, "print('a')\nsys.stdout.write('')\nsys.stdout.buffer.write(b'')\nsys.exit(0)")
    assert last_words(worker) == ["a"]


def test_exit_waits_for_threads(make: Make) -> None:
    worker = started(
        make,
        "threading.Thread(target=late).start()\nsys.exit(0)",
        "def late():\n    import time\n    time.sleep(0.3)\n    print('late')",
    )
    assert last_words(worker) == ["late"]


def test_an_uncaught_base_exception_shows_its_traceback(make: Make) -> None:
    worker = started(make, "raise Own('x')", "class Own(BaseException): pass")
    words = last_words(worker)
    assert words[0] == "Traceback (most recent call last):"
    assert words[-1] == "m.Own: x"


CHILD = "pid = os.fork()\nif pid == 0:\n    %s\nstatus = os.waitpid(pid, 0)[1]\nreturn [os.WEXITSTATUS(status), os.WTERMSIG(status)]"


@pytest.mark.parametrize(
    ("child", "status", "output"),
    [
        ("return 'from the child'", 0, b""),
        ("raise ValueError('child')", 1, b"ValueError: child\n"),
        ("sys.exit(5)", 5, b""),
        ("os._exit(6)", 6, b""),
        ("print('printed'); return 1", 0, b"printed\n"),
        ("print('half', end=''); return 1", 0, b"half"),
        ("import logging; logging.error('logged'); return 1", 0, b"\tlogged\n"),
        ("context.log('noted'); return 1", 0, b"noted\n"),
        ("sys.stdout.buffer.write(b'raw\\n'); return object()", 0, b"raw\n"),
    ],
)
def test_a_forked_child_never_answers(make: Make, child: str, status: int, output: bytes) -> None:
    worker = started(make, "print('parent', end='')\n" + CHILD % child)
    answer = worker.invoke()
    assert answer.kind == m.RESPONSE
    assert answer.json == [status, 0]
    assert answer.lines == ["parent"]
    if output:
        assert output in worker.output(len(output))
    assert worker.invoke().json == [status, 0]


def test_a_child_forked_at_import(make: Make) -> None:
    worker = make("import os\npid = os.fork()\nif pid: STATUS = os.waitpid(pid, 0)[1]\ndef f(e, c): return STATUS\n")
    assert worker.start().kind == m.NEXT
    assert worker.invoke().json == 0


def test_a_child_that_outlives_the_invocation(make: Make) -> None:
    worker = started(make, "r, w = os.pipe()\npid = os.fork()\nif pid: os.close(r); return w\nos.close(w); os.read(r, 1); print('free')", "")
    answer = worker.invoke()
    worker.socket.close()
    assert worker.ended() == 0
    assert answer.kind == m.RESPONSE
    assert worker.output(5) == b"free\n"


def test_fork_while_other_threads_print(make: Make) -> None:
    body = (
        "stop = []\n"
        "def speak():\n    while not stop: print('x' * 100)\n"
        "threads = [threading.Thread(target=speak) for _ in range(3)]\n"
        "for t in threads: t.start()\n"
        "for _ in range(30):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n        print('c'); os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "stop.append(1)\n"
        "for t in threads: t.join()\n"
        "return 'done'"
    )
    worker = started(make, body)
    answer = worker.invoke()
    assert answer.json == "done"
    assert {*"".join(answer.lines)} <= {"x"}
    assert worker.output(60).count(b"c\n") == 30


def test_multiprocessing_and_pools(make: Make) -> None:
    before = (
        "import multiprocessing, concurrent.futures, subprocess\n"
        "def work(x):\n    print('in child')\n    return x * x\n"
        "def send(pipe): pipe.send(work(7))\n"
    )
    body = (
        "context_of = multiprocessing.get_context('fork')\n"
        "ours, theirs = context_of.Pipe()\n"
        "p = context_of.Process(target=send, args=(theirs,)); p.start(); one = ours.recv(); p.join()\n"
        "with concurrent.futures.ProcessPoolExecutor(2, mp_context=context_of) as pool: two = list(pool.map(work, range(4)))\n"
        "with concurrent.futures.ThreadPoolExecutor(4) as pool: three = list(pool.map(work, range(4)))\n"
        "four = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], stdout=subprocess.PIPE, check=True).stdout.decode()\n"
        "five = subprocess.run(['sh', '-c', 'exit 3'], preexec_fn=os.setsid).returncode\n"
        "return [one, two, three, four, five, p.exitcode]"
    )
    worker = started(make, body, before)
    answer = worker.invoke()
    assert answer.json == [49, [0, 1, 4, 9], [0, 1, 4, 9], "42\n", 3, 0]
    # The text and the end of a line are two writes, between which another thread may come.
    assert "".join(answer.lines) == "in child" * 4
    # Five processes write to one pipe: the text and the end of a line are two writes.
    printed = worker.output(45)
    assert (printed.count(b"in child"), printed.count(b"\n")) == (5, 5)


def test_the_channel_is_not_handed_to_programs(make: Make) -> None:
    body = (
        "import subprocess\n"
        "listing = subprocess.run(['ls', '-l', '/proc/self/fd'], stdout=subprocess.PIPE, close_fds=False).stdout.decode()\n"
        "return listing.count('socket:')"
    )
    assert started(make, body).invoke().json == 0


def test_a_signal_while_waiting_for_an_event_is_handled(make: Make) -> None:
    worker = started(make, "return os.getpid()", "signal.signal(signal.SIGTERM, lambda *_: print('term'))")
    pid = worker.invoke().json
    assert pid == worker.process.pid
    os.kill(pid, signal.SIGTERM)
    assert worker.read()[4] == b"term"
    os.kill(pid, signal.SIGTERM)
    assert worker.read()[4] == b"term"
    assert worker.invoke().json == pid


def test_a_signal_handler_may_exit_while_waiting(make: Make) -> None:
    worker = started(make, "return 1", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))")
    worker.invoke()
    worker.process.terminate()
    assert worker.ended() == 9


def test_asyncio_runs_in_a_handler(make: Make) -> None:
    body = "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    return event\nreturn asyncio.run(main())"
    worker = started(make, body)
    assert [worker.invoke(n).json for n in range(3)] == [0, 1, 2]


def test_two_workers_draw_different_numbers(make: Make) -> None:
    """One zygote, imported random and tempfile, two forks."""
    import random

    body = "return [random.random(), tempfile.mktemp(), str(uuid.uuid4())]"
    drawn = [started(make, body, "import random, tempfile, uuid", preload=("random", "tempfile", "uuid")).invoke().json for _ in range(2)]
    assert all(a != b for a, b in zip(*drawn, strict=True))
    assert random.random() not in (drawn[0][0], drawn[1][0])


def test_the_supervisors_end_is_the_workers_end(make: Make) -> None:
    worker = started(make, "import time\nwhile True:\n    print('x' * 1000)\n    time.sleep(0.001)")
    worker.send()
    worker.read()
    worker.socket.close()
    assert worker.ended() == 1
