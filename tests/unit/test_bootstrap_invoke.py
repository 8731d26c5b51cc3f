"""What the real worker makes of events: context, results, errors, sizes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from engine.wire.frames import MAX_PAYLOAD
from tests.framework.python_worker import ARN, DEADLINE_MS, REQUEST, Make, PythonWorker, making


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


def started(make: Make, body: str, **options: Any) -> PythonWorker:
    """A ready worker whose handler has ``body``, after an import of what functions use."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    worker = make(f"import decimal, json, os, sys, time\nSTATE = []\ndef f(event, context):\n{lines}", **options)
    assert worker.start().kind == m.NEXT
    return worker


def test_event_in_result_out(make: Make) -> None:
    worker = started(make, "return event")
    values: tuple[Any, ...] = ({"a": [1, 2.5, None, "é\u2028😀"]}, [], "", 0, None, {"": {}})
    for value in values:
        answer = worker.invoke(value)
        assert (answer.kind, answer.detail, answer.json, answer.logs) == (m.RESPONSE, None, value, [])


def test_state_outlives_an_invocation_and_an_error(make: Make) -> None:
    worker = started(make, "STATE.append(event)\nif event == 2: raise ValueError(event)\nreturn STATE")
    assert worker.invoke(1).json == [1]
    assert worker.invoke(2).kind == m.ERROR
    assert worker.invoke(3).json == [1, 2, 3]


def test_bytes_have_another_content_type(make: Make) -> None:
    answer = started(make, "return bytes(event)").invoke([0, 255, 10])
    assert (answer.kind, answer.detail, answer.payload) == (m.RESPONSE, "application/unknown", b"\x00\xff\n")


def test_context(make: Make) -> None:
    names = (
        "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version invoked_function_arn "
        "tenant_id client_context"
    )
    worker = started(make, f"return [getattr(context, n) for n in {names.split()!r}] + [repr(context)]")
    *values, text = worker.invoke().json
    assert values == [REQUEST, "/aws/lambda/greet", "stream", "greet", "128", "$LATEST", ARN, None, None]
    assert text == (
        f"LambdaContext([aws_request_id={REQUEST},log_group_name=/aws/lambda/greet,log_stream_name=stream,function_name=greet,"
        f"memory_limit_in_mb=128,function_version=$LATEST,invoked_function_arn={ARN},client_context=None,"
        "identity=CognitoIdentity([cognito_identity_id=None,cognito_identity_pool_id=None]),tenant_id=None])"
    )


