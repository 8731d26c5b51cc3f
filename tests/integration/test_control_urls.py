"""Function URL configurations by boto3 over a socket, with a scripted supervisor behind the control plane."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework.control import ControlServer, refused

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NO_FUNCTION = (404, "ResourceNotFoundException", "Function does not exist")
NOTHING = (404, "ResourceNotFoundException", "The resource you requested does not exist.")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in answer.items() if k != "ResponseMetadata"}


def test_a_url_has_a_life(control: ControlServer, name: str) -> None:
    client = control.client()
    control.create(name)
    made = client.create_function_url_config(FunctionName=name, AuthType="NONE")
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    port = control.url.rpartition(":")[2]
    match = re.fullmatch(rf"http://([a-z0-9]{{32}})\.lambda-url\.us-east-1\.localhost:{port}/", made["FunctionUrl"])
    assert match
    assert TIME.fullmatch(made["CreationTime"])
    expected = {"FunctionUrl": made["FunctionUrl"], "FunctionArn": ARN + name, "AuthType": "NONE", "CreationTime": made["CreationTime"]}
    assert plain(made) == expected, "InvokeMode was not set, so it is not shown"
    shown = {**expected, "InvokeMode": "BUFFERED", "LastModifiedTime": made["CreationTime"]}
    assert plain(client.get_function_url_config(FunctionName=name)) == shown
    assert client.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"] == [shown]
    entry = {"id": match[1], "qualifier": None, "auth_type": "NONE", "cors": None, "policy": None, "streamed": False}
    assert control.entry(name)["urls"] == [entry]

    control.clock.advance(5)
    cors = {"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "MaxAge": 60}
    updated = plain(client.update_function_url_config(FunctionName=name, AuthType="AWS_IAM", Cors=cors))
    assert updated.pop("LastModifiedTime") > made["CreationTime"]
    assert updated == {**expected, "AuthType": "AWS_IAM", "Cors": cors}
    assert control.entry(name)["urls"] == [{**entry, "auth_type": "AWS_IAM", "cors": cors}]
    assert plain(client.update_function_url_config(FunctionName=name, InvokeMode="BUFFERED"))["Cors"] == cors
    assert "Cors" not in plain(client.update_function_url_config(FunctionName=name, Cors={}))
    assert "Cors" not in plain(client.get_function_url_config(FunctionName=name))

    twice = refused(client.create_function_url_config, FunctionName=name, AuthType="NONE")
    assert twice == (
        409, "ResourceConflictException",
        f"Failed to create function url config for [functionArn = {ARN}{name}]. Error message:  FunctionUrlConfig exists for this Lambda function",
    )  # fmt: skip
    assert client.delete_function_url_config(FunctionName=name)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(client.get_function_url_config, FunctionName=name) == NOTHING
    assert refused(client.delete_function_url_config, FunctionName=name) == NOTHING
    assert refused(client.update_function_url_config, FunctionName=name, AuthType="NONE") == NOTHING
    assert not control.entry(name).get("urls")


def test_an_alias_has_a_url_of_its_own_that_goes_with_it(control: ControlServer, name: str) -> None:
    client = control.client()
    control.create(name, Publish=True)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    for where in ({}, {"Qualifier": "live"}):
        client.create_function_url_config(FunctionName=name, AuthType="NONE", **where)
    assert client.get_function_url_config(FunctionName=f"{name}:live")["FunctionArn"] == f"{ARN}{name}:live"
    first = client.list_function_url_configs(FunctionName=name, MaxItems=1)
    assert [x["FunctionArn"] for x in first["FunctionUrlConfigs"]] == [ARN + name]
    rest = client.list_function_url_configs(FunctionName=name, MaxItems=1, Marker=first["NextMarker"])
    assert [x["FunctionArn"] for x in rest["FunctionUrlConfigs"]] == [f"{ARN}{name}:live"]
    assert "NextMarker" not in rest
    client.add_permission(
        FunctionName=name, Qualifier="live", StatementId="open", Action="lambda:InvokeFunctionUrl", Principal="*", FunctionUrlAuthType="NONE"
    )
    policies = {url["qualifier"]: url["policy"] for url in control.entry(name)["urls"]}
    assert policies[None] is None
    assert policies["live"]["Statement"][0]["Sid"] == "open"
    client.delete_alias(FunctionName=name, Name="live")
    assert [url["qualifier"] for url in control.entry(name)["urls"]] == [None]


def test_what_has_no_url(control: ControlServer, name: str) -> None:
    client = control.client()
    assert refused(client.create_function_url_config, FunctionName=name, AuthType="NONE") == NO_FUNCTION
    assert refused(client.list_function_url_configs, FunctionName=name) == NO_FUNCTION
    assert refused(client.get_function_url_config, FunctionName=name) == NOTHING
    control.create(name, Publish=True)
    assert client.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"] == []
    assert refused(client.create_function_url_config, FunctionName=name, Qualifier="missing", AuthType="NONE") == NO_FUNCTION
    for version in ("1", "$LATEST"):
        assert refused(client.create_function_url_config, FunctionName=f"{name}:{version}", AuthType="NONE")[1] == "ValidationException"
        assert refused(client.create_function_url_config, FunctionName=name, Qualifier=version, AuthType="NONE")[1] == "ValidationException"
    mode = refused(client.create_function_url_config, FunctionName=name, AuthType="NONE", InvokeMode="UNKNOWN")
    assert mode == (
        400, "ValidationException",
        "1 validation error detected: Value 'UNKNOWN' at 'invokeMode' failed to satisfy constraint: "
        "Member must satisfy enum value set: [RESPONSE_STREAM, BUFFERED]",
    )  # fmt: skip
    assert not control.entry(name).get("urls")
    made = client.create_function_url_config(FunctionName=name, AuthType="NONE", InvokeMode="RESPONSE_STREAM")
    assert made["InvokeMode"] == "RESPONSE_STREAM"
    assert control.entry(name)["urls"][0]["streamed"] is True

