"""``provided.*``: a bootstrap of one's own, here in Bash with curl as in AWS's tutorial, and everything that can be wrong with one."""

from __future__ import annotations

import base64
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.framework import host
from tests.framework.engine import Engine, zip_of
from tests.framework.wait import until

BASH = r"""#!/bin/bash
set -euo pipefail
API="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
if [[ "$_HANDLER" == broken ]]; then
  curl -sS -H 'Lambda-Runtime-Function-Error-Type: Runtime.Broken' -d '{"errorMessage":"no","errorType":"Broken"}' "$API/init/error"
  exit 1
fi
while true; do
  HEADERS=$(mktemp)
  EVENT=$(curl -sS -D "$HEADERS" "$API/invocation/next")
  ID=$(grep -i Lambda-Runtime-Aws-Request-Id "$HEADERS" | tr -d '[:space:]' | cut -d: -f2)
  echo "handling $EVENT"
  case "$EVENT" in
    '"error"') curl -sS -d '{"errorMessage":"sad","errorType":"Sad"}' "$API/invocation/$ID/error" ;;
    '"exit"') exit 3 ;;
    '"late"') curl -sS -d '"early"' "$API/invocation/$ID/response"; sleep 0.2; echo later > /tmp/late ;;
    '"late?"') curl -sS -d "\"$(cat /tmp/late)\"" "$API/invocation/$ID/response" ;;
    '"gone"') curl -sS -d '"answered"' "$API/invocation/$ID/response"; exit 1 ;;
    '"agent"') kill -9 "$PPID"; sleep 10 ;;
    '"env"') curl -sS -d "\"$(env | cut -d= -f1 | sort | tr '\n' ' ')\"" "$API/invocation/$ID/response" ;;
    '"stream"') printf 'one' | curl -sS -H 'Lambda-Runtime-Function-Response-Mode: streaming' -H 'Transfer-Encoding: chunked' \
      -H 'Content-Type: text/x' --data-binary @- "$API/invocation/$ID/response" ;;
    *) curl -sS -d "{\"echo\":$EVENT}" "$API/invocation/$ID/response" ;;
  esac > /dev/null
done
"""


@pytest.fixture(scope="module")
def bash(shared: Engine) -> str:
    shared.deploy("in-bash", {"bootstrap": BASH}, Runtime="provided.al2023")
    return "in-bash"


