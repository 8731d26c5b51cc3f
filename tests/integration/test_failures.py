"""What a caller sees of every failure a Python function can produce: status 200, Unhandled, and the exact payload."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework import wait
from tests.framework.engine import Engine, engine

TOO_LARGE = {
    "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    "errorType": "Function.ResponseSizeTooLarge",
}


def log_with(running: Engine, name: str, pattern: str) -> re.Match[str]:
    """Where the function's log, which is written a few times a second, matches ``pattern``."""
    path = running.data_dir / "logs" / "000000000000" / f"{name}.log"
    return wait.until(lambda: re.search(pattern, path.read_text()) if path.exists() else None, f"{pattern} in {path.name}")


@pytest.fixture(scope="module")
def impatient() -> Iterator[Engine]:
    """An engine whose init phase is limited to a second, so that both sides of the limit can be seen."""
    with engine(pool_size=4, init_timeout_s=1) as running:
        yield running


class Failure:
    """A failed invocation: what the answer said. ``id`` is its request id, ``tail`` the log tail."""

    def __init__(self, engine: Engine, name: str, event: Any = None) -> None:
        answer = engine.client().invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail")
        self.id = answer["ResponseMetadata"]["RequestId"]
        self.status = answer["StatusCode"]
        self.error = answer.get("FunctionError")
        self.raw = answer["Payload"].read().decode()
        self.tail = base64.b64decode(answer["LogResult"]).decode()
        assert answer["ExecutedVersion"] == "$LATEST"

    @property
    def payload(self) -> Any:
        assert (self.status, self.error) == (200, "Unhandled"), self.raw
        return json.loads(self.raw)

    @property
    def report(self) -> str:
        """The REPORT line."""
        (line,) = [x for x in self.tail.splitlines() if x.startswith("REPORT ")]
        assert line.startswith(f"REPORT RequestId: {self.id}\tDuration: ")
        return line

    def platform(self, error_type: str, text: str) -> dict[str, str]:
        return {"errorType": error_type, "errorMessage": f"RequestId: {self.id} Error: {text}"}


def deploy(engine: Engine, name: str, code: str, handler: str = "m.f", **settings: Any) -> str:
    engine.deploy(name, {"m.py": code}, handler, **settings)
    return name


# name, body of the handler, error type, text after "Error: ", memory
EXITS = [
    ("exit-0", "sys.exit(0)", "Runtime exited without providing a reason"),
    ("exit-none", "sys.exit()", "Runtime exited without providing a reason"),
    ("exit-1", "sys.exit(1)", "Runtime exited with error: exit status 1"),
    ("exit-text", "sys.exit('so')", "Runtime exited with error: exit status 1"),
    ("exit-site", "exit(3)", "Runtime exited with error: exit status 3"),
    ("quit-site", "quit()", "Runtime exited without providing a reason"),
    ("exit-hard", "os._exit(7)", "Runtime exited with error: exit status 7"),
    ("exit-hard-0", "os._exit(0)", "Runtime exited without providing a reason"),
    ("sigkill", "os.kill(os.getpid(), signal.SIGKILL)", "Runtime exited with error: signal: killed"),
    ("sigabrt", "os.abort()", "Runtime exited with error: signal: aborted"),
    ("sigsegv", "ctypes.string_at(0)", "Runtime exited with error: signal: segmentation fault"),
    ("sigterm", "os.kill(os.getpid(), signal.SIGTERM)", "Runtime exited with error: signal: terminated"),
    ("real-time-signal", "os.kill(os.getpid(), 40)", "Runtime exited with error: signal: signal 40"),
    ("keyboard", "raise KeyboardInterrupt", "Runtime exited with error: signal: interrupt"),
]


@pytest.mark.parametrize(("name", "body", "text"), EXITS, ids=[e[0] for e in EXITS])
def test_a_process_that_ends_in_the_handler(shared: Engine, name: str, body: str, text: str) -> None:
    code = f"import ctypes, os, signal, sys\ndef f(e, c):\n    print('before')\n    if e: return 'alive'\n    {body}\n"
    deploy(shared, f"ends-{name}", code)
    for _ in range(2):
        failure = Failure(shared, f"ends-{name}")
        assert failure.payload == failure.platform("Runtime.ExitError", text)
        assert "before\n" in failure.tail
        assert re.search(r"\tStatus: error\tError Type: Runtime\.ExitError$", failure.report)
    alive = Failure(shared, f"ends-{name}", True)
    assert (alive.error, alive.raw) == (None, '"alive"')


