"""Functions created and invoked by boto3, the AWS CLI and the binary client on a real engine."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import importlib.metadata
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from engine.client import AsyncClient
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, zip_of

ECHO = {"m.py": "import os\nN = 0\ndef f(e, c):\n    global N\n    N += 1\n    return {'event': e, 'n': N, 'pid': os.getpid(), 'id': c.aws_request_id}\n"}


def call(shared: Engine, name: str, event: Any = None, **options: Any) -> tuple[dict[str, Any], Any]:
    """The whole answer and the decoded payload."""
    answer = shared.client().invoke(FunctionName=name, Payload=json.dumps(event if event is not None else {}), **options)
    return answer, json.loads(answer["Payload"].read() or b"null")


def test_cold_then_warm_then_tail(shared: Engine) -> None:
    shared.deploy("cold-warm", ECHO)
    answer, first = call(shared, "cold-warm", {"x": [1, "é"]})
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in answer
    assert first["event"] == {"x": [1, "é"]}
    assert first["n"] == 1
    assert answer["ResponseMetadata"]["RequestId"] == first["id"]
    answer, second = call(shared, "cold-warm", {}, LogType="Tail")
    assert second["n"] == 2, "the warm instance was reused"
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert tail.startswith(f"START RequestId: {second['id']} Version: $LATEST\n")
    assert f"END RequestId: {second['id']}\nREPORT RequestId: {second['id']}\tDuration: " in tail
    assert "Max Memory Used: " in tail


def test_a_hundred_at_once_each_get_their_own_answer(shared: Engine) -> None:
    shared.deploy("hundred", ECHO)
    client = shared.client()

    def one(n: int) -> int:
        return int(json.loads(client.invoke(FunctionName="hundred", Payload=str(n))["Payload"].read())["event"])

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert sorted(pool.map(one, range(100))) == list(range(100))


def test_dry_run_and_event_types(shared: Engine) -> None:
    shared.deploy("kinds", ECHO)
    answer, _ = call(shared, "kinds", {}, InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    answer, payload = call(shared, "kinds", {}, InvocationType="Event")
    assert answer["StatusCode"] == 202
    assert payload is None
    assert "ExecutedVersion" not in answer


def test_an_asynchronous_event_runs(shared: Engine, tmp_path: Path) -> None:
    shared.deploy("later", {"m.py": "def f(e, c):\n    print('ran with', e['mark'])\n"})
    call(shared, "later", {"mark": "k7"}, InvocationType="Event")
    log = shared.data_dir / "logs" / "000000000000" / "later.log"

    async def seen() -> None:
        async with asyncio.timeout(20):
            while not (log.exists() and "ran with k7" in log.read_text()):
                await asyncio.sleep(0.02)

    asyncio.run(seen())


def test_unknown_functions_and_qualifiers(shared: Engine) -> None:
    with pytest.raises(ClientError) as caught:
        call(shared, "no-such-function")
    error = caught.value.response
    assert error["Error"]["Code"] == "ResourceNotFoundException"
    assert error["Error"]["Message"] == "Function not found: arn:aws:lambda:us-east-1:000000000000:function:no-such-function:$LATEST"
    shared.deploy("qualified", ECHO)
    with pytest.raises(ClientError, match="function:qualified:7"):
        call(shared, "qualified", {}, Qualifier="7")


def test_versions_are_invocable_and_frozen(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("versions", {"m.py": "def f(e, c): return 'one ' + c.function_version"})
    client.publish_version(FunctionName="versions")
    client.update_function_code(FunctionName="versions", ZipFile=zip_of({"m.py": "def f(e, c): return 'two ' + c.function_version"}))
    client.get_waiter("function_updated_v2").wait(FunctionName="versions")
    answer, payload = call(shared, "versions", {}, Qualifier="1")
    assert (answer["ExecutedVersion"], payload) == ("1", "one 1")
    assert call(shared, "versions")[1] == "two $LATEST"
    assert call(shared, "arn:aws:lambda:us-east-1:000000000000:function:versions:1")[1] == "one 1"


def test_a_configuration_update_reaches_the_next_invocation(shared: Engine) -> None:
    shared.deploy("settings", {"m.py": "import os\ndef f(e, c): return [os.environ.get('KEY'), c.memory_limit_in_mb]"})
    assert call(shared, "settings")[1] == [None, "128"]
    client = shared.client()
    client.update_function_configuration(FunctionName="settings", Environment={"Variables": {"KEY": "v"}}, MemorySize=256)
    client.get_waiter("function_updated_v2").wait(FunctionName="settings")
    assert call(shared, "settings")[1] == ["v", "256"]


def test_code_location_gives_the_package_back(shared: Engine) -> None:
    code = zip_of(ECHO)
    shared.deploy("location", code)
    location = shared.client().get_function(FunctionName="location")["Code"]["Location"]
    with urllib.request.urlopen(location, timeout=10) as answer:
        assert answer.read() == code


def test_a_deleted_function_is_gone_at_once(shared: Engine) -> None:
    shared.deploy("deleted", ECHO)
    call(shared, "deleted")
    shared.client().delete_function(FunctionName="deleted")
    with pytest.raises(ClientError, match="Function not found"):
        call(shared, "deleted")


def test_a_package_from_the_embedded_s3(shared: Engine) -> None:
    s3 = shared.client("s3")
    s3.create_bucket(Bucket="packages")
    s3.put_object(Bucket="packages", Key="k/f.zip", Body=zip_of(ECHO))
    client = shared.client()
    client.create_function(
        FunctionName="from-s3", Role=ROLE, Handler="m.f", Runtime=f"python3.{sys.version_info.minor}", Code={"S3Bucket": "packages", "S3Key": "k/f.zip"}
    )
    client.get_waiter("function_active_v2").wait(FunctionName="from-s3")
    assert call(shared, "from-s3", 5)[1]["event"] == 5


def test_boto3_inside_a_function_reaches_the_same_account(shared: Engine) -> None:
    code = (
        "import boto3, importlib.metadata, subprocess\n"
        "def f(e, c):\n"
        "    s3 = boto3.client('s3')\n"
        "    s3.create_bucket(Bucket=e['bucket'])\n"
        "    s3.put_object(Bucket=e['bucket'], Key='k', Body=b'from inside')\n"
        "    versions = [importlib.metadata.version(name) for name in ('boto3', 'python-dateutil')]\n"
        "    run = lambda name: subprocess.run([name, '-V'], capture_output=True, text=True).stdout.split()[1].rpartition('.')[0]\n"
        "    return [boto3.__version__, *versions, run('python'), run('python3')]\n"
    )
    shared.deploy("inside", {"m.py": code}, Timeout=60, MemorySize=512)
    answer, payload = call(shared, "inside", {"bucket": "made-inside"})
    assert "FunctionError" not in answer, payload
    assert shared.client("s3").get_object(Bucket="made-inside", Key="k")["Body"].read() == b"from inside"
    # As instrumentation asks before it believes that something is there.
    assert payload == [boto3.__version__, boto3.__version__, importlib.metadata.version("python-dateutil"), *2 * [OWN_RUNTIME.removeprefix("python")]]


def test_the_aws_cli_deploys_and_invokes(shared: Engine, tmp_path: Path) -> None:
    package, out = tmp_path / "f.zip", tmp_path / "out.json"
    package.write_bytes(zip_of(ECHO))
    env = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_PAGER": ""}

    def aws(*words: str) -> str:
        argv = [sys.executable, "-m", "awscli", "--endpoint-url", shared.url, "lambda", *words]
        return subprocess.run(argv, env=env, check=True, capture_output=True, text=True, timeout=120).stdout

    runtime = f"python3.{sys.version_info.minor}"
    made = json.loads(
        aws("create-function", "--function-name", "by-cli", "--runtime", runtime, "--handler", "m.f", "--role", ROLE, "--zip-file", f"fileb://{package}")
    )
    assert made["FunctionArn"].endswith(":function:by-cli")
    aws("wait", "function-active-v2", "--function-name", "by-cli")
    told = json.loads(aws("invoke", "--function-name", "by-cli", "--payload", '{"a":1}', str(out)))
    assert told["StatusCode"] == 200
    assert json.loads(out.read_text())["event"] == {"a": 1}


def test_the_binary_client_invokes(shared: Engine) -> None:
    shared.deploy("binary", ECHO)

    async def scenario() -> None:
        async with AsyncClient(shared.run_dir() / "engine.sock") as client:
            results = await asyncio.gather(*(client.invoke("binary", b"%d" % n) for n in range(20)))
            assert sorted(json.loads(r.payload)["event"] for r in results) == list(range(20))

    asyncio.run(scenario())


def test_metrics_and_state_tell_what_happened(shared: Engine) -> None:
    shared.deploy("measured", {"m.py": "def f(e, c):\n    if e.get('fail'): raise KeyError('x')\n    return 1"})
    for fail in (False, True, False):
        call(shared, "measured", {"fail": fail})
    status, page = shared.get("/metrics")
    text = page.decode()
    assert status == 200
    lines = [line for line in text.splitlines() if 'function="measured"' in line]
    assert any("lambda_engine_invocations_total" in x and 'outcome="success"' in x and x.endswith(" 2.0") for x in lines), lines
    assert any("lambda_engine_errors_total" in x and "KeyError" in x for x in lines), lines
    assert any("lambda_engine_cold_starts_total" in x for x in lines)
    assert any("lambda_engine_duration_seconds_bucket" in x and 'phase="invoke"' in x for x in lines)
    state = shared.state()
    assert state["ready"] is True
    assert any(i["function"] == "measured" and i["state"] == "idle" for i in state["instances"])
    assert shared.get("/livez") == (200, b"ok\n")
    assert json.loads(shared.get("/_engine/version")[1])["runtimes"][OWN_RUNTIME].startswith(OWN_RUNTIME.removeprefix("python") + ".")


def test_operations_that_are_not_there_say_so(shared: Engine) -> None:
    with pytest.raises(ClientError) as caught:
        shared.client().list_capacity_providers()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert "ListCapacityProviders" in str(caught.value)
