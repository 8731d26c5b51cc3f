"""The same functions and events through AWS's published runtime client and through ours: answers, errors, logs and exits agree."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from tests.framework import runtime_client
from tests.framework.python_worker import Make, PythonWorker, making

JSON_LOGS = {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "DEBUG"}
NAMES = (
    "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version invoked_function_arn tenant_id"
)
CONTEXT = f"""
import os
def f(event, context):
    c = context.client_context
    more = c and [c.custom, c.env, c.client and [getattr(c.client, n) for n in c.client.__slots__]]
    values = [getattr(context, n) for n in {NAMES.split()!r}]
    return [values, more, context.identity.cognito_identity_id, repr(context), os.environ.get('_X_AMZN_TRACE_ID')]
"""
RESULTS = """
import collections, decimal, enum, math
N = collections.namedtuple('N', 'a b')
class E(enum.IntEnum): A = 1
class A:
    def _asdict(self): return {'z': N(1, b'x')}
RESULTS = [
    None, True, 1.5, 10**40, 'é\\u2028\\x7f\\U0001f600"', [], (1, (2,)), {}, {1: 1, None: 2, 2.5: 3, False: 4}, N(1, [N(2, {})]), A(), [A()],
    {'a': b'x'}, {b'k': 1}, b'raw\\xff', E.A, {E.A: E.A}, decimal.Decimal('1.10'), [decimal.Decimal('NaN'), decimal.Decimal('1E+5')],
    math.nan, [-math.inf, math.inf], {math.nan: 1}, {1, 2}, object, {(1,): 1}, {decimal.Decimal(1): 1}, [b'\\xff'], {b'\\xff': 1},
    (x for x in ()), bytearray(b'x'), collections.deque(), collections.OrderedDict(b=1), collections.Counter('aab'), [[[{'a': {1}}]]],
]
CIRCLE = []
CIRCLE.append(CIRCLE)
DEEP = []
for _ in range(100_000): DEEP = [DEEP]
RESULTS += [CIRCLE, N(CIRCLE, 1), DEEP]
def f(event, context): return RESULTS[event]
"""
ERRORS = """
class Sad(Exception): pass
class Group(ExceptionGroup): pass
def deep(n): raise Sad('deep é') if n == 0 else None or deep(n - 1)
def again(): again()
def f(event, context):
    if event == 0: raise ValueError
    if event == 1: raise Sad('why\\nso')
    if event == 2: raise KeyError('k')
    if event == 3: {}['x']
    if event == 4: deep(3)
    if event == 5: again()
    if event == 6:
        try: 1 / 0
        except ZeroDivisionError as e: raise Sad('chained') from e
    if event == 7: exec('(')
    if event == 8: import nothing_here
    if event == 9: raise Group('g', [ValueError(1)])
    if event == 10: raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'user')
"""
LOGS = """
import logging, sys
log = logging.getLogger('app')
log.warning('at init')
def f(event, context):
    log.debug('d'); log.info('i'); log.warning('w %s', 'é'); log.error('e\\nf'); log.critical('c'); logging.log(25, 'odd')
    try: 1 / 0
    except ZeroDivisionError: log.exception('oh', extra={'user': {'id': 1}, 'none': None})
    context.log('one\\ntwo'); context.log(3)
    logging.getLogger().setLevel(logging.DEBUG)
    print('printed\\nlines')
    print('err', file=sys.stderr)
    log.info('end')
    if event: raise ValueError(event)