def test_what_a_dying_process_said_is_in_the_log(shared: Engine) -> None:
    code = (
        "import atexit, sys\natexit.register(print, 'exit function')\n"
        "def f(e, c):\n    print('no newline', end='')\n    sys.stderr.write('err')\n    sys.exit('the reason')\n"
    )
    failure = Failure(shared, deploy(shared, "last-words", code))
    for words in ("no newline", "err", "the reason", "exit function"):
        assert words in failure.tail


def test_out_of_memory(shared: Engine) -> None:
    code = "def f(e, c):\n    x = []\n    while True: x.append(bytearray(b'x') * 8_000_000)\n"
    failure = Failure(shared, deploy(shared, "memory", code, Timeout=60))
    assert failure.payload == failure.platform("Runtime.OutOfMemory", "Runtime exited with error: signal: killed")
    assert failure.report.endswith("\tStatus: error\tError Type: Runtime.OutOfMemory")
    used = re.search(r"\tMemory Size: 128 MB\tMax Memory Used: (\d+) MB\t", failure.report)
    assert used
    assert 100 <= int(used[1]) <= 128


def test_a_timeout_loses_globals_and_keeps_tmp(shared: Engine) -> None:
    code = (
        "import os, time\nN = 0\n"
        "def f(e, c):\n"
        "    global N\n    N += 1\n"
        "    if e == 'hang':\n        open('/tmp/kept', 'w').write('x')\n        print('hanging')\n        time.sleep(60)\n"
        "    return [N, os.path.exists('/tmp/kept')]\n"
    )
    name = deploy(shared, "timeout", code, Timeout=4)
    assert Failure(shared, name).raw == "[1, false]"
    assert Failure(shared, name).raw == "[2, false]"
    failure = Failure(shared, name, "hang")
    assert failure.payload == failure.platform("Sandbox.Timedout", "Task timed out after 4.00 seconds")
    assert "hanging\n" in failure.tail
    assert "\tDuration: 4000.00 ms\tBilled Duration: 4000 ms\t" in failure.report
    assert failure.report.endswith("\tStatus: timeout")
    after = Failure(shared, name)
    assert after.raw == "[1, true]"
    assert "Init Duration" not in after.report, "a suppressed init counts as invocation"
    assert log_with(shared, name, rf"REPORT RequestId: {failure.id}")


INIT = [
    ("no-module", "", "gone.f", "Runtime.ImportModuleError", "Unable to import module 'gone': No module named 'gone'"),
    ("no-import", "import gone", "m.f", "Runtime.ImportModuleError", "Unable to import module 'm': No module named 'gone'"),
    ("no-handler", "", "m.gone", "Runtime.HandlerNotFound", "Handler 'gone' missing on module 'm'"),
    (
        "malformed", "", "m", "Runtime.MalformedHandlerName",
        "Bad handler 'm': not enough values to unpack (expected 2, got 1)",
    ),
    ("builtin", "", "sys.exit", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
    ("raises", "raise LookupError('at import')", "m.f", "LookupError", "at import"),
    ("recursion", "def r(): r()\nr()", "m.f", "RecursionError", "maximum recursion depth exceeded"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "code", "handler", "error_type", "message"), INIT, ids=[i[0] for i in INIT])
def test_init_errors(shared: Engine, name: str, code: str, handler: str, error_type: str, message: str) -> None:
    deploy(shared, f"init-{name}", code, handler)
    for _ in range(2):
        failure = Failure(shared, f"init-{name}")
        document = failure.payload
        assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
        assert document["errorType"] == error_type
        assert document["errorMessage"].startswith(message) if name == "recursion" else document["errorMessage"] == message
        assert document["requestId"] == ""
        assert bool(document["stackTrace"]) == (not error_type.startswith("Runtime."))
        kept = error_type if error_type.startswith("Runtime.") else "Runtime.Unknown"
        assert re.search(rf"INIT_REPORT Init Duration: [\d.]+ ms\tPhase: invoke\tStatus: error\tError Type: {kept}\n", failure.tail)
        assert f"[ERROR] {error_type}" in failure.tail
        assert failure.report.endswith(f"\tStatus: error\tError Type: {kept}")
    pattern = rf"INIT_REPORT Init Duration: [\d.]+ ms\tPhase: init\tStatus: error\tError Type: {kept}\n"
    log = log_with(shared, f"init-{name}", pattern).string
    assert "LAMBDA_WARNING: Unhandled exception." in log


def test_a_syntax_error(shared: Engine) -> None:
    failure = Failure(shared, deploy(shared, "init-syntax", "x = 1\n\ndef f(:\n"))
    assert failure.payload == {
        "errorMessage": "Syntax error in module 'm': invalid syntax (m.py, line 3)",
        "errorType": "Runtime.UserCodeSyntaxError",
        "requestId": "",
        "stackTrace": ['  File "/var/task/m.py" Line 3\n    def f(:\n'],
    }


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("0", "sys.exit(0)", "Runtime exited without providing a reason"),
        ("1", "sys.exit(1)", "Runtime exited with error: exit status 1"),
        ("9", "os._exit(9)", "Runtime exited with error: exit status 9"),
        ("kill", "os.kill(os.getpid(), 9)", "Runtime exited with error: signal: killed"),
    ],
)
def test_a_process_that_ends_at_import(shared: Engine, name: str, code: str, text: str) -> None:
    failure = Failure(shared, deploy(shared, f"import-exit-{name}", f"import os, sys\n{code}\n"))
    assert failure.payload == failure.platform("Runtime.ExitError", text)
    assert re.search(r"INIT_REPORT Init Duration: [\d.]+ ms\tPhase: invoke\tStatus: error\tError Type: Runtime.ExitError\n", failure.tail)
    assert failure.report.endswith("\tStatus: error\tError Type: Runtime.ExitError")


