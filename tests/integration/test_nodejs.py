"""The managed Node.js runtime: handlers, modules, errors, logs, streams, as AWS's own runtime has them."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework import clients, host
from tests.framework.engine import ROLE, Engine, engine, zip_of
from tests.framework.wait import until


@pytest.fixture(
    scope="module", params=[pytest.param(20, marks=pytest.mark.slow), 22, pytest.param(24, marks=pytest.mark.slow)]
)
def node(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, int]]:
    host.require("no Node.js with npm")
    major = request.param
    with engine(runtimes={f"nodejs{major}.x": str(clients.node_program(major))}) as running:
        yield running, major


def deploy(node: tuple[Engine, int], name: str, files: dict[str, str] | str, handler: str = "index.handler", **settings: Any) -> None:
    running, major = node
    package = {"index.js": files} if isinstance(files, str) else files
    running.deploy(name, zip_of(package), handler, Runtime=f"nodejs{major}.x", **settings)


def invoke(node: tuple[Engine, int], name: str, event: Any = None, **options: Any) -> tuple[Any, str | None, str]:
    """Payload, function error, log."""
    answer = node[0].client().invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail", **options)
    return json.loads(answer["Payload"].read()), answer.get("FunctionError"), base64.b64decode(answer["LogResult"]).decode()


def test_a_tenant_is_in_the_context_and_has_memory_of_its_own(node: tuple[Engine, int]) -> None:
    code = "const seen = []; exports.handler = async (event, context) => { seen.push(context.tenantId); return seen; };"
    deploy(node, "tenants", code, TenancyConfig={"TenantIsolationMode": "PER_TENANT"})
    for tenant in ("blue", "green"):
        seen, error, _ = invoke(node, "tenants", TenantId=tenant)
        assert error is None
        assert set(seen) == {tenant}


def test_async_handlers_and_their_context(node: tuple[Engine, int]) -> None:
    deploy(
        node,
        "context",
        """exports.handler = async (event, context) => ({event, version: process.version, ms: context.getRemainingTimeInMillis(),
        onPath: require('child_process').execSync('node -v').toString().trim(),
        env: [process.env._X_AMZN_TRACE_ID, process.env.AWS_EXECUTION_ENV, process.env.MINE, process.cwd(), process.env.TZ], ...context})""",
        Environment={"Variables": {"MINE": "x"}},
        Timeout=7,
    )
    for n in range(2):
        context = base64.b64encode(b'{"custom":{"k":1}}').decode()
        seen, error, _ = invoke(node, "context", {"n": n, "é": "\U0001f600"}, ClientContext=context)
        assert error is None
        assert seen["event"] == {"n": n, "é": "\U0001f600"}
        assert seen["version"].startswith(f"v{node[1]}.")
        assert seen["onPath"] == seen["version"]
        assert 5000 < seen["ms"] <= 7000
        trace, execution, mine, directory, zone = seen["env"]
        assert trace.startswith("Root=1-")
        assert (execution, mine, directory, zone) == (f"AWS_Lambda_nodejs{node[1]}.x", "x", "/var/task", ":UTC")
        assert (seen["functionName"], seen["functionVersion"], seen["memoryLimitInMB"]) == ("context", "$LATEST", "128")
        assert seen["invokedFunctionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:context"
        assert seen["clientContext"] == {"custom": {"k": 1}}
        assert seen["logGroupName"] == "/aws/lambda/context"


RESULTS = """
exports.handler = async (which) => [undefined, null, 'é', 10n, {a: undefined, b: new Date(0)}, 'x'.repeat(6291556 - 2), 'x'.repeat(6291556)][which];
"""


def test_results(node: tuple[Engine, int]) -> None:
    deploy(node, "results", RESULTS, MemorySize=512)
    assert invoke(node, "results", 0)[:2] == (None, None)
    assert invoke(node, "results", 1)[:2] == (None, None)
    assert invoke(node, "results", 2)[:2] == ("é", None)
    payload, error, _ = invoke(node, "results", 3)
    assert (payload["errorMessage"], error) == ("Unable to stringify response body", "Unhandled")
    assert invoke(node, "results", 4)[0] == {"b": "1970-01-01T00:00:00.000Z"}
    assert len(invoke(node, "results", 5)[0]) == 6291556 - 2
    assert invoke(node, "results", 6)[0]["errorType"] == "Function.ResponseSizeTooLarge"
    big = "y" * (6 * 1024 * 1024 - 10)
    deploy(node, "echo", "exports.handler = async (event) => event.length")
    assert invoke(node, "echo", big)[0] == len(big)


MODULES: list[tuple[dict[str, str], str]] = [
    ({"index.js": "exports.handler = async () => 'commonjs'"}, "index.handler"),
    ({"index.mjs": "export const handler = async () => 'module'"}, "index.handler"),
    ({"index.mjs": "const x = await Promise.resolve('top-level await'); export const handler = async () => x"}, "index.handler"),
    ({"index.cjs": "exports.handler = async () => 'cjs'"}, "index.handler"),
    ({"index.js": "export const handler = async () => 'type'", "package.json": '{"type":"module"}'}, "index.handler"),
    ({"a/b/c.js": "exports.x = {y: async () => 'nested'}"}, "a/b/c.x.y"),
    ({"index.mjs": "import n from './n.cjs'; export const handler = async () => n.v", "n.cjs": "exports.v = 'mixed'"}, "index.handler"),
    ({"node_modules/dep/index.js": "exports.handler = async () => 'dependency'"}, "dep.handler"),
    ({"index.js": "exports.handler = async () => require('dep')", "node_modules/dep/index.js": "module.exports = 'own'"}, "index.handler"),
]


def test_modules(node: tuple[Engine, int]) -> None:
    said = [
        "commonjs", "module", "top-level await", "cjs", "type", "nested", "mixed", "dependency", "own",
    ]  # fmt: skip
    for n, (files, handler) in enumerate(MODULES):
        deploy(node, f"module-{n}", files, handler)
        assert invoke(node, f"module-{n}")[:2] == (said[n], None), (files, handler)


CALLBACKS = """
exports.done = (event, context, callback) => callback(null, 'called');
exports.later = (event, context, callback) => { setTimeout(() => callback(null, 'later'), 20); };
exports.error = (event, context, callback) => callback(new Error('sad'));
exports.loop = (event, context, callback) => { setTimeout(() => console.log('after'), 50); callback(null, 'waited'); };
exports.now = (event, context, callback) => { context.callbackWaitsForEmptyEventLoop = false; setTimeout(() => {}, 100000); callback(null, 'now'); };
exports.nothing = () => { setTimeout(() => console.log('done'), 10); };
exports.handler = (event, context, callback) => exports[event](event, context, callback);
"""


def test_callbacks(node: tuple[Engine, int]) -> None:
    deploy(node, "callbacks", CALLBACKS)
    if node[1] >= 24:
        payload, error, _ = invoke(node, "callbacks", "done")
        assert error == "Unhandled"
        assert payload["errorType"] == "Runtime.CallbackHandlerDeprecated"
        return
    assert invoke(node, "callbacks", "done")[0] == "called"
    assert invoke(node, "callbacks", "later")[0] == "later"
    payload, error, _ = invoke(node, "callbacks", "error")
    assert (payload["errorType"], payload["errorMessage"], error) == ("Error", "sad", "Unhandled")
    payload, _, log = invoke(node, "callbacks", "loop")
    assert payload == "waited"
    assert "INFO\tafter" in log
    payload, _, log = invoke(node, "callbacks", "nothing")
    assert payload is None
    assert "INFO\tdone" in log
    assert invoke(node, "callbacks", "now")[0] == "now"


ERRORS = """
class Sad extends Error { constructor() { super('why'); this.name = 'Sad'; this.code = 'E7'; this.more = {a: 1}; } }
exports.handler = async (which) => {
  if (which === 'error') throw new Sad();
  if (which === 'text') throw 'a text';
  if (which === 'rejection') { Promise.reject(new Error('nobody')); await new Promise((r) => setTimeout(r, 1000)); }
  if (which === 'uncaught') { setTimeout(() => { throw new RangeError('late'); }, 1); await new Promise((r) => setTimeout(r, 1000)); }
  if (which === 'never') await new Promise(() => {});
  if (which === 'exit') process.exit(5);
  return which;
};
"""


def test_errors(node: tuple[Engine, int]) -> None:
    deploy(node, "errors", ERRORS)
    payload, error, log = invoke(node, "errors", "error")
    assert error == "Unhandled"
    assert list(payload) == ["errorType", "errorMessage", "trace"]
    assert (payload["errorType"], payload["errorMessage"]) == ("Sad", "why")
    assert re.fullmatch(r"    at exports\.handler \(/var/task/index\.js:\d+:\d+\)", payload["trace"][1])
    assert not any("runtime_bootstrap" in line for line in payload["trace"])
    line = next(x for x in log.splitlines() if "Invoke Error" in x)
    at, request_id, level, rest = line.split("\t", 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert (len(request_id), level) == (36, "ERROR")
    shown = json.loads(rest.removeprefix("Invoke Error \t"))
    assert (shown["errorType"], shown["errorMessage"], shown["code"], shown["more"]) == ("Sad", "why", "E7", {"a": 1})
    assert invoke(node, "errors", "text")[0] == {"errorType": "string", "errorMessage": "a text", "trace": []}
    payload, _, log = invoke(node, "errors", "rejection")
    assert (payload["errorType"], payload["errorMessage"]) == ("Runtime.UnhandledPromiseRejection", "Error: nobody")
    assert "ERROR\tUnhandled Promise Rejection" in log
    payload, _, log = invoke(node, "errors", "uncaught")
    assert (payload["errorType"], payload["errorMessage"]) == ("RangeError", "late")
    assert "ERROR\tUncaught Exception" in log
    assert invoke(node, "errors", "never")[0]["errorType"] == "Runtime.NodeJsExit"
    payload, _, _ = invoke(node, "errors", "exit")
    assert payload["errorMessage"].endswith("Error: Runtime exited with error: exit status 5")
    assert invoke(node, "errors", "well")[0] == "well"


INIT_ERRORS: list[tuple[dict[str, str], str, str, str]] = [
    ({"index.js": ""}, "index.handler", "Runtime.HandlerNotFound", "index.handler is undefined or not exported"),
    ({"index.js": "exports.handler = 3"}, "index.handler", "Runtime.HandlerNotFound", "index.handler is not a function"),
    ({"index.js": ""}, "index", "Runtime.MalformedHandlerName", "Bad handler"),
    ({"index.js": ""}, "../index.x", "Runtime.MalformedHandlerName", "'../index.x' is not a valid handler name. Use absolute"),
    ({"index.js": ""}, "other.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'other'"),
    ({"index.js": "require('gone')"}, "index.handler", "Runtime.ImportModuleError", "Error: Cannot find module 'gone'"),
    ({"index.mjs": "import 'gone'"}, "index.handler", "Runtime.ImportModuleError", "Error"),
    ({"index.js": "exports.handler = ("}, "index.handler", "Runtime.UserCodeSyntaxError", "SyntaxError: Unexpected"),
    ({"index.js": "throw new TypeError('at init')"}, "index.handler", "TypeError", "at init"),
]


def test_init_errors(node: tuple[Engine, int]) -> None:
    for n, (files, handler, error_type, message) in enumerate(INIT_ERRORS):
        deploy(node, f"init-{n}", files, handler)
        payload, error, log = invoke(node, f"init-{n}")
        assert error == "Unhandled"
        assert (payload["errorType"], payload["errorMessage"][: len(message)]) == (error_type, message), (files, handler)
        assert f"ERROR\t{'Init Error' if node[1] >= 24 else 'Uncaught Exception'}" in log


def test_a_rejection_that_the_module_left_unhandled_is_inits(node: tuple[Engine, int]) -> None:
    deploy(node, "init-rejects", "Promise.reject(new Error('nobody listens')); exports.handler = async () => 1")
    for _ in range(2):
        payload, error, log = invoke(node, "init-rejects")
        assert error == "Unhandled"
        assert (payload["errorType"], payload["errorMessage"]) == ("Runtime.UnhandledPromiseRejection", "Error: nobody listens")
        assert "ERROR\tUnhandled Promise Rejection" in log
        assert re.search(r"INIT_REPORT .*\tPhase: invoke\tStatus: error\tError Type: Runtime.UnhandledPromiseRejection\n", log)


LOGS = """
exports.handler = async () => {
  console.log('one %s', 'two', {a: 1}); console.debug('d'); console.warn('w\\nx'); console.error(new Error('e')); console.info({k: 'v'});
  console.trace('t');
  console.fatal && console.fatal('f'); process.stdout.write('raw\\n'); return 1;
};
"""


def test_text_logs(node: tuple[Engine, int]) -> None:
    deploy(node, "logs", LOGS)
    _, _, log = invoke(node, "logs")
    assert [x.split("\t", 2)[2] for x in log.splitlines() if re.match(r"\d{4}-.*\t.{36}\t(INFO|DEBUG|WARN|FATAL|TRACE)", x)] == [
        "INFO\tone two { a: 1 }", "DEBUG\td", "WARN\tw", "INFO\t{ k: 'v' }", "TRACE\tt", "FATAL\tf",
    ]  # fmt: skip


def test_json_logs(node: tuple[Engine, int]) -> None:
    deploy(node, "json-logs", LOGS, LoggingConfig={"LogFormat": "JSON", "ApplicationLogLevel": "INFO"})
    _, _, log = invoke(node, "json-logs")
    records = [json.loads(x) for x in log.splitlines() if x.startswith('{"timestamp"')]
    assert [(r["level"], r["message"]) for r in records if r["level"] != "ERROR"] == [
        ("INFO", "one two { a: 1 }"), ("WARN", "w\nx"), ("INFO", {"k": "v"}), ("FATAL", "f"),
    ]  # fmt: skip
    error = next(r for r in records if r["level"] == "ERROR")["message"]
    assert (error["errorType"], error["errorMessage"]) == ("Error", "e")
    assert len({r["requestId"] for r in records}) == 1


STREAMS = """
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  if (event.http) stream = awslambda.HttpResponseStream.from(stream, {statusCode: 201, headers: {a: 'b'}});
  else stream.setContentType('text/plain');
  for (const piece of event.pieces ?? []) { stream.write(piece); if (event.fail) throw new Error('half'); }
  for (let n = 0; n < (event.megabytes ?? 0) * 16; n++)
    if (!stream.write(Buffer.alloc(65536, 120))) await new Promise((r) => stream.once('drain', r));
  if (!event.open) stream.end();
});
exports.sync = awslambda.streamifyResponse((event, stream) => { stream.end(); });
"""


def streamed(node: tuple[Engine, int], name: str, event: Any) -> tuple[bytes, dict[str, Any]]:
    answer = node[0].client().invoke_with_response_stream(FunctionName=name, Payload=json.dumps(event))
    with contextlib.closing(answer["EventStream"]) as opened:
        events = list(opened)
    return b"".join(e["PayloadChunk"]["Payload"] for e in events[:-1]), events[-1]["InvokeComplete"]


def test_streams(node: tuple[Engine, int]) -> None:
    deploy(node, "streams", STREAMS, MemorySize=512, Timeout=30)
    assert streamed(node, "streams", {"pieces": ["a", "b"]}) == (b"ab", {})
    assert streamed(node, "streams", {"pieces": []}) == (b"", {})
    assert streamed(node, "streams", {"http": 1, "pieces": ["x"]}) == (b'{"statusCode":201,"headers":{"a":"b"}}' + bytes(8) + b"x", {})
    payload, complete = streamed(node, "streams", {"pieces": ["one"], "fail": 1})
    assert payload == b"one"
    assert json.loads(complete["ErrorDetails"])["errorMessage"] == "half"
    payload, complete = streamed(node, "streams", {"megabytes": 20})
    assert (len(payload), complete) == (20 << 20, {})
    assert streamed(node, "streams", {"pieces": ["a"], "open": 1})[1]["ErrorCode"] == "Runtime.InvalidStreamingOperation"
    assert node[0].client().invoke(FunctionName="streams", Payload=b'{"pieces":["q"]}')["Payload"].read() == b"q"
    deploy(node, "sync-stream", STREAMS, "index.sync")
    assert streamed(node, "sync-stream", {})[1]["ErrorCode"] == "Runtime.MalformedStreamingHandler"


def test_node_options_and_layers(node: tuple[Engine, int]) -> None:
    """What Node.js reads at its start, and NODE_PATH."""
    client = node[0].client()
    layer = zip_of({"nodejs/node_modules/shared/index.js": "module.exports = 'layer'", "wrap": '#!/bin/sh\nexport WRAPPED=1\nexec "$@"\n'})
    arn = client.publish_layer_version(LayerName="shared", Content={"ZipFile": layer})["LayerVersionArn"]
    source = "exports.handler = async () => [require('shared'), process.env.WRAPPED, process.execArgv.length > 0, typeof globalThis.early]"
    deploy(
        node,
        "wrapped",
        {"index.js": source, "early.js": "globalThis.early = 1"},
        Layers=[arn],
        Environment={"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrap", "NODE_OPTIONS": "--require /var/task/early.js"}},
    )
    assert invoke(node, "wrapped")[0] == ["layer", "1", True, "number"]
    deploy(node, "no-wrapper", source, Environment={"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/none"}})
    payload, _, _ = invoke(node, "no-wrapper")
    assert payload["errorMessage"].endswith("Error: Runtime exited with error: exit status 127")


def test_a_version_that_is_not_here_is_refused(node: tuple[Engine, int]) -> None:
    client = node[0].client()
    with pytest.raises(client.exceptions.InvalidParameterValueException, match=r"Runtime nodejs18\.x is not installed on this host"):
        client.create_function(
            FunctionName="old", Role=ROLE, Runtime="nodejs18.x", Handler="a.b", Code={"ZipFile": zip_of({"a.js": ""})}
        )


def test_stacks_are_those_of_the_source_where_the_function_asks_for_it(node: tuple[Engine, int]) -> None:
    """A bundle as TypeScript's compiler leaves it: one line, with a map inside."""
    mapped = {"version": 3, "sources": ["handler.ts"], "names": [], "mappings": "AAkBA;AAmBA"}
    encoded = base64.b64encode(json.dumps(mapped).encode()).decode()
    source = "exports.handler = async () => {\nthrow new Error('mapped'); };\n//# sourceMappingURL=data:application/json;base64," + encoded
    deploy(node, "mapped", {"index.js": source}, Environment={"Variables": {"NODE_OPTIONS": "--enable-source-maps"}})
    assert "/var/task/handler.ts:38" in invoke(node, "mapped")[0]["trace"][1]
    deploy(node, "unmapped", {"index.js": source})
    assert "/var/task/index.js:2" in invoke(node, "unmapped")[0]["trace"][1]


