"""SnapStart in a real engine: init once, copies in sandboxes of their own, and everything that must not be the same in two of them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.sandbox.interpreters import discover
from tests.framework import wait
from tests.framework.control import refused
from tests.framework.engine import Engine, engine
from tests.framework.frame_server import until

RUNTIME = next((r for r in ("python3.12", "python3.13", "python3.14") if r in discover()), None)
pytestmark = pytest.mark.skipif(RUNTIME is None, reason="SnapStart needs an interpreter of Python 3.12 or later")

# Runs until its function has the tag "go": held without guessing how long anything takes.
HOLD = """
import json, os, time, urllib.request
def hold(context):
    arn = ":".join(context.invoked_function_arn.split(":")[:7])
    url = os.environ["AWS_ENDPOINT_URL"] + "/2017-03-31/tags/" + arn.replace(":", "%3A")
    while "go" not in json.load(urllib.request.urlopen(url))["Tags"]:
        time.sleep(0.05)
"""
SOURCE = HOLD + """
import importlib.util, os, random, secrets, ssl, tempfile, time, uuid
assert importlib.util.find_spec("snapshot_restore_py"), "how code that also runs elsewhere asks for it"
from snapshot_restore_py import register_after_restore, register_before_snapshot
INIT = uuid.uuid4().hex
SEEN = []
register_before_snapshot(SEEN.append, "before")
register_after_restore(SEEN.append, "after")
try:
    import numpy
except ImportError:
    numpy = None
def f(event, context):
    time.sleep(event.get("s", 0))
    if event.get("hold"): hold(context)
    unique = [random.random(), secrets.token_hex(8), str(uuid.uuid4()), tempfile.mktemp(), ssl.RAND_bytes(8).hex()]
    if numpy is not None:
        unique.append(float(numpy.random.rand()))
    return {"init": INIT, "seen": SEEN, "kind": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], "unique": unique,
            "tmp": os.listdir("/tmp"), "pid": os.getpid(), "group": os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME"),
            "stream": context.log_stream_name, "stream_variable": os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME"), "made": open("/tmp/made", "w").write("x")}