def test_an_init_beyond_its_limit_is_repeated_inside_the_invocation(impatient: Engine) -> None:
    name = deploy(impatient, "slow-init", "import time\ntime.sleep(1.6)\ndef f(e, c): return 'late'\n", Timeout=30)
    late = Failure(impatient, name)
    assert (late.error, late.raw) == (None, '"late"')
    duration = re.search(r"\tDuration: ([\d.]+) ms", late.report)
    assert duration
    assert 1600 <= float(duration[1]) < 20_000
    assert "Init Duration" not in late.report
    shown = log_with(impatient, name, r"INIT_REPORT Init Duration: ([\d.]+) ms\tPhase: init\tStatus: timeout\n")
    assert float(shown[1]) >= 1000


def test_an_init_beyond_the_functions_timeout_too(impatient: Engine) -> None:
    failure = Failure(impatient, deploy(impatient, "slower-init", "import time\ntime.sleep(60)\ndef f(e, c): pass\n", Timeout=1))
    assert failure.payload == failure.platform("Sandbox.Timedout", "Task timed out after 1.00 seconds")
    assert re.search(r"INIT_REPORT Init Duration: [\d.]+ ms\tPhase: invoke\tStatus: timeout\n", failure.tail)


def test_an_exception_in_the_handler(shared: Engine) -> None:
    code = "class Sad(Exception): pass\n\ndef deep(x):\n    raise Sad(x)\n\ndef f(e, c):\n    deep('w\\u00e4h')\n"
    failure = Failure(shared, deploy(shared, "handler-error", code))
    assert failure.payload == {
        "errorMessage": "wäh",
        "errorType": "Sad",
        "requestId": failure.id,
        "stackTrace": [
            "  File \"/var/task/m.py\", line 7, in f\n    deep('w\\u00e4h')\n",
            '  File "/var/task/m.py", line 4, in deep\n    raise Sad(x)\n',
        ],
    }
    assert list(failure.payload) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert "[ERROR] Sad: wäh\nTraceback (most recent call last):\n" in failure.tail
    assert "Status:" not in failure.report


@pytest.mark.parametrize(
    ("name", "result", "message"),
    [
        ("set", "{1}", "Object of type set is not JSON serializable"),
        ("object", "object()", "Object of type object is not JSON serializable"),
        ("datetime", "__import__('datetime').datetime.now()", "Object of type datetime is not JSON serializable"),
        ("coroutine", "later()", "Object of type coroutine is not JSON serializable"),
    ],
)
def test_a_result_that_is_no_json(shared: Engine, name: str, result: str, message: str) -> None:
    failure = Failure(shared, deploy(shared, f"result-{name}", f"async def later(): pass\ndef f(e, c):\n    return {result}\n"))
    assert failure.payload == {
        "errorMessage": f"Unable to marshal response: {message}",
        "errorType": "Runtime.MarshalError",
        "requestId": failure.id,
        "stackTrace": [],
    }


