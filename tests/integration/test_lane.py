"""The compiled lane answers, logs and counts exactly as the Python path: the same script against an engine with it and one without."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.client import AsyncClient, Client
from engine.supervisor import lanes
from tests.framework import host, wait
from tests.framework.engine import Engine, engine, zip_of

CODE = """import json, os, subprocess, sys, time
def f(event, context):
    what = event.get("do") if isinstance(event, dict) else None
    if what == "raise": raise ValueError("no")
    if what == "print": print("said"); print("twice", end="")
    if what == "raw": subprocess.run(["/bin/sh", "-c", "echo raw"])
    if what == "exit": os._exit(7)
    if what == "sleep": time.sleep(event["s"])
    if what == "big": return "x" * event["n"]
    if what == "context": return [context.invoked_function_arn, 0 < context.get_remaining_time_in_millis() <= 3000, os.environ["_X_AMZN_TRACE_ID"]]
    return event
"""
PATH = "/2015-03-31/functions/lane/invocations"


@pytest.fixture(scope="module", params=[True, False], ids=["compiled", "python"])
def running(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param and lanes.load() is None:
        host.require("no compiler for extensions")
        raise AssertionError("the compiled lane could have been built here and is not: reinstall the engine")
    with engine(compiled=request.param, freeze_after_s=0) as started:
        started.deploy("lane", {"m.py": CODE}, Timeout=3)
        assert post(started, b"1")[2] == b"1"
        yield started


def binary(running: Engine) -> Path:
    return running.run_dir() / "engine.sock"


def post(running: Engine, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One plain request in one piece on a connection of its own that stays open, as the lane wants it."""
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", PATH, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def log_of(running: Engine, request_id: str) -> list[str]:
    """What the log says of an invocation, without times and streams, once its REPORT is there."""
    path = running.data_dir / "logs" / "000000000000" / "lane.log"

    def lines() -> list[str]:
        found = [line.split("\t", 2) for line in (path.read_bytes().decode().split("\n") if path.exists() else ())]
        streams = {x[1] for x in found if len(x) > 2 and request_id in x[2]}
        at = [i for i, x in enumerate(found) if len(x) > 2 and request_id in x[2]]
        if not at or not found[at[-1]][2].startswith("REPORT"):
            return []
        return [x[2] for x in found[at[0] : at[-1] + 1] if x[1] in streams]

    shown = wait.until(lines, "the invocation's REPORT is in the log")
    return [re.sub(r"\d+\.\d+ ms|\d+ ms|Used: \d+ MB", "#", line.replace(request_id, "ID")) for line in shown]


PLAIN_LOG = ["START RequestId: ID Version: $LATEST", "END RequestId: ID"]
REPORT = "REPORT RequestId: ID\tDuration: #\tBilled Duration: #\tMemory Size: 128 MB\tMax Memory #\t"


def test_a_plain_answer_over_http(running: Engine) -> None:
    status, headers, body = post(running, b'{"a": "\xc3\xa9"}')
    assert (status, json.loads(body)) == (200, {"a": "é"})
    assert headers["X-Amz-Executed-Version"] == "$LATEST"
    assert headers["Content-Type"] == "application/json"
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0", headers["X-Amzn-Trace-Id"])
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", headers["x-amzn-RequestId"])
    assert set(headers) == {
        "Date", "Content-Type", "Content-Length", "x-amzn-RequestId", "X-Amz-Executed-Version", "X-Amzn-Trace-Id", "Connection",
    }  # fmt: skip
    shown = log_of(running, headers["x-amzn-RequestId"])
    assert shown[:2] == PLAIN_LOG
    assert shown[2] == REPORT


@pytest.mark.parametrize("size", [0, 16_300, 16_384, 16_385, 70_000, 1_000_000])
def test_payloads_of_every_size(running: Engine, size: int) -> None:
    body = json.dumps("y" * size).encode()
    assert post(running, body)[2] == body
    answer = json.loads(post(running, json.dumps({"do": "big", "n": size}).encode())[2])
    assert answer == "x" * size
    with Client(binary(running)) as client:
        client.invoke("lane", b"0")
        assert client.invoke("lane", body).payload == body


def test_an_empty_payload_is_an_empty_object(running: Engine) -> None:
    assert post(running, b"")[2] == b"{}"
    with Client(binary(running)) as client:
        assert [client.invoke("lane", b"").payload for _ in range(2)] == [b"{}", b"{}"]


@pytest.mark.parametrize("body", [b"{", b"nope", b"\xff", b"1 2"])
def test_what_is_not_json_is_refused(running: Engine, body: bytes) -> None:
    status, headers, answer = post(running, body)
    assert (status, headers["x-amzn-ErrorType"]) == (400, "InvalidRequestContentException")
    assert json.loads(answer)["message"].startswith("Could not parse request body into json")
    with Client(binary(running)) as client:
        assert client.invoke("lane", b"1").payload == b"1"
        with pytest.raises(Exception, match="Could not parse request body into json"):
            client.invoke("lane", body)