"""


def state(client: Any, name: str, qualifier: str = "1") -> str:
    return str(client.get_function_configuration(FunctionName=name, Qualifier=qualifier)["State"])


def publish(engine: Engine, name: str, source: str, **settings: Any) -> Any:
    """A function whose version 1 starts from a snapshot; the client, once that is over."""
    client = engine.client()
    engine.deploy(name, {"m.py": source}, Runtime=RUNTIME, SnapStart={"ApplyOn": "PublishedVersions"}, **settings)
    client.publish_version(FunctionName=name)
    until(lambda: state(client, name) != "Pending", 60)
    return client


def call(client: Any, name: str, qualifier: str = "1", **event: Any) -> Any:
    answer = client.invoke(FunctionName=name, Qualifier=qualifier, Payload=json.dumps(event), LogType="Tail")
    return json.loads(answer["Payload"].read())


def together(engine: Engine, client: Any, name: str, events: list[dict[str, Any]]) -> list[Any]:
    """The answers of as many instances, each of which holds its event until all of them do."""
    with ThreadPoolExecutor(len(events)) as pool:
        answers = [pool.submit(call, client, name, **event) for event in events]
        try:
            wait.until(lambda: [i["state"] for i in engine.state()["instances"] if i["function"] == name].count("busy") == len(events), "all at work", 60)
        finally:
            client.tag_resource(Resource=client.get_function(FunctionName=name)["Configuration"]["FunctionArn"], Tags={"go": ""})
        return [answer.result() for answer in answers]


def test_versions_are_restored_and_differ_in_what_must_differ(shared: Engine) -> None:
    client = publish(shared, "snap", SOURCE, Timeout=60)
    assert state(client, "snap") == "Active"
    shown = client.get_function_configuration(FunctionName="snap", Qualifier="1")["SnapStart"]
    assert shown == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    assert client.get_function_configuration(FunctionName="snap")["SnapStart"]["OptimizationStatus"] == "Off"
    seen = together(shared, client, "snap", [{"hold": True}] * 4)
    assert {s["kind"] for s in seen} == {"snap-start"}
    assert {s["group"] for s in seen} == {None}, "there is no such variable under SnapStart"
    assert {s["init"] for s in seen} == {seen[0]["init"]}, "init ran once"
    assert all(s["seen"] == ["before", "after"] for s in seen)
    assert all(s["tmp"] == [] for s in seen), "a /tmp each"
    assert len({s["stream"] for s in seen}) == 4
    for values in zip(*(s["unique"] for s in seen), strict=True):
        assert len(set(values)) == 4, values
    latest = call(client, "snap", "$LATEST")
    assert (latest["kind"], latest["seen"]) == ("on-demand", [])
    assert latest["init"] != seen[0]["init"]
    path = shared.data_dir / "logs" / "000000000000" / "snap.log"
    # It is written a few times a second.
    names = [*(s["stream"] for s in seen), latest["stream"]]
    log = wait.until(lambda: text if all(f"\t{n}\tREPORT " in (text := path.read_text()) for n in names) else None, "REPORT of each invocation")
    assert "RESTORE_START Runtime Version: python:" in log
    assert "RESTORE_REPORT Restore Duration: " in log
    assert log.index("RESTORE_START") < log.index("RESTORE_REPORT") < log.index("Version: 1\n")
    streams = [[int(line.split("\t")[0]) for line in log.splitlines() if f"\t{name}\t" in line] for name in names]
    assert all(len(times) > 2 and times == sorted(times) for times in streams), "readers sort by time"
    assert "\tRestore Duration: " in log
    assert "\tBilled Restore Duration: " in log


def test_init_that_fails_fails_the_version(shared: Engine) -> None:
    client = publish(shared, "snap-bad", "raise RuntimeError('no')\n")
    assert state(client, "snap-bad") == "Failed"
    assert refused(client.invoke, FunctionName="snap-bad", Qualifier="1")[:2] == (409, "ResourceConflictException")


def test_a_version_is_pending_while_its_snapshot_is_made(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("snap-slow", {"m.py": "import time\ntime.sleep(5)\ndef f(e, c): return 1\n"}, Runtime=RUNTIME, SnapStart={"ApplyOn": "PublishedVersions"})
    assert client.publish_version(FunctionName="snap-slow")["State"] == "Pending"
    assert refused(client.invoke, FunctionName="snap-slow", Qualifier="1") == (
        409,
        "SnapStartNotReadyException",
        "Lambda is initializing your function. It will be ready to invoke once your function state becomes ACTIVE.",
    )
    until(lambda: state(client, "snap-slow") == "Active", 60)
    assert call(client, "snap-slow") == 1


def test_threads_leave_the_version_without_a_template_and_say_so(shared: Engine) -> None:
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(9e5,), daemon=True).start()\n" + SOURCE
    client = publish(shared, "snap-threads", source)
    shown = client.get_function_configuration(FunctionName="snap-threads", Qualifier="1")
    assert (shown["State"], shown["StateReason"]) == ("Active", "SnapStart: its init leaves threads or child processes running, which a copy would not have")
    answer = call(client, "snap-threads")
    assert (answer["kind"], answer["seen"]) == ("snap-start", ["before", "after"])


def test_sockets_are_a_warning_and_dead_in_copies(shared: Engine) -> None:
    source = "import socket\nL = socket.create_server(('127.0.0.1', 0))\nA = socket.create_connection(L.getsockname())\ndef f(e, c): return A.recv(1).hex()\n"
    client = publish(shared, "snap-sockets", source)
    shown = client.get_function_configuration(FunctionName="snap-sockets", Qualifier="1")
    assert shown["StateReason"].startswith("SnapStart: 2 open sockets")
    assert call(client, "snap-sockets") == ""


# Each of these is shared by a process and its forks: what one of them does to it, the others find.
OPEN = HOLD + """
import asyncio, mmap, os, socket, tempfile, time
with open("/tmp/kept", "w") as kept: kept.writelines("%07d\\n" % n for n in range(5000))
os.makedirs("/tmp/deep/er"); os.symlink("../../kept", "/tmp/deep/er/link")
FILE = open("/tmp/kept", "rb", buffering=0)
CODE = open(__file__, "rb", buffering=0); CODE.seek(1)
GONE = tempfile.TemporaryFile(); GONE.write(b"gone"); GONE.flush()
READ, WRITE = os.pipe(); os.write(WRITE, b"init "); os.set_blocking(READ, False)
ONE, OTHER = socket.socketpair(); ONE.send(b"init ")
COUNTER = os.eventfd(5, os.EFD_NONBLOCK)
MEMORY = mmap.mmap(-1, 100_000_000); MEMORY[50_000_000] = 7
LOOP = asyncio.new_event_loop(); asyncio.set_event_loop(LOOP)
LOOP.run_until_complete(asyncio.sleep(0))
def f(event, context):
    n = event["n"]
    os.write(WRITE, b"%d" % n); ONE.send(b"%d" % n); os.eventfd_write(COUNTER, n); GONE.seek(4); GONE.write(b"%d" % n); GONE.flush()
    MEMORY[50_000_000] += n
    with open("/tmp/deep/er/link", "a") as kept: kept.write("%d" % n)
    hold(context)
    wrong = offset = 0
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        at = offset = (offset + 7919 * (n + 1)) % 5000
        FILE.seek(at * 8); wrong += int(FILE.read(8)) != at
    GONE.seek(0)
    same = asyncio.get_event_loop_policy().get_event_loop() is LOOP
    return {"pipe": os.read(READ, 99).decode(), "pair": OTHER.recv(99).decode(), "counter": os.eventfd_read(COUNTER), "gone": GONE.read().decode(),
            "memory": MEMORY[50_000_000], "wrong": wrong, "size": os.stat("/tmp/kept").st_size, "code": CODE.tell(), "loop": same,
            "thread": LOOP.run_until_complete(LOOP.run_in_executor(None, abs, -n))}
