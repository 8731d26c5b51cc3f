"""Asynchronous invocations on a real engine: what got a 202 runs, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.framework import inside
from tests.framework.collector import CODE, Collector
from tests.framework.engine import Engine, engine

MARK = {"m.py": "import time\ndef f(e, c):\n    print('ran', e['n'], c.aws_request_id)\n    time.sleep(e.get('sleep', 0))\n"}


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition not reached in time"
        time.sleep(0.02)


def send(running: Engine, name: str, event: dict[str, Any]) -> str:
    """The request id of an accepted event."""
    answer = running.client().invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event))
    assert answer["StatusCode"] == 202
    return str(answer["ResponseMetadata"]["RequestId"])


def runs(running: Engine, name: str) -> list[tuple[int, str]]:
    """(event number, request id) of every run, from the function's log."""
    log = Path(running.data_dir) / "logs" / "000000000000" / f"{name}.log"
    found = re.findall(r"ran (\d+) ([0-9a-f-]{36})", log.read_text()) if log.exists() else []
    return [(int(n), request_id) for n, request_id in found]


def depth(running: Engine) -> int:
    """Events in the queue, as the metrics say."""
    (value,) = re.findall(r"^lambda_engine_async_queue_depth (\S+)$", running.get("/metrics")[1].decode(), re.MULTILINE)
    return int(float(value))


def test_a_failing_event_runs_three_times_under_the_id_of_its_202() -> None:
    with engine(async_retry_base_s=0.3) as running:
        said = "print('ran', e['n'], c.aws_request_id, os.environ['_X_AMZN_TRACE_ID'])"
        running.deploy("fails", {"m.py": f"import os\ndef f(e, c):\n    {said}\n    raise RuntimeError('no')\n"})
        answer = running.client().invoke(FunctionName="fails", InvocationType="Event", Payload=b'{"n": 1}')["ResponseMetadata"]
        request_id, trace = answer["RequestId"], answer["HTTPHeaders"]["x-amzn-trace-id"]
        assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", trace)
        until(lambda: len(runs(running, "fails")) == 3)
        until(lambda: depth(running) == 0)
        until(lambda: runs(running, "fails") == [(1, request_id)] * 3)
        log = (Path(running.data_dir) / "logs" / "000000000000" / "fails.log").read_text()
        assert len(re.findall(rf"ran 1 {request_id} {trace};Parent=[0-9a-f]{{16}};Sampled=0\n", log)) == 3
        assert "RetriesExhausted" in running.log.read_text()


def test_a_trace_that_is_no_text_comes_back_in_one_line_and_keeps_no_event_from_running(shared: Engine) -> None:
    """A line feed in it began another header of the answer; too many letters beyond ASCII were more than a message has room for, at every attempt."""
    name = f"untraceable-{uuid.uuid4().hex}"
    shared.deploy(name, MARK)
    host, port = shared.url.removeprefix("http://").split(":")
    ids = []
    for n, trace in enumerate((b"Root=1\nSet-Cookie: a=b", b"a" + b"\xff" * 254)):
        body = b'{"n": %d}' % n
        about = b"Host: x\r\nX-Amz-Invocation-Type: Event\r\nX-Amzn-Trace-Id: %b\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n" % (trace, len(body))
        with socket.create_connection((host, int(port)), 30) as asking:
            asking.sendall(b"POST /2015-03-31/functions/%b/invocations HTTP/1.1\r\n%b%b" % (name.encode(), about, body))
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                received = asking.recv(65536)
                assert received
                answer += received
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert answer.isascii()
        assert answer.count(b"\n") == answer.count(b"\r\n")
        ids.append(re.findall(rb"x-amzn-RequestId: (\S+)", answer)[0].decode())
    until(lambda: sorted(runs(shared, name)) == [(0, ids[0]), (1, ids[1])], 120)


@pytest.mark.slow
def test_throttled_events_run_when_there_is_room() -> None:
    with engine(account_concurrency=1) as running:
        running.deploy("narrow", MARK)
        ids = [send(running, "narrow", {"n": n, "sleep": 0.2}) for n in range(4)]
        until(lambda: depth(running) == 0)
        until(lambda: sorted(runs(running, "narrow")) == [(n, ids[n]) for n in range(4)])


def test_events_outlive_the_control_plane_and_the_engine() -> None:
    """Each event runs, under its own id. Functions report to the test itself: what one printed just before the engine was killed is lost with the log's
    buffer, though it ran.
    """
    collector = Collector()
    with engine(network="host") as running:
        running.deploy("outlives", {"m.py": CODE}, Timeout=30)
        wanted = {send(running, "outlives", {"port": collector.port, "sleep": 1}) for _ in range(6)}
        os.kill(running.state()["processes"]["control"], signal.SIGKILL)
        until(lambda: running.get("/_engine/version")[0] == 200)
        wanted |= {send(running, "outlives", {"port": collector.port, "sleep": 3}) for _ in range(4)}
        running.stop(signal.SIGKILL)
        running.start()
        until(lambda: collector.runs.keys() >= wanted, 90)
        until(lambda: depth(running) == 0, 60)
        assert collector.runs.keys() == wanted
        assert max(collector.runs.values()) <= 3, "once per life of the process that ran it"
    collector.close()