_ODD = """
class Named extends Error { constructor (m) { super(m); this.name = 'Other'; this.code = 'X'; this.more = { a: 1 } } }
const wait = () => new Promise((resolve) => setTimeout(resolve, 10))
export const of = {
  function: async () => () => 1,
  symbol: async () => Symbol('x'),
  big: async () => 10n,
  string: async () => { throw 'text' },
  object: async () => { throw { a: 1 } },
  nothing: async () => { throw undefined },
  named: async () => { throw new Named('boom') },
  like: async () => { throw { name: 'Like', message: 'an error', stack: 'Like: an error' } },
  empty: async () => { console.log(); return 1 },
  plain: () => 5,
  callback: (event, context, callback) => { setTimeout(() => console.log('too late'), 100); callback(new Error('at once')) },
}
export const f = (event, context, ...more) => of[event.op](event, context, ...more)
"""


def test_what_is_odd_to_return_or_to_throw(node: tuple[Engine, int]) -> None:
    """As AWS's own client has it, which differs with the version."""
    modern = node[1] >= 24
    deploy(node, "odd", {"index.mjs": _ODD}, "index.f")

    def said(op: str) -> tuple[Any, str]:
        payload, _, log = invoke(node, "odd", {"op": op})
        return payload, next((line.split("\t", 3)[3] for line in log.splitlines() if "Invoke Error" in line), "")

    for op in ("function", "symbol"):
        assert said(op)[0]["errorMessage"] == "Wrong arguments"
    assert said("big")[0]["errorType"] == ("Runtime.JSONStringifyError" if modern else "Error")
    payload, log = said("string")
    assert payload == {"errorType": "string", "errorMessage": "text", "trace": []}
    assert json.loads(log.partition("\t")[2])["errorMessage"] == "text"
    payload, log = said("object")
    assert payload == {"errorType": "object", "errorMessage": "[object Object]", "trace": []}
    assert json.loads(log.partition("\t")[2])["errorType"] == "Error"
    absent = ("undefined", "undefined") if modern else ("string", "handled")
    assert (said("nothing")[0]["errorType"], said("nothing")[0]["errorMessage"]) == absent
    payload, log = said("named")
    assert (payload["errorType"], payload["errorMessage"]) == ("Other", "boom")
    shown = json.loads(log.partition("\t")[2])
    assert [*shown] == ["errorType", "errorMessage", "code", "name", "more", "stack"]
    assert shown["more"] == {"a": 1}
    if not modern:
        assert said("like")[0] == {"errorType": "Like", "errorMessage": "an error", "trace": ["Like: an error"]}
    assert "\tINFO\tundefined\n" in invoke(node, "odd", {"op": "empty"})[2]
    assert said("plain")[0] == (5 if modern else None)
    if not modern:
        # With an error the caller is answered although there is still something to do.
        payload, _, log = invoke(node, "odd", {"op": "callback"})
        assert (payload["errorMessage"], "too late" in log) == ("at once", False)


