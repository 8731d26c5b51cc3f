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
    """With the engine's address in the provider's block."""
    application = terraform("application", endpoint=shared.url, package=packages[0])
    try:
        assert fetched(application.apply()["url"]) == b"1"
        assert fetched(application.apply(package=packages[1], memory=256)["url"]) == b"2"
        configuration: dict[str, Any] = shared.client().get_function_configuration(FunctionName="terraform-real", Qualifier="live")
        assert (configuration["Version"], configuration["MemorySize"]) == ("2", 256)
        application.adopt("aws_lambda_alias.live", "terraform-real/live")
    finally:
        application.destroy()
    assert "terraform-real" not in functions(shared)


@pytest.mark.timeout(1200)
def test_functions_with_all_they_can_have(terraform: Callable[..., Terraform], shared: Engine, packages: list[str]) -> None:
    """Packages from files and buckets, layers, VPC, keys, logging, dead letters; with the engine's address from the environment."""
    host.require("not root")
    configuration = terraform("functions", package=packages[0], round=1)
    try:
        shown = configuration.apply()["shown"]
        assert {"terraform-full", "terraform-minimal"} <= set(shown.pop("functions"))
        assert shown == {"account": "000000000000", "alias": "1", "layer": 1, "memory": 256, "minimal": "$LATEST"}
        assert configuration.apply(package=packages[1], round=2)["shown"]["layer"] == 2
        alias = shared.client().get_alias(FunctionName="terraform-full", Name="al")
        assert alias["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.25}}
        configuration.adopt("aws_lambda_alias.al", "terraform-full/al")
    finally:
        configuration.destroy()
    assert not functions(shared) & {"terraform-full", "terraform-minimal"}


@pytest.mark.timeout(1200)
def test_what_calls_a_function(terraform: Callable[..., Terraform], shared: Engine, packages: list[str]) -> None:
    """Mappings, permissions, rules, schedules, notifications, subscriptions, URLs, scaling: each is made, changed and found unchanged."""
    configuration = terraform("events", package=packages[0], round=1)
    try:
        outputs = configuration.apply()
        assert outputs["said"] == ["1", "1", "1"]
        assert fetched(outputs["url"]) == b"1"
        outputs = configuration.apply(package=packages[1], round=2)
        assert outputs["said"] == ["2", "2", "2"]
        for address, identifier in (
            ("aws_lambda_permission.sns", "terraform-events/AllowSNS"),
            ("aws_lambda_function_event_invoke_config.q", "terraform-events:live"),
            ("aws_lambda_function_url.live", "terraform-events/live"),
            ("aws_lambda_function_recursion_config.r", "terraform-events"),
            ("aws_lambda_provisioned_concurrency_config.p", "terraform-events,live"),
        ):
            configuration.run("state", "rm", address)
            configuration.run("import", address, identifier)
        configuration.no_changes()
    finally:
        configuration.destroy()
    assert "terraform-events" not in functions(shared)


@pytest.mark.timeout(1200)
def test_apis_and_signed_functions(terraform: Callable[..., Terraform], packages: list[str]) -> None:
    """REST, HTTP and WebSocket APIs, called where they say they are; a code signing configuration."""
    configuration = terraform("apis", package=packages[0], round=1)
    try:
        assert {fetched(address) for address in configuration.apply()["addresses"]} == {b"1"}
        assert {fetched(address) for address in configuration.apply(package=packages[1], round=2)["addresses"]} == {b"2"}
    finally:
        configuration.destroy()