def test_an_event_of_a_deleted_function_is_given_up() -> None:
    with engine(account_concurrency=1) as running:
        running.deploy("busy", MARK, Timeout=30)
        running.deploy("gone", MARK)
        send(running, "busy", {"n": 1, "sleep": 6})
        until(lambda: len(runs(running, "busy")) == 1)
        send(running, "gone", {"n": 2})
        running.client().delete_function(FunctionName="gone")
        until(lambda: depth(running) == 0)
        assert runs(running, "gone") == []
        assert "Function not found" in running.log.read_text()


def command(running: Engine, *arguments: str, status: int = 0) -> str:
    """What ``lambda-engine events`` prints."""
    line = [sys.executable, "-m", "engine.cli.main", "events", *arguments, "--data-dir", str(running.data_dir)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_the_queue_can_be_looked_at_and_changed() -> None:
    with engine() as running:
        running.deploy("fails", {"m.py": "def f(e, c):\n    print('ran', e['n'], c.aws_request_id)\n    raise RuntimeError('no')\n"})
        first, second = send(running, "fails", {"n": 1}), send(running, "fails", {"n": 2})

        def waiting() -> dict[str, Any]:
            listed = {e["id"]: e for e in json.loads(command(running, "list", "fails", "--json"))}
            return listed if all(e["failures"] == 1 for e in listed.values()) else {}

        until(lambda: len(waiting()) == 2)
        listed = waiting()
        assert {(e["function"], e["state"], e["bytes"]) for e in listed.values()} == {("fails", "waiting", 8)}
        assert command(running, "list", "other").count("\n") <= 1
        shown = json.loads(command(running, "show", first))
        assert (shown["id"], json.loads(shown["payload"]), shown["account"]) == (first, {"n": 1}, "000000000000")
        running.deploy("apart", {"m.py": "def f(e, c): raise RuntimeError(c.tenant_id)\n"}, TenancyConfig={"TenantIsolationMode": "PER_TENANT"})
        client = running.client()
        third = client.invoke(FunctionName="apart", InvocationType="Event", TenantId="blue")["ResponseMetadata"]["RequestId"]
        until(lambda: json.loads(command(running, "show", third))["failures"] == 1)
        assert json.loads(command(running, "show", third))["tenant"] == "blue"
        assert command(running, "purge", third) == "1 events are gone\n"
        assert command(running, "retry", first) == "1 events are due now\n"
        until(lambda: runs(running, "fails").count((1, first)) == 2)
        assert command(running, "purge", "--function", "fails") == "2 events are gone\n"
        assert "There is no event" in command(running, "show", first, status=1)
        assert "name events by their ids, or a function" in command(running, "purge", status=2)
        assert depth(running) == 0
        # What would be tried again in a minute or two is not: there is nothing left of it.
        inside.advance(running, 600)
        assert runs(running, "fails").count((2, second)) == 1


def test_six_hours_of_throttling_in_a_moment() -> None:
    """An event that is throttled for as long as it may live ends as too old, by a clock that is put forward."""
    with engine() as running:
        running.deploy("narrow", MARK, Timeout=60)
        client, sqs = running.client(), running.client("sqs")
        url = sqs.create_queue(QueueName="aged")["QueueUrl"]
        client.put_function_event_invoke_config(
            FunctionName="narrow", DestinationConfig={"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:000000000000:aged"}}
        )
        client.put_function_concurrency(FunctionName="narrow", ReservedConcurrentExecutions=1)
        holder = send(running, "narrow", {"n": 0, "sleep": 40})
        until(lambda: runs(running, "narrow") == [(0, holder)])
        request_id = send(running, "narrow", {"n": 1})
        until(lambda: any(e["refusals"] for e in json.loads(command(running, "list", "narrow", "--json")) if e["id"] == request_id))
        inside.advance(running, 5 * 3600)
        until(lambda: any(e["refusals"] > 1 for e in json.loads(command(running, "list", "narrow", "--json")) if e["id"] == request_id))
        inside.advance(running, 3600)
        found: list[dict[str, Any]] = []

        def told() -> bool:
            found.extend(sqs.receive_message(QueueUrl=url).get("Messages", []))
            return bool(found)

        until(told, 60)
        context = json.loads(found[0]["Body"])["requestContext"]
        assert (context["requestId"], context["condition"], context["approximateInvokeCount"]) == (request_id, "EventAgeExceeded", 0)
        # The one that holds the function's only place is not waited for.
        running.stop(signal.SIGKILL)
