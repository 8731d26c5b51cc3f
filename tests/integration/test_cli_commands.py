"""The commands against a real engine: deploy, invoke, logs, list, aws, doctor."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from engine.cli import examples_deployer
from engine.cli.main import main
from tests.framework import wait
from tests.framework.engine import OWN_RUNTIME

WAIT_S = 30


HANDLER = """
import os

def handler(event, context):
    if event.get('print'):
        print(event['print'])
    if event.get('fail'):
        raise KeyError('told to')
    return {'event': event, 'mode': os.environ.get('MODE'), 'memory': context.memory_limit_in_mb}
"""


def environment(shared, **variables):
    """A shell's environment that knows this engine and nothing else of ours."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LAMBDA_ENGINE_", "AWS_"))}
    return {**env, "LAMBDA_ENGINE_ENDPOINT": shared.url, "LAMBDA_ENGINE_DATA_DIR": str(shared.data_dir), **variables}


@pytest.fixture
def shell(shared):
    """Runs a command as a process of its own."""

    def run(*arguments):
        argv = [sys.executable, "-m", "engine.cli.main", *map(str, arguments)]
        return subprocess.run(argv, env=environment(shared), capture_output=True, text=True, timeout=90, check=False)

    return run


@pytest.fixture
def cli(shared, monkeypatch, capsys):
    """Runs a command in this process, which spares the imports."""

    def run(*arguments, stdin="", **variables):
        with monkeypatch.context() as patch:
            for name in set(os.environ) - set(env := environment(shared, **variables)):
                patch.delenv(name)
            for name, value in env.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["lambda-engine", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            with pytest.raises(SystemExit) as left:
                main()
        return subprocess.CompletedProcess(arguments, int(left.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def source(tmp_path):
    """A function's directory."""
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "app.py").write_text(HANDLER)
    return folder


@pytest.fixture(scope="module")
def echo(shared):
    """A function that echoes, and prints or fails when told to."""
    shared.deploy("cli-echo", {"app.py": HANDLER}, handler="app.handler")
    return "cli-echo"


def test_deploy_creates_leaves_alone_and_updates(shell, cli, shared, source):
    done = shell("deploy", source, "--name", "cli-deploy", "--memory", "256", "--env", "MODE=one")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "arn:aws:lambda:us-east-1:000000000000:function:cli-deploy\n"
    said = rf"created cli-deploy \({re.escape(OWN_RUNTIME)}, [\d.]+ KiB\) in [\d.]+ s: package [\d.]+ s, upload [\d.]+ s, active [\d.]+ s\n"
    saved = (
        r"bytecode compiled once: importing 1 module takes [\d.]+ ms of reading instead of [\d.]+ ms of compiling, [\d.]+ ms less in a cold start\n"
    )
    assert re.fullmatch(said + saved, done.stderr)
    made = shared.client().get_function_configuration(FunctionName="cli-deploy")
    assert (made["Handler"], made["MemorySize"], made["Runtime"]) == ("app.handler", 256, OWN_RUNTIME)

    again = cli("deploy", source, "--name", "cli-deploy", "--memory", "256", "--env", "MODE=one", "--json")
    document = json.loads(again.stdout)
    assert (document["action"], again.stderr.count("bytecode"), document["bytecode"]["modules"]) == ("unchanged", 0, 1)
    assert document["bytecode"]["compile_us"] > document["bytecode"]["load_us"] > 0
    assert shared.client().get_function_configuration(FunctionName="cli-deploy")["RevisionId"] == made["RevisionId"]

    (source / "app.py").write_text("def handler(event, context): return 'new code'\n")
    assert json.loads(cli("deploy", source, "--name", "cli-deploy", "--timeout", "7", "--json").stdout)["action"] == "updated"
    changed = shared.client().get_function_configuration(FunctionName="cli-deploy")
    assert (changed["Timeout"], changed["MemorySize"], changed["Environment"]["Variables"]) == (7, 256, {"MODE": "one"})
    assert cli("invoke", "cli-deploy").stdout == '"new code"\n'


def test_deploy_of_a_zip(cli, source, tmp_path):
    package = tmp_path / "cli-zip.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.write(source / "app.py", "app.py")
    refused = cli("deploy", package)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "needs --handler" in refused.stderr
    done = cli("deploy", package, "--handler", "app.handler")
    assert done.returncode == 0, done.stderr
    assert json.loads(cli("invoke", "cli-zip", '{"a": 1}').stdout)["event"] == {"a": 1}


def test_deploy_says_what_the_engine_refuses(cli, source):
    misused = cli("deploy", source, "--name", "cli-refused", "--memory", "1")
    assert (misused.returncode, misused.stdout) == (2, "")
    assert "MemorySize" in misused.stderr
    other = cli("deploy", source, "--name", "cli-refused", "--runtime", "python2.7")
    assert (other.returncode, other.stdout) == (1, "")
    assert "python2.7" in other.stderr


def test_package_over_the_direct_limit_goes_through_s3(cli, shared, source):
    (source / "ballast.bin").write_bytes(os.urandom(51 * 1024 * 1024))
    done = cli("deploy", source, "--name", "cli-large")
    assert done.returncode == 0, done.stderr
    assert shared.client().get_function_configuration(FunctionName="cli-large")["CodeSize"] > 51 * 1024 * 1024
    assert json.loads(cli("invoke", "cli-large").stdout)["event"] == {}


def test_invoke_shows_answer_tail_and_json(cli, echo, tmp_path):
    event = tmp_path / "event.json"
    event.write_text('{"print": "from the handler"}')
    done = cli("invoke", echo, f"@{event}", "--tail")
    assert (done.returncode, json.loads(done.stdout)["event"]) == (0, {"print": "from the handler"})
    assert re.search(r"START RequestId[\s\S]*from the handler\n[\s\S]*END RequestId[\s\S]*REPORT RequestId", done.stderr)
    piped = cli("invoke", echo, "-", "--json", stdin='{"b": 2}')
    shown = json.loads(piped.stdout)
    assert (shown["StatusCode"], shown["ExecutedVersion"], shown["FunctionError"]) == (200, "$LATEST", None)
    assert shown["Payload"]["event"] == {"b": 2}


def test_invoke_of_a_failing_function_is_status_1(cli, echo):
    done = cli("invoke", echo, '{"fail": true}')
    assert done.returncode == 1
    assert json.loads(done.stdout)["errorType"] == "KeyError"
    assert done.stderr == "the function failed (Unhandled)\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cli-no-such",), "ResourceNotFoundException: Function not found"),
        (("cli-echo", "not json"), "InvalidRequestContentException: "),
        (("cli-echo", "--qualifier", "99"), "ResourceNotFoundException: "),
    ],
)
def test_refused_invocations_are_said(cli, echo, arguments, words):
    done = cli("invoke", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {words}")


@contextlib.contextmanager
def following(arguments, env):
    """A command that goes on until it is told to end, and a queue of the lines it prints."""
    lines: queue.Queue[str] = queue.Queue()
    # Ctrl-C as at a terminal: a test run in the background would hand its children an ignored SIGINT.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from engine.cli.main import main; main()"
    argv = [sys.executable, "-c", program, *arguments]
    follower = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    reader = threading.Thread(target=lambda: [lines.put(line) for line in follower.stdout], daemon=True)
    reader.start()
    with follower:
        try:
            yield follower, lines
        finally:
            follower.kill()
            reader.join()


def test_async_invocation_is_queued_and_its_log_followed(cli, shared, echo):
    with following(["logs", echo, "-f", "-n", "0"], environment(shared, PYTHONUNBUFFERED="1")) as (follower, lines):
        done = cli("invoke", echo, '{"print": "asynchronously"}', "--async")
        assert (done.returncode, done.stdout) == (0, "")
        assert re.fullmatch(r"queued as [0-9a-f-]{36}\n", done.stderr)
        # A follower that starts after the lines were written shows none of them: ask again until it is there.
        while True:
            with contextlib.suppress(queue.Empty):
                if "asynchronously" in lines.get(timeout=WAIT_S / 10):
                    break
            assert follower.poll() is None, follower.stderr.read()
            cli("invoke", echo, '{"print": "asynchronously"}')
        follower.send_signal(signal.SIGINT)
        assert follower.wait(WAIT_S) == 0
        assert follower.stderr.read() == ""


def test_logs_show_the_report(cli, echo):
    request = json.loads(cli("invoke", echo, '{"print": "for the log"}', "--json").stdout)["RequestId"]
    shown = ""
    deadline_s = time.monotonic() + WAIT_S
    while f"REPORT RequestId: {request}" not in shown and time.monotonic() < deadline_s:
        shown = cli("logs", echo).stdout
    assert f"START RequestId: {request}" in shown
    assert "for the log" in shown
    assert f"REPORT RequestId: {request}" in shown


def test_list_as_table_and_json(cli, echo):
    table = cli("list").stdout.splitlines()
    assert table[0].split() == ["NAME", "RUNTIME", "MEMORY", "TIMEOUT", "SIZE", "MODIFIED"]
    assert any(line.split()[:2] == [echo, OWN_RUNTIME] for line in table)
    assert echo in [f["FunctionName"] for f in json.loads(cli("list", "--json").stdout)]


def test_aws_reaches_this_engine(shell, echo):
    done = shell("aws", "lambda", "get-function-configuration", "--function-name", echo)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["Handler"] == "app.handler"


def test_doctor_names_the_level_and_every_runtime(cli, shared):
    done = cli("doctor", "--json", LAMBDA_ENGINE_PORT=shared.url.rpartition(":")[2])
    findings = {f["subject"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert findings["sandbox"]["text"].startswith(f"level {shared.state()['sandbox']['level']} ")
    assert findings[f"runtime {OWN_RUNTIME}"]["verdict"] == "ok"
    assert findings["port"]["text"] == f"an engine answers at {shared.url}"


def test_doctor_is_status_1_when_the_engine_could_not_start(cli, tmp_path):
    missing = tmp_path / "python3.12"
    done = cli("doctor", LAMBDA_ENGINE_RUNTIMES=json.dumps({"python3.12": str(missing)}), LAMBDA_ENGINE_PORT="0")
    assert done.returncode == 1
    assert re.search(rf"problem  runtime python3\.12 +{re.escape(str(missing))}", done.stdout)


def test_examples_are_package_data():
    root = Path(examples_deployer.__file__).with_name("examples")
    assert sorted(p.parent.name for p in root.glob("*/lambda_function.py")) == ["hello", "json-transform", "s3-writer"]


def test_instances_are_listed(shared, cli):
    shared.deploy("cli-instances", {"m.py": "def f(e, c):\n    return 1\n"})
    shared.client().invoke(FunctionName="cli-instances")
    listed = cli("instances", "cli-instances")
    head, row = listed.stdout.splitlines()
    assert listed.returncode == 0
    assert head.split() == ["ID", "FUNCTION", "VERSION", "STATE", "KIND", "AGE", "INVOCATIONS", "MEMORY"]
    assert row.split()[1:3] == ["cli-instances", "$LATEST"]
    assert row.split()[3] in ("idle", "frozen")
    assert row.split()[4] == "on-demand"
    assert [i["invocations"] for i in json.loads(cli("instances", "cli-instances", "--json").stdout)] == [1]
    assert "no instances" in cli("instances", "cli-none").stderr


def test_instances_are_watched_until_interrupted(shared, tmp_path):
    shared.deploy("cli-watched", {"m.py": "def f(e, c):\n    return 1\n"})
    shared.client().invoke(FunctionName="cli-watched")
    seen = tmp_path / "seen"
    command = [sys.executable, "-m", "engine.cli.main", "instances", "cli-watched", "--watch", "--every", "0.1", "--endpoint", shared.url]
    with seen.open("wb") as out, subprocess.Popen(command, stdout=out, env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "200"}) as watching:
        try:
            # Drawn anew, not once.
            wait.until(lambda: seen.read_text().count("1 instances, 0 busy") > 2, "the list is renewed")
            watching.send_signal(signal.SIGINT)
            assert watching.wait(60) == 0
        finally:
            watching.kill()
    assert "cli-watched" in seen.read_text()