@pytest.mark.parametrize(
    ("event", "error", "between"),
    [
        ({"do": "raise"}, b'"errorType": "ValueError"', ["[ERROR] ValueError: no"]),
        ({"do": "exit"}, b'"errorType":"Runtime.ExitError"', []),
        ({"do": "sleep", "s": 60}, b'"errorType":"Sandbox.Timedout"', []),
        ({"do": "print"}, None, ["said", "twice"]),
        ({"do": "raw"}, None, ["raw"]),
    ],
    ids=["raises", "exits", "times-out", "prints", "prints-raw"],
)
def test_what_is_not_plain_leaves_the_lane(running: Engine, event: dict[str, Any], error: bytes | None, between: list[str]) -> None:
    assert post(running, b"1")[2] == b"1"
    status, headers, body = post(running, json.dumps(event).encode())
    assert status == 200
    assert headers.get("X-Amz-Function-Error") == (None if error is None else "Unhandled")
    assert error is None or error in body
    shown = log_of(running, headers["x-amzn-RequestId"])
    assert shown[0] == PLAIN_LOG[0]
    assert shown[-1].startswith("REPORT RequestId: ID\t")
    for text in between:
        assert any(line.startswith(text) for line in shown[1:-1]), shown
    assert post(running, b"2")[2] == b"2"


def test_context_and_trace(running: Engine) -> None:
    _, headers, body = post(running, b'{"do": "context"}')
    arn, has_time, trace = json.loads(body)
    assert (arn, has_time) == ("arn:aws:lambda:us-east-1:000000000000:function:lane", True)
    assert trace == headers["X-Amzn-Trace-Id"]


def test_pipelined_calls_of_two_functions_get_their_own_answers(running: Engine) -> None:
    if not any(f["FunctionName"] == "other" for f in running.client().list_functions()["Functions"]):
        running.deploy("other", {"m.py": "def f(e, c): return ['other', e]\n"})

    async def main() -> None:
        async with AsyncClient(binary(running)) as client:
            for _ in range(3):
                names = ["lane" if n % 3 else "other" for n in range(300)]
                results = await asyncio.gather(*(client.invoke(name, str(n).encode()) for n, name in enumerate(names)))
                got = [json.loads(r.payload) for r in results]
                assert got == [n if name == "lane" else ["other", n] for n, name in enumerate(names)]
                assert len({r.request_id for r in results}) == 300

    asyncio.run(main())


def invocations(running: Engine) -> tuple[int, dict[str, int]]:
    """(successes of the function, how many each of its histograms has counted)."""
    page = running.get("/metrics")[1].decode()
    labels = [(name, dict(re.findall(r'(\w+)="([^"]*)"', given)), float(n)) for name, given, n in re.findall(r"^(\w+)\{(.*)\} (\S+)$", page, re.MULTILINE)]
    mine = [(name, given, int(n)) for name, given, n in labels if given.get("function") == "lane"]
    done = sum(n for name, given, n in mine if name == "lambda_engine_invocations_total" and "success" in given.values())
    return done, {given["phase"]: n for name, given, n in mine if name == "lambda_engine_duration_seconds_count"}


def test_every_invocation_is_logged_and_counted(running: Engine) -> None:
    done, counted = invocations(running)

    async def main() -> set[str]:
        async with AsyncClient(binary(running)) as client:
            rounds = [await asyncio.gather(*(client.invoke("lane", b"1") for _ in range(100))) for _ in range(30)]
            return {result.request_id for results in rounds for result in results}

    ids = asyncio.run(main())
    assert len(ids) == 3000
    path = running.data_dir / "logs" / "000000000000" / "lane.log"
    log = {kind: set[str]() for kind in ("START", "END", "REPORT")}

    def complete() -> bool:
        for line in path.read_text().splitlines():
            match = re.fullmatch(r"\d{13}\t\S+\t(START|END|REPORT) RequestId: (\S{36})(?: Version: \$LATEST|\tDuration: \d+\.\d\d ms\t.*|)", line)
            if match is not None and match[2] in ids:
                log[match[1]].add(match[2])
        return all(found == ids for found in log.values())

    wait.until(complete, "three lines of each invocation are in the log")
    done_after, counted_after = invocations(running)
    assert done_after - done == 3000
    assert {"queue", "invoke", "overhead"} <= {name for name, n in counted_after.items() if n - counted[name] == 3000}, (counted, counted_after)


def test_short_work_held_together_does_not_hold_what_is_long(running: Engine) -> None:
    """Sixteen at once of which each waits for all: they must run at the same time, however short those before were."""

    async def main() -> None:
        async with AsyncClient(binary(running)) as client:
            await asyncio.gather(*(client.invoke("lane", b'{"do": "sleep", "s": 0.3}') for _ in range(16)))
            await asyncio.gather(*(client.invoke("lane", b"1") for _ in range(200)))
            loop = asyncio.get_running_loop()
            started = loop.time()
            await asyncio.gather(*(client.invoke("lane", b'{"do": "sleep", "s": 1}') for _ in range(16)))
            assert loop.time() - started < 8, "sixteen seconds of sleep one after the other"

    asyncio.run(main())


