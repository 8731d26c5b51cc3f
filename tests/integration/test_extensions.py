"""Extensions and telemetry: external ones in layers beside custom, Python and Node.js functions; their life and what they are told."""

from __future__ import annotations

import base64
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.framework import clients, host
from tests.framework.engine import OWN_RUNTIME, Engine, zip_of
from tests.framework.wait import until

# Registers, subscribes, and prints whatever it is told, as JSON. What it does wrong is in its configuration, MODE.
EXTENSION = """#!{python} -IS
import http.server, json, os, sys, threading, time, urllib.request, urllib.error
API = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"]
NAME, MODE = os.path.basename(sys.argv[0]), os.environ.get("MODE", "")
def say(**what): print(json.dumps(dict(what, ext=NAME)), flush=True)
def call(method, path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data, {{k.replace("_", "-"): v for k, v in headers.items()}}, method=method)
    try:
        with urllib.request.urlopen(request) as answer: return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as e: return e.code, e.headers, e.read()
if MODE == "no-register": sys.exit(4)
events = ["INVOKE", "SHUTDOWN"]
_, headers, about = call("POST", "/2020-01-01/extension/register", {{"events": events}}, Lambda_Extension_Name=NAME, Lambda_Extension_Accept_Feature="accountId")
me = headers["Lambda-Extension-Identifier"]
say(registered=json.loads(about))
if MODE == "init-error":
    say(status=call("POST", "/2020-01-01/extension/init/error", {{}}, Lambda_Extension_Identifier=me, Lambda_Extension_Function_Error_Type="Extension.Mine")[0])
    time.sleep(5)
heard = []
class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        heard.extend(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200); self.end_headers()
    def log_message(self, *a): pass
if MODE in ("telemetry", "logs"):
    server = http.server.HTTPServer(("sandbox.localdomain", 8080), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path, version = ("/2022-07-01/telemetry", "2022-12-13") if MODE == "telemetry" else ("/2020-08-15/logs", "2021-03-18")
    say(subscribed=call("PUT", path, {{"schemaVersion": version, "types": ["platform", "function", "extension"],
        "buffering": {{"timeoutMs": 25, "maxItems": 1000, "maxBytes": 262144}},
        "destination": {{"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080/x"}}}}, Lambda_Extension_Identifier=me)[2].decode())
count = 0
while True:
    _, headers, event = call("GET", "/2020-01-01/extension/event/next", Lambda_Extension_Identifier=me)
    event = json.loads(event)
    say(event=event)
    count += 1
    if event["eventType"] == "SHUTDOWN":
        give_up = time.monotonic() + 1.6
        while MODE in ("telemetry", "logs") and time.monotonic() < give_up and not any(e["type"] == "platform.report" for e in heard): time.sleep(0.01)
        if heard: say(heard=[[e["type"], e["record"]] for e in heard if e["type"] != "extension"])
        say(bye=1)
        break
    if MODE == "crash" and count == 2: sys.exit(0)
    if MODE == "exit-error" and count == 2:
        call("POST", "/2020-01-01/extension/exit/error", {{}}, Lambda_Extension_Identifier=me, Lambda_Extension_Function_Error_Type="Extension.Mine")
        time.sleep(5)
    if MODE == "slow": time.sleep(0.3); say(slept=1)
"""
PYTHON = os.path.realpath(sys.executable)
BASH = r"""#!/bin/bash
API="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
  HEADERS=$(mktemp)
  EVENT=$(curl -sS -D "$HEADERS" "$API/invocation/next")
  ID=$(grep -i Lambda-Runtime-Aws-Request-Id "$HEADERS" | tr -d '[:space:]' | cut -d: -f2)
  echo "function says $EVENT"
  [[ "$EVENT" == '"exit"' ]] && exit 3
  [[ "$EVENT" == '"sleep"' ]] && sleep 20
  curl -sS -d "$EVENT" "$API/invocation/$ID/response" > /dev/null
done
"""
FUNCTIONS: dict[str, tuple[dict[str, str | bytes], dict[str, str]]] = {
    "custom": ({"bootstrap": BASH}, {"Runtime": "provided.al2023"}),
    "python": ({"m.py": "def f(e, c):\n    print('function says', e)\n    return e"}, {}),
}


@pytest.fixture(scope="module")
def layer(shared: Engine) -> str:
    package = zip_of({"extensions/watcher": EXTENSION.format(python=PYTHON)})
    return str(shared.client().publish_layer_version(LayerName="watcher", Content={"ZipFile": package})["LayerVersionArn"])