def test_client_context_identity_and_tenant(make: Make) -> None:
    worker = started(
        make,
        "c, i = context.client_context, context.identity\n"
        "k = c.client\n"
        "return [k.installation_id, k.app_title, k.app_version_name, k.app_version_code, k.app_package_name, c.custom, c.env,"
        " i.cognito_identity_id, i.cognito_identity_pool_id, context.tenant_id, repr(c)]",
    )
    client = {"installation_id": "1", "app_title": "t", "app_version_name": "n", "app_version_code": "c", "app_package_name": "p"}
    answer = worker.invoke(
        client_context=json.dumps({"client": client, "custom": {"é": 1}, "env": {"locale": "de"}}),
        identity=json.dumps({"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"}),
        tenant_id="blue",
    )
    assert answer.json[:-1] == ["1", "t", "n", "c", "p", {"é": 1}, {"locale": "de"}, "id", "pool", "blue"]
    assert answer.json[-1].startswith("ClientContext([custom={'é': 1},env={'locale': 'de'},client=Client([installation_id=1,")
    empty = started(make, "c = context.client_context\nreturn [c.client, c.custom, c.env]")
    assert empty.invoke(client_context="{}").json == [None, None, None]


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"client_context": "{"}, "Unable to parse Client Context JSON: Expecting property name enclosed in double quotes"),
        ({"identity": "x"}, "Unable to parse Cognito Identity JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_context_that_is_no_json(make: Make, context: dict[str, str], message: str) -> None:
    worker = started(make, "return 1")
    answer = worker.invoke(**context)
    assert answer.detail == "Runtime.LambdaContextUnmarshalError"
    document = answer.json
    assert document.pop("errorMessage").startswith(message)
    assert document == {"errorType": "Runtime.LambdaContextUnmarshalError", "requestId": REQUEST, "stackTrace": []}
    assert worker.invoke().json == 1


def test_a_client_context_that_is_no_object(make: Make) -> None:
    document = started(make, "return 1").invoke(client_context="[1]").json
    assert (document["errorType"], document["errorMessage"]) == ("AttributeError", "'list' object has no attribute 'get'")


def test_remaining_time(make: Make) -> None:
    worker = started(make, "return context.get_remaining_time_in_millis()")
    now_ms = int(time.time() * 1000)
    left = worker.invoke(deadline_ms=now_ms + 60_000).json
    assert type(left) is int
    assert 0 < left <= 60_000
    assert worker.invoke(deadline_ms=now_ms - 1).json == 0
    assert worker.invoke(deadline_ms=DEADLINE_MS).json > 10**9


def test_trace_id_for_python_and_for_programs(make: Make) -> None:
    worker = started(
        make,
        "import subprocess\nout = subprocess.run(['printenv', '_X_AMZN_TRACE_ID'], stdout=subprocess.PIPE).stdout.decode().strip()\n"
        "if event == 'drop': del os.environ['_X_AMZN_TRACE_ID']\n"
        "if event == 'set': os.environ['_X_AMZN_TRACE_ID'] = 'mine'\n"
        "return [os.environ.get('_X_AMZN_TRACE_ID'), out]",
    )
    for n, event in enumerate(["", "drop", "", "set", "", ""]):
        trace_id = f"Root=1-5759e988-{n:024x};Parent=53995c3f42cd8ad8;Sampled=1" + ";x" * (n * 15)
        expected = {"": trace_id, "drop": None, "set": "mine"}[event]
        assert worker.invoke(event, trace_id=trace_id).json == [expected, trace_id]
    assert worker.invoke("").json == [None, ""]
    assert worker.invoke("", trace_id="Root=2").json == ["Root=2", "Root=2"]


def test_trace_ids_do_not_pile_up(make: Make) -> None:
    """The C library keeps every value that setenv is given: 140 bytes a call."""
    worker = started(
        make,
        "if event: return [v.set('Root=1-%040d' % n) for v in [sys.modules['runtime_bootstrap.python.environment'].TraceVariable()]"
        " for n in range(200_000)] and None\n"
        "return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')",
    )
    worker.invoke(True)
    before = worker.invoke(False).json
    worker.invoke(True)
    assert worker.invoke(False).json - before < 4_000_000


def test_an_exception(make: Make) -> None:
    worker = make("class Sad(Exception): pass\ndef deep():\n    raise Sad('why é')\ndef f(event, context):\n    deep()\n")
    worker.start()
    answer = worker.invoke()
    assert (answer.kind, answer.detail) == (m.ERROR, "Sad")
    assert list(answer.json.items()) == [
        ("errorMessage", "why é"),
        ("errorType", "Sad"),
        ("requestId", REQUEST),
        (
            "stackTrace",
            [
                f'  File "{worker.folder}/m.py", line 5, in f\n    deep()\n',
                f"  File \"{worker.folder}/m.py\", line 3, in deep\n    raise Sad('why é')\n",
            ],
        ),
    ]
    assert (b"why \\u00e9" in answer.payload) == (sys.version_info < (3, 12))
    space = "\u00a0"
    assert answer.logs == [
        (
            REQUEST,
            5,
            "[ERROR] Sad: why é\nTraceback (most recent call last):\n"
            f'{space * 2}File "{worker.folder}/m.py", line 5, in f\n{space * 4}deep()\n'
            f"{space * 2}File \"{worker.folder}/m.py\", line 3, in deep\n{space * 4}raise Sad('why é')",
        )
    ]


@pytest.mark.parametrize(
    ("body", "error_type", "message"),
    [
        ("raise KeyError('k')", "KeyError", "'k'"),
        ("raise ValueError", "ValueError", ""),
        ("raise ExceptionGroup('g', [ValueError(1)])", "ExceptionGroup", "g (1 sub-exception)"),
        ("raise StopIteration(1)", "StopIteration", "1"),
        ("assert event", "AssertionError", ""),
        ("return 1 / 0", "ZeroDivisionError", "division by zero"),
        ("import nothing_here", "ModuleNotFoundError", "No module named 'nothing_here'"),
        ("exec('(')", "SyntaxError", "'(' was never closed (<string>, line 1)"),
        ("raise type('E' * 300, (Exception,), {})('long')", "E" * 300, "long"),
        ("raise UnicodeEncodeError('utf-8', 'x', 0, 1, 'user')", "UnicodeEncodeError", "'utf-8' codec can't encode character '\\x78' in position 0: user"),
    ],
)
def test_exceptions_keep_name_and_text(make: Make, body: str, error_type: str, message: str) -> None:
    worker = started(make, body)
    answer = worker.invoke()
    document = answer.json
    assert (document["errorType"], document["errorMessage"]) == (error_type, message)
    assert answer.detail == error_type[:255]
    assert answer.lines[0].startswith(f"[ERROR] {error_type}: {message}\n" if message else f"[ERROR] {error_type}\n")
    assert "worker.py" not in document["stackTrace"][0]
    assert worker.invoke().kind == m.ERROR


def test_a_handler_with_another_signature_shows_the_call(make: Make) -> None:
    worker = make("def f(event): pass\n")
    worker.start()
    document = worker.invoke().json
    assert (document["errorType"], document["errorMessage"]) == ("TypeError", "f() takes 1 positional argument but 2 were given")
    assert len(document["stackTrace"]) == 1
    assert "worker.py" in document["stackTrace"][0]


def test_what_is_no_function(make: Make) -> None:
    worker = make("f = 3\n")
    worker.start()
    assert worker.invoke().json["errorMessage"] == "'int' object is not callable"


def test_anything_callable_serves(make: Make) -> None:
    worker = make("class C:\n    def __call__(self, e, c): return 'object'\nf = C()\nimport functools\ng = functools.partial(lambda a, e, c: a, 7)\n")
    worker.start()
    assert worker.invoke().json == "object"
    worker = make("import functools\nf = functools.partial(lambda a, e, c: a, 7)\n")
    worker.start()
    assert worker.invoke().json == 7


def test_endless_recursion_is_an_error_with_a_short_trace(make: Make) -> None:
    worker = started(make, "return f(event, context)")
    answer = worker.invoke()
    assert answer.json["errorType"] == "RecursionError"
    assert any("Previous line repeated" in entry for entry in answer.json["stackTrace"])
    assert len(answer.json["stackTrace"]) < 10
    assert worker.invoke().kind == m.ERROR


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("return {1}", "set"),
        ("return context", "LambdaContext"),
        ("yield 1", "generator"),
        ("return (x for x in [1])", "generator"),
        ("import datetime\nreturn {'at': datetime.datetime(2020, 1, 1)}", "datetime"),
    ],
)
def test_results_that_are_no_json(make: Make, body: str, kind: str) -> None:
    worker = started(make, body)
    answer = worker.invoke()
    message = f"Unable to marshal response: Object of type {kind} is not JSON serializable"
    assert answer.detail == "Runtime.MarshalError"
    assert answer.json == {"errorMessage": message, "errorType": "Runtime.MarshalError", "requestId": REQUEST, "stackTrace": []}
    assert answer.lines[-1] == f"[ERROR] Runtime.MarshalError: {message}\nTraceback (most recent call last):"