def test_errors_in_json_are_the_message(node: tuple[Engine, int]) -> None:
    deploy(node, "odd-json", {"index.mjs": _ODD}, "index.f", LoggingConfig={"LogFormat": "JSON"})
    line = next(entry for entry in map(json.loads, invoke(node, "odd-json", {"op": "named"})[2].splitlines()) if entry.get("level") == "ERROR")
    assert {key: line["message"][key] for key in ("errorType", "errorMessage", "name", "code", "more")} == {
        "errorType": "Named", "errorMessage": "boom", "name": "Other", "code": "X", "more": {"a": 1},
    }  # fmt: skip
    assert line["message"]["stackTrace"][0] == "Other: boom"


def test_the_context_of_each_version(node: tuple[Engine, int]) -> None:
    source = "exports.handler = async (event, context, ...more) => [Object.keys(context).sort(), more.length]"
    deploy(node, "context-keys", source)
    keys, more = invoke(node, "context-keys")[0]
    older = {"callbackWaitsForEmptyEventLoop", "done", "fail", "succeed"}
    assert (older & set(keys), "xRayTraceId" in keys, more) == ((set(), True, 0) if node[1] >= 24 else (older, False, 1))


def test_a_stream_takes_objects_and_ignores_what_is_returned(node: tuple[Engine, int]) -> None:
    source = "exports.handler = awslambda.streamifyResponse(async (event, stream) => { stream.write({ a: 1 }); stream.end('.'); return 'ignored' })"
    deploy(node, "stream-object", source)
    answer = node[0].client().invoke(FunctionName="stream-object", LogType="Tail")
    assert answer["Payload"].read() == b'{"a":1}.'
    assert "Streaming handlers ignore return values." in base64.b64decode(answer["LogResult"]).decode()


