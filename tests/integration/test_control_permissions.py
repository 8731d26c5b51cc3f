"""Resource policies, asked by boto3 over a socket, with a scripted supervisor behind the control plane."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework.control import ControlServer, refused

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
STALE = "The Revision Id provided does not match the latest Revision Id. Call the GetPolicy API to retrieve the latest Revision Id"
NOT_FOUND, INVALID = "ResourceNotFoundException", "InvalidParameterValueException"
GIVEN = {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "sns.amazonaws.com"}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        running.create("f", Publish=True)
        running.client().create_alias(FunctionName="f", Name="live", FunctionVersion="1")
        yield running


def policy(answer: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(answer["Policy"]))


@pytest.mark.parametrize(("qualifier", "tail"), [(None, ""), ("1", ":1"), ("live", ":live")])
def test_a_policy_hangs_on_what_was_named_and_changes_its_revision(control: ControlServer, qualifier: str | None, tail: str) -> None:
    client, name = control.client(), f"hung{tail.replace(':', '-')}"
    control.create(name, Publish=True)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    named: dict[str, Any] = {"FunctionName": name, **({"Qualifier": qualifier} if qualifier else {})}

    def revision() -> str:
        if qualifier == "live":
            return str(client.get_alias(FunctionName=name, Name="live")["RevisionId"])
        return str(client.get_function_configuration(**named)["RevisionId"])

    first = revision()
    assert refused(client.get_policy, **named) == (404, NOT_FOUND, "The resource you requested does not exist.")
    answer = client.add_permission(**named, **GIVEN, SourceArn="arn:aws:sns:us-east-1:000000000000:t", RevisionId=first)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    added = json.loads(answer["Statement"])
    assert added["Resource"] == f"{ARN}{name}{tail}"
    got = client.get_policy(**named)
    assert policy(got) == {"Version": "2012-10-17", "Id": "default", "Statement": [added]}
    assert first != got["RevisionId"] == revision()
    assert refused(client.add_permission, **named, **{**GIVEN, "StatementId": "t"}, RevisionId=first) == (412, "PreconditionFailedException", STALE)
    client.add_permission(FunctionName=f"{ARN}{name}{tail}", **{**GIVEN, "StatementId": "t", "Principal": "*"})
    assert [s["Sid"] for s in policy(client.get_policy(**named))["Statement"]] == ["s", "t"]
    assert refused(client.remove_permission, **named, StatementId="s", RevisionId=first) == (412, "PreconditionFailedException", STALE)
    assert client.remove_permission(**named, StatementId="s")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert [s["Sid"] for s in policy(client.get_policy(**named))["Statement"]] == ["t"]
    client.remove_permission(**named, StatementId="t", RevisionId=client.get_policy(**named)["RevisionId"])
    assert refused(client.get_policy, **named)[0] == 404


def test_what_cannot_be_added_is_refused_in_awss_words(control: ControlServer) -> None:
    client = control.client()
    client.add_permission(FunctionName="f", **GIVEN)
    exists = "The statement id (s) provided already exists. Please provide a new statement id, or remove the existing statement."
    for members, answer in (
        ({}, (409, "ResourceConflictException", exists)),
        ({"Qualifier": "$LATEST"}, (400, INVALID, "We currently do not support adding policies for $LATEST.")),
        ({"Principal": "nobody"}, (400, INVALID, "The provided principal was invalid. Please check the principal and try again.")),
        ({"FunctionName": "nobody"}, (404, NOT_FOUND, f"Function not found: {ARN}nobody")),
        ({"Qualifier": "42"}, (404, NOT_FOUND, f"Function not found: {ARN}f:42")),
        ({"Qualifier": "other"}, (404, NOT_FOUND, f"Cannot find alias arn: {ARN}f:other")),
    ):
        assert refused(client.add_permission, **{"FunctionName": "f", **GIVEN, **members}) == answer
    big = {"SourceArn": "arn:aws:sns:us-east-1:000000000000:" + "t" * 9900}
    client.add_permission(FunctionName="f", **{**GIVEN, "StatementId": "y" * 100, **big})
    too_big = refused(client.add_permission, FunctionName="f", **{**GIVEN, "StatementId": "x" * 100, "SourceArn": big["SourceArn"]})
    assert too_big[:2] == (400, "PolicyLengthExceededException")
    assert re.fullmatch(r"The final policy size \(2\d{4}\) is bigger than the limit \(20480\)", too_big[2])
    assert [s["Sid"] for s in policy(client.get_policy(FunctionName="f"))["Statement"]] == ["s", "y" * 100]


def test_what_cannot_be_removed_is_refused_in_awss_words(control: ControlServer) -> None:
    client = control.client()
    control.create("bare", Publish=True)
    for members, text in (
        ({"FunctionName": "nobody"}, f"No policy found for: {ARN}nobody"),
        ({}, "No policy is associated with the given resource."),
        ({"Qualifier": "$LATEST"}, "No policy is associated with the given resource."),
        ({"Qualifier": "other"}, f"Cannot find alias arn: {ARN}bare:other"),
        ({"Qualifier": "7"}, f"Function not found: {ARN}bare:7"),
    ):
        assert refused(client.remove_permission, **{"FunctionName": "bare", "StatementId": "s", **members}) == (404, NOT_FOUND, text)
    client.add_permission(FunctionName="bare", **GIVEN)
    missing = refused(client.remove_permission, FunctionName="bare", StatementId="u")
    assert missing == (404, NOT_FOUND, "Statement u is not found in resource policy.")
    assert refused(client.get_policy, FunctionName="nobody") == (404, NOT_FOUND, "The resource you requested does not exist.")


def test_publishing_copies_no_policy_and_deleting_takes_it_along(control: ControlServer) -> None:
    client = control.client()
    control.create("p")
    client.add_permission(FunctionName="p", **GIVEN)
    client.publish_version(FunctionName="p")
    assert refused(client.get_policy, FunctionName="p:1")[0] == 404
    client.create_alias(FunctionName="p", Name="live", FunctionVersion="1")
    client.add_permission(FunctionName="p:live", **GIVEN)
    client.delete_alias(FunctionName="p", Name="live")
    client.create_alias(FunctionName="p", Name="live", FunctionVersion="1")
    assert refused(client.get_policy, FunctionName="p:live")[0] == 404
    client.delete_function(FunctionName="p")
    control.create("p")
    assert refused(client.get_policy, FunctionName="p")[0] == 404


WHOLE: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {"Sid": "a", "Effect": "Deny", "Principal": "*", "Action": "lambda:*", "Resource": f"{ARN}w"},
        {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111111111111:root"}, "Action": ["lambda:GetFunction"], "Resource": f"{ARN}w"},
    ],
}


def test_a_whole_policy_is_the_one_that_permissions_make(control: ControlServer) -> None:
    client = control.client()
    control.create("w", Publish=True)
    arn = f"{ARN}w"
    assert refused(client.get_resource_policy, ResourceArn=arn) == (404, NOT_FOUND, "The resource you requested does not exist.")
    put = client.put_resource_policy(ResourceArn=arn, Policy=json.dumps(WHOLE))
    assert policy(put) == WHOLE
    assert client.get_function_configuration(FunctionName="w")["RevisionId"] == put["RevisionId"]
    client.add_permission(FunctionName="w", **GIVEN)
    got = client.get_resource_policy(ResourceArn=arn)
    assert got["Policy"] == client.get_policy(FunctionName="w")["Policy"]
    assert [s.get("Sid") for s in policy(got)["Statement"]] == ["a", None, "s"]
    client.remove_permission(FunctionName="w", StatementId="a")
    stale = (412, "PreconditionFailedException", STALE.replace("GetPolicy", "GetResourcePolicy"))
    assert refused(client.put_resource_policy, ResourceArn=arn, Policy=json.dumps(WHOLE), RevisionId=put["RevisionId"]) == stale
    assert refused(client.delete_resource_policy, ResourceArn=arn, RevisionId=put["RevisionId"]) == stale
    single = {**WHOLE, "Statement": {**WHOLE["Statement"][0], "Resource": f"{arn}:1"}}
    assert policy(client.put_resource_policy(ResourceArn=f"{arn}:1", Policy=json.dumps(single)))["Statement"] == [single["Statement"]]
    assert client.delete_resource_policy(ResourceArn=arn)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(client.delete_resource_policy, ResourceArn=arn) == (404, NOT_FOUND, "No policy is associated with the given resource.")
    client.get_resource_policy(ResourceArn=f"{arn}:1")


STATEMENT: dict[str, Any] = {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "The policy is not valid JSON"),
        ("[" * 20000, "The policy is not valid JSON"),
        ("[]", "not a JSON object"),
        ({"Statement": []}, "needs a Version"),
        ({"Version": "2012-10-17", "Statement": []}, "at least one Statement"),
        ({"Version": "2012-10-17", "Statement": [1]}, "A Statement of the policy is not a JSON object"),
        ({"Version": "2012-10-17", "Statement": {**STATEMENT, "Sid": 1}}, "A Sid of the policy is not a string"),
        ({"Version": "2012-10-17", "Statement": {**STATEMENT, "Effect": "Maybe"}}, "is Allow or Deny"),
        ({"Version": "2012-10-17", "Statement": {**STATEMENT, "NotAction": "x"}}, "either Action or NotAction"),
        ({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}, "either Principal or NotPrincipal"),
        ({"Version": "2012-10-17", "Statement": [{**STATEMENT, "Sid": "x"}] * 2}, "have the same Sid"),
    ],
)
def test_a_policy_that_is_none_is_refused(control: ControlServer, text: Any, message: str) -> None:
    given = text if isinstance(text, str) else json.dumps(text)
    answer = refused(control.client().put_resource_policy, ResourceArn=f"{ARN}f", Policy=given)
    assert answer[:2] == (400, INVALID)
    assert message in answer[2]


def test_whole_policies_belong_to_functions_that_are_there(control: ControlServer) -> None:
    client = control.client()
    given = json.dumps(WHOLE)
    for arn, code, text in (
        (f"{ARN}nobody", NOT_FOUND, f"Function not found: {ARN}nobody"),
        (f"{ARN}f:9", NOT_FOUND, f"Function not found: {ARN}f:9"),
        (f"{ARN}f:other", NOT_FOUND, f"Cannot find alias arn: {ARN}f:other"),
        (f"{ARN}f:$LATEST", INVALID, "We currently do not support adding policies for $LATEST."),
        (ARN.replace("function:", "runtime/mine"), NOT_FOUND, "The resource you requested does not exist."),
        ("f", "ValidationException", "1 validation error detected"),
    ):
        answer = refused(client.put_resource_policy, ResourceArn=arn, Policy=given)
        assert answer[1] == code
        assert answer[2].startswith(text)
    assert refused(client.delete_resource_policy, ResourceArn=f"{ARN}nobody")[2] == f"Function not found: {ARN}nobody"