def test_an_event_that_is_no_json_is_the_apis_error(shared: Engine) -> None:
    name = deploy(shared, "event-json", "def f(e, c): return e")
    client = shared.client()
    for kind in ("RequestResponse", "Event"):
        with pytest.raises(client.exceptions.InvalidRequestContentException) as caught:
            client.invoke(FunctionName=name, Payload=b"text", InvocationType=kind)
        assert caught.value.response["Error"]["Message"] == (
            "Could not parse request body into json: Could not parse payload into json: Unrecognized token 'text': was expecting "
            "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')\n"
            " at [Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: 1, column: 5]"
        )


def test_the_largest_response_and_one_byte_more(shared: Engine) -> None:
    code = "def f(e, c):\n    if e < 0: raise ValueError('x' * -e)\n    return 'x' * (e - 2)"
    name = deploy(shared, "large", code, MemorySize=512, Timeout=60)
    most = Failure(shared, name, 6_291_556)
    assert most.error is None
    assert len(most.raw) == 6_291_556
    over = Failure(shared, name, 6_291_557)
    assert over.payload == TOO_LARGE
    assert over.report.endswith("\tStatus: error\tError Type: Function.ResponseSizeTooLarge")
    assert Failure(shared, name, -10_000_000).payload == TOO_LARGE, "errors have the same limit"
    assert Failure(shared, name, 10).raw == '"xxxxxxxx"'


def test_failures_in_json_logs(shared: Engine) -> None:
    code = "import logging, time\ndef f(e, c):\n    logging.error('bad %s', 1)\n    time.sleep(60) if e else 1 / 0\n"
    name = deploy(shared, "json-logs", code, Timeout=3, LoggingConfig={"LogFormat": "JSON"})
    failure = Failure(shared, name)
    records = [json.loads(line) for line in failure.tail.splitlines()]
    assert failure.payload["errorType"] == "ZeroDivisionError"
    assert [r.get("type") or r.get("level") or r.get("log_level") for r in records] == [
        "platform.start", "ERROR", "ERROR", "platform.report",
    ]  # fmt: skip
    assert records[1]["message"] == "bad 1"
    assert records[1]["requestId"] == failure.id
    assert list(records[2]) == ["timestamp", "log_level", "errorMessage", "errorType", "requestId", "stackTrace"]
    late = Failure(shared, name, 1)
    records = [json.loads(line) for line in late.tail.splitlines()]
    assert [r.get("type") or r.get("level") for r in records] == ["platform.start", "ERROR", "platform.runtimeDone", "platform.report"]
    done, told = records[2:]
    assert done["record"]["status"] == told["record"]["status"] == "timeout"
    assert done["record"]["metrics"]["producedBytes"] == 0
    assert told["record"]["metrics"]["durationMs"] == 3000.0


@pytest.mark.parametrize("level", ["user", "process"])
def test_the_same_at_lower_levels(level: str) -> None:
    code = (
        "import os, time\nN = 0\n"
        "def f(e, c):\n"
        "    global N\n    N += 1\n"
        "    if e == 'exit': os._exit(4)\n"
        "    if e == 'kill': os.kill(os.getpid(), 9)\n"
        "    if e == 'hang':\n        os.system('sleep 1000 &')\n        time.sleep(60)\n"
        "    if e == 'raise': raise OSError(5, 'words')\n"
        "    return N\n"
    )
    with engine(sandbox=level, pool_size=1) as running:
        assert running.state()["sandbox"]["level"] == level
        name = deploy(running, "lower", code, Timeout=4)
        assert Failure(running, name).raw == "1"
        failure = Failure(running, name, "exit")
        assert failure.payload == failure.platform("Runtime.ExitError", "Runtime exited with error: exit status 4")
        failure = Failure(running, name, "kill")
        assert failure.payload == failure.platform("Runtime.ExitError", "Runtime exited with error: signal: killed")
        failure = Failure(running, name, "hang")
        assert failure.payload == failure.platform("Sandbox.Timedout", "Task timed out after 4.00 seconds")
        document = Failure(running, name, "raise").payload
        assert (document["errorType"], document["errorMessage"]) == ("OSError", "[Errno 5] words")
        assert Failure(running, name).raw == "2", "the instance that raised lives on"
        gone = Failure(running, deploy(running, "lower-import", "import gone"))
        assert gone.payload["errorMessage"] == "Unable to import module 'm': No module named 'gone'"