@pytest.fixture
def deploy(shared: Engine, layer: str) -> Callable[..., str]:
    def make(name: str, kind: str = "custom", mode: str = "", **settings: Any) -> str:
        files, about = FUNCTIONS[kind]
        shared.deploy(name, files, Layers=[layer], Environment={"Variables": {"MODE": mode}}, **{"Timeout": 10, **about, **settings})
        return name

    return make


def invoke(engine: Engine, name: str, event: Any, *, tail: bool = True) -> tuple[Any, str | None, str]:
    answer = engine.client().invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail" if tail else "None")
    return json.loads(answer["Payload"].read()), answer.get("FunctionError"), base64.b64decode(answer.get("LogResult", "")).decode()


def said(engine: Engine, name: str) -> list[dict[str, Any]]:
    """Everything the extension has printed so far."""
    path = engine.data_dir / "logs" / "000000000000" / f"{name}.log"
    found = []
    for file in engine.data_dir.glob(f"logs/**/*{name}*") if not path.exists() else [path]:
        found += [json.loads(line.split("\t", 2)[2]) for line in file.read_text().splitlines() if '"ext"' in line and '\t{"' in line]
    return found


@pytest.mark.parametrize("kind", ["custom", "python"])
def test_the_life_of_an_extension(shared: Engine, deploy: Callable[..., str], kind: str) -> None:
    name = deploy(f"ext-life-{kind}", kind)
    for n in range(2):
        payload, error, log = invoke(shared, name, {"n": n})
        assert (payload, error) == ({"n": n}, None)
        assert "function says" in log
    shared.client().delete_function(FunctionName=name)
    until(lambda: any("bye" in s for s in said(shared, name)), "the extension has ended")
    told = said(shared, name)
    assert told[0]["registered"] == {
        "functionName": name, "functionVersion": "$LATEST", "handler": "m.f", "accountId": "000000000000",
    }  # fmt: skip
    events = [s["event"] for s in told if "event" in s]
    kinds = [e["eventType"] for e in events]
    # One SHUTDOWN for each instance: on a busy host the second invocation may have found the first one's extension still at work.
    assert kinds[:1] == ["INVOKE"]
    assert (kinds.count("INVOKE"), set(kinds)) == (2, {"INVOKE", "SHUTDOWN"})
    assert set(events[0]) == {"eventType", "deadlineMs", "requestId", "invokedFunctionArn", "tracing"}
    assert events[0]["tracing"]["value"].startswith("Root=1-")
    last = events[kinds.index("SHUTDOWN")]
    assert (last["shutdownReason"], set(last)) == ("SPINDOWN", {"eventType", "shutdownReason", "deadlineMs"})


@pytest.mark.parametrize(
    ("mode", "error_type", "text"),
    [
        ("no-register", "Extension.Crash", "exit status 4"),
        ("init-error", "Extension.InitError", "Extension.Mine"),
        ("crash", "Extension.Crash", "exit code 0"),
        ("exit-error", "Extension.ExitError", "Extension.Mine"),
    ],
)
def test_the_failures_of_an_extension(shared: Engine, deploy: Callable[..., str], mode: str, error_type: str, text: str) -> None:
    name = deploy(f"ext-{mode}", mode=mode)
    if mode in ("crash", "exit-error"):
        assert invoke(shared, name, 1)[1] is None
        # It fails while the function is still at work.
        payload, error, _ = invoke(shared, name, "sleep")
    else:
        payload, error, _ = invoke(shared, name, 1)
    assert error == "Unhandled"
    assert payload["errorType"] == error_type
    assert payload["errorMessage"].endswith(f"Error: {text}")


def test_the_caller_does_not_wait_for_extensions(shared: Engine, deploy: Callable[..., str]) -> None:
    name = deploy("ext-slow", mode="slow")
    assert invoke(shared, name, 1, tail=False)[0] == 1
    assert not any("slept" in s for s in said(shared, name))
    until(lambda: any("slept" in s for s in said(shared, name)), "the extension has slept")