_EXTENSION = """
const base = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2020-01-01/extension`
const heard = []
let asked
const registered = new Promise((done) => { asked = done })
async function extension () {
  const answer = await fetch(`${base}/register`, {
    method: 'POST', body: '{"events": ["INVOKE"]}', headers: { 'Lambda-Extension-Name': 'inside' }
  })
  const me = answer.headers.get('lambda-extension-identifier')
  await answer.json()
  asked()
  for (;;) {
    const event = await fetch(`${base}/event/next`, { headers: { 'Lambda-Extension-Identifier': me } })
    heard.push((await event.json()).requestId)
  }
}
process.on('SIGTERM', () => { console.log('told to end'); process.exit(0) })
extension()
await registered
export const f = async (event) => ({ heard: heard.slice(0, event.n) })
"""


def test_an_extension_inside_the_function(node: tuple[Engine, int]) -> None:
    deploy(node, "inside", {"index.mjs": _EXTENSION}, "index.f", Timeout=10)
    client = node[0].client()
    ids: list[str] = []
    for n in range(3):
        answer = client.invoke(FunctionName="inside", Payload=json.dumps({"n": n}))
        assert json.loads(answer["Payload"].read()) == {"heard": ids}
        ids.append(answer["ResponseMetadata"]["RequestId"])
    client.delete_function(FunctionName="inside")
    until(lambda: any("told to end" in p.read_text() for p in node[0].data_dir.glob("logs/**/*inside*")), "the runtime had its SIGTERM")
