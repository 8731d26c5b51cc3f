"""The calls that Terraform's AWS provider makes, in its order and with its way of reading the answers.

Source: internal/service/lambda/{function,alias,permission}.go of hashicorp/terraform-provider-aws. The provider itself comes from a registry that
tests do not reach.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, zip_of

PACKAGES = [zip_of({"app.py": f"def handler(event, context): return {n}\n"}) for n in (1, 2)]
WAIT_S = 60


def wait_for(read: Callable[[], Any], reached: Callable[[Any], bool]) -> Any:
    """As the provider's StateChangeConf, with less time between looks."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        found = read()
        if reached(found):
            return found
        assert time.monotonic() < deadline_s, found
        time.sleep(0.05)


class Provider:
    """aws_lambda_function of one name."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    def read(self) -> dict[str, Any]:
        """resourceFunctionRead: what goes into the state."""
        found = self.client.get_function(FunctionName=self.name)
        configuration, code = found["Configuration"], found["Code"]
        assert configuration is not None
        assert code is not None
        versions = self.client.list_versions_by_function(FunctionName=self.name, MaxItems=10000)["Versions"]
        signing = self.client.get_function_code_signing_config(FunctionName=self.name)
        return {
            "arn": configuration["FunctionArn"],
            "version": versions[-1]["Version"],
            "reserved": found.get("Concurrency", {}).get("ReservedConcurrentExecutions", -1),
            "tags": found.get("Tags", {}),
            "memory": configuration["MemorySize"],
            "timeout": configuration["Timeout"],
            "environment": configuration.get("Environment", {}).get("Variables", {}),
            "ephemeral": configuration["EphemeralStorage"]["Size"],
            "tracing": configuration["TracingConfig"]["Mode"],
            "logging": configuration["LoggingConfig"],
            "architectures": configuration["Architectures"],
            "source_code_hash": configuration["CodeSha256"],
            "vpc": configuration.get("VpcConfig", {}).get("SubnetIds", []),
            "signing": signing.get("CodeSigningConfigArn", ""),
        }

    def updated(self) -> None:
        """waitFunctionUpdated: no status counts as in progress."""
        wait_for(lambda: self.client.get_function(FunctionName=self.name)["Configuration"].get("LastUpdateStatus"), lambda s: s == "Successful")

    def published(self, version: str) -> None:
        wait_for(
            lambda: self.client.get_function_configuration(FunctionName=self.name, Qualifier=version).get("LastUpdateStatus"),
            lambda s: s == "Successful",
        )


@pytest.fixture
def provider(shared: Engine) -> Provider:
    return Provider(shared.client(), "terraform-function")


def test_function_alias_and_permission_from_create_to_destroy(provider: Provider) -> None:
    client, name = provider.client, provider.name
    # apply: create
    client.create_function(
        FunctionName=name, Role=ROLE, Runtime=OWN_RUNTIME, Handler="app.handler", Code={"ZipFile": PACKAGES[0]}, Description="", MemorySize=128,
        Timeout=3, Publish=True, PackageType="Zip", Environment={"Variables": {"STAGE": "1"}}, Tags={"team": "a"},
    )  # fmt: skip
    wait_for(lambda: client.get_function(FunctionName=name)["Configuration"]["State"], lambda s: s == "Active")
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=5)
    state = provider.read()
    assert state["version"] == "1"
    assert state["reserved"] == 5
    assert state["tags"] == {"team": "a"}
    assert state["source_code_hash"] == base64.b64encode(hashlib.sha256(PACKAGES[0]).digest()).decode()
    assert (state["ephemeral"], state["tracing"], state["vpc"], state["signing"]) == (512, "PassThrough", [], "")

    # plan: nothing differs
    assert provider.read() == state

    # apply: configuration, then code, then concurrency, then a version
    client.update_function_configuration(
        FunctionName=name, Role=ROLE, Handler="app.handler", Runtime=OWN_RUNTIME, Description="", MemorySize=256, Timeout=3,
        Environment={"Variables": {}}, DeadLetterConfig={"TargetArn": ""}, VpcConfig={"SubnetIds": [], "SecurityGroupIds": []}, Layers=[],
    )  # fmt: skip
    provider.updated()
    client.update_function_code(FunctionName=name, ZipFile=PACKAGES[1])
    provider.updated()
    client.delete_function_concurrency(FunctionName=name)
    version = client.publish_version(FunctionName=name)["Version"]
    provider.published(version)
    after = provider.read()
    assert (after["version"], after["memory"], after["reserved"], after["environment"]) == ("2", 256, -1, {})

    # aws_lambda_alias: RoutingConfig is sent even when it is empty
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1", RoutingConfig={})
    client.update_alias(
        FunctionName=name, Name="live", FunctionVersion="1", Description="", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}}
    )
    client.update_alias(FunctionName=name, Name="live", FunctionVersion="2", Description="", RoutingConfig={})
    wait_for(
        lambda: client.get_alias(FunctionName=name, Name="live"), lambda a: not a.get("RoutingConfig", {}).get("AdditionalVersionWeights")
    )
    assert json.load(client.invoke(FunctionName=name, Qualifier="live")["Payload"]) == 2

    # aws_lambda_permission: conditions are read as map[operator]map[key]string
    client.add_permission(
        FunctionName=name, Qualifier="live", StatementId="events", Action="lambda:InvokeFunction", Principal="events.amazonaws.com",
        SourceArn="arn:aws:events:us-east-1:000000000000:rule/r", SourceAccount="000000000000",
    )  # fmt: skip
    policy = json.loads(client.get_policy(FunctionName=name, Qualifier="live")["Policy"])
    (statement,) = [s for s in policy["Statement"] if s["Sid"] == "events"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"]["ArnLike"] == {"AWS:SourceArn": "arn:aws:events:us-east-1:000000000000:rule/r"}
    assert statement["Condition"]["StringEquals"] == {"AWS:SourceAccount": "000000000000"}
    client.remove_permission(FunctionName=name, Qualifier="live", StatementId="events")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_policy(FunctionName=name, Qualifier="live")

    # destroy
    client.delete_alias(FunctionName=name, Name="live")
    client.delete_function(FunctionName=name)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName=name)


def test_errors_that_the_provider_tells_apart(provider: Provider) -> None:
    client = provider.client
    for call, arguments in ((client.get_function, {}), (client.get_alias, {"Name": "live"}), (client.get_policy, {})):
        with pytest.raises(ClientError) as caught:
            call(FunctionName="terraform-nothing", **arguments)
        assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