def test_a_coroutine_is_not_awaited(make: Make) -> None:
    worker = make("import warnings\nwarnings.simplefilter('ignore')\nasync def f(e, c): return 1\n")
    worker.start()
    assert worker.invoke().json["errorMessage"] == "Unable to marshal response: Object of type coroutine is not JSON serializable"


def test_an_event_that_is_no_json(make: Make) -> None:
    worker = started(make, "return event")
    answer = worker.invoke(raw=b"{")
    assert answer.detail == "Runtime.UnmarshalError"
    assert answer.json["errorMessage"].startswith("Unable to unmarshal input: Expecting property name enclosed in double quotes")
    assert worker.invoke(1).json == 1


def test_half_a_surrogate_pair_ends_the_process(make: Make) -> None:
    """Observed with AWS's client on 3.12 and later, which do not escape; earlier ones send the escape."""
    worker = started(make, "return '\\ud800'")
    worker.send()
    if sys.version_info < (3, 12):
        assert worker.answer().payload == b'"\\ud800"'
        return
    assert "UnicodeEncodeError" in str(worker.rest())
    assert worker.ended() == 1


@pytest.mark.parametrize(("size", "fits"), [(MAX_PAYLOAD, True), (MAX_PAYLOAD + 1, False), (16_000_000, False)])
@pytest.mark.parametrize("form", ["text", "bytes"])
def test_the_size_limit(make: Make, size: int, fits: bool, form: str) -> None:
    worker = started(make, "return 'x' * (event - 2)" if form == "text" else "return b'x' * event")
    answer = worker.invoke(size)
    if fits:
        assert answer.kind == m.RESPONSE
        assert len(answer.payload) == size
        assert answer.payload.strip(b'"').count(b"x") == size - 2 * (form == "text")
    else:
        assert (answer.kind, answer.size) == (m.TOO_LARGE, size)
    assert worker.invoke(10).kind == m.RESPONSE


