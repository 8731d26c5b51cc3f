"""The pages of docs/how-to: their files written, their commands typed, as they stand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.aws import embedded
from tests.framework import host, terraform
from tests.framework.engine import OWN_RUNTIME, Engine
from tests.integration.test_embedded_aws import free_port

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "how-to"
PRINTED = "http://127.0.0.1:4566"
WRITTEN_FOR = "python3.11"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")


def environment(home: Path, **more: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LAMBDA_ENGINE_", "AWS_", "TF_"))}
    return env | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "HOME": str(home), "AWS_PAGER": "", "PYTHONPATH": str(ROOT), **more}


def follow(page: str, url: str, folder: Path, timeout_s: float = 110, **more: str) -> str:
    """Write the page's files and type its commands, with ``more`` in the environment; what they print."""
    text = (PAGES / page).read_text().replace(PRINTED, url).replace(WRITTEN_FOR, OWN_RUNTIME)
    commands = []
    for language, title, content in BLOCK.findall(text):
        if title:
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        elif language == "sh":
            commands.append(content)
    assert commands, f"{page} has no commands"
    env = environment(folder, LAMBDA_ENGINE_ENDPOINT=url, **more)
    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)], cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_boto3(shared: Engine, tmp_path: Path) -> None:
    assert follow("boto3.md", shared.url, tmp_path).splitlines() == ["{'hello': 'Ada'}", "['$LATEST', '1']"]


@pytest.mark.slow
def test_cdk(shared: Engine, tmp_path: Path) -> None:
    assert '{"from": "cdk", "event": {"n": 1}}' in follow("cdk.md", shared.url, tmp_path)


@pytest.mark.slow
def test_sam(shared: Engine, tmp_path: Path) -> None:
    printed = follow("sam.md", shared.url, tmp_path)
    # AutoPublishAlias publishes when the code changes: the alias stays where it is when only the environment does, as on AWS.
    assert '"Hello, Ada!"' in printed
    assert printed.endswith("Hello, Grace!")


@pytest.mark.slow
def test_aws_cli(shared: Engine, tmp_path: Path) -> None:
    printed = follow("aws-cli.md", shared.url, tmp_path)
    assert '{"hello": "Ada"}' in printed
    assert "REPORT RequestId" in printed
    assert "how-to-cli" in printed


@pytest.mark.slow
def test_logs(shared: Engine, tmp_path: Path) -> None:
    printed = follow("logs.md", shared.url, tmp_path)
    assert "REPORT RequestId" in printed
    assert "hello Ada" in printed
    assert "[$LATEST]" in printed


@pytest.mark.slow
def test_pytest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As its entry point does where this checkout was installed since it has one.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p engine.testing.plugin")
    assert "4 passed" in follow("pytest.md", PRINTED, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_serverless(shared: Engine, tmp_path: Path) -> None:
    host.require("no Node.js with npm")
    assert '["Hello", "Ada"]' in follow("serverless.md", shared.url, tmp_path, timeout_s=380)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_terraform(shared: Engine, tmp_path: Path) -> None:
    host.require("no Terraform with a provider")
    settings = terraform.mirrored(tmp_path / "mirror")
    more = {"TF_CLI_CONFIG_FILE": str(settings), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    printed = follow("terraform.md", shared.url, tmp_path / "page", timeout_s=580, **more)
    assert "Hello from Terraform" in printed
    assert "No changes." in printed
    assert "how-to-terraform" not in {f["FunctionName"] for f in shared.client().list_functions()["Functions"]}


@pytest.mark.slow
def test_github_actions(tmp_path: Path) -> None:
    port = free_port()
    text = (PAGES / "github-actions.md").read_text().replace("4566", str(port)).replace(WRITTEN_FOR, OWN_RUNTIME)
    ((_, _, workflow),) = BLOCK.findall(text)
    job = yaml.safe_load(workflow)["jobs"]["test"]
    steps = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    assert steps["Install"].startswith("pip install ")
    env = environment(tmp_path, LAMBDA_ENGINE_PORT=str(port), LAMBDA_ENGINE_ENDPOINT=job["env"]["AWS_ENDPOINT_URL"], **job["env"])
    started = subprocess.Popen(["bash", "-euc", steps["Start"]], cwd=tmp_path, env=env, start_new_session=True)
    try:
        assert started.wait(90) == 0, (tmp_path / "engine.log").read_text()
        done = subprocess.run(["bash", "-euxc", steps["Test"]], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    finally:
        # The step leaves the engine running in the session it began.
        os.killpg(started.pid, signal.SIGTERM)


def test_every_page_is_followed_or_says_why_not() -> None:
    followed = set(re.findall(r'(?:follow\(|PAGES / )"([a-z0-9-]+\.md)"', Path(__file__).read_text()))
    assert {p.name for p in PAGES.glob("*.md")} - {"README.md"} == followed
    for page in PAGES.glob("*.md"):
        if page.name != "README.md":
            assert f"({page.name})" in (PAGES / "README.md").read_text()
