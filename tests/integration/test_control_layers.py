"""Layers by boto3 over a socket, with a scripted supervisor behind the control plane."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.control.archive import MAX_UNZIPPED
from engine.store.api import LayerVersion
from engine.store.layers import SqlLayerStore
from tests.framework.control import ControlServer, refused
from tests.framework.engine import OWN_RUNTIME, zip_of
from tests.integration.test_control_api import UUID

ARN = "arn:aws:lambda:us-east-1:000000000000:layer:"
CONTENT = zip_of({"python/lib.py": "X = 1\n"})
IPV = "InvalidParameterValueException"


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


def publish(control: ControlServer, name: str, content: bytes = CONTENT, **members: Any) -> str:
    """The ARN of a new layer version."""
    return str(control.client().publish_layer_version(LayerName=name, Content={"ZipFile": content}, **members)["LayerVersionArn"])


def test_a_published_version_answers_as_aws_does_and_can_be_downloaded(control: ControlServer, name: str) -> None:
    client = control.client()
    answer = client.publish_layer_version(LayerName=name, Content={"ZipFile": CONTENT})
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    answer.pop("ResponseMetadata")
    location = answer["Content"].pop("Location")
    assert urllib.request.urlopen(location, timeout=10).read() == CONTENT
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert len(answer.pop("CreatedDate")) == len("2025-11-25T02:26:24.123+0000")
    assert answer == {
        "Content": {"CodeSha256": digest, "CodeSize": len(CONTENT)},
        "LayerArn": ARN + name,
        "LayerVersionArn": f"{ARN}{name}:1",
        "Description": "",
        "Version": 1,
    }
    full = client.publish_layer_version(
        LayerName=ARN + name,
        Content={"ZipFile": CONTENT},
        Description="d",
        CompatibleRuntimes=["python3.12"],
        CompatibleArchitectures=["x86_64", "arm64"],
        LicenseInfo="MIT",
    )
    assert full["Version"] == 2
    for got in (client.get_layer_version(LayerName=name, VersionNumber=2), client.get_layer_version_by_arn(Arn=f"{ARN}{name}:2")):
        assert {k: got[k] for k in ("Description", "CompatibleRuntimes", "CompatibleArchitectures", "LicenseInfo")} == {
            "Description": "d",
            "CompatibleRuntimes": ["python3.12"],
            "CompatibleArchitectures": ["x86_64", "arm64"],
            "LicenseInfo": "MIT",
        }


def test_numbers_go_on_after_deletions_and_deleting_twice_is_fine(control: ControlServer, name: str) -> None:
    client = control.client()
    for _ in range(2):
        publish(control, name)
    for _ in range(2):
        answer = client.delete_layer_version(LayerName=name, VersionNumber=2)
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert publish(control, name) == f"{ARN}{name}:3"
    gone = refused(client.get_layer_version, LayerName=name, VersionNumber=2)
    assert gone == (404, "ResourceNotFoundException", "The resource you requested does not exist.")
    for call in (client.get_layer_version, client.delete_layer_version):
        assert refused(call, LayerName=name, VersionNumber=0) == (400, IPV, "Layer Version Cannot be less than 1")
    assert refused(client.get_layer_version_by_arn, Arn=f"{ARN}{name}:9")[0] == 404


def test_a_layer_of_another_region_is_not_the_one_of_that_name_here(control: ControlServer, name: str) -> None:
    client = control.client()
    mine = client.publish_layer_version(LayerName=name, Content={"ZipFile": CONTENT})["LayerArn"]
    theirs = mine.replace(":us-east-1:", ":eu-west-1:")
    unreachable = (404, "ResourceNotFoundException", "Layers from 'eu-west-1' are not reachable in this region ('us-east-1')")
    assert refused(client.publish_layer_version, LayerName=theirs, Content={"ZipFile": CONTENT}) == unreachable
    assert refused(client.list_layer_versions, LayerName=theirs) == unreachable
    assert refused(client.get_layer_version, LayerName=theirs, VersionNumber=1)[1] == "ResourceNotFoundException"
    client.delete_layer_version(LayerName=theirs, VersionNumber=1)
    permission = {"StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*"}
    gone = (404, "ResourceNotFoundException", f"Layer version {theirs}:1 does not exist.")
    assert refused(client.add_layer_version_permission, LayerName=theirs, VersionNumber=1, **permission) == gone
    assert refused(client.get_layer_version_policy, LayerName=theirs, VersionNumber=1) == gone
    assert [version["Version"] for version in client.list_layer_versions(LayerName=mine)["LayerVersions"]] == [1]


def test_a_layer_of_another_partition_is_not_there(control: ControlServer, name: str) -> None:
    client = control.client()
    mine = client.publish_layer_version(LayerName=name, Content={"ZipFile": CONTENT})["LayerVersionArn"]
    layer, version = mine.rpartition(":")[0].replace("arn:aws:", "arn:aws-cn:"), mine.replace("arn:aws:", "arn:aws-cn:")
    assert refused(control.create, f"{name}-f", Layers=[version]) == (400, IPV, f"Layer version {version} does not exist.")
    assert refused(client.get_layer_version_by_arn, Arn=version)[0] == 404
    assert refused(client.get_layer_version, LayerName=layer, VersionNumber=1)[0] == 404
    assert refused(client.get_layer_version_policy, LayerName=layer, VersionNumber=1)[2] == f"Layer version {version} does not exist."
    unreachable = (404, "ResourceNotFoundException", "Layers from 'aws-cn' are not reachable in this region ('us-east-1')")
    assert refused(client.list_layer_versions, LayerName=layer) == unreachable
    client.delete_layer_version(LayerName=layer, VersionNumber=1)
    assert client.get_layer_version_by_arn(Arn=mine)["Version"] == 1


def test_listings_are_paged_filtered_and_newest_first(tmp_path: Path) -> None:
    with ControlServer(tmp_path) as control:
        client = control.client()
        assert client.list_layers()["Layers"] == []
        assert client.list_layer_versions(LayerName="nobody")["LayerVersions"] == []
        publish(control, "b", CompatibleRuntimes=["python3.12"], CompatibleArchitectures=["arm64"])
        publish(control, "b", Description="second")
        publish(control, "a")
        publish(control, "c")
        first = client.list_layers(MaxItems=2)
        assert [(x["LayerName"], x["LatestMatchingVersion"]["Version"]) for x in first["Layers"]] == [("a", 1), ("b", 2)]
        rest = client.list_layers(MaxItems=2, Marker=first["NextMarker"])
        assert [x["LayerArn"] for x in rest["Layers"]] == [ARN + "c"]
        assert "NextMarker" not in rest
        for wanted in ({"CompatibleRuntime": "python3.12"}, {"CompatibleArchitecture": "arm64"}):
            assert [(x["LayerName"], x["LatestMatchingVersion"]["Version"]) for x in client.list_layers(**wanted)["Layers"]] == [("b", 1)]
            assert [x["Version"] for x in client.list_layer_versions(LayerName="b", **wanted)["LayerVersions"]] == [1]
        page = client.list_layer_versions(LayerName="b", MaxItems=1)
        assert [(x["Version"], x["Description"]) for x in page["LayerVersions"]] == [(2, "second")]
        assert "Content" not in page["LayerVersions"][0]
        page = client.list_layer_versions(LayerName="b", MaxItems=1, Marker=page["NextMarker"])
        assert [x["Version"] for x in page["LayerVersions"]] == [1]
        assert "NextMarker" not in page
        assert control.client("111111111111").list_layers()["Layers"] == []


def test_content_is_judged_as_a_package_is(control: ControlServer, name: str) -> None:
    client = control.client()

    def publishing(content: dict[str, Any], **members: Any) -> tuple[int, str, str]:
        return refused(client.publish_layer_version, LayerName=name, Content=content, **members)

    assert publishing({"ZipFile": b"no zip"}) == (
        400, IPV, "Could not unzip uploaded file. Please check your file, then try to upload again.",
    )  # fmt: skip
    assert publishing({})[:2] == (400, IPV)
    assert publishing({"ZipFile": CONTENT}, CompatibleRuntimes=["cobol"])[1] == "ValidationException"
    assert refused(client.publish_layer_version, LayerName="arn:aws:lambda:us-east-1:111111111111:layer:x", Content={"ZipFile": CONTENT})[0] == 403
    assert client.list_layer_versions(LayerName=name)["LayerVersions"] == []


def test_a_function_shows_its_layers_in_order_and_its_instances_get_them(control: ControlServer, name: str) -> None:
    client = control.client()
    one, two = publish(control, name + "-1"), publish(control, name + "-2", zip_of({"bin/tool": "x"}))
    created = control.create(name, Layers=[two, one])
    assert created["Layers"] == [
        {"Arn": two, "CodeSize": len(zip_of({"bin/tool": "x"}))},
        {"Arn": one, "CodeSize": len(CONTENT)},
    ]
    entry = control.entry(name)["versions"]["$LATEST"]
    assert [sorted(p.name for p in Path(layer).iterdir()) for layer in entry["layers"]] == [["bin"], ["python"]]
    assert list(Path(entry["layers"][1]).rglob("*.pyc")), "compiled for the function's runtime"
    client.publish_version(FunctionName=name)
    kept = client.update_function_configuration(FunctionName=name, Timeout=5)
    assert [x["Arn"] for x in kept["Layers"]] == [two, one]
    client.update_function_code(FunctionName=name, ZipFile=zip_of({"m.py": "def f(e, c): return 3\n"}))
    assert len(control.entry(name)["versions"]["$LATEST"]["layers"]) == 2
    emptied = client.update_function_configuration(FunctionName=name, Layers=[])
    assert "Layers" not in emptied
    assert control.entry(name)["versions"]["$LATEST"]["layers"] == []
    assert control.entry(name)["versions"]["1"]["layers"] == entry["layers"]


def test_layers_a_function_cannot_have(control: ControlServer, name: str) -> None:
    one, again = publish(control, name), publish(control, name)
    many = [publish(control, f"{name}-{n}") for n in range(6)]
    control.create(name)
    other = control.client("111111111111").publish_layer_version(LayerName=name, Content={"ZipFile": CONTENT})["LayerVersionArn"]
    elsewhere = one.replace("us-east-1", "eu-west-1")
    denied = (
        f"User: arn:aws:iam::000000000000:root is not authorized to perform: lambda:GetLayerVersion on resource: {other} "
        "because no resource-based policy allows the lambda:GetLayerVersion action"
    )
    table = [
        (many, (400, IPV, "Cannot reference more than 5 layers.")),
        ([one, again], (400, IPV, "Two different versions of the same layer are not allowed to be referenced in the same function. "
                                  f"{one} and {again} are versions of the same layer.")),
        ([one[:-1] + "7"], (400, IPV, f"Layer version {one[:-1]}7 does not exist.")),
        ([elsewhere], (400, IPV, "Layers are not in the same region as the function. Layers are expected to be in region us-east-1.")),
        ([other], (403, "AccessDeniedException", denied)),
    ]  # fmt: skip
    for layers, expected in table:
        assert refused(control.client().update_function_configuration, FunctionName=name, Layers=layers) == expected
        assert refused(control.create, name + "-new", Layers=layers) == expected
    assert refused(control.create, name + "-new", Layers=[one.rpartition(":")[0]])[1] == "ValidationException"
    assert "Layers" not in control.client().get_function_configuration(FunctionName=name)


def test_code_and_layers_together_must_fit(control: ControlServer, name: str, tmp_path: Path) -> None:
    big = tmp_path / "big.zip"
    with zipfile.ZipFile(big, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("python/zeros", bytes(MAX_UNZIPPED - 10))
    layer = publish(control, name, big.read_bytes())
    code = "def f(e, c): return 1\n"
    status, kind, text = refused(control.create, name, Layers=[layer])
    assert (status, kind) == (400, IPV)
    assert text == (
        f"Function code combined with layers exceeds the maximum allowed size of {MAX_UNZIPPED} bytes. "
        f"The actual size is {MAX_UNZIPPED - 10 + len(code)} bytes."
    )
    control.create(name, Layers=[layer], Code={"ZipFile": zip_of({"m.py": "f=1"})})
    client = control.client()
    assert "combined with layers" in refused(client.update_function_code, FunctionName=name, ZipFile=zip_of({"m.py": code}))[2]


def test_a_shared_layer_is_open_to_those_its_policy_names(control: ControlServer, name: str) -> None:
    owner, other = control.client(), control.client("111111111111")
    arn = publish(control, name)
    where = {"LayerName": name, "VersionNumber": 1}
    none = (404, "ResourceNotFoundException", "No policy is associated with the given resource.")
    assert refused(owner.get_layer_version_policy, **where) == none
    assert refused(owner.remove_layer_version_permission, StatementId="s", **where) == none
    missing = (404, "ResourceNotFoundException", f"Layer version {arn[:-1]}8 does not exist.")
    permission = {"StatementId": "s1", "Action": "lambda:GetLayerVersion", "Principal": "111111111111"}
    assert refused(owner.add_layer_version_permission, LayerName=name, VersionNumber=8, **permission) == missing
    assert refused(other.get_layer_version_by_arn, Arn=arn)[0] == 403

    added = owner.add_layer_version_permission(**where, **permission)
    assert added["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert added["Statement"] == (
        '{"Sid":"s1","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111111111111:root"},'
        f'"Action":"lambda:GetLayerVersion","Resource":"{arn}"}}'
    )
    assert UUID.fullmatch(added["RevisionId"])
    assert other.get_layer_version_by_arn(Arn=arn)["Version"] == 1
    assert refused(control.client("222222222222").get_layer_version_by_arn, Arn=arn)[0] == 403
    assert refused(owner.add_layer_version_permission, **where, **permission) == (
        409, "ResourceConflictException",
        "The statement id (s1) provided already exists. Please provide a new statement id, or remove the existing statement.",
    )  # fmt: skip
    stale = "The Revision Id provided does not match the latest Revision Id. Call the GetLayerPolicy API to retrieve the latest Revision Id"
    everyone = {**permission, "StatementId": "s2", "Principal": "*"}
    assert refused(owner.add_layer_version_permission, **where, **everyone, RevisionId="old") == (412, "PreconditionFailedException", stale)
    owner.add_layer_version_permission(**where, **{**everyone, "OrganizationId": "o-1234567890"}, RevisionId=added["RevisionId"])
    assert refused(control.client("222222222222").get_layer_version_by_arn, Arn=arn)[0] == 403, "no account here is in an organisation"
    policy = owner.get_layer_version_policy(**where)
    document = json.loads(policy["Policy"])
    assert (document["Version"], document["Id"], [s["Sid"] for s in document["Statement"]]) == ("2012-10-17", "default", ["s1", "s2"])
    assert document["Statement"][1]["Condition"] == {"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}}
    assert refused(owner.remove_layer_version_permission, **where, StatementId="s9")[2] == "Statement s9 is not found in resource policy."
    assert refused(owner.remove_layer_version_permission, **where, StatementId="s1", RevisionId="old")[0] == 412
    for sid in ("s1", "s2"):
        assert owner.remove_layer_version_permission(**where, StatementId=sid)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(owner.get_layer_version_policy, **where) == none
    assert refused(owner.add_layer_version_permission, **where, **{**everyone, "Principal": "111111111111", "OrganizationId": "o-1234567890"})[0] == 400


def test_a_policy_has_a_greatest_size(control: ControlServer, name: str) -> None:
    publish(control, name)
    long = {"StatementId": "s" * 100, "Action": "lambda:GetLayerVersion", "Principal": "*"}
    control.client().add_layer_version_permission(LayerName=name, VersionNumber=1, **long)
    store = SqlLayerStore(control.database)

    def fill(layer: LayerVersion | None) -> LayerVersion:
        return replace(layer, policy=tuple({**layer.policy[0], "Sid": f"{n:03}" + "s" * 90} for n in range(70)))

    asyncio.run(store.amend("000000000000", name, 1, fill))
    with pytest.raises(ClientError) as caught:
        for n in range(50):
            control.client().add_layer_version_permission(LayerName=name, VersionNumber=1, **{**long, "StatementId": f"t{n}"})
    error = caught.value.response["Error"]
    assert error["Code"] == "PolicyLengthExceededException"
    assert re.fullmatch(r"The final policy size \(20[4-6]\d\d\) is bigger than the limit \(20480\)", error["Message"])


def test_a_deleted_layer_stays_with_the_functions_that_have_it_and_goes_with_them(control: ControlServer, name: str) -> None:
    content = zip_of({"python/only.py": f"N = '{name}'\n"})
    arn = publish(control, name, content)
    control.create(name, Layers=[arn])
    tree = Path(control.entry(name)["versions"]["$LATEST"]["layers"][0])
    client = control.client()
    client.delete_layer_version(LayerName=name, VersionNumber=1)
    control.clock.advance(10_000)
    assert tree.name not in control.code.collect()
    assert client.update_function_configuration(FunctionName=name, Timeout=9)["Layers"][0]["Arn"] == arn
    assert refused(control.create, name + "-2", Layers=[arn])[2] == f"Layer version {arn} does not exist."
    client.delete_function(FunctionName=name)
    control.clock.advance(999)
    assert tree.name not in control.code.collect()
    control.clock.advance(1)
    assert tree.name in control.code.collect()
    assert not tree.exists()


def test_a_restart_brings_layers_back_and_repairs_their_trees(tmp_path: Path) -> None:
    with ControlServer(tmp_path) as control:
        arn = publish(control, "l")
        control.create("f", Layers=[arn])
        entry = control.entry("f")
        tree = Path(entry["versions"]["$LATEST"]["layers"][0])
    for path in sorted(tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    tree.rmdir()
    with ControlServer(tmp_path) as control:
        assert control.entry("f") == entry
        assert (tree / "python/lib.py").is_file()
        assert control.client().get_function_configuration(FunctionName="f")["Layers"][0]["Arn"] == arn
        assert control.client().get_function_configuration(FunctionName="f")["Runtime"] == OWN_RUNTIME


def test_layers_count_towards_the_accounts_storage(control: ControlServer, name: str) -> None:
    before = control.store.stored_bytes("333333333333")
    control.client("333333333333").publish_layer_version(LayerName=name, Content={"ZipFile": CONTENT})
    assert control.store.stored_bytes("333333333333") == before + len(CONTENT)
    control.client("333333333333").delete_layer_version(LayerName=name, VersionNumber=1)
    assert control.store.stored_bytes("333333333333") == before
    assert control.store.known_layer_bytes("333333333333") == control.store.layer_bytes("333333333333")