def test_a_timeout_and_an_exit_tell_the_extension_why(shared: Engine, deploy: Callable[..., str]) -> None:
    name = deploy("ext-timeout", mode="telemetry", Timeout=5)
    assert invoke(shared, name, "sleep")[0]["errorType"] == "Sandbox.Timedout"
    until(lambda: any("bye" in s for s in said(shared, name)), "the extension has ended")
    heard = dict(next(s["heard"] for s in said(shared, name) if "heard" in s))
    assert (heard["platform.runtimeDone"]["status"], heard["platform.report"]["status"]) == ("timeout", "timeout")
    assert [s["event"]["shutdownReason"] for s in said(shared, name) if s.get("event", {}).get("shutdownReason")] == ["TIMEOUT"]
    assert invoke(shared, name, 1)[0] == 1
    name = deploy("ext-exit")
    payload, _, _ = invoke(shared, name, "exit")
    assert payload["errorMessage"].endswith("Error: Runtime exited with error: exit status 3")
    until(lambda: any("bye" in s for s in said(shared, name)), "the extension has ended")
    assert [s["event"]["shutdownReason"] for s in said(shared, name) if s.get("event", {}).get("shutdownReason")] == ["FAILURE"]
    assert invoke(shared, name, 1)[0] == 1


@pytest.mark.parametrize("kind", ["custom", "python"])
def test_telemetry(shared: Engine, deploy: Callable[..., str], kind: str) -> None:
    name = deploy(f"telemetry-{kind}", kind, mode="telemetry")
    assert invoke(shared, name, 1)[0] == 1
    shared.client().delete_function(FunctionName=name)
    until(lambda: any("bye" in s for s in said(shared, name)), "the extension has ended")
    told = said(shared, name)
    assert next(s["subscribed"] for s in told if "subscribed" in s) == '"OK"'
    heard = next(s["heard"] for s in told if "heard" in s)
    kinds = [k for k, _ in heard]
    wanted = [
        "platform.initStart", "platform.telemetrySubscription", "platform.extension", "platform.initRuntimeDone", "platform.initReport",
        "platform.start", "function", "platform.runtimeDone", "platform.report",
    ]  # fmt: skip
    assert [k for k in kinds if k in wanted] == wanted
    of = dict(heard)
    assert of["platform.telemetrySubscription"] == {"name": "watcher", "state": "Subscribed", "types": ["platform", "function", "extension"]}
    assert of["platform.extension"] == {"name": "watcher", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]}
    assert of["function"].strip() == "function says 1"
    assert (of["platform.runtimeDone"]["status"], of["platform.runtimeDone"]["metrics"]["producedBytes"]) == ("success", 1)
    version = of["platform.initStart"].get("runtimeVersion"), "runtimeVersionArn" in of["platform.initStart"]
    assert version == ((f"python:{platform.python_version()}", True) if kind == "python" else (None, False))
    assert [s["name"] for s in of["platform.runtimeDone"]["spans"]] == ["responseLatency", "responseDuration", "runtimeOverhead"]
    metrics = of["platform.report"]["metrics"]
    assert set(metrics) == {"durationMs", "billedDurationMs", "memorySizeMB", "maxMemoryUsedMB", "initDurationMs"}
    assert metrics["memorySizeMB"] == 128


def test_the_older_logs_api(shared: Engine, deploy: Callable[..., str]) -> None:
    name = deploy("logs-api", mode="logs")
    assert invoke(shared, name, 1)[0] == 1
    shared.client().delete_function(FunctionName=name)
    until(lambda: any("bye" in s for s in said(shared, name)), "the extension has ended")
    told = said(shared, name)
    assert next(s["subscribed"] for s in told if "subscribed" in s) == '"OK"'
    heard = next(s["heard"] for s in told if "heard" in s)
    of = dict(heard)
    assert of["platform.logsSubscription"] == {"name": "watcher", "state": "Subscribed", "types": ["platform", "function", "extension"]}
    assert of["platform.extension"] == {"name": "watcher", "state": "Ready", "events": ["INVOKE", "SHUTDOWN"]}
    assert of["function"].strip() == "function says 1"
    request_id = of["platform.start"]["requestId"]
    assert of["platform.runtimeDone"] == {"requestId": request_id, "status": "success"}
    assert of["platform.end"] == {"requestId": request_id}
    assert of["platform.report"]["requestId"] == request_id
    assert {"durationMs", "billedDurationMs", "memorySizeMB"} <= of["platform.report"]["metrics"].keys()


def test_a_wrapper_before_python(shared: Engine) -> None:
    layer = zip_of({"wrap": '#!/bin/sh\nexport WRAPPED="$1" _HANDLER=m.g\nexec "$@"\n'})
    arn = shared.client().publish_layer_version(LayerName="wrapper", Content={"ZipFile": layer})["LayerVersionArn"]
    files = {"m.py": "import os\ndef f(e, c): return 0\ndef g(e, c): return [os.environ['WRAPPED'], os.environ['_HANDLER'], e]"}
    shared.deploy("wrapped-python", files, Layers=[arn], Environment={"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrap"}})
    program, handler, event = invoke(shared, "wrapped-python", 7)[0]
    assert "python" in program
    assert (handler, event) == ("m.g", 7)
    shared.deploy("unwrapped-python", files, Environment={"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/none"}})
    assert invoke(shared, "unwrapped-python", 7)[0]["errorMessage"].endswith("Error: Runtime exited with error: exit status 127")


