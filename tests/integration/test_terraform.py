"""Terraform against the engine: AWS's provider itself where there is one, and what it sends through the SDK that it is built on."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.aws import embedded
from tests.framework import clients, host
from tests.framework.engine import OWN_RUNTIME, Engine, zip_of
from tests.framework.terraform import RUN_S, Terraform, environment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")]
PACKAGES = [zip_of({"app.py": f"def handler(event, context): return {n}\n"}) for n in (1, 2)]


@pytest.fixture
def packages(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{n}.zip" for n in (1, 2)]
    for path, package in zip(paths, PACKAGES, strict=True):
        path.write_bytes(package)
    return [str(p) for p in paths]


def test_the_providers_calls_through_its_sdk(shared: Engine, packages: list[str]) -> None:
    host.require("no Go 1.24 or newer")
    done = subprocess.run(
        [clients.terraform_calls(), "terraform-calls", OWN_RUNTIME, *packages], env=environment(shared), capture_output=True, text=True, timeout=RUN_S,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "done\n")


@pytest.fixture
def terraform(shared: Engine, tmp_path: Path) -> Callable[..., Terraform]:
    """Makes a copy of a configuration with its variables."""
    host.require("no Terraform with a provider")
    return lambda name, **variables: Terraform(name, tmp_path, shared, **variables)


def functions(shared: Engine) -> set[str]:
    return {f["FunctionName"] for p in shared.client().get_paginator("list_functions").paginate() for f in p["Functions"]}


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.timeout(1200)
def test_an_application_is_applied_changed_imported_and_destroyed(
    terraform: Callable[..., Terraform], shared: Engine, packages: list[str]
) -> None:
    """With the engine's address in the provider's block, in place of the environment."""
    application = terraform("application", endpoint=shared.url, package=packages[0])
    del application.environment["AWS_ENDPOINT_URL"]
    try:
        assert fetched(application.apply()["url"]) == b"1"
        assert fetched(application.apply(package=packages[1], memory=256)["url"]) == b"2"
        configuration: dict[str, Any] = shared.client().get_function_configuration(FunctionName="terraform-real", Qualifier="live")
        assert (configuration["Version"], configuration["MemorySize"]) == ("2", 256)
        application.adopt("aws_lambda_alias.live", "terraform-real/live")
    finally:
        application.destroy()
    assert "terraform-real" not in functions(shared)