def test_big_events(make: Make) -> None:
    worker = started(make, "return [len(event), event[:3], event[-3:], len(json.dumps(event))] if event else event")
    for size in (16_300, 65_470, 65_536, 131_072, 6 * 1024 * 1024 - 2):
        assert worker.invoke("é" + "a" * (size - 7) + "äüß").json == [size - 3, "éaa", "äüß", size - 3 + 2 + 4 * 5]
        assert worker.invoke("").json == ""


def test_a_big_event_goes_out_as_it_came(make: Make) -> None:
    worker = started(make, "return event")
    event = {"rows": [{"n": n, "text": "x" * 50} for n in range(20_000)]}
    assert worker.invoke(event).json == event


def test_events_may_come_in_pieces_or_together(make: Make) -> None:
    worker = started(make, "return event")
    frames = [m.encode_invoke(REQUEST, DEADLINE_MS, m.invoke_tail(ARN), json.dumps(n).encode()) for n in range(3)]
    for byte in frames[0]:
        worker.socket.sendall(bytes((byte,)))
    assert worker.answer().json == 0
    worker.socket.sendall(b"".join(frames))
    assert [worker.answer().json for _ in frames] == [0, 1, 2]


def test_an_event_in_another_encoding(make: Make) -> None:
    """Short strings and small integers are the same message; only canonical ones are read at fixed offsets."""
    worker = started(make, "return [event, context.aws_request_id, context.tenant_id, context.invoked_function_arn]")
    for arn, tenant in (("a", "t"), (ARN * 10, None)):
        worker.socket.sendall(m.pack(m.INVOKE, REQUEST, 7, arn, None, None, None, tenant, b'"x"'))
        assert worker.answer().json == ["x", REQUEST, tenant, arn]


def test_a_message_that_is_no_event_ends_the_worker_aloud(make: Make) -> None:
    worker = started(make, "return 1")
    worker.socket.sendall(m.pack(m.ACK, 1, None))
    assert "ValueError" in str(worker.rest())
    assert worker.ended() == 1


