"""The README's commands, and those that ``make run`` prints, typed as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PRINTED = "http://127.0.0.1:4566"


def block(language: str, after: str) -> str:
    """The first code block of a language after some words of the README."""
    found = re.search(rf"```{language}\n(.*?)```", README.partition(after)[2], re.DOTALL)
    assert found is not None
    return found[1]


def shell(commands: str, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run commands as a user would who has this environment's programs and nothing else of ours."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LAMBDA_ENGINE_", "AWS_"))}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "HOME": str(home), "AWS_PAGER": ""}
    return subprocess.run(["bash", "-euc", commands], cwd=folder, env=env, capture_output=True, text=True, timeout=90, check=False)


def test_first_function_with_the_aws_cli_and_boto3(shared, tmp_path):
    lines = block("sh", "## First function")
    assert PRINTED in lines
    assert len(lines.splitlines()) == 5
    done = shell(lines.replace(PRINTED, shared.url), tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith('{"hello": "Ada"}')

    (tmp_path / "call.py").write_text(block("python", "## First function").replace(PRINTED, shared.url))
    done = shell("python3 call.py", tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().removeprefix("b").strip("'")) == {"hello": "Ada"}


@pytest.fixture
def with_examples(tmp_path):
    """What ``make run`` prints when it is done, its engine running on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LAMBDA_ENGINE_", "AWS_"))}
    env |= {"LAMBDA_ENGINE_PORT": str(port), "LAMBDA_ENGINE_DATA_DIR": str(tmp_path / "data"), "LAMBDA_ENGINE_POOL_SIZE": "2"}
    words = tmp_path / "words"
    with words.open("wb") as out:
        argv = [sys.executable, "-m", "engine.cli.main", "serve", "--examples"]
        server = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        deadline_s = time.monotonic() + 60
        while "list-functions" not in words.read_text():
            assert server.poll() is None, words.read_text()
            assert time.monotonic() < deadline_s, words.read_text()
            time.sleep(0.05)
        yield words.read_text()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_commands_that_make_run_prints(with_examples, tmp_path):
    lines = [line.strip() for line in with_examples.partition("Try, in another terminal:")[2].splitlines() if line.startswith("  ")]
    exports = [line for line in lines if line.startswith("export ")]
    answers = {}
    for line in lines:
        if line not in exports:
            # Typed in the directory that make was called in.
            done = shell("\n".join([*exports, line]), ROOT, tmp_path)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            answers[line] = done.stdout
    hello, transform, writer = (json.loads(a) for line, a in answers.items() if " invoke " in line)
    assert hello["greeting"] == "Hello, Ada!"
    assert transform["total"] == 19.0
    assert writer["same"] is True
    (log,) = (a for line, a in answers.items() if " logs " in line)
    assert "greeting Ada" in log
    assert "REPORT RequestId" in log
    (listed,) = (a for line, a in answers.items() if "list-functions" in line)
    assert {f["FunctionName"] for f in json.loads(listed)["Functions"]} == {"hello", "json-transform", "s3-writer"}
    (figures,) = (a for line, a in answers.items() if "/metrics" in line)
    assert "lambda_engine_invocations_total" in figures


def test_make_run_and_make_test_are_targets():
    done = subprocess.run(["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "serve --examples" in done.stdout
    assert shutil.which("make") is not None
    for target in ("test", "test-all", "lint", "bench", "clean"):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
