"""How a function is loaded by the real worker, and every way in which that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from tests.framework.python_worker import Answer, Make, PythonWorker, making


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


def refused(worker: PythonWorker) -> tuple[Answer, dict[str, Any]]:
    """The init error, checked for what all of them share."""
    answer = worker.start()
    assert answer.kind == m.INIT_ERROR
    document = answer.json
    assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert document["requestId"] == ""
    assert document["errorType"] == answer.detail
    assert worker.ended() == 1
    return answer, document


@pytest.mark.parametrize(
    ("files", "handler", "error_type", "message", "trace"),
    [
        ({}, "m", "Runtime.MalformedHandlerName", "Bad handler 'm': not enough values to unpack (expected 2, got 1)", []),
        ({}, "sys.f", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module", []),
        ({}, "m.f", "Runtime.ImportModuleError", "Unable to import module 'm': No module named 'm'", []),
        (
            {"m.py": "import nothing_like_it"},
            "m.f",
            "Runtime.ImportModuleError",
            "Unable to import module 'm': No module named 'nothing_like_it'",
            [],
        ),
        (
            {"m.py": "raise ImportError('deep')"},
            "m.f",
            "Runtime.ImportModuleError",
            "Unable to import module 'm': deep",
            [],
        ),
        (
            {"m.py": "x = 1\n\ndef f(:\n"},
            "m.f",
            "Runtime.UserCodeSyntaxError",
            "Syntax error in module 'm': invalid syntax (m.py, line 3)",
            ['  File "{folder}/m.py" Line 3\n    def f(:\n'],
        ),
        ({"m.py": "x = 1"}, "m.f", "Runtime.HandlerNotFound", "Handler 'f' missing on module 'm'", []),
        (
            {"a/b.py": "x = 1"},
            "a/b.f",
            "Runtime.HandlerNotFound",
            "Handler 'f' missing on module 'a/b'",
            [],
        ),
    ],
    ids=["no dot", "builtin", "no module", "no dependency", "ImportError", "syntax", "no attribute", "no attribute in package"],
)
def test_named_refusals(make: Make, files: dict[str, str | bytes], handler: str, error_type: str, message: str, trace: list[str]) -> None:
    worker = make(files, handler)
    answer, document = refused(worker)
    assert document["errorType"] == error_type
    assert document["errorMessage"] == message
    assert document["stackTrace"] == [t.format(folder=worker.folder) for t in trace]
    warning, error = answer.lines
    assert warning.startswith("[WARNING]\t")
    assert "LAMBDA_WARNING: Unhandled exception. The most likely cause is an issue in the function code." in warning
    assert warning.endswith("\r")
    assert error.startswith(f"[ERROR] {error_type}: {message}\nTraceback (most recent call last):")


def test_an_exception_at_import_brings_its_trace(make: Make) -> None:
    worker = make("class Sad(Exception):\n    pass\n\ndef deep():\n    raise Sad('why')\n\ndeep()\n")
    _, document = refused(worker)
    assert (document["errorType"], document["errorMessage"]) == ("Sad", "why")
    trace = document["stackTrace"]
    assert "importlib" in trace[0]
    assert trace[-2:] == [
        f'  File "{worker.folder}/m.py", line 7, in <module>\n    deep()\n',
        f"  File \"{worker.folder}/m.py\", line 5, in deep\n    raise Sad('why')\n",
    ]


def test_endless_recursion_at_import_is_an_exception_like_others(make: Make) -> None:
    _, document = refused(make("def r():\n    r()\n\nr()\n"))
    assert document["errorType"] == "RecursionError"
    assert document["errorMessage"].startswith("maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("code", "status"),
    [("0", 0), ("", 0), ("None", 0), ("3", 3), ("256 + 7", 7), ("-1", 255), ("'text'", 1), ("True", 1)],
)
def test_exit_at_import_has_the_interpreters_status(make: Make, code: str, status: int) -> None:
    worker = make(f"import sys\nprint('partial', end='')\nsys.exit({code})\n")
    worker.socket.sendall(m.pack(m.INIT, worker._init))
    messages = worker.rest()
    assert worker.ended() == status
    texts = [x[4].decode() for x in messages]
    assert all(x[0] == m.LOG for x in messages)
    assert "partial" in "".join(texts)
    assert ("text" in "".join(texts)) == (code == "'text'")


def test_hard_exit_at_import(make: Make) -> None:
    worker = make("import os\nos._exit(7)\n")
    worker.socket.sendall(m.pack(m.INIT, worker._init))
    assert worker.rest() == []
    assert worker.ended() == 7


@pytest.mark.parametrize("handler", ["m.f", "m.C.g", "pkg.sub.f", "pkg/sub.f", "pkg/deep/mod.f"])
def test_handler_names(make: Make, handler: str) -> None:
    code = "def f(event, context):\n    return __name__\n"
    files: dict[str, str | bytes] = {"m.py": code, "pkg/__init__.py": "", "pkg/sub.py": code, "pkg/deep/mod.py": code}
    worker = make(files, handler)
    if handler == "m.C.g":
        _, document = refused(worker)
        assert document["errorMessage"] == "Unable to import module 'm.C': No module named 'm.C'; 'm' is not a package"
        return
    assert worker.start().kind == m.NEXT
    assert worker.invoke().json == handler.rsplit(".", 1)[0].replace("/", ".")


def test_prints_and_logs_of_init_belong_to_no_request(make: Make) -> None:
    worker = make("import logging, sys\nprint('a\\nb')\nlogging.error('c')\nsys.stderr.write('d')\ndef f(e, c): pass\n")
    answer = worker.start()
    assert answer.kind == m.NEXT
    assert {r for r, _, _ in answer.logs} == {None}
    assert answer.lines[:2] == ["a", "b"]
    assert answer.lines[2].startswith("[ERROR]\t20")
    assert answer.lines[2].endswith("Z\t\tc")
    assert answer.lines[3] == "d"


def test_environment_path_and_directory(make: Make) -> None:
    code = (
        "import os, sys, time\nAT_INIT = dict(os.environ)\n"
        "def f(e, c): return [AT_INIT, os.getcwd(), sys.path, time.tzname[0], sys.argv[0]]\n"
    )
    worker = make(code, env={"A": "1", "TZ": ":Europe/Berlin", "PYTHONPATH": "/extra:/var/runtime"})
    worker.start()
    env, cwd, path, zone, _ = worker.invoke().json
    assert env["A"] == "1"
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert cwd == str(worker.folder)
    assert zone in ("CET", "LMT")
    opt = f"{worker.folder}/opt/python"
    version = worker.hello[2]["runtime"]
    assert path[:3] == [str(worker.folder), f"{opt}/lib/{version}/site-packages", opt]
    assert "/extra" in path


def test_layers_come_after_the_code_and_before_the_runtime(make: Make) -> None:
    files: dict[str, str | bytes] = {
        "m.py": "import one, two\ndef f(e, c): return [one.W, two.W]\n",
        "one.py": "W = 'code'\n",
        "opt/python/one.py": "W = 'layer'\n",
        "opt/python/two.py": "W = 'layer'\n",
    }
    worker = make(files)
    worker.start()
    assert worker.invoke().json == ["code", "layer"]


@pytest.mark.parametrize("name", ["msgspec", "uuid", "random"])
def test_the_functions_own_copy_of_a_preloaded_module_wins(make: Make, name: str) -> None:
    files: dict[str, str | bytes] = {
        "m.py": f"import {name}\ndef f(e, c): return getattr({name}, 'MINE', False)\n",
        f"{name}.py": "MINE = True\n",
    }
    worker = make(files, preload=(name,))
    worker.start()
    assert worker.invoke().json is True


def test_one_own_package_of_a_preloaded_family_drops_the_family(make: Make) -> None:
    code = "import boto3, botocore\ndef f(e, c): return [botocore.MINE, boto3.__file__.endswith('boto3/__init__.py')]\n"
    own = "MINE = 1\n"
    worker = make({"m.py": code, "botocore/__init__.py": own, "boto3/__init__.py": "import botocore\n"}, preload=("boto3",))
    worker.start()
    assert worker.invoke().json == [1, True]


def test_a_preloaded_module_stays_when_the_function_has_none(make: Make) -> None:
    worker = make("import sys\nREADY = 'boto3' in sys.modules\ndef f(e, c): return READY\n", preload=("boto3",))
    worker.start()
    assert worker.invoke().json is True


def test_the_runtimes_own_modules_cannot_be_replaced_by_the_functions(make: Make) -> None:
    files: dict[str, str | bytes] = {
        "m.py": "import json\ndef f(e, c): return json.loads('[1]')\n",
        "json.py": "raise SystemError('mine')\n",
        "msgpack.py": "raise SystemError('mine')\n",
    }
    worker = make(files)
    worker.start()
    assert worker.invoke().json == [1]


def test_hello_names_the_runtime(make: Make) -> None:
    import sys

    kind, version, who = make("").hello
    assert (kind, version) == (m.HELLO, m.VERSION)
    assert who == {"runtime": "python%d.%d" % sys.version_info[:2], "version": "%d.%d.%d" % sys.version_info[:3]}  # noqa: UP031


def test_end_of_the_channel_before_init_ends_the_worker(make: Make) -> None:
    worker = make("")
    worker.socket.close()
    assert worker.ended() == 0


def test_shutdown_and_end_of_channel_end_it_without_exit_functions(make: Make) -> None:
    code = "import atexit, pathlib\natexit.register(pathlib.Path('ran').touch)\ndef f(e, c): print('x', end=''); return 1\n"
    for message in (m.pack(m.SHUTDOWN, "spindown", 0), b""):
        worker = make(code)
        worker.start()
        worker.invoke()
        if message:
            worker.socket.sendall(message)
        else:
            worker.socket.close()
        assert worker.ended() == 0
        assert not (worker.folder / "ran").exists()


def test_a_json_init_error_log(make: Make) -> None:
    worker = make("1 / 0", log_format="JSON", env={"AWS_LAMBDA_LOG_FORMAT": "JSON"})
    answer, document = refused(worker)
    records = [json.loads(line) for line in answer.lines]
    assert records[0]["level"] == "WARNING"
    assert records[0]["message"].startswith("LAMBDA_WARNING")
    assert list(records[1]) == ["timestamp", "log_level", "errorMessage", "errorType", "requestId", "stackTrace"]
    assert records[1]["errorType"] == document["errorType"] == "ZeroDivisionError"
    assert [level for _, level, _ in answer.logs] == [4, 5]
