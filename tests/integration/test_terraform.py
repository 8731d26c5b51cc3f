"""Terraform against the engine: what its provider sends, through the SDK that it is built on, and the provider itself where there is one.

The provider comes from HashiCorp's registry alone, which tests do not reach. ``TEST_TERRAFORM_PROVIDER`` names a directory that holds its program.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.aws import embedded
from tests.framework import clients, host
from tests.framework.engine import OWN_RUNTIME, Engine, zip_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")]
FOLDER = Path(__file__).parents[1] / "tools" / "terraform"
PACKAGES = [zip_of({"app.py": f"def handler(event, context): return {n}\n"}) for n in (1, 2)]
RUN_S = 900.0


@pytest.fixture
def packages(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{n}.zip" for n in (1, 2)]
    for path, package in zip(paths, PACKAGES, strict=True):
        path.write_bytes(package)
    return [str(p) for p in paths]


def environment(shared: Engine) -> dict[str, str]:
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_"))}
    named = {"AWS_ENDPOINT_URL": shared.url, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    return {**mine, **named, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def test_the_providers_calls_through_its_sdk(shared: Engine, packages: list[str]) -> None:
    host.require("no Go 1.24 or newer")
    done = subprocess.run(
        [clients.terraform_calls(), "terraform-calls", OWN_RUNTIME, *packages], env=environment(shared), capture_output=True, text=True, timeout=RUN_S,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "done\n")


@pytest.fixture
def terraform(shared: Engine, tmp_path: Path) -> Callable[..., str]:
    """Runs Terraform in a copy of the configuration, with the provider in place of the registry's."""
    host.require("no Terraform with a provider")
    folder = tmp_path / "configuration"
    shutil.copytree(FOLDER, folder)
    override = f'dev_overrides {{ "hashicorp/aws" = {json.dumps(os.environ["TEST_TERRAFORM_PROVIDER"])} }}'
    (tmp_path / "terraformrc").write_text(f"provider_installation {{\n  {override}\n  direct {{}}\n}}\n")
    env = {**environment(shared), "TF_CLI_CONFIG_FILE": str(tmp_path / "terraformrc"), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}

    def run(*arguments: str, status: int = 0, **variables: str) -> str:
        named = {"TF_VAR_endpoint": shared.url, "TF_VAR_runtime": OWN_RUNTIME} | {f"TF_VAR_{k}": v for k, v in variables.items()}
        command = ["terraform", *arguments, "-no-color"]
        done = subprocess.run(command, cwd=folder, env={**env, **named}, capture_output=True, text=True, timeout=RUN_S, check=False)
        assert done.returncode == status, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    return run


def test_a_configuration_is_applied_changed_imported_and_destroyed(terraform: Callable[..., str], shared: Engine, packages: list[str]) -> None:
    first, second = ({"package": p} for p in packages)
    try:
        terraform("apply", "-auto-approve", **first)
        terraform("plan", "-detailed-exitcode", **first)
        url = json.loads(terraform("output", "-json"))["url"]["value"]
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.read() == b"1"

        terraform("apply", "-auto-approve", memory="256", **second)
        terraform("plan", "-detailed-exitcode", memory="256", **second)
        configuration = shared.client().get_function_configuration(FunctionName="terraform-real", Qualifier="live")
        assert (configuration["Version"], configuration["MemorySize"]) == ("2", 256)

        terraform("state", "rm", "aws_lambda_alias.live", **second)
        terraform("import", "aws_lambda_alias.live", "terraform-real/live", memory="256", **second)
        terraform("plan", "-detailed-exitcode", memory="256", **second)
    finally:
        terraform("destroy", "-auto-approve", memory="256", **second)
    assert "terraform-real" not in {f["FunctionName"] for p in shared.client().get_paginator("list_functions").paginate() for f in p["Functions"]}
