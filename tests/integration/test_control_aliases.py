"""Aliases, asked by boto3 over a socket, with a scripted supervisor behind the control plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework.control import ControlServer, refused
from tests.framework.engine import ROLE, zip_of

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
STALE = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        yield running


@pytest.fixture(scope="module")
def function(control: ControlServer) -> str:
    """A function with versions 1 and 2, and 3 with another role."""
    client = control.client()
    control.create("f", Publish=True)
    client.update_function_code(FunctionName="f", ZipFile=zip_of({"m.py": "def f(e, c): return 2\n"}), Publish=True)
    client.update_function_configuration(FunctionName="f", Role=f"{ROLE}-other")
    client.publish_version(FunctionName="f")
    client.update_function_configuration(FunctionName="f", Role=ROLE)
    return "f"


def without_meta(answer: dict[str, Any]) -> dict[str, Any]:
    answer.pop("ResponseMetadata")
    return answer


def test_an_alias_lives_as_at_aws(control: ControlServer, function: str) -> None:
    client = control.client()
    made = client.create_alias(FunctionName=function, Name="live", FunctionVersion="1")
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    made = without_meta(made)
    revision = made.pop("RevisionId")
    assert made == {"AliasArn": f"{ARN}f:live", "Name": "live", "FunctionVersion": "1", "Description": ""}
    assert without_meta(client.get_alias(FunctionName=function, Name="live"))["RevisionId"] == revision
    assert control.entry(function)["aliases"]["live"] == {"version": "1", "weights": {}}
    routing = {"AdditionalVersionWeights": {"2": 0.25}}
    changed = without_meta(
        client.update_alias(FunctionName=f"{ARN}f", Name="live", Description="d", RoutingConfig=routing, RevisionId=revision)
    )
    assert changed.pop("RevisionId") != revision
    assert changed == {**made, "Description": "d", "RoutingConfig": routing}
    assert control.entry(function)["aliases"]["live"] == {"version": "1", "weights": {"2": 0.25}}
    kept = client.update_alias(FunctionName=function, Name="live", Description="")
    assert (kept["Description"], kept["RoutingConfig"], kept["FunctionVersion"]) == ("", routing, "1")
    assert refused(client.update_alias, FunctionName=function, Name="live", RevisionId=revision) == (412, "PreconditionFailedException", STALE)
    cleared = client.update_alias(FunctionName=function, Name="live", RoutingConfig={}, FunctionVersion="2")
    assert "RoutingConfig" not in cleared
    assert cleared["FunctionVersion"] == "2"
    assert client.delete_alias(FunctionName=function, Name="live")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert control.entry(function)["aliases"] == {}
    client.delete_alias(FunctionName=function, Name="live")
    client.delete_alias(FunctionName="nobody", Name="live")


def test_an_alias_names_its_version_wherever_a_qualifier_may_stand(control: ControlServer, function: str) -> None:
    client = control.client()
    client.create_alias(FunctionName=function, Name="named", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {"1": 0.1}})
    got = client.get_function(FunctionName=function, Qualifier="named")["Configuration"]
    assert (got["FunctionArn"], got["Version"]) == (f"{ARN}f:named", "2")
    assert client.get_function_configuration(FunctionName=f"{ARN}f:named")["Version"] == "2"
    assert refused(client.get_function, FunctionName=function, Qualifier="other") == (
        404, "ResourceNotFoundException", f"Function not found: {ARN}f:other",
    )  # fmt: skip
    in_use = "Unable to delete version because the following aliases reference it: [named]"
    for version in ("1", "2"):
        assert refused(client.delete_function, FunctionName=function, Qualifier=version) == (409, "ResourceConflictException", in_use)
    assert refused(client.delete_function, FunctionName=function, Qualifier="named") == (
        400, "InvalidParameterValueException", "Deletion of aliases is not currently supported.",
    )  # fmt: skip
    client.delete_alias(FunctionName=function, Name="named")


NOT_FOUND, INVALID, VALIDATION = "ResourceNotFoundException", "InvalidParameterValueException", "ValidationException"
REFUSALS: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("no version", {"FunctionVersion": "10"}, 404, NOT_FOUND, f"Function not found: {ARN}f:10"),
    ("no function", {"FunctionName": "nobody"}, 404, NOT_FOUND, f"Function not found: {ARN}nobody:1"),
    ("no weighted version", {"RoutingConfig": {"AdditionalVersionWeights": {"10": 0.5}}}, 404, NOT_FOUND, f"Function not found: {ARN}f:10"),
    ("two more", {"RoutingConfig": {"AdditionalVersionWeights": {"2": 0.5, "3": 0.1}}}, 400, INVALID, "Number of items in AdditionalVersionWeights cannot be greater than 1"),
    ("main again", {"RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}}, 400, INVALID, "Invalid function version 1. Function version 1 is already included in routing configuration."),
    ("latest", {"FunctionVersion": "$LATEST", "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}}, 400, INVALID, "$LATEST is not supported for an alias pointing to more than 1 version"),
    ("another role", {"RoutingConfig": {"AdditionalVersionWeights": {"3": 0.5}}}, 400, INVALID, "The versions of an alias must have the same execution role; those of 1 and 3 differ."),
    ("weight", {"RoutingConfig": {"AdditionalVersionWeights": {"2": 2.0}}}, 400, VALIDATION, "1 validation error detected: Value '{2=2.0}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]"),
    ("key", {"RoutingConfig": {"AdditionalVersionWeights": {"$LATEST": 0.5}}}, 400, VALIDATION, "1 validation error detected: Value '{$LATEST=0.5}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+]"),
    ("digits", {"Name": "12"}, 400, VALIDATION, "1 validation error detected: Value '12' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"),
    ("qualified", {"FunctionName": "f:1"}, 400, INVALID, "This operation is permitted on Lambda functions only."),
]  # fmt: skip


@pytest.mark.parametrize(("members", "status", "code", "text"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_what_cannot_be_an_alias_is_refused_at_create_and_at_update(
    control: ControlServer, function: str, members: dict[str, Any], status: int, code: str, text: str
) -> None:
    client = control.client()
    given = {"FunctionName": function, "Name": "refused", "FunctionVersion": "1", **members}
    answer = refused(client.create_alias, **given)
    assert answer[:2] == (status, code)
    assert answer[2].startswith(text)
    assert refused(client.get_alias, FunctionName=function, Name="refused")[0] == 404
    if members.keys() & {"Name", "FunctionName"}:
        return
    client.create_alias(FunctionName=function, Name="refused", FunctionVersion="1")
    assert refused(client.update_alias, **given) == answer
    assert client.get_alias(FunctionName=function, Name="refused")["FunctionVersion"] == "1"
    client.delete_alias(FunctionName=function, Name="refused")


def test_duplicates_and_missing_aliases_are_told_by_arn(control: ControlServer, function: str) -> None:
    client = control.client()
    client.create_alias(FunctionName=function, Name="once", FunctionVersion="$LATEST")
    assert refused(client.create_alias, FunctionName=function, Name="once", FunctionVersion="1") == (
        409, "ResourceConflictException", f"Alias already exists: {ARN}f:once",
    )  # fmt: skip
    client.delete_alias(FunctionName=function, Name="once")
    assert refused(client.get_alias, FunctionName=function, Name="once")[2] == f"Cannot find alias arn: {ARN}f:once"
    assert refused(client.update_alias, FunctionName=function, Name="once") == (404, NOT_FOUND, f"Alias not found: {ARN}f:once")
    for call in (client.get_alias, client.update_alias):
        assert refused(call, FunctionName="nobody", Name="x") == (404, NOT_FOUND, f"Function not found: {ARN}nobody")
    assert refused(client.list_aliases, FunctionName="nobody") == (404, NOT_FOUND, f"Function not found: {ARN}nobody")


def test_aliases_are_listed_by_name_in_pages_and_by_version(control: ControlServer, function: str) -> None:
    client = control.client()
    assert client.list_aliases(FunctionName=function)["Aliases"] == []
    names = [f"a{n:02}" for n in range(7)]
    for n, name in enumerate(reversed(names)):
        client.create_alias(FunctionName=function, Name=name, FunctionVersion=str(1 + n % 2))
    pages = list(client.get_paginator("list_aliases").paginate(FunctionName=function, PaginationConfig={"PageSize": 3}))
    assert [[alias["Name"] for alias in page["Aliases"]] for page in pages] == [names[:3], names[3:6], names[6:]]
    assert "NextMarker" not in pages[-1]
    ones = client.list_aliases(FunctionName=function, FunctionVersion="2")["Aliases"]
    assert [alias["Name"] for alias in ones] == ["a01", "a03", "a05"]
    assert refused(client.list_aliases, FunctionName=function, Marker="nonsense")[1] == INVALID
    for name in names:
        client.delete_alias(FunctionName=function, Name=name)


def test_aliases_go_with_their_function_and_survive_a_restart(control: ControlServer) -> None:
    client = control.client()
    control.create("mortal", Publish=True)
    client.create_alias(FunctionName="mortal", Name="live", FunctionVersion="1")
    control.catalogue.load(control.store.everything())
    assert control.catalogue.has("000000000000", "mortal", "live")
    client.delete_function(FunctionName="mortal")
    control.create("mortal")
    assert refused(client.get_alias, FunctionName="mortal", Name="live")[0] == 404
