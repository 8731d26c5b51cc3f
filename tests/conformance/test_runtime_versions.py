"""The runtime on every interpreter it promises, from a runtime directory of its own, isolated as in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import load
from engine.sandbox.interpreters import discover
from engine.wire import messages as m
from engine.wire.frames import MAX_PAYLOAD
from tests.framework import host
from tests.framework.python_worker import ARN, DEADLINE_MS, REQUEST, Make, making, runtime_directory

VERSIONS = [(3, minor) for minor in range(9, 15)]

FUNCTION = """
import collections, decimal, json, logging, multiprocessing, os, subprocess, sys, threading
AT_INIT = sorted(n for n in sys.modules if 'msgpack' in n), list(sys.path), dict(os.environ), os.getcwd()
Point = collections.namedtuple('Point', 'x y')
print('importing')

def start(event): return AT_INIT + (sys.version_info[:2], sys.flags.no_site)
def echo(event): return event
def results(event): return [Point(1, b'x'), decimal.Decimal('1.10'), float('nan'), (1,), {1: None, b'k': 1}, '\\x7f\\u00e9']
def fail(event): raise LookupError('\\u00e9')
def deep(event): return deep(event)
def size(event): return 'x' * (event - 2)
def nothing(event): return {1}
def exit(event): sys.exit(3)
def fork(event):
    pid = os.fork()
    if pid == 0:
        raise ValueError('child')
    return os.waitpid(pid, 0)[1] >> 8
def logs(event):
    logging.warning('w')
    print('a\\nb', end='')
    print('c', file=sys.stderr)
    threads = [threading.Thread(target=print, args=('t',)) for _ in range(3)]
    [t.start() for t in threads], [t.join() for t in threads]
    return subprocess.run([sys.executable, '-c', 'print(7)'], stdout=subprocess.PIPE).stdout.decode()
def trace(event): return [os.environ.get('_X_AMZN_TRACE_ID'), subprocess.check_output('echo $_X_AMZN_TRACE_ID', shell=True).decode().strip()]
def hook(event):
    import snapshot_restore_py
    return callable(snapshot_restore_py.register_after_restore)

def f(event, context):
    global CONTEXT
    CONTEXT = context
    what, argument = event
    if what == 'context':
        return [context.memory_limit_in_mb, context.client_context.custom, context.tenant_id, 0 < context.get_remaining_time_in_millis()]
    return globals()[what](argument)
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runtime_directory(tmp_path_factory.mktemp("runtime"))