def test_a_client_that_goes_away_loses_only_its_answer(running: Engine) -> None:
    host_name, _, port = running.url.removeprefix("http://").partition(":")
    body = b'{"do": "sleep", "s": 0.2}'
    raw = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(3):
        with socket.create_connection((host_name, int(port))) as sock:
            sock.sendall(raw)
    wait.until(lambda: running.state()["in_flight"] == 0, "nothing is in flight")
    assert post(running, b"3")[2] == b"3"


def test_counters_count_every_invocation_once(running: Engine) -> None:
    def successes() -> float:
        text = running.get("/metrics")[1].decode()
        found = re.search(r'^lambda_engine_invocations_total\{[^}]*function="lane"[^}]*outcome="success"[^}]*\} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = successes()
    with Client(binary(running)) as client:
        for n in range(50):
            client.invoke("lane", str(n).encode())
    for n in range(25):
        post(running, str(n).encode())
    assert successes() == before + 75
    assert running.state()["in_flight"] == 0


def test_many_connections_at_once_over_http(running: Engine) -> None:
    answers: dict[int, bytes] = {}

    def one(n: int) -> None:
        for m in range(20):
            answers[n * 20 + m] = post(running, str(n * 20 + m).encode())[2]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: str(n).encode() for n in range(160)}


def test_an_update_under_load_runs_new_code_and_loses_nothing(running: Engine) -> None:
    client = running.client()
    running.deploy("turn", {"m.py": "def f(e, c): return 1\n"})
    with Client(binary(running)) as calls:
        assert {calls.invoke("turn", b"0").payload for _ in range(20)} == {b"1"}
        client.update_function_code(FunctionName="turn", ZipFile=zip_of({"m.py": "def f(e, c): return 2\n"}))
        client.get_waiter("function_updated_v2").wait(FunctionName="turn")
        assert {calls.invoke("turn", b"0").payload for _ in range(20)} == {b"2"}
    client.delete_function(FunctionName="turn")


# Behind the agent: an answer and being ready for the next event are two things.
FOLLOWS = """#!{python} -IS
import http.client, json, os, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
base = "/2018-06-01/runtime/invocation/"
while True:
    api.request("GET", base + "next")
    answer = api.getresponse()
    event, request_id = json.loads(answer.read()), answer.headers["Lambda-Runtime-Aws-Request-Id"]
    api.request("POST", base + request_id + "/response", json.dumps({{"pid": os.getpid(), **event}}), {{"Content-Type": "application/json"}})
    api.getresponse().read()
    time.sleep(event.get("after", 0))
    if event.get("exit"):
        os._exit(3)
"""


class Caller:
    """One connection that says the same for ever."""

    def __init__(self, running: Engine) -> None:
        self._connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=30)

    def __call__(self, **event: Any) -> dict[str, Any]:
        self._connection.request("POST", PATH.replace("lane", "follows"), json.dumps(event))
        answer = self._connection.getresponse()
        assert answer.status == 200
        found: dict[str, Any] = json.loads(answer.read())
        assert {**event, "pid": found["pid"]} == found
        return found

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def follows(running: Engine) -> Iterator[Engine]:
    """A custom runtime; it lives for one test."""
    script = FOLLOWS.format(python=os.path.realpath(sys.executable))
    running.deploy("follows", zip_of({"bootstrap": script}), Runtime="provided.al2023", Timeout=3)
    yield running
    running.client().delete_function(FunctionName="follows")


def test_events_one_after_the_other_are_each_answered_once(follows: Engine) -> None:
    """How many runtimes share them depends on how soon each asks for more."""

    def counted() -> float:
        lines = follows.get("/metrics")[1].decode().splitlines()
        mine = [x for x in lines if x.startswith("lambda_engine_invocations_total") and '"follows"' in x and '"success"' in x]
        return sum(float(x.rpartition(" ")[2]) for x in mine)

    before = counted()
    call = Caller(follows)
    for n in range(60):
        assert call(n=n)["n"] == n
    call.close()
    wait.until(lambda: counted() == before + 60, "each is counted once")


@pytest.mark.parametrize("what", [{"after": 0.05}, {"after": 0.6}, {"exit": 1}, {"after": 0.01, "exit": 1}, {"after": 30}], ids=repr)
def test_who_follows_an_answer_is_answered_whatever_its_runtime_does_next(follows: Engine, what: dict[str, Any]) -> None:
    """It is late, it ends, it never comes back."""
    call = Caller(follows)
    for n in range(4):
        for m in range(3):
            call(n=n, m=m)
        call(**what)
    call(n=9)
    call.close()


def test_many_who_follow_at_once(follows: Engine) -> None:
    def calls(k: int) -> None:
        call = Caller(follows)
        for n in range(30):
            call(n=n, k=k, after=0.03 if n % 10 == k else 0)
        call.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(calls, range(6)))
    wait.until(lambda: follows.state()["in_flight"] == 0, "nothing is under way")