def invoke(engine: Engine, name: str, event: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    answer = engine.client().invoke(FunctionName=name, Payload=json.dumps(event), **options)
    return json.loads(answer["Payload"].read()), answer


def test_a_bootstrap_in_bash(shared: Engine, bash: str) -> None:
    payload, answer = invoke(shared, bash, {"n": 1}, LogType="Tail")
    assert payload == {"echo": {"n": 1}}
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["START", "handling", "END", "REPORT"]
    payload, answer = invoke(shared, bash, "error")
    assert (payload, answer["FunctionError"]) == ({"errorMessage": "sad", "errorType": "Sad"}, "Unhandled")


def test_both_names_of_the_runtime(shared: Engine) -> None:
    shared.deploy("in-bash-al2", {"bootstrap": BASH}, Runtime="provided.al2")
    assert invoke(shared, "in-bash-al2", 1)[0] == {"echo": 1}


def test_its_environment(shared: Engine, bash: str) -> None:
    names = set(invoke(shared, bash, "env")[0].split())
    assert {"_HANDLER", "AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_LOG_STREAM_NAME"} <= names
    assert not {"AWS_EXECUTION_ENV", "PYTHONPATH", "LC_CTYPE"} & names


def test_the_caller_does_not_wait_for_what_a_runtime_does_after_its_answer(shared: Engine, bash: str) -> None:
    assert invoke(shared, bash, "late")[0] == "early"
    while (payload := invoke(shared, bash, "late?")[0]) != "later":
        # Another instance, or the first before it was done.
        assert payload == ""


def test_a_runtime_that_ends_after_its_answer_has_answered(shared: Engine, bash: str) -> None:
    payload, answer = invoke(shared, bash, "gone")
    assert (payload, answer.get("FunctionError")) == ("answered", None)
    assert invoke(shared, bash, 2)[0] == {"echo": 2}


def test_a_runtime_that_kills_its_agent_has_killed_itself(shared: Engine, bash: str) -> None:
    payload, answer = invoke(shared, bash, "agent")
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == "Runtime.ExitError"
    assert payload["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert invoke(shared, bash, 3)[0] == {"echo": 3}


def test_a_streamed_answer_is_put_together_for_a_caller_of_plain_invoke(shared: Engine, bash: str) -> None:
    answer = shared.client().invoke(FunctionName=bash, Payload=b'"stream"')
    assert answer["Payload"].read() == b"one"


def test_an_init_error_of_its_own(shared: Engine) -> None:
    shared.deploy("broken", {"bootstrap": BASH}, "broken", Runtime="provided.al2023")
    payload, answer = invoke(shared, "broken", 1, LogType="Tail")
    assert (payload, answer["FunctionError"]) == ({"errorMessage": "no", "errorType": "Broken"}, "Unhandled")
    assert "INIT_REPORT" in base64.b64decode(answer["LogResult"]).decode()


MISSING = "Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"


@pytest.mark.parametrize(
    ("name", "package", "text"),
    [
        ("none", zip_of({"x": "1"}), MISSING),
        ("not-executable", zip_of({"bootstrap": "echo"}), MISSING),
        ("directory", zip_of({"bootstrap/x": "1"}), MISSING),
        ("no-program", zip_of({"bootstrap": b"\x7fELFnonsense"}, executable=True), "fork/exec /var/task/bootstrap: exec format error"),
        ("no-interpreter", zip_of({"bootstrap": "#!/bin/none\n"}), "fork/exec /var/task/bootstrap: no such file or directory"),
    ],
)
def test_bootstraps_that_cannot_be_started(shared: Engine, name: str, package: bytes, text: str) -> None:
    shared.deploy(f"entry-{name}", package, Runtime="provided.al2023")
    for _ in range(2):
        payload, answer = invoke(shared, f"entry-{name}", 1)
        request_id = answer["ResponseMetadata"]["RequestId"]
        assert answer["FunctionError"] == "Unhandled"
        assert payload == {"errorType": "Runtime.InvalidEntrypoint", "errorMessage": f"RequestId: {request_id} Error: {text}"}


def test_a_sequence_of_invocations_stays_on_one_instance(shared: Engine, bash: str) -> None:
    """NEXT comes after the answer: a caller faster than that must not cause another cold start each time."""
    shared.deploy("in-turn", {"bootstrap": BASH}, Runtime="provided.al2023")
    for n in range(10):
        assert invoke(shared, "in-turn", n)[0] == {"echo": n}
    assert len([i for i in shared.state()["instances"] if i["function"] == "in-turn"]) <= 2


def log_of(engine: Engine, name: str) -> list[str]:
    return [line.split("\t", 2)[2] for path in engine.data_dir.glob(f"logs/**/*{name}*") for line in path.read_text().splitlines()]


def test_init_start_names_the_interpreter_of_a_managed_runtime(shared: Engine, bash: str) -> None:
    invoke(shared, bash, 1)
    shared.deploy("names-itself", {"m.py": "def f(e, c): return e"})
    shared.deploy("names-itself-json", {"m.py": "def f(e, c): return e"}, LoggingConfig={"LogFormat": "JSON"})
    for name in ("names-itself", "names-itself-json"):
        assert invoke(shared, name, 1)[0] == 1
        until(lambda name=name: any("REPORT" in x or "platform.report" in x for x in log_of(shared, f"{name}.")), "REPORT is written")  # type: ignore[misc]
    version = platform.python_version()
    arn = shared.client().get_function_configuration(FunctionName="names-itself")["RuntimeVersionConfig"]["RuntimeVersionArn"]
    assert log_of(shared, "names-itself.")[0] == f"INIT_START Runtime Version: python:{version}\tRuntime Version ARN: {arn}"
    event = json.loads(log_of(shared, "names-itself-json.")[0])
    assert event["type"] == "platform.initStart"
    assert event["record"]["runtimeVersion"] == f"python:{version}"
    assert event["record"]["instanceMaxMemory"] == 128 * 1024 * 1024
    assert not any("INIT_START" in line for line in log_of(shared, bash))


def test_a_runtime_in_cpp(shared: Engine, tmp_path: Path) -> None:
    host.require("no C++ compiler")
    source = Path(__file__).parents[1] / "clients/cpp/main.cpp"
    words = ["c++", "-O1", "-static-libstdc++", "-static-libgcc", "-o", str(tmp_path / "bootstrap"), str(source)]
    subprocess.run(words, check=True, timeout=300)
    shared.deploy("cpp", zip_of({"bootstrap": (tmp_path / "bootstrap").read_bytes()}, executable=True), Runtime="provided.al2023")
    client = shared.client()
    for event in ('"a"', '"b"', '["c"]', '"' + "d" * 200_000 + '"'):
        assert client.invoke(FunctionName="cpp", Payload=event.encode())["Payload"].read() == event.upper().encode()
    answer = client.invoke(FunctionName="cpp", Payload=b'"fail"')
    assert json.loads(answer["Payload"].read()) == {"errorType": "Failed", "errorMessage": "as asked"}
    assert answer["FunctionError"] == "Unhandled"
    client.delete_function(FunctionName="cpp")
