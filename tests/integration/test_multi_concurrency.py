"""Several invocations at once in one instance, in a real engine: threads, coroutines, logs, limits, and what cannot have it."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.framework.control import refused
from tests.framework.engine import Engine
from tests.framework.frame_server import until

TAG = "lambda-engine:max-concurrency"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
# All of them wait until all are there.
THREADS = """
import logging, os, threading, uuid
ME, together = uuid.uuid4().hex, threading.Barrier(4)
def f(event, context):
    together.wait(60)
    print("printed by", event)
    logging.getLogger().error("logged by %s", event)
    return [ME, event, os.environ["AWS_LAMBDA_MAX_CONCURRENCY"], os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]]
"""
COROUTINES = """
import asyncio, uuid
ME, here, all_here = uuid.uuid4().hex, [], asyncio.Event()
async def f(event, context):
    here.append(event)
    if len(here) == 4:
        all_here.set()
    await asyncio.wait_for(all_here.wait(), 60)
    return [ME, event]
"""


def four(engine: Engine, name: str) -> list[Any]:
    client = engine.client()
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda n: client.invoke(FunctionName=name, Payload=str(n), LogType="Tail"), range(4))
        return [(json.loads(a["Payload"].read()), a) for a in answers]


def test_threads_share_an_instance_and_keep_their_lines_apart(shared: Engine) -> None:
    shared.deploy("crew-threads", {"m.py": THREADS}, Timeout=60, MemorySize=512, Tags={TAG: "4"})
    seen = four(shared, "crew-threads")
    assert len({me for (me, *_), _ in seen}) == 1, "one instance"
    assert [event for (_, event, *_), _ in seen] == [0, 1, 2, 3]
    assert {tuple(rest) for (_, _, *rest), _ in seen} == {("4", "lambda-managed-instances")}
    for (_, event, *_), answer in seen:
        import base64

        lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        request_id = answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
        assert f"printed by {event}" in lines
        assert [e["message"] for e in events if "message" in e] == [f"logged by {event}"]
        assert {e.get("requestId") or e["record"]["requestId"] for e in events} == {request_id}
        assert [list(e["record"]["metrics"]) for e in events if e.get("type") == "platform.report"] == [["durationMs"]]
    (instance,) = [i for i in shared.state()["instances"] if i["function"] == "crew-threads"]
    assert (instance["invocations"], instance["limit"], instance["running"]) == (4, 4, 0)
    metrics = shared.get("/metrics")[1].decode()
    assert 'lambda_engine_cold_starts_total{function="crew-threads",kind="lambda-managed-instances"} 1.0' in metrics


def test_coroutine_handlers_are_awaited_on_one_loop(shared: Engine) -> None:
    shared.deploy("crew-loop", {"m.py": COROUTINES}, Timeout=60, MemorySize=512, Tags={TAG: "16"})
    seen = four(shared, "crew-loop")
    assert len({me for (me, _), _ in seen}) == 1
    assert sorted(event for (_, event), _ in seen) == [0, 1, 2, 3]


def test_the_tag_takes_effect_at_once_and_a_timeout_leaves_the_others_alone(shared: Engine) -> None:
    client = shared.client()
    source = "import threading, time\ngo = threading.Event()\ndef f(e, c):\n    if e == 'stuck':\n        time.sleep(9e5)\n    return e\n"
    shared.deploy("crew-late", {"m.py": source}, Timeout=2)

    def invoke(event: str) -> str:
        return str(json.loads(client.invoke(FunctionName="crew-late", Payload=json.dumps(event))["Payload"].read()))

    assert invoke("plain") == "plain"
    client.tag_resource(Resource=ARN + "crew-late", Tags={TAG: "2"})
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(invoke, "stuck")
        until(lambda: [i["running"] for i in shared.state()["instances"] if i["function"] == "crew-late" and i["limit"] == 2] == [1], 60)
        assert invoke("beside") == "beside"
        assert "Task timed out after 2.00 seconds" in stuck.result(60)
    assert invoke("after") == "after"
    found = [i for i in shared.state()["instances"] if i["function"] == "crew-late" and i["limit"] == 2]
    assert [(i["running"], i["state"]) for i in found] == [(1, "busy")], "the same instance, with one place lost to the thread that goes on"


def test_values_that_the_tag_cannot_have(shared: Engine) -> None:
    shared.deploy("crew-values", {"m.py": "def f(e, c): pass\n"})
    for value in ("0", "1601", "2.5", "two", ""):
        status, code, message = refused(shared.client().tag_resource, Resource=ARN + "crew-values", Tags={TAG: value})
        assert (status, code) == (400, "InvalidParameterValueException")
        assert message == f"The tag {TAG} is a whole number from 1 to 1600, not {value!r}."


OFFICIAL = """
import os, time
def handler(event, context):
    # Runs until both do: each says so in a directory that they share.
    open("/tmp/%d" % event, "w").close()
    until = time.time() + 60
    while len([n for n in os.listdir("/tmp") if n.isdigit()]) < 2 and time.time() < until:
        time.sleep(0.01)
    print("handled", event)
    if event == 7:
        raise ValueError("seven")
    return [os.getpid(), context.aws_request_id, len([n for n in os.listdir("/tmp") if n.isdigit()])]
"""


@pytest.mark.timeout(400)
def test_the_official_python_client_runs_its_processes(shared: Engine) -> None:
    from tests.framework import clients

    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(clients.python(os.path.realpath(sys.executable)))) as package, zipfile.ZipFile(made, "w") as own:
        for entry in package.infolist():
            own.writestr(entry, OFFICIAL.encode() if entry.filename == "client.py" else package.read(entry))
    shared.deploy("crew-official", made.getvalue(), "client.handler", Runtime="provided.al2023", MemorySize=1024, Timeout=90, Tags={TAG: "2"})
    client = shared.client()

    def invoke(n: int) -> Any:
        answer = client.invoke(FunctionName="crew-official", Payload=str(n))
        return json.loads(answer["Payload"].read()), answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]

    with ThreadPoolExecutor(2) as pool:
        (one, first_id), (two, second_id) = pool.map(invoke, (1, 2))
    assert (one[1], two[1], one[2], two[2]) == (first_id, second_id, 2, 2)
    assert one[0] != two[0], "a process each"
    (instance,) = [i for i in shared.state()["instances"] if i["function"] == "crew-official"]
    assert (instance["invocations"], instance["kind"]) == (2, "lambda-managed-instances")
    assert invoke(7)[0]["errorMessage"] == "seven"