"""
CLIENT = '{"client":{"installation_id":"i","app_title":"t"},"custom":{"k":[1]},"env":{"locale":"de"}}'
Event = tuple[bytes, dict[str, Any]]


def bodies(count: int) -> list[Event]:
    return [(str(n).encode(), {}) for n in range(count)]


CASES: dict[str, tuple[dict[str, str | bytes] | str, str, list[Event], dict[str, str]]] = {
    "context": (
        CONTEXT,
        "m.f",
        [
            (b"1", {}),
            (b"1", {"client_context": CLIENT, "trace_id": "Root=1", "tenant_id": "t"}),
            (b"1", {"client_context": "{}", "identity": '{"cognitoIdentityId":"a","cognitoIdentityPoolId":"b"}'}),
            (b"1", {"client_context": "null", "identity": "null", "trace_id": "Root=2"}),
            (b"1", {"client_context": "{"}),
            (b"1", {"identity": "nonsense"}),
            (b"1", {"client_context": '{"client":null,"custom":3}'}),
        ],
        {},
    ),
    "results": (RESULTS, "m.f", bodies(37), {}),
    "errors": (ERRORS, "m.f", bodies(11), {}),
    "errors in JSON": (ERRORS, "m.f", bodies(5), JSON_LOGS),
    "logs": (LOGS, "m.f", bodies(2), {}),
    "logs in JSON": (LOGS, "m.f", [(b"0", {"tenant_id": "t"}), (b"1", {})], JSON_LOGS),
    "log level without format": (LOGS, "m.f", bodies(1), {"AWS_LAMBDA_LOG_LEVEL": "INFO"}),
    "events": ("def f(e, c): return e", "m.f", [(b, {}) for b in (b"{}", b' [1, 2.50, "\\u00e9"] ', b"1e400", b'"\xc3\xa9"', b"\xef\xbb\xbf1")], {}),
    "wrong events": ("def f(e, c): return e", "m.f", [(b, {}) for b in (b"nul", b"\xff", b"1" * 5000)], {}),
    "signature": ("def f(e): return e", "m.f", bodies(1), {}),
    "not callable": ("f = 3", "m.f", bodies(1), {}),
    "coroutine": ("import warnings\nwarnings.simplefilter('ignore')\nasync def f(e, c): return 1", "m.f", bodies(1), {}),
    "generator": ("def f(e, c): yield 1", "m.f", bodies(1), {}),
    "no dot": ("", "m", [], {}),
    "builtin": ("", "sys.f", [], {}),
    "no module": ("", "other.f", [], {}),
    "no dependency": ("import nothing_here", "m.f", [], {}),
    "syntax": ("x = 1\ndef f(:\n", "m.f", [], {}),
    "indentation": ("def f():\nx", "m.f", [], {}),
    "no function": ("", "m.f", [], {}),
    "raise at import": ("def g(): raise LookupError('x')\ng()", "m.f", [], {}),
    "raise at import, JSON": ("def g(): raise LookupError('x')\ng()", "m.f", [], JSON_LOGS),
    "recursion at import": ("def g(): g()\ng()", "m.f", [], {}),
    "raise in a dependency": ({"m.py": "import n", "n.py": "raise OSError(2, 'gone')"}, "m.f", [], {}),
    "package": ({"a/b/c.py": "def f(e, c): return __name__"}, "a/b/c.f", bodies(1), {}),
    "exit 0": ("import sys\ndef f(e, c): print('x', end=''); sys.exit()", "m.f", bodies(1), {}),
    "exit 3": ("import sys\ndef f(e, c): sys.exit(3)", "m.f", bodies(1), {}),
    "exit with text": ("import sys\ndef f(e, c): sys.exit('bye')", "m.f", bodies(1), {}),
    "exit at import": ("import sys\nsys.exit(4)", "m.f", [], {}),
    "half a pair": ("def f(e, c): return ['\\ud800']", "m.f", bodies(1), {}),
    "abort": ("import os\ndef f(e, c): os.abort()", "m.f", bodies(1), {}),
}  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making(tmp_path) as one:
        yield one


def ours(worker: PythonWorker, events: list[Event]) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]], int | None]:
    """Answers, log events and exit status, in the other's terms."""
    kinds = {m.RESPONSE: "response", m.ERROR: "error", m.INIT_ERROR: "init/error"}
    said, logs = [], []
    worker.socket.sendall(m.pack(m.INIT, worker._init))
    for kind, *rest in messages(worker, 1):
        if kind == m.LOG:
            logs.append((rest[2], rest[3].decode()))
        elif kind == m.INIT_ERROR:
            said.append((kinds[kind], rest[0], None, rest[1]))
    if not said:
        for body, context in events:
            worker.send(raw=body, **context)
            for kind, *rest in messages(worker, 1):
                if kind == m.LOG:
                    logs.append((rest[2], rest[3].decode()))
                else:
                    said.append((kinds[kind], None, rest[2], rest[3]))
    status = worker.ended() if len(said) < len(events) or not events else None
    return said, logs, status


def messages(worker: PythonWorker, answers: int) -> Iterator[list[Any]]:
    """Messages until that many are no log events, or until the end."""
    while answers:
        try:
            message = worker.read()
        except AssertionError:
            return
        answers -= message[0] != m.LOG
        yield message


@pytest.mark.parametrize("name", CASES)
def test_as_awss_own(make: Make, name: str) -> None:
    files, handler, events, extra = CASES[name]
    facts = {
        "AWS_LAMBDA_FUNCTION_NAME": "greet", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/greet", "AWS_LAMBDA_LOG_STREAM_NAME": "stream", "PATH": os.environ["PATH"], **extra,
    }  # fmt: skip
    worker = make(files, handler, env=facts)
    theirs = runtime_client.run(worker.folder, handler, events, facts)
    said, logs, status = ours(worker, events)

    assert [kind for kind, *_ in said] == [s.kind for s in theirs.said]
    for n, (mine, other) in enumerate(zip(said, theirs.said, strict=True)):
        kind, error_type, content_type, body = mine
        assert runtime_client.plain(body.decode("utf-8", "replace")) == runtime_client.plain(other.body.decode("utf-8", "replace")), n
        if kind == "response":
            assert (content_type or "application/json") == other.content_type, n
        if kind == "init/error":
            assert error_type == other.error_type
    assert status == theirs.status

    printed = [line for line in theirs.printed.split("\n") if line]
    events_of = [text for _, text in logs if text not in printed and not is_traceback(text)]
    assert [runtime_client.plain(t) for t in events_of] == [
        runtime_client.plain(text.removesuffix("\n")) for _, text in theirs.events
    ]
    if extra:
        assert [level for level, text in logs if text in events_of] == [level for level, _ in theirs.events]


def is_traceback(text: str) -> bool:
    """A line that our worker, like any interpreter, prints when it ends by an exception; its frames differ."""
    return text.startswith(("Traceback (most", "  File", "    ", "UnicodeEncodeError: 'utf-8' codec"))


def test_there_is_a_case_for_every_error_of_the_runtime() -> None:
    named = {
        "Runtime.MalformedHandlerName", "Runtime.BuiltInModuleConflict", "Runtime.ImportModuleError", "Runtime.UserCodeSyntaxError",
        "Runtime.HandlerNotFound", "Runtime.MarshalError", "Runtime.UnmarshalError", "Runtime.LambdaContextUnmarshalError",
    }  # fmt: skip
    source = "".join(p.read_text() for p in (Path(__file__).parents[2] / "runtime_bootstrap/python").glob("*.py"))
    ours_named = {part.split('"')[0] for part in source.split('"Runtime.')[1:]}
    assert {f"Runtime.{n}" for n in ours_named} - {"Runtime.BeforeSnapshotError", "Runtime.AfterRestoreError"} == named
    assert json.loads(CLIENT)
    assert sys.version_info >= (3, 11)