"""


def test_copies_share_nothing_that_was_open(shared: Engine) -> None:
    client = publish(shared, "snap-open", OPEN, Timeout=60, MemorySize=512)
    shown = client.get_function_configuration(FunctionName="snap-open", Qualifier="1")
    assert shown.get("StateReason") is None, "nothing of it is a connection"
    for n, answer in enumerate(together(shared, client, "snap-open", [{"n": n} for n in range(3)])):
        assert answer == {
            "pipe": f"init {n}", "pair": f"init {n}", "counter": 5 + n, "gone": f"gone{n}", "memory": 7 + n,
            "wrong": 0, "size": 40_001, "code": 1, "loop": True, "thread": n,
        }  # fmt: skip


def test_children_leave_the_version_without_a_template(shared: Engine) -> None:
    source = "import subprocess\nP = subprocess.Popen(['sleep', '900'])\ndef f(e, c): return P.poll()\n"
    client = publish(shared, "snap-child", source)
    shown = client.get_function_configuration(FunctionName="snap-child", Qualifier="1")
    assert shown["StateReason"] == "SnapStart: its init leaves threads or child processes running, which a copy would not have"
    assert call(client, "snap-child") is None, "it runs on"


def test_a_hook_that_fails_after_the_restore_is_told_to_the_caller(shared: Engine) -> None:
    source = "from snapshot_restore_py import register_after_restore\n@register_after_restore\ndef h(): raise OSError('no')\ndef f(e, c): pass\n"
    client = publish(shared, "snap-hook", source)
    answer = client.invoke(FunctionName="snap-hook", Qualifier="1", LogType="Tail")
    assert answer["FunctionError"] == "Unhandled"
    lines = [line.split(" ")[0] for line in base64.b64decode(answer["LogResult"]).decode().splitlines() if " RequestId: " in line]
    assert lines == ["START", "END", "REPORT"]
    assert json.loads(answer["Payload"].read())["errorMessage"] == "no"


def test_crashes_and_timeouts_of_copies_are_replaced_by_fresh_copies(shared: Engine) -> None:
    client = publish(shared, "snap-crash", "import os, time\ndef f(e, c):\n    if e.get('s'): time.sleep(60)\n    if e.get('x'): os._exit(3)\n    return 1\n", Timeout=4)
    assert "exit status 3" in str(call(client, "snap-crash", x=1))
    assert call(client, "snap-crash") == 1
    assert "Task timed out after 4.00 seconds" in str(call(client, "snap-crash", s=1))
    assert call(client, "snap-crash") == 1


def test_what_cannot_have_it(shared: Engine) -> None:
    client = shared.client()
    snap = {"SnapStart": {"ApplyOn": "PublishedVersions"}}
    shared.deploy("snap-rules", {"m.py": SOURCE}, Runtime=RUNTIME, Publish=True)
    tmp = refused(client.update_function_configuration, FunctionName="snap-rules", EphemeralStorage={"Size": 1024}, **snap)
    assert tmp[:2] == (400, "InvalidParameterValueException")
    if "python3.11" in discover():
        old = refused(client.update_function_configuration, FunctionName="snap-rules", Runtime="python3.11", **snap)
        assert old == (400, "InvalidParameterValueException", "python3.11 is not supported for SnapStart enabled functions.")
    client.update_function_configuration(FunctionName="snap-rules", **snap)
    number = client.publish_version(FunctionName="snap-rules")["Version"]
    put = client.put_provisioned_concurrency_config
    assert refused(put, FunctionName="snap-rules", Qualifier=number, ProvisionedConcurrentExecutions=1)[0] == 400


CREDENTIALS = """
import boto3, os, urllib.request, urllib.error
SEEN = boto3.client("sts")._request_signer._credentials.get_frozen_credentials().access_key
def f(event, context):
    credentials = boto3.Session().get_credentials()
    request = urllib.request.Request(os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers={"Authorization": "guess"})
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as e:
        refused = [e.code, e.read().decode()]
    return {"init": SEEN, "method": credentials.method, "key": credentials.access_key, "refused": refused, "static": os.environ.get("AWS_ACCESS_KEY_ID"),
            "token": os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]}
