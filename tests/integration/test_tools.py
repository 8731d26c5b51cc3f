"""The tools people deploy with, from their registries and unmodified, against one endpoint: SAM, CDK, the Serverless Framework, Chalice."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.aws import embedded
from engine.config import load
from engine.sandbox import node_sdk
from tests.framework import clients, host, stacks
from tests.framework.engine import OWN_RUNTIME, Engine, engine
from tests.framework.packages import cache_dir
from tests.framework.wait import until

TOOLS = Path(__file__).parents[1] / "tools"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed"),
]
# The last CDK whose own functions are of Node.js 20.
CDK = ("aws-cdk@2", "aws-cdk-lib@2.170.0", "constructs@10")
SERVERLESS = ("osls@3", "serverless-localstack@1")


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    with engine(runtimes={"nodejs20.x": str(clients.node_program(20))} if host.lacking("no Node.js with npm") is False else {}) as started:
        yield started


def folder(name: str) -> Path:
    """Where a tool is kept from one run to the next."""
    made = cache_dir() / f"tool-{name}"
    made.mkdir(parents=True, exist_ok=True)
    return made


@functools.cache
def from_pypi(*packages: str) -> Path:
    """The programs of packages in an environment of their own."""
    at = folder("-".join(packages))
    if not (at / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(at / "venv")], check=True, timeout=120)
        subprocess.run([str(at / "venv/bin/pip"), "install", "--quiet", "--disable-pip-version-check", *packages], check=True, timeout=600)
        (at / "done").touch()
    return at / "venv/bin"


@functools.cache
def from_npm(*packages: str) -> Path:
    """The ``node_modules`` that has packages."""
    host.require("no Node.js with npm")
    at = folder("-".join(p.replace("/", "-") for p in packages))
    if not (at / "done").exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *packages]
        subprocess.run(command, cwd=at, check=True, timeout=600)
        (at / "done").touch()
    return at / "node_modules"


class Shell:
    """Types commands in a copy of an application."""

    def __init__(self, running: Engine, application: str, home: Path, *paths: Path) -> None:
        self.engine = running
        self.cwd = home / "application"
        for source in (TOOLS / application).rglob("*"):
            if source.is_file():
                target = self.cwd / source.relative_to(TOOLS / application)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(source.read_text().replace("python3.11", OWN_RUNTIME).replace("4566", running.url.rpartition(":")[2]))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LAMBDA_ENGINE_"))}
        found = ":".join([*map(str, paths), env["PATH"]])
        self.env = env | {
            "AWS_ENDPOINT_URL": running.url, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test", "HOME": str(home), "PATH": found, "SAM_CLI_TELEMETRY": "0", "CDK_DISABLE_CLI_TELEMETRY": "true",
            "SLS_TELEMETRY_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off", "CI": "true",
        }  # fmt: skip

    def __call__(self, *words: str, stdin: str = "", **more: str) -> str:
        done = subprocess.run(
            words, cwd=self.cwd, env=self.env | more, input=stdin, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def get(running: Engine, path: str) -> str:
    return got(running.url + path)


def got(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def recorded(running: Engine, table: str, *wanted: str) -> None:
    """Wait until functions have written items to a table."""
    client = running.client("dynamodb")

    def all_there() -> bool:
        return {i["id"]["S"] for i in client.scan(TableName=table, ConsistentRead=True)["Items"]} >= set(wanted)

    until(all_there, f"{wanted} in {table}", 60)


def outputs(running: Engine, stack: str) -> dict[str, str]:
    return stacks.outputs(running.client("cloudformation"), stack)


def functions(running: Engine) -> list[str]:
    pages = running.client().get_paginator("list_functions").paginate()
    return [f["FunctionName"] for page in pages for f in page["Functions"]]


def test_sam(running: Engine, tmp_path: Path) -> None:
    shell = Shell(running, "sam", tmp_path, from_pypi("aws-sam-cli"))
    deploy = ("sam", "deploy", "--stack-name", "sam-demo", "--resolve-s3", "--no-confirm-changeset", "--capabilities", "CAPABILITY_IAM")
    shell("sam", "build")
    assert "Successfully created/updated stack - sam-demo" in shell(*deploy)
    made = outputs(running, "sam-demo")
    assert get(running, f"/_api/{made['ApiId']}/Prod/hello/Ada") == "Hello, Ada!"
    recorded(running, made["TableName"], "Ada")
    assert "Hello, Bob!" in shell("sam", "remote", "invoke", "Greeter", "--stack-name", "sam-demo", "--event", '{"pathParameters": {"name": "Bob"}}')
    until(lambda: "greeting Bob" in shell("sam", "logs", "--stack-name", "sam-demo", "--name", "Greeter"), "the function's log", 60)
    shell(*deploy, "--parameter-overrides", "Greeting=Moin")
    assert get(running, f"/_api/{made['ApiId']}/Prod/hello/Ada") == "Moin, Ada!"
    assert "is up to date" in shell(*deploy, "--parameter-overrides", "Greeting=Moin", "--no-fail-on-empty-changeset")
    shell("sam", "delete", "--stack-name", "sam-demo", "--no-prompts")
    assert not [name for name in functions(running) if name.startswith("sam-demo")]


def test_cdk(tmp_path: Path) -> None:
    modules = from_npm(*CDK)
    node_sdk.install(load().cache_dir())
    with engine(runtimes={"nodejs20.x": str(clients.node_program(20))}) as running:
        shell = Shell(running, "cdk", tmp_path, modules / ".bin")
        (shell.cwd / "node_modules").symlink_to(modules)
        shell("cdk", "bootstrap", "aws://000000000000/us-east-1")
        deploy = ("cdk", "deploy", "--require-approval", "never")
        shell(*deploy)
        made = outputs(running, "Demo")
        assert made["SeedWord"] == "Hello3"
        assert got(made["Url"]) == "Hello from 1"
        running.client("events").put_events(Entries=[{"Source": "demo", "DetailType": "from-rule", "Detail": "{}"}])
        running.client("sqs").send_message(QueueUrl=made["QueueUrl"], MessageBody="from-queue")
        recorded(running, made["TableName"], "from-rule", "from-queue")
        shell(*deploy, GREETING="Moin")
        assert outputs(running, "Demo")["SeedWord"] == "Moin3"
        assert got(made["Url"]) == "Moin from 2"
        assert "no changes" in shell(*deploy, GREETING="Moin")
        shell("cdk", "destroy", "--force")
        assert not [name for name in functions(running) if name.startswith("Demo")]


def test_serverless(running: Engine, tmp_path: Path) -> None:
    modules = from_npm(*SERVERLESS)
    shell = Shell(running, "serverless", tmp_path, modules / ".bin")
    (shell.cwd / "node_modules").symlink_to(modules)
    shell("serverless", "deploy")
    (api,) = [a["id"] for a in running.client("apigateway").get_rest_apis()["items"] if a["name"] == "dev-shop"]
    assert get(running, f"/restapis/{api}/dev/_user_request_/hello/Ada") == "Hello, Ada"
    made = outputs(running, "shop-dev")
    running.client("sqs").send_message(QueueUrl=made["QueueUrl"], MessageBody="from-queue")
    recorded(running, made["TableName"], "from-queue")
    assert "Hello, Eve" in shell("serverless", "invoke", "-f", "hello", "-d", '{"pathParameters": {"name": "Eve"}}')
    until(lambda: "event keys" in shell("serverless", "logs", "-f", "hello"), "the function's log", 60)
    shell("serverless", "remove")
    assert not [name for name in functions(running) if name.startswith("shop-dev")]


def test_chalice(running: Engine, tmp_path: Path) -> None:
    shell = Shell(running, "chalice", tmp_path, from_pypi("chalice", "setuptools"))
    sqs = running.client("sqs")
    url = sqs.create_queue(QueueName="chalice-queue", Attributes={"VisibilityTimeout": "90"})["QueueUrl"]
    shell("chalice", "deploy")
    (api,) = [a["id"] for a in running.client("apigateway").get_rest_apis()["items"] if a["name"] == "chalice-demo"]
    assert json.loads(get(running, f"/restapis/{api}/api/_user_request_/hello/Ada")) == {"hello": "Ada"}
    assert json.loads(shell("chalice", "invoke", "-n", "plain", stdin='{"x": 1}')) == {"plain": {"x": 1}}
    sqs.send_message(QueueUrl=url, MessageBody="from-queue")
    until(lambda: "got from-queue" in shell("chalice", "logs", "-n", "work", "--since", "1h"), "the function's log", 60)
    shell("chalice", "delete")
    assert not [name for name in functions(running) if name.startswith("chalice-demo")]
