"""Prints and log records of the real worker: which events they become, in which order, in AWS's formats."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from tests.framework.python_worker import REQUEST, Answer, Make, PythonWorker, making

JSON = {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "INFO"}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


def started(make: Make, body: str, **options: Any) -> PythonWorker:
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    worker = make(f"import logging, os, sys, threading\nlog = logging.getLogger('app')\ndef f(event, context):\n{lines}", **options)
    assert worker.start().kind == m.NEXT
    return worker


def said(make: Make, body: str, payload: Any = None, **options: Any) -> list[str]:
    """The log events of one invocation."""
    answer = started(make, body, **options).invoke(payload)
    assert answer.kind == m.RESPONSE, answer.payload
    assert {request_id for request_id, _, _ in answer.logs} <= {REQUEST}
    return answer.lines


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("print('a')", ["a"]),
        ("print()", [""]),
        ("print('a\\nb\\n\\nc')", ["a", "b", "", "c"]),
        ("print('a', end='')\nprint('b')", ["ab"]),
        ("print('a', end='')", ["a"]),
        ("print('a', flush=True)\nprint('b', end='', flush=True)\nprint('c')", ["a", "bc"]),
        ("print('a\\rb')", ["a\rb"]),
        ("print('a\\r\\nb')", ["a\r", "b"]),
        ("print('é\u2028😀\\x00')", ["é\u2028😀\x00"]),
        ("print(*range(3), sep='\\n')", ["0", "1", "2"]),
        ("sys.stdout.write('a\\nb')\nsys.stdout.flush()\nsys.stdout.write('c\\n')", ["a", "bc"]),
        ("sys.stdout.writelines(['a\\n', 'b\\n'])", ["a", "b"]),
        ("sys.stdout.buffer.write(b'a\\n\\xff\\n')", ["a", "\ufffd"]),
        ("sys.stdout.buffer.write(memoryview(b'a\\n'))", ["a"]),
        ("print('o')\nprint('e', file=sys.stderr)\nprint('p')", ["o", "e", "p"]),
        ("print('o', end='')\nprint('e', end='', file=sys.stderr)", ["o", "e"]),
        ("sys.__stdout__.write('a\\n')\nsys.__stderr__.write('b\\n')", ["a", "b"]),
        ("print('caf\\udce9'.encode('utf-8', 'surrogateescape'))", ["b'caf\\xe9'"]),
        ("sys.stdout.write('\\udce9\\n')", ["\ufffd"]),
        ("print('\\ud800', file=sys.stderr)", ["\\ud800"]),
        ("sys.stdout.reconfigure(line_buffering=True)\nprint('a')", ["a"]),
        ("import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as s: print('x')\nprint('y')", ["y"]),
        ("import warnings\nwarnings.warn_explicit('old', DeprecationWarning, 'x.py', 1)\nprint('a')", ["a"]),
        ("context.log('one\\ntwo')\ncontext.log(3)", ["one\ntwo", "3"]),
        ("context.log('line\\n')", ["line"]),
        ("logging.getLogger().handlers.clear()\ncontext.log('plain')", ["plain"]),
    ],
)
def test_prints(make: Make, body: str, lines: list[str]) -> None:
    answer = started(make, body).invoke()
    assert answer.kind == m.RESPONSE, answer.payload
    assert answer.lines == lines
    assert {(request_id, level) for request_id, level, _ in answer.logs} == {(REQUEST, 0)}


def test_streams_look_like_files(make: Make) -> None:
    body = (
        "o, e = sys.stdout, sys.stderr\n"
        "return [o.fileno(), e.fileno(), o.isatty(), o.encoding, o.errors, e.errors, o.writable(), o.readable(), o.name, e.name, o.mode,"
        " o.buffer.fileno(), o.closed, o is sys.__stdout__, o.line_buffering]"
    )
    assert started(make, body).invoke().json == [
        1, 2, False, "utf-8", "surrogateescape", "backslashreplace", True, False, "<stdout>", "<stderr>", "w", 1, False, True, False,
    ]  # fmt: skip


def test_what_cannot_be_encoded_is_the_printers_problem(make: Make) -> None:
    assert started(make, "print('\\ud800')").invoke().json["errorType"] == "UnicodeEncodeError"


def test_a_line_longer_than_an_event_is_cut(make: Make) -> None:
    sizes = [len(line) for line in said(make, "print('x' * 600_000)\nprint('y' * 300_000, end='')\nprint('z' * 262_144)\nprint('')")]
    assert sizes == [262_144, 262_144, 75_712, 262_144, 37_856, 262_144, 0]


def test_what_is_unfinished_stays_with_its_invocation(make: Make) -> None:
    worker = started(make, "print(event, end='')\nif event == 'b': raise ValueError")
    for event in ("a", "b", "c"):
        assert worker.invoke(event).lines[0] == event


def test_lines_are_sent_when_they_are_whole_not_when_the_handler_ends(make: Make) -> None:
    worker = started(make, "print('before')\nprint('partial', end='')\nopen('go').read()")
    import os

    os.mkfifo(worker.folder / "go")
    worker.send()
    kind, request_id, at_us, level, data = worker.read()
    assert (kind, request_id, level, data) == (m.LOG, REQUEST, 0, b"before")
    assert abs(at_us / 1e6 - time.time()) < 60
    (worker.folder / "go").write_text("")
    assert worker.answer().lines == ["partial"]


def test_threads_print_whole_lines(make: Make) -> None:
    body = (
        "def speak(n):\n"
        "    for i in range(50): print(f'{n}-{i}-' + 'x' * 100)\n"
        "threads = [threading.Thread(target=speak, args=(n,)) for n in range(8)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
    )
    lines = said(make, body)
    text = "\n".join(lines)
    assert sorted(re.findall(r"(\d)-(\d+)-x{100}", text)) == sorted((str(n), str(i)) for n in range(8) for i in range(50))


def test_a_thread_may_print_between_invocations(make: Make) -> None:
    worker = started(
        make,
        "def late():\n    event_set.wait(10)\n    print('late')\n    done.set()\n"
        "global event_set, done\n"
        "if event == 'start':\n"
        "    event_set, done = threading.Event(), threading.Event()\n"
        "    threading.Timer(0.05, event_set.set).start()\n"
        "    threading.Thread(target=late).start()\n"
        "else: done.wait(10)",
    )
    assert worker.invoke("start").lines == []
    kind, request_id, _, _, data = worker.read()
    assert (kind, request_id, data) == (m.LOG, None, b"late")
    assert worker.invoke("wait").kind == m.RESPONSE


def test_a_signal_handler_may_print_while_another_print_is_going_out(make: Make) -> None:
    body = (
        "import signal\n"
        "hits = []\n"
        "def ring(*_):\n    hits.append(1)\n    print('ring')\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\n"
        "while len(hits) < 200: print('x' * 20_000)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "return len(hits)"
    )
    answer = started(make, body).invoke()
    text = "\n".join(answer.lines)
    assert text.count("ring") == answer.json >= 200
    assert {*text.replace("ring", "")} == {"x", "\n"}
    assert text.count("x") % 20_000 == 0


def test_a_signal_handler_that_raises_never_breaks_a_frame(make: Make) -> None:
    body = (
        "import signal\n"
        "class Bell(Exception): pass\n"
        "def ring(*_): raise Bell\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "hits = 0\n"
        "while hits < 50:\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.0007)\n"
        "        while True: print('y' * 50_000)\n"
        "    except Bell: hits += 1\n"
        "return hits"
    )
    worker = started(make, body)
    answer = worker.invoke()
    assert answer.json == 50
    assert {*"".join(answer.lines)} <= {"y"}
    assert worker.invoke().json == 50


def test_output_past_the_runtime_goes_to_the_descriptors(make: Make) -> None:
    worker = started(make, "import subprocess\nos.write(1, b'raw\\n')\nsubprocess.run(['echo', 'child'], check=True)\nprint('own')")
    assert worker.invoke().lines == ["own"]
    assert worker.output(10) == b"raw\nchild\n"


def test_a_subprocess_may_be_given_the_stream(make: Make) -> None:
    worker = started(make, "import subprocess\nsubprocess.run(['echo', 'x'], stdout=sys.stdout, stderr=sys.stderr, check=True)")
    assert worker.invoke().lines == []
    assert worker.output(2) == b"x\n"


TEXT = r"\[%s\]\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\t%s\t%s"


def test_text_records(make: Make) -> None:
    body = "log.debug('d')\nlog.info('i')\nlog.warning('w %s', 1)\nlog.error('e\\nf')\nlog.critical('c')\nlogging.log(45, 'l')"
    answer = started(make, body).invoke()
    expected = [("WARNING", "w 1", 4), ("ERROR", "e\nf", 5), ("CRITICAL", "c", 6), ("Level 45", "l", 5)]
    assert len(answer.logs) == len(expected)
    for (request_id, level, text), (name, message, number) in zip(answer.logs, expected, strict=True):
        assert request_id == REQUEST
        assert level == number
        assert re.fullmatch(TEXT % (name, REQUEST, message), text), text


def test_text_record_with_exception_is_one_event(make: Make) -> None:
    (text,) = said(make, "try: 1 / 0\nexcept ZeroDivisionError: log.exception('oh')")
    assert text.splitlines()[1] == "Traceback (most recent call last):"
    assert text.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_times_are_utc_whatever_tz_says(make: Make) -> None:
    (text,) = said(make, "log.error('x')", env={"TZ": "Asia/Tokyo"})
    stamp = time.strptime(text.split("\t")[1][:19], "%Y-%m-%dT%H:%M:%S")
    import calendar

    assert abs(calendar.timegm(stamp) - time.time()) < 60


def test_levels_and_basic_config(make: Make) -> None:
    assert said(make, "logging.basicConfig(level=logging.DEBUG)\nlog.info('x')") == []
    assert len(said(make, "logging.getLogger().setLevel('DEBUG')\nlog.debug('x')")) == 1
    assert len(said(make, "log.debug('x')", env={"AWS_LAMBDA_LOG_LEVEL": "TRACE"})) == 1
    assert len(said(make, "log.warning('x')\nlog.error('y')", env={"AWS_LAMBDA_LOG_LEVEL": "ERROR"})) == 1
    assert len(said(make, "log.warning('x')", env={"AWS_LAMBDA_LOG_LEVEL": "nonsense"})) == 1
    assert len(said(make, "log.error('x')\nlog.critical('y')", env={"AWS_LAMBDA_LOG_LEVEL": "FATAL"})) == 1
    assert len(said(make, "log.info('x')", log_level="INFO")) == 1


def test_a_formatter_of_the_users_own(make: Make) -> None:
    body = "logging.getLogger().handlers[0].setFormatter(logging.Formatter('%(aws_request_id)s|%(message)s'))\nlog.error('x')"
    assert said(make, body) == [f"{REQUEST}|x"]


def test_a_record_that_cannot_be_formatted_fails_where_it_was_made(make: Make) -> None:
    assert started(make, "log.error('%d', 'x')").invoke().json["errorType"] == "TypeError"


def records(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(text) for text in answer.lines]


def test_json_records(make: Make) -> None:
    body = (
        "log.debug('d')\nlog.info('i %s', 1)\nlog.warning('w é', extra={'user': {'id': 7}, 'none': None})\n"
        "logging.log(35, 'odd')\nlogging.log(60, 'high')"
    )
    answer = started(make, body, env=JSON).invoke(tenant_id="blue")
    info, warning, odd, high = records(answer)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", info.pop("timestamp"))
    assert list(info.items()) == [("level", "INFO"), ("message", "i 1"), ("logger", "app"), ("requestId", REQUEST), ("tenantId", "blue")]
    assert list(warning) == ["timestamp", "level", "message", "logger", "requestId", "tenantId", "user"]
    assert warning["user"] == {"id": 7}
    assert "w é" in answer.lines[1]
    assert (odd["level"], high["level"]) == ("WARNING", "CRITICAL")
    assert [level for _, level, _ in answer.logs] == [3, 4, 4, 6]


def test_json_record_with_exception(make: Make) -> None:
    worker = started(make, "try: {}['k']\nexcept KeyError: log.exception('oh')", env=JSON)
    (record,) = records(worker.invoke())
    assert list(record) == ["timestamp", "level", "message", "logger", "stackTrace", "errorType", "errorMessage", "requestId", "location"]
    assert (record["errorType"], record["errorMessage"]) == ("KeyError", "'k'")
    assert record["stackTrace"][0].startswith(f'  File "{worker.folder}/m.py", line 4, in f\n')
    assert record["location"] == f"{worker.folder}/m.py:f:5"


def test_json_error(make: Make) -> None:
    worker = started(make, "raise ValueError('é')", env=JSON)
    answer = worker.invoke()
    (record,) = records(answer)
    assert list(record) == ["timestamp", "log_level", "errorMessage", "errorType", "requestId", "stackTrace"]
    assert record["log_level"] == "ERROR"
    assert {k: record[k] for k in answer.json} == answer.json
    assert answer.logs[0][1] == 5


def test_json_lines_of_the_functions_own_are_filtered_by_their_level(make: Make) -> None:
    body = (
        "for line in event: print(line)\n"
        "import json\nprint(json.dumps({'level': 'debug', 'n': 1}, indent=1))"
    )
    lines = [
        "plain",
        '{"level": "trace"}',
        '{"level": "DEBUG", "a": 1}',
        '{"level": "info"}',
        '{"level": "Error"}',
        '{"level": "strange"}',
        '{"level": 3}',
        '{"a": 1}',
        '{"broken',
        '["level"]',
    ]
    whole = started(make, body, env=JSON).invoke(lines)
    shown = [line for line in lines if line not in ('{"level": "trace"}', '{"level": "DEBUG", "a": 1}')]
    assert whole.lines == [*shown, "{", ' "level": "debug",', ' "n": 1', "}"]
    assert [level for _, level, _ in whole.logs][:5] == [0, 3, 5, 3, 3]
    assert said(make, "print('{\"level\": \"debug\"}')") == ['{"level": "debug"}'], "text format filters nothing"


def test_an_extra_that_is_no_json_fails_where_it_was_made(make: Make) -> None:
    assert started(make, "log.error('x', extra={'o': object()})", env=JSON).invoke().json["errorType"] == "TypeError"


def test_a_log_event_longer_than_one_may_be_is_cut(make: Make) -> None:
    sizes = [len(text) for text in said(make, "context.log('x' * 600_000)")]
    assert sizes == [262_144, 262_144, 75_712]