def interpreter_of(version: tuple[int, int]) -> str:
    name = f"python{version[0]}.{version[1]}"
    host.require(f"no {name} on this host")
    return discover(load().runtimes)[name].path


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"{v[0]}.{v[1]}")
def test_everything_once(make: Make, runtime: Path, version: tuple[int, int]) -> None:
    worker = make(FUNCTION, interpreter=interpreter_of(version), runtime_dir=runtime, env={"A": "1"})
    assert worker.hello[2]["runtime"] == f"python{version[0]}.{version[1]}"
    answer = worker.start()
    assert (answer.kind, answer.lines) == (m.NEXT, ["importing"])

    modules, path, env, cwd, found, no_site = worker.invoke(["start", 0]).json
    assert all(name.startswith("_lambda_runtime_msgpack") for name in modules)
    assert no_site == 1
    assert f"{worker.folder}/opt/python/lib/python{version[0]}.{version[1]}/site-packages" == path[1]
    assert path[3] == str(runtime)
    assert not any("site-packages" in p for p in path[3:])
    assert env["A"] == "1"
    assert cwd == str(worker.folder)
    assert tuple(found) == version

    big = "é" * 1_000_000
    assert worker.invoke(["echo", {"a": [1, 2.5, None, big]}]).json == {"a": [1, 2.5, None, big]}
    escaped = version < (3, 12)
    last = '"\\u007f\\u00e9"' if escaped else '"\x7fé"'
    expected = f'[{{"x": 1, "y": "x"}}, 1.10, NaN, [1], {{"1": null, "k": 1}}, {last}]'
    assert worker.invoke(["results", 0]).payload.decode() == expected

    answer = worker.invoke(["fail", 0])
    assert (answer.kind, answer.detail) == (m.ERROR, "LookupError")
    assert answer.payload.startswith(b'{"errorMessage": "\\u00e9"' if escaped else '{"errorMessage": "é"'.encode())
    assert [entry.splitlines()[1].strip() for entry in answer.json["stackTrace"]] == [
        "return globals()[what](argument)",
        "def fail(event): raise LookupError('\\u00e9')",
    ]
    assert worker.invoke(["deep", 0]).json["errorType"] == "RecursionError"
    assert worker.invoke(["nothing", 0]).json["errorMessage"].endswith("Object of type set is not JSON serializable")
    assert len(worker.invoke(["size", MAX_PAYLOAD]).payload) == MAX_PAYLOAD
    assert worker.invoke(["size", MAX_PAYLOAD + 1]).size == MAX_PAYLOAD + 1

    answer = worker.invoke(["logs", 0])
    assert answer.json == "7\n"
    assert answer.lines[0].startswith("[WARNING]\t")
    assert sorted("".join(answer.lines[1:])) == ["a", "b", "c", "t", "t", "t"]
    assert worker.invoke(["fork", 0]).json == 1
    assert b"ValueError: child" in worker.output(20)
    for trace_id in ("Root=1", None, "Root=2;" + "x" * 200, "Root=3"):
        assert worker.invoke(["trace", 0], trace_id=trace_id).json == [trace_id, trace_id or ""]
    assert worker.invoke(["context", 0], client_context='{"custom": 7}', tenant_id="t").json == ["128", 7, "t", True]
    assert worker.invoke(["hook", 0]).json is True
    worker.socket.sendall(m.pack(m.INVOKE, REQUEST, DEADLINE_MS, ARN, None, None, None, None, b'["echo", 9]'))
    assert worker.answer().json == 9
    worker.send(["exit", 0])
    assert worker.rest() == []
    assert worker.ended() == 3


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"{v[0]}.{v[1]}")
@pytest.mark.parametrize(
    ("files", "handler", "error_type", "message"),
    [
        ("import no_such", "m.f", "Runtime.ImportModuleError", "Unable to import module 'm': No module named 'no_such'"),
        ("def f(:", "m.f", "Runtime.UserCodeSyntaxError", "Syntax error in module 'm': "),
        ("1 / 0", "m.f", "ZeroDivisionError", "division by zero"),
        ("", "m.f", "Runtime.HandlerNotFound", "Handler 'f' missing on module 'm'"),
        ("", "m", "Runtime.MalformedHandlerName", "Bad handler 'm': not enough values to unpack (expected 2, got 1)"),
    ],
    ids=["import", "syntax", "raise", "missing", "malformed"],
)
def test_refusals(make: Make, runtime: Path, version: tuple[int, int], files: str, handler: str, error_type: str, message: str) -> None:
    worker = make(files, handler, interpreter=interpreter_of(version), runtime_dir=runtime)
    answer = worker.start()
    assert (answer.kind, answer.detail) == (m.INIT_ERROR, error_type)
    assert answer.json["errorMessage"].startswith(message)
    assert answer.lines[0].startswith("[WARNING]\t")
    assert worker.ended() == 1


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"{v[0]}.{v[1]}")
def test_json_logs(make: Make, runtime: Path, version: tuple[int, int]) -> None:
    code = "import logging\ndef f(e, c):\n    logging.info('i', extra={'k': 1})\n    print('{\"level\": \"debug\"}')\n    raise KeyError('x')\n"
    env = {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "INFO"}
    worker = make(code, interpreter=interpreter_of(version), runtime_dir=runtime, env=env)
    worker.start()
    record, error = [json.loads(line) for line in worker.invoke().lines]
    assert list(record) == ["timestamp", "level", "message", "logger", "requestId", "k"]
    assert list(error) == ["timestamp", "log_level", "errorMessage", "errorType", "requestId", "stackTrace"]