def test_what_python_reads_when_it_starts(shared: Engine) -> None:
    source = """
import sys, faulthandler, subprocess
def f(e, c):
    flags = sys.flags
    on_path = subprocess.run(["python3", "-S", "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True, text=True).stdout
    return [flags.optimize, flags.utf8_mode, flags.dev_mode, faulthandler.is_enabled(), hash('a'), sys.warnoptions, on_path, sys.path[:4]]
"""
    early = {"PYTHONOPTIMIZE": "1", "PYTHONUTF8": "1", "PYTHONFAULTHANDLER": "1", "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "error::BytesWarning"}
    shared.deploy("early-python", {"m.py": source}, Environment={"Variables": {**early, "PYTHONPATH": "/var/task/more"}})
    alone = subprocess.run([sys.executable, "-c", "print(hash('a'))"], env={**os.environ, **early}, capture_output=True, text=True, check=True)
    *seen, path = invoke(shared, "early-python", None)[0]
    assert seen == [1, 1, False, True, int(alone.stdout), ["error::BytesWarning"], OWN_RUNTIME.removeprefix("python") + "\n"]
    assert path == ["/var/task", f"/opt/python/lib/{OWN_RUNTIME}/site-packages", "/opt/python", "/var/runtime"]


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_an_extension_on_the_official_crate(shared: Engine) -> None:
    host.require("no Rust 1.85 or newer")
    package = zip_of({"extensions/watch": clients.rust_program("watch").read_bytes()}, executable=True)
    arn = shared.client().publish_layer_version(LayerName="crate", Content={"ZipFile": package})["LayerVersionArn"]
    files, about = FUNCTIONS["custom"]
    shared.deploy("crate", files, Layers=[arn], Timeout=10, MemorySize=256, **about)
    assert invoke(shared, "crate", 5)[0] == 5
    shared.client().delete_function(FunctionName="crate")

    def log() -> str:
        return "".join(p.read_text() for p in shared.data_dir.glob("logs/**/*crate*"))

    until(lambda: "watch: shutdown" in log(), "the extension has ended")
    text = log()
    assert "watch: invoke " in text
    assert "watch: function said function says 5" in text
    assert "watch: platform PlatformReport" in text


INTERNAL = """#!{python} -IS
import http.client, json, os, threading
host = os.environ["AWS_LAMBDA_RUNTIME_API"]
heard, registered, asked = [], [], threading.Event()

def call(api, method, path, body=None, **headers):
    api.request(method, path, body, {{k.replace("_", "-"): v for k, v in headers.items()}})
    answer = api.getresponse()
    return answer, json.loads(answer.read() or b"null")

def extension():
    api = http.client.HTTPConnection(host)
    answer, body = call(api, "POST", "/2020-01-01/extension/register", '{{"events": ["INVOKE"]}}', Lambda_Extension_Name="inside")
    registered.append(body["functionName"])
    me = answer.headers["Lambda-Extension-Identifier"]
    asked.set()
    while True:
        _, event = call(api, "GET", "/2020-01-01/extension/event/next", Lambda_Extension_Identifier=me)
        heard.append(event["requestId"])

threading.Thread(target=extension, daemon=True).start()
asked.wait(10)
api = http.client.HTTPConnection(host)
while True:
    answer, event = call(api, "GET", "/2018-06-01/runtime/invocation/next")
    request_id = answer.headers["Lambda-Runtime-Aws-Request-Id"]
    call(api, "POST", f"/2018-06-01/runtime/invocation/{{request_id}}/response", json.dumps([registered, heard[: event["n"]]]))
"""


def test_an_extension_inside_the_runtimes_own_process(shared: Engine) -> None:
    """It hears of every invocation, as one of a layer does, and the next waits for it."""
    script = INTERNAL.format(python=os.path.realpath(sys.executable))
    shared.deploy("internal", zip_of({"bootstrap": script}), Runtime="provided.al2023", Timeout=10)
    client = shared.client()
    ids: list[str] = []
    for n in range(5):
        answer = client.invoke(FunctionName="internal", Payload=json.dumps({"n": n}))
        assert json.loads(answer["Payload"].read()) == [["internal"], ids]
        ids.append(answer["ResponseMetadata"]["RequestId"])
    client.delete_function(FunctionName="internal")


INSIDE_PYTHON = """
import http.client, json, os, signal, sys, threading
heard, asked = [], threading.Event()

def call(api, method, path, body=None, **headers):
    api.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = api.getresponse()
    return answer, answer.read()

def extension():
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    answer, _ = call(api, "POST", "/2020-01-01/extension/register", '{"events": ["INVOKE"]}', Lambda_Extension_Name="inside")
    me = answer.headers["Lambda-Extension-Identifier"]
    asked.set()
    while True:
        _, event = call(api, "GET", "/2020-01-01/extension/event/next", Lambda_Extension_Identifier=me)
        heard.append(json.loads(event)["requestId"])

def bye(*_):
    print("told to end", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, bye)
threading.Thread(target=extension, daemon=True).start()
asked.wait(10)

def f(event, context):
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    path = "/2018-06-01/runtime/invocation/"
    again, body = call(api, "GET", path + "next")
    mine = context.aws_request_id
    return {
        "heard": heard[: event["n"]], "again": again.headers["Lambda-Runtime-Aws-Request-Id"] == mine and json.loads(body) == event,
        "answer": [call(api, "POST", path + who + "/response", "1")[0].status for who in (mine, "0" * 36)],
        "ping": call(api, "GET", "/2018-06-01/ping")[0].status,
    }
"""
def test_an_extension_inside_a_managed_function(shared: Engine) -> None:
    """The function's code says that it will ask: it has the APIs, without a layer and without a wrapper."""
    shared.deploy("inside-python", {"m.py": INSIDE_PYTHON}, Timeout=10)
    client = shared.client()
    ids: list[str] = []
    for n in range(3):
        answer = client.invoke(FunctionName="inside-python", Payload=json.dumps({"n": n}))
        assert json.loads(answer["Payload"].read()) == {"heard": ids, "again": True, "answer": [403, 400], "ping": 200}
        ids.append(answer["ResponseMetadata"]["RequestId"])
    client.delete_function(FunctionName="inside-python")
    until(lambda: any("told to end" in p.read_text() for p in shared.data_dir.glob("logs/**/*inside-python*")), "the runtime had its SIGTERM")


ADAPTER = """#!{python} -IS
import http.client, json, os, socket, sys, time, urllib.request
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
def call(method, path, body=None, **headers):
    api.request(method, path, body, {{k.replace("_", "-"): v for k, v in headers.items()}})
    answer = api.getresponse()
    return answer, answer.read()
registered, _ = call("POST", "/2020-01-01/extension/register", '{{"events": []}}', Lambda_Extension_Name=os.path.basename(sys.argv[0]))
mine = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
mine.request("GET", "/2020-01-01/extension/event/next", headers={{"Lambda-Extension-Identifier": registered.headers["Lambda-Extension-Identifier"]}})
while True:
    try:
        socket.create_connection(("127.0.0.1", 8080)).close()
        break
    except OSError:
        time.sleep(0.02)
while True:
    answer, event = call("GET", "/2018-06-01/runtime/invocation/next")
    page = urllib.request.urlopen("http://127.0.0.1:8080" + json.loads(event)["path"]).read()
    call("POST", "/2018-06-01/runtime/invocation/%s/response" % answer.headers["Lambda-Runtime-Aws-Request-Id"], json.dumps({{"body": page.decode()}}))
"""
SERVER = """#!{python} -IS
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(("page " + self.path + " of " + os.environ["_HANDLER"]).encode())
    def log_message(self, *a): pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", 8080), Page).serve_forever()
"""


def test_a_web_server_behind_an_adapter_in_place_of_a_managed_runtime(shared: Engine) -> None:
    """An adapter's layer: the wrapper starts the function's server instead of the runtime, the extension asks for the events."""
    wrapper = '#!/bin/sh\nexec "$LAMBDA_TASK_ROOT/$_HANDLER"\n'
    layer = zip_of({"bootstrap": wrapper, "extensions/adapter": ADAPTER.format(python=PYTHON)})
    arn = shared.client().publish_layer_version(LayerName="adapter", Content={"ZipFile": layer})["LayerVersionArn"]
    shared.deploy(
        "adapted", {"run.sh": SERVER.format(python=PYTHON)}, "run.sh", Layers=[arn], Timeout=10,
        Environment={"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}},
    )  # fmt: skip
    for n in range(3):
        payload, error, log = invoke(shared, "adapted", {"path": f"/{n}"})
        assert (payload, error) == ({"body": f"page /{n} of run.sh"}, None), log
