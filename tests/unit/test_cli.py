"""The command line as a shell sees it: what goes to stdout, what to stderr, and the exit status."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from engine.cli import session
from engine.cli.invoke import payload_of
from engine.cli.listing import size
from engine.cli.main import main
from engine.cli.output import CliError


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LAMBDA_ENGINE_", "AWS_"))}
    argv = [sys.executable, "-m", "engine.cli.main", *arguments]
    return subprocess.run(argv, env={**env, **variables}, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture
def run_here(monkeypatch, capsys):
    """As ``run``, without paying for a new interpreter: (status, stdout, stderr)."""
    for name in list(os.environ):
        if name.startswith(("LAMBDA_ENGINE_", "AWS_")):
            monkeypatch.delenv(name)

    def call(*arguments: str, **variables: str) -> tuple[object, str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["lambda-engine", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return (left.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def nobody():
    """A URL at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "deploy", "invoke", "logs", "list", "doctor", "config", "env", "aws"):
        assert f" {command} " in done.stdout


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "lambda-engine")


def test_help_imports_nothing_slow():
    code = (
        "import sys\nfrom engine.cli import main\n"
        "slow = {'boto3', 'botocore', 'pydantic', 'uvloop', 'sqlalchemy', 'structlog', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(str(slow) if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


def test_failure_reaches_the_shell(nobody):
    done = run("list", "--endpoint", nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no engine answers")


@pytest.mark.parametrize("command", [("list",), ("invoke", "f"), ("invoke", "f", "--async"), ("list", "--json")])
def test_no_engine_is_said_in_one_sentence(run_here, nobody, command):
    status, out, err = run_here(*command, "--endpoint", nobody)
    assert (status, out) == (1, "")
    assert err == (
        f"error: no engine answers at {nobody}. Start one with 'lambda-engine serve', "
        "or name another with --endpoint or LAMBDA_ENGINE_ENDPOINT.\n"
    )


def test_deploy_without_an_engine(run_here, nobody, tmp_path):
    (tmp_path / "app.py").write_text("def handler(e, c): pass")
    status, out, err = run_here("deploy", str(tmp_path), LAMBDA_ENGINE_ENDPOINT=nobody)
    assert (status, out) == (1, "")
    assert f"no engine answers at {nobody}" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "--endpoint", "localhost:4566"), "'localhost:4566' is not a URL"),
        (("deploy", "/no/such/directory"), "does not exist"),
        (("deploy", ".", "--env", "NOVALUE"), "--env NOVALUE: write it as NAME=VALUE"),
        (("invoke", "f", "@/no/such/file"), "/no/such/file: No such file or directory"),
        (("serve", "--host", "0.0.0.0"), "not loopback"),
        (("serve", "--auth", "sigv4"), "needs access_keys"),
        (("serve", "--examples", "--port", "0"), "--examples needs to know the port"),
        (("serve", "--config", "/no/such.toml"), "no such file"),
        (("nonsense",), "No such command"),
    ],
)
def test_misuse_is_status_2(run_here, monkeypatch, arguments, words):
    # serve exports it to its children; here it must not outlive the test.
    monkeypatch.setenv("LAMBDA_ENGINE_CONFIG", "")
    status, out, err = run_here(*arguments, TERMINAL_WIDTH="200")
    assert (status, out) == (2, "")
    assert words in err


def test_wrong_setting_is_named(run_here):
    status, _, err = run_here("config", LAMBDA_ENGINE_PORT="many")
    assert status == 2
    assert "port: Input should be a valid integer" in err


def test_config_shows_sources_and_masks_secrets(run_here):
    variables = {"LAMBDA_ENGINE_REGION": "eu-west-1", "LAMBDA_ENGINE_ACCESS_KEYS": '{"AKIA": "hush"}'}
    _, out, _ = run_here("config", "--json", **variables)
    shown = json.loads(out)
    assert shown["region"] == {"value": "eu-west-1", "source": "env"}
    assert shown["account_id"]["source"] == "default"
    assert "AKIA" in shown["access_keys"]["value"]
    assert "hush" not in out + run_here("config")[1]


def test_env_can_be_evaluated():
    done = subprocess.run(
        ["bash", "-c", f'eval "$({sys.executable} -m engine.cli.main env)" && echo "$AWS_ENDPOINT_URL $AWS_REGION $AWS_ACCESS_KEY_ID"'],
        env={k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LAMBDA_ENGINE_"))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == "http://127.0.0.1:4566 us-east-1 test\n"


def test_env_leaves_the_callers_keys_alone(run_here):
    shown = json.loads(run_here("env", "--json", AWS_ACCESS_KEY_ID="AKIAMINE")[1])
    assert "AWS_ACCESS_KEY_ID" not in shown
    assert shown["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"


def test_aws_runs_the_aws_cli_at_the_endpoint(nobody):
    done = run("aws", "lambda", "list-functions", "--no-paginate", "--cli-connect-timeout", "2", LAMBDA_ENGINE_ENDPOINT=nobody, AWS_MAX_ATTEMPTS="1")
    assert done.returncode != 0
    assert nobody in done.stderr


def test_aws_passes_help_and_options_through():
    done = run("aws", "--version")
    assert (done.returncode, done.stdout[:8]) == (0, "aws-cli/")


def test_logs_of_a_function_that_never_ran(run_here, tmp_path):
    status, out, err = run_here("logs", "f", "--data-dir", str(tmp_path))
    assert (status, out) == (1, "")
    assert f"no log of f at {tmp_path}/logs/000000000000/f.log" in err


def test_logs_are_those_of_the_callers_account(run_here, tmp_path):
    path = tmp_path / "logs" / "111122223333" / "f.log"
    path.parent.mkdir(parents=True)
    path.write_text("1700000000000\ts\thello\n")
    status, out, _ = run_here("logs", "f", "--data-dir", str(tmp_path), AWS_ACCESS_KEY_ID="111122223333")
    assert (status, out) == (0, "2023-11-14T22:13:20.000Z hello\n")


def test_payload_from_text_file_and_stdin(tmp_path, monkeypatch):
    file = tmp_path / "event.json"
    file.write_bytes(b'{"a": 1}')
    assert payload_of('{"b": 2}') == b'{"b": 2}'
    assert payload_of(f"@{file}") == b'{"a": 1}'
    with file.open() as opened:
        monkeypatch.setattr(sys, "stdin", opened)
        assert payload_of("-") == b'{"a": 1}'


def test_endpoint_precedence(monkeypatch):
    monkeypatch.delenv(session.ENDPOINT_VARIABLE, raising=False)
    assert session.endpoint_of(None) == "http://127.0.0.1:4566"
    monkeypatch.setenv(session.ENDPOINT_VARIABLE, "http://10.0.0.1:1/")
    assert session.endpoint_of(None) == "http://10.0.0.1:1"
    assert session.endpoint_of("https://other") == "https://other"
    with pytest.raises(CliError, match="is not a URL"):
        session.endpoint_of("ftp://x")


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")])
def test_sizes_for_people(count, text):
    assert size(count) == text
