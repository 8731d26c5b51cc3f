"""Which of several faults of a request is named, and in whose words: as recorded from the service, asked by boto3 over a socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework.control import ControlServer, refused

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
NOT_FOUND, INVALID = "ResourceNotFoundException", "InvalidParameterValueException"
NO_SIGNING = "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-00000000000000000"


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        running.create("f", Publish=True)
        running.client().create_alias(FunctionName="f", Name="live", FunctionVersion="1")
        yield running


def test_a_client_of_another_region_is_told_of_once(control: ControlServer, caplog: pytest.LogCaptureFixture) -> None:
    for region in ("eu-west-1", "us-east-1", "us-gov-west-1", "x" * 40, "eu-west-1"):
        other = control.client(region=region)
        assert other.get_function(FunctionName="f")["Configuration"]["FunctionArn"] == ARN + "f"
    told = [record.getMessage() for record in caplog.records if record.name == "engine.http.regions"]
    assert [text.partition(":")[0] for text in told] == ["a client signs for region eu-west-1", "a client signs for region us-gov-west-1"]
    assert told[0].endswith("--region eu-west-1 changes that")


def test_how_long_a_name_may_be_is_judged_when_it_is_given(control: ControlServer) -> None:
    client, name = control.client(), "a" * 65
    said = f"1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: Member must have length less than or equal to 64"
    assert refused(control.create, name) == (400, INVALID, said)
    for call in (client.get_function, client.get_function_configuration, client.delete_function, client.list_versions_by_function):
        assert refused(call, FunctionName=name) == (404, NOT_FOUND, f"Function not found: {ARN}{name}")
    assert refused(client.get_function, FunctionName=name, Qualifier="-1") == (404, NOT_FOUND, f"Function not found: {ARN}{name}:-1")


def test_what_is_never_deleted_alone_is_judged_before_the_function_is_looked_for(control: ControlServer) -> None:
    client = control.client()
    latest = (400, INVALID, "$LATEST version cannot be deleted without deleting the function.")
    alias = (400, INVALID, "Deletion of aliases is not currently supported.")
    for name in ("f", "nobody"):
        assert refused(client.delete_function, FunctionName=f"{ARN}{name}:$LATEST", Qualifier="$LATEST") == latest
        for qualifier in ("live", "-1"):
            assert refused(client.delete_function, FunctionName=name, Qualifier=qualifier) == alias
    for qualifier in ("1", "$latest"):
        assert refused(client.delete_function, FunctionName="nobody", Qualifier=qualifier) == (404, NOT_FOUND, f"Function not found: {ARN}nobody")
    mismatch = (400, INVALID, "The derived qualifier from the function name does not match the specified qualifier.")
    assert refused(client.delete_function, FunctionName="nobody:1", Qualifier="$LATEST") == mismatch


def test_provisioned_concurrency_of_no_function_is_that_of_no_alias_or_version(control: ControlServer) -> None:
    client = control.client()

    def put(**members: Any) -> None:
        client.put_provisioned_concurrency_config(ProvisionedConcurrentExecutions=1, **members)

    calls = (client.get_provisioned_concurrency_config, client.delete_provisioned_concurrency_config, put)
    for name in ("f", "nobody"):
        for call in calls:
            assert refused(call, FunctionName=name, Qualifier="noalias") == (404, NOT_FOUND, f"Cannot find alias arn: {ARN}{name}:noalias")
            assert refused(call, FunctionName=name, Qualifier="10") == (404, NOT_FOUND, f"Function not found: {ARN}{name}:10")
    nobody = refused(client.list_provisioned_concurrency_configs, FunctionName="nobody")
    assert nobody == (404, NOT_FOUND, f"Function not found: {ARN}nobody")


def test_a_qualifier_that_no_alias_can_have_is_no_alias_that_is_missing(control: ControlServer) -> None:
    given = {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com"}
    for qualifier, text in (("with-$-in-it", f"Function not found: {ARN}f:with-$-in-it"), ("other", f"Cannot find alias arn: {ARN}f:other")):
        answer = refused(control.client().add_permission, FunctionName="f", Qualifier=qualifier, **given)
        assert answer == (404, NOT_FOUND, text)


def test_a_code_signing_configuration_is_looked_for_before_the_function(control: ControlServer) -> None:
    client = control.client()
    gone = (
        404, "CodeSigningConfigNotFoundException",
        f"The code signing configuration cannot be found. Check that the provided configuration is not deleted: {NO_SIGNING}.",
    )  # fmt: skip
    for name in ("f", "nobody"):
        assert refused(client.put_function_code_signing_config, FunctionName=name, CodeSigningConfigArn=NO_SIGNING) == gone
    made = client.create_code_signing_config(
        AllowedPublishers={"SigningProfileVersionArns": ["arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/0123456789"]}
    )["CodeSigningConfig"]
    missing = refused(client.put_function_code_signing_config, FunctionName="nobody", CodeSigningConfigArn=made["CodeSigningConfigArn"])
    assert missing == (404, NOT_FOUND, f"Function not found: {ARN}nobody")
    client.delete_code_signing_config(CodeSigningConfigArn=made["CodeSigningConfigArn"])


def test_a_url_is_missed_where_there_is_a_function_and_the_function_where_there_is_none(control: ControlServer) -> None:
    client = control.client()
    no_function, no_url = (404, NOT_FOUND, "Function does not exist"), (404, NOT_FOUND, "The resource you requested does not exist.")
    for members, changed in (
        ({"FunctionName": "nobody"}, no_function),
        ({"FunctionName": "f", "Qualifier": "other"}, no_function),
        ({"FunctionName": "f"}, no_url),
        ({"FunctionName": "f", "Qualifier": "live"}, no_url),
    ):
        assert refused(client.update_function_url_config, AuthType="NONE", **members) == changed
        assert refused(client.get_function_url_config, **members) == no_url
        assert refused(client.delete_function_url_config, **members) == no_url