def test_before_and_after_a_snapshot(make: Make) -> None:
    code = (
        "import os, random\nfrom snapshot_restore_py import register_before_snapshot, register_after_restore\nSEEN = []\n"
        "@register_before_snapshot\ndef one(): SEEN.append('b1')\n"
        "register_before_snapshot(SEEN.append, 'b2')\n"
        "register_after_restore(SEEN.append, 'a1')\n"
        "@register_after_restore\ndef two(): SEEN.append('a2'); SEEN.append(os.environ['COPY'])\n"
        "def f(e, c): return [SEEN, c.log_stream_name]\n"
    )
    worker = make(code, features=["restore"], init_type="snap-start")
    worker.socket.sendall(m.pack(m.INIT, worker._init))
    assert worker.read() == [m.RESTORE_NEXT]
    worker.socket.sendall(m.pack(m.RESTORE, {"env": {"COPY": "7"}, "log_stream": "second"}))
    assert worker.answer().kind == m.NEXT
    assert worker.invoke().json == [["b2", "b1", "a1", "a2", "7"], "second"]


@pytest.mark.parametrize(("when", "status"), [("before_snapshot", 64), ("after_restore", 65)])
def test_a_failing_hook(make: Make, when: str, status: int) -> None:
    code = f"import snapshot_restore_py as s\n@s.register_{when}\ndef hook(): raise OSError('no')\ndef f(e, c): pass\n"
    worker = make(code, features=["restore"])
    worker.socket.sendall(m.pack(m.INIT, worker._init))
    if when == "before_snapshot":
        answer = worker.answer()
        assert (answer.kind, answer.detail) == (m.INIT_ERROR, "Runtime.BeforeSnapshotError")
        document = answer.json
    else:
        assert worker.read() == [m.RESTORE_NEXT]
        worker.socket.sendall(m.pack(m.RESTORE, {}))
        log, (kind, error_type, body) = worker.read(), worker.read()
        assert log[0] == m.LOG
        assert (kind, error_type) == (m.RESTORE_ERROR, "Runtime.AfterRestoreError")
        document = json.loads(body)
    assert (document["errorType"], document["errorMessage"]) == ("OSError", "no")
    assert worker.ended() == status


def test_imports_are_measured_and_told_after_the_first_event(make: Make, tmp_path: Path) -> None:
    code = "import lib\nfrom tools import one\nimport json, colorsys\ndef f(e, c): return lib.part.X\n"
    worker = make(code, features=["imports"])
    root = Path(worker._init["task_root"])
    for name, text in {
        "lib/__init__.py": "import time, lib.part, other\ntime.sleep(0.05)\n", "lib/part.py": "X = 7\n", "other.py": "import time\ntime.sleep(0.02)\n",
        "tools.py": "one = 1\n", "lib-1.dist-info/RECORD": "lib/__init__.py,sha256=x,1\nlib/part.py,,\nother.py,,\n",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    assert worker.start().kind == m.NEXT
    assert worker.invoke().json == 7
    kind, document = worker.read()
    told = json.loads(document)
    packages = {name: (what, us) for name, what, us in told["packages"]}
    assert kind == m.IMPORTS
    assert {name: what for name, (what, _) in packages.items()} == {"lib": "package", "other": "package", "tools": "own", "m": "own"}
    assert sorted(told["modules"]) == ["lib", "lib.part", "other"]
    assert packages["lib"][1] >= 50_000, "what it imports in turn is counted apart"
    assert packages["other"][1] >= 20_000
    assert told["took_us"] >= 70_000
    assert worker.invoke().json == 7


def test_who_measures_imports_is_not_in_their_errors(make: Make) -> None:
    traces = []
    for features in ([], ["imports"]):
        worker = make("import broken\ndef f(e, c): pass\n", features=features)
        (Path(worker._init["task_root"]) / "broken.py").write_text("import json\n1 / 0\n")
        answer = worker.start()
        assert (answer.kind, answer.detail) == (m.INIT_ERROR, "ZeroDivisionError")
        traces.append("".join(answer.json["stackTrace"]).replace(str(worker.folder), ""))
    assert "broken.py" in traces[0]
    assert traces[0] == traces[1]