"""


def check_credentials(running: Engine, name: str) -> None:
    """boto3 finds its way to credentials, in an init as in what is restored of it."""
    client = publish(running, name, CREDENTIALS, MemorySize=256, Timeout=60)
    seen = call(client, name)
    assert (seen["method"], seen["static"]) == ("container-role", None)
    assert seen["key"] == seen["init"]
    assert seen["refused"] == [404, "cannot get credentials for the provided token\n"]
    shown = client.get_function_configuration(FunctionName=name, Qualifier="1")
    assert "sockets" not in shown.get("StateReason", ""), "asking during init leaves no connection behind"


def test_credentials_are_asked_for_with_a_token(shared: Engine) -> None:
    check_credentials(shared, "snap-keys")


@pytest.mark.slow
@pytest.mark.parametrize("level", ["user", "process"])
def test_credentials_at_lower_levels(level: str) -> None:
    with engine(sandbox=level) as running:
        check_credentials(running, "snap-keys")


@pytest.mark.slow
def test_the_switch_gives_latest_a_template_from_its_second_cold_start_on() -> None:
    with engine(snapshots=True, keep_alive_s=1) as running:
        client = running.client()
        running.deploy("any", {"m.py": SOURCE}, Runtime=RUNTIME)
        first = call(client, "any", "$LATEST")
        assert (first["kind"], first["seen"]) == ("on-demand", [])
        until(lambda: [t["stage"] for t in running.state()["templates"]] == ["ready"], 60)
        until(lambda: not [i for i in running.state()["instances"] if i["invocations"]], 60)
        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(lambda _: call(client, "any", "$LATEST", s=1.0), range(3)))
        assert {s["kind"] for s in seen} == {"snap-start"}
        assert {s["init"] for s in seen} == {seen[0]["init"]} != {first["init"]}
        running.deploy("plain", {"m.py": SOURCE}, Runtime=RUNTIME)
        client.update_function_configuration(FunctionName="any", Timeout=9)
        assert call(client, "any", "$LATEST")["kind"] == "on-demand", "another generation, another template"


@pytest.mark.slow
def test_a_copy_that_is_provisioned_says_that() -> None:
    """As any provisioned environment on Lambda, which has no such switch; and it has the variables that SnapStart takes away."""
    with engine(snapshots=True) as running:
        client = running.client()
        running.deploy("ahead", {"m.py": SOURCE}, Runtime=RUNTIME)
        client.publish_version(FunctionName="ahead")
        call(client, "ahead")
        until(lambda: "ready" in [t["stage"] for t in running.state()["templates"]], 60)
        client.put_provisioned_concurrency_config(FunctionName="ahead", Qualifier="1", ProvisionedConcurrentExecutions=3)
        until(lambda: client.get_provisioned_concurrency_config(FunctionName="ahead", Qualifier="1")["Status"] == "READY", 60)
        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(lambda _: call(client, "ahead", s=1.0), range(3)))
        assert {s["kind"] for s in seen} == {"provisioned-concurrency"}
        assert [s for s in seen if s["seen"] == ["before", "after"]], "copies are among them"
        assert {s["group"] for s in seen} == {"/aws/lambda/ahead"}
        assert all(s["stream"] == s["stream_variable"] for s in seen)


@pytest.mark.slow
def test_a_restart_builds_the_template_again_and_a_level_without_namespaces_does_without() -> None:
    with engine() as running:
        client = publish(running, "again", SOURCE)
        before = call(client, "again")
        running.stop()
        running.start()
        client = running.client()
        assert state(client, "again") == "Active"
        after = call(client, "again")
        assert (after["kind"], after["init"] != before["init"]) == ("snap-start", True)
        running.stop()
        running.settings["sandbox"] = "process"
        running.start()
        client = running.client()
        plain = call(client, "again")
        assert (plain["kind"], plain["seen"]) == ("snap-start", ["before", "after"])
        assert "no namespaces" in client.get_function_configuration(FunctionName="again", Qualifier="1")["StateReason"]


@pytest.mark.slow
def test_a_template_gives_way_on_a_full_host_and_its_copies_go_on() -> None:
    with engine(max_instances=2, pool_size=2) as running:
        client = publish(running, "tight", SOURCE, Timeout=60)
        running.deploy("other", {"m.py": "def f(e, c): return 7\n"})
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(call, client, "tight", s=4.0)
            until(lambda: [i["function"] for i in running.state()["instances"] if i["state"] == "busy"] == ["tight"], 60)
            assert call(client, "other", "$LATEST") == 7
            assert [t["stage"] for t in running.state()["templates"]] == ["absent"]
            kept = held.result(60)
        assert call(client, "tight")["pid"] == kept["pid"], "the same copy is still there"


@pytest.mark.slow
def test_a_killed_template_and_a_killed_broker_cost_an_init_and_nothing_else() -> None:
    with engine() as running:
        client = publish(running, "killed", SOURCE, Timeout=60)
        first = call(client, "killed")

        def template() -> int:
            found = [pid for name, pid in running.state()["processes"].items() if name.startswith("zygote template:killed:")]
            return found[0] if found else 0

        os.kill(template(), signal.SIGKILL)
        until(lambda: template() == 0, 60)
        with ThreadPoolExecutor(2) as pool:
            seen = list(pool.map(lambda _: call(client, "killed", s=1.0), range(2)))
        assert {s["kind"] for s in seen} == {"snap-start"}
        inits = {s["init"] for s in seen}
        assert len(inits | {first["init"]}) == 2, "the copy that was there, and one of a template built again"
        until(lambda: template() != 0, 60)
        broker = running.state()["processes"]["broker"]
        os.kill(broker, signal.SIGKILL)
        until(lambda: running.state()["processes"].get("broker") != broker, 60)
        answer: list[Any] = []

        def again() -> bool:
            with contextlib.suppress(Exception):
                answer[:] = [call(client, "killed")]
            return bool(answer) and "init" in answer[0]

        until(again, 90)
        assert answer[0]["init"] not in inits | {first["init"]}
