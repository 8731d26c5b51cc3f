"""The control plane's operations, asked by boto3 over a socket, with a scripted supervisor behind them."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.control.functions import FunctionOperations
from engine.store.code import DiskCodeStore
from tests.framework.control import ControlServer, refused
from tests.framework.engine import OWN_RUNTIME, ROLE, zip_of
from tests.framework.frame_server import until

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OTHER_ZIP = zip_of({"m.py": "def f(e, c): return 2\n"})


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


def test_a_minimal_create_answers_as_aws_does(control: ControlServer, name: str) -> None:
    package = zip_of({"m.py": "def f(e, c): return 1\n"})
    answer = control.create(name, Code={"ZipFile": package})
    arn = answer["RuntimeVersionConfig"].pop("RuntimeVersionArn")
    assert re.fullmatch(r"arn:aws:lambda:us-east-1::runtime:[0-9a-f]{64}", arn)
    assert UUID.fullmatch(answer.pop("RevisionId"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", answer.pop("LastModified"))
    assert answer.pop("Architectures") in (["x86_64"], ["arm64"])
    assert answer == {
        "FunctionName": name,
        "FunctionArn": ARN + name,
        "Runtime": OWN_RUNTIME,
        "Role": ROLE,
        "Handler": "m.f",
        "CodeSize": len(package),
        "Description": "",
        "Timeout": 3,
        "MemorySize": 128,
        "CodeSha256": base64.b64encode(hashlib.sha256(package).digest()).decode(),
        "Version": "$LATEST",
        "TracingConfig": {"Mode": "PassThrough"},
        "PackageType": "Zip",
        "EphemeralStorage": {"Size": 512},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "RuntimeVersionConfig": {},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
        "State": "Pending",
        "StateReason": "The function is being created.",
        "StateReasonCode": "Creating",
    }


def test_it_is_active_and_known_to_the_supervisor_once_the_create_is_answered(control: ControlServer, name: str) -> None:
    created = control.create(
        name, Timeout=7, MemorySize=256, EphemeralStorage={"Size": 1024}, Environment={"Variables": {"KEY": "v"}}, Description="d"
    )
    entry = control.entry(name)["versions"]["$LATEST"]
    assert entry["state"] == "Active"
    assert (entry["timeout_s"], entry["memory_mb"], entry["tmp_mb"], entry["env"]) == (7, 256, 1024, {"KEY": "v"})
    assert (Path(entry["code_dir"]) / "m.py").is_file()
    assert list((Path(entry["code_dir"]) / "__pycache__").glob("m.cpython-*.pyc"))
    got = control.client().get_function_configuration(FunctionName=name)
    assert got["State"] == "Active"
    assert got["LastUpdateStatus"] == "Successful"
    assert "StateReason" not in got
    assert got["RevisionId"] != created["RevisionId"]
    assert got["Environment"] == {"Variables": {"KEY": "v"}}
    assert got["Description"] == "d"


def test_members_that_were_not_set_are_absent_and_an_empty_environment_is_shown(control: ControlServer, name: str) -> None:
    control.create(name, Environment={}, VpcConfig={"SubnetIds": [], "SecurityGroupIds": []}, Layers=[], DeadLetterConfig={})
    got = control.client().get_function_configuration(FunctionName=name)
    assert got["Environment"] == {"Variables": {}}
    assert got["VpcConfig"] == {"SubnetIds": [], "SecurityGroupIds": [], "VpcId": "", "Ipv6AllowedForDualStack": False}
    for absent in ("Layers", "DeadLetterConfig", "KMSKeyArn", "FileSystemConfigs", "ImageConfigResponse", "DurableConfig"):
        assert absent not in got


def test_a_second_function_of_a_name_is_a_conflict_also_when_both_come_at_once(control: ControlServer, name: str) -> None:
    outcomes: list[str] = []

    def create() -> None:
        try:
            control.create(name)
            outcomes.append("made")
        except ClientError as e:
            outcomes.append(e.response["Error"]["Message"])

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == sorted(["made", *[f"Function already exist: {name}"] * 3])
    assert refused(control.create, name)[:2] == (409, "ResourceConflictException")


REFUSALS: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("no runtime", {"Runtime": None}, 400, "InvalidParameterValueException", "Runtime and Handler are mandatory parameters for functions created with deployment packages."),
    ("no handler", {"Handler": None}, 400, "InvalidParameterValueException", "Runtime and Handler are mandatory"),
    ("unknown runtime", {"Runtime": "Python3.12"}, 400, "InvalidParameterValueException", "Value Python3.12 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [nodejs20.x, python3.14,"),
    ("dead runtime", {"Runtime": "java8"}, 400, "InvalidParameterValueException", "The runtime parameter of java8 is no longer supported for creating or updating AWS Lambda functions. We recommend you use a supported runtime while creating or updating functions."),
    ("runtime not here", {"Runtime": "python3.14"}, 400, "InvalidParameterValueException", f"Runtime python3.14 is not installed on this host. Installed: {OWN_RUNTIME}."),
    ("other language", {"Runtime": "dotnet8"}, 501, "NotImplementedException", "Lambda Engine does not run the runtime dotnet8 yet."),
    ("image", {"PackageType": "Image", "Code": {"ImageUri": "x"}, "Runtime": None, "Handler": None}, 400, "InvalidParameterValueException", "Source image x does not exist. Provide a valid source image."),
    ("no zip", {"Code": {"ZipFile": b"no zip"}}, 400, "InvalidParameterValueException", "Could not unzip uploaded file. Please check your file, then try to upload again."),
    ("no source", {"Code": {}}, 400, "InvalidParameterValueException", "Please provide a source for function code."),
    ("half a source", {"Code": {"S3Bucket": "bucket"}}, 400, "InvalidParameterValueException", "S3Bucket and S3Key"),
    ("two sources", {"Code": {"ZipFile": OTHER_ZIP, "S3Key": "k", "S3Bucket": "bucket"}}, 400, "InvalidParameterValueException", "Please do not provide other FunctionCode parameters"),
    ("timeout", {"Timeout": 901}, 400, "ValidationException", "1 validation error detected: Value '901' at 'timeout' failed to satisfy constraint: Member must have value less than or equal to 900"),
    ("memory", {"MemorySize": 10241}, 400, "ValidationException", "Value '10241' at 'memorySize' failed to satisfy constraint: Member must have value less than or equal to 10240"),
    ("tmp", {"EphemeralStorage": {"Size": 10241}}, 400, "ValidationException", "at 'ephemeralStorage.size' failed"),
    ("role", {"Role": "nobody"}, 400, "ValidationException", "at 'role' failed to satisfy constraint: Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::"),
    ("reserved variable", {"Environment": {"Variables": {"AWS_REGION": "x"}}}, 400, "InvalidParameterValueException", "Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification. Reserved keys used in this request: AWS_REGION"),
    ("null character", {"Environment": {"Variables": {"KEY": "a\0b"}}}, 400, "InvalidParameterValueException", "contains null characters, which no process's can have. Keys of such values: KEY"),
    ("big environment", {"Environment": {"Variables": {"KEY": "v" * 4090}}}, 400, "InvalidParameterValueException", 'exceeded the 4KB limit. String measured: {"KEY":"vvvv'),
    ("tags", {"Tags": {f"k{n}": "v" for n in range(51)}}, 400, "InvalidParameterValueException", "Number of tags exceeds resource tag limit."),
    ("vpc-half", {"VpcConfig": {"SubnetIds": ["subnet-1"]}}, 400, "InvalidParameterValueException", "SubnetIds and SecurityIds must coexist or be both empty list."),
    ("vpc-six", {"VpcConfig": {"Ipv6AllowedForDualStack": True}}, 501, "NotImplementedException", "IPv4 only"),
    ("layers", {"Layers": ["arn:aws:lambda:us-east-1:000000000000:layer:l:1"]}, 400, "InvalidParameterValueException", "Layer version arn:aws:lambda:us-east-1:000000000000:layer:l:1 does not exist."),
    ("dlq", {"DeadLetterConfig": {"TargetArn": "arn:aws:s3:us-east-1:000000000000:q"}}, 400, "InvalidParameterValueException", "must be the ARN of a standard SQS queue"),
    ("tracing", {"TracingConfig": {"Mode": "active"}}, 400, "ValidationException", "Member must satisfy enum value set: [Active, PassThrough]"),
    ("snapstart", {"SnapStart": {"ApplyOn": "PublishedVersions"}, "EphemeralStorage": {"Size": 1024}}, 400, "InvalidParameterValueException", "SnapStart"),
    ("files", {"FileSystemConfigs": [{"Arn": "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef0", "LocalMountPath": "/mnt/a"}]}, 400, "InvalidParameterValueException", "Function must be configured to execute in a VPC to reference access point arn:aws:elasticfilesystem:"),
    ("other name", {"FunctionName": "arn:aws:lambda:us-east-1:111111111111:function:x"}, 403, "AccessDeniedException", ""),
    ("qualified", {"FunctionName": "x:1"}, 400, "InvalidParameterValueException", "without a qualifier"),
    ("text levels", {"LoggingConfig": {"LogFormat": "Text", "SystemLogLevel": "WARN"}}, 400, "InvalidParameterValueException", "SystemLogLevel can be set only when LogFormat is JSON."),
]  # fmt: skip


@pytest.mark.parametrize(("members", "status", "code", "text"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_what_create_refuses_is_not_there_afterwards(
    control: ControlServer, name: str, members: dict[str, Any], status: int, code: str, text: str
) -> None:
    answer = refused(control.create, name, **members)
    assert answer[:2] == (status, code)
    assert text in answer[2]
    assert refused(control.client().get_function, FunctionName=name)[0] == 404
    assert ("000000000000", name) not in control.peer.catalogue


def test_a_package_that_is_refused_once_it_is_unpacked_leaves_nothing(control: ControlServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"m.py": f"# {name}\nimport os\ndef f(e, c): return os.environ['AWS_LAMBDA_RUNTIME_API']\n"}

    def there() -> list[Path]:
        return sorted(path for folder in ("blobs", "code") for path in (control.settings.data_dir / folder).iterdir())

    control.create(f"{name}-other")
    before = there()

    def full(*_: object, **__: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(DiskCodeStore, "publish", full)
        assert refused(control.create, name, Code={"ZipFile": zip_of(files)})[0] == 500
    assert there() == before, "not even the marker of what its code asks for"
    with monkeypatch.context() as ids:
        ids.setattr(FunctionOperations, "_new", full)
        assert refused(control.create, name, Code={"ZipFile": zip_of(files)})[0] == 500
        # Another's content is not the failure's to remove.
        assert refused(control.create, name)[0] == 500
    assert there() == before
    control.create(name, Code={"ZipFile": zip_of(files)})
    assert len(there()) > len(before)


def test_an_architecture_that_is_not_this_hosts_is_refused(control: ControlServer, name: str) -> None:
    mine = control.client().get_function_configuration(FunctionName=control.create(name)["FunctionName"])["Architectures"][0]
    other = "x86_64" if mine == "arm64" else "arm64"
    assert refused(control.create, name + "-b", Architectures=[other]) == (
        501,
        "NotImplementedException",
        f"Architectures {other} cannot run here: this host is {mine}. "
        "With the setting ignore_architecture it runs what is not compiled for another.",
    )


def test_an_architecture_is_what_the_function_says_where_the_hosts_is_ignored(tmp_path: Path) -> None:
    with ControlServer(tmp_path, settings={"ignore_architecture": True}) as control:
        lambda_client = control.client()
        for architecture in ("arm64", "x86_64"):
            assert control.create(architecture, Architectures=[architecture])["Architectures"] == [architecture]
            code = zip_of({"m.py": "def f(e, c): return 2\n"})
            assert lambda_client.update_function_code(FunctionName=architecture, ZipFile=code)["Architectures"] == [architecture]
        changed = lambda_client.update_function_code(FunctionName="arm64", ZipFile=code, Architectures=["x86_64"])
        assert changed["Architectures"] == ["x86_64"]


def test_get_function_tells_where_the_code_can_be_had(control: ControlServer, name: str) -> None:
    package = zip_of({"m.py": f"# {name}\ndef f(e, c): return 1\n"})
    control.create(name, Code={"ZipFile": package}, Tags={"team": "blue"})
    got = control.client().get_function(FunctionName=name)
    assert got["Tags"] == {"team": "blue"}
    assert got["Code"]["RepositoryType"] == "S3"
    assert "Concurrency" not in got
    location = got["Code"]["Location"]
    assert location.startswith(control.url + "/_engine/code/")
    with urllib.request.urlopen(location, timeout=5) as answer:
        assert answer.read() == package
    forged = location[:-1] + ("A" if location[-1] != "A" else "B")
    control.clock.advance(599)
    urllib.request.urlopen(location, timeout=5).close()
    control.clock.advance(2)
    for url in (forged, location, control.url + "/_engine/code/", control.url + "/_engine/code/!!"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url, timeout=5)
    assert "Tags" not in control.client().get_function(FunctionName=control.create(name + "-b")["FunctionName"])


def test_the_arn_echoes_how_the_function_was_named(control: ControlServer, name: str) -> None:
    control.create(name, Publish=True)
    client = control.client()
    for asked, qualifier, arn in (
        (name, None, ARN + name),
        (ARN + name, None, ARN + name),
        (name, "$LATEST", f"{ARN}{name}:$LATEST"),
        (f"{name}:1", None, f"{ARN}{name}:1"),
        (f"000000000000:function:{name}", "1", f"{ARN}{name}:1"),
    ):
        more = {} if qualifier is None else {"Qualifier": qualifier}
        assert client.get_function_configuration(FunctionName=asked, **more)["FunctionArn"] == arn
    assert refused(client.get_function, FunctionName=name, Qualifier="9") == (404, "ResourceNotFoundException", f"Function not found: {ARN}{name}:9")
    assert refused(client.get_function, FunctionName=f"{name}:1", Qualifier="2")[2] == (
        "The derived qualifier from the function name does not match the specified qualifier."
    )
    assert refused(client.get_function_configuration, FunctionName="nobody") == (404, "ResourceNotFoundException", f"Function not found: {ARN}nobody")


def test_accounts_do_not_see_each_other(control: ControlServer, name: str) -> None:
    control.create(name)
    other = control.client("111111111111")
    assert refused(other.get_function, FunctionName=name)[0] == 404
    assert other.list_functions()["Functions"] == []


def test_updating_code_answers_in_progress_and_is_done(control: ControlServer, name: str) -> None:
    control.create(name)
    client = control.client()
    before = client.get_function_configuration(FunctionName=name)
    generation = control.entry(name)["versions"]["$LATEST"]["generation"]
    control.clock.advance(5)
    answer = client.update_function_code(FunctionName=name, ZipFile=OTHER_ZIP)
    assert (answer["State"], answer["LastUpdateStatus"]) == ("Active", "InProgress")
    assert answer["LastUpdateStatusReason"] == "The function is being created."
    assert answer["LastUpdateStatusReasonCode"] == "Creating"
    assert answer["CodeSha256"] == base64.b64encode(hashlib.sha256(OTHER_ZIP).digest()).decode()
    after = client.get_function_configuration(FunctionName=name)
    assert after["LastUpdateStatus"] == "Successful"
    assert len({before["RevisionId"], answer["RevisionId"], after["RevisionId"]}) == 3
    assert after["LastModified"] > before["LastModified"]
    entry = control.entry(name)["versions"]["$LATEST"]
    assert entry["generation"] != generation
    assert "return 2" in (Path(entry["code_dir"]) / "m.py").read_text()
    client.update_function_code(FunctionName=name, ZipFile=OTHER_ZIP)
    assert control.entry(name)["versions"]["$LATEST"]["generation"] != entry["generation"]


def test_code_that_is_published_already_is_not_being_made_again(control: ControlServer, name: str) -> None:
    control.create(name, Publish=True)
    client = control.client()
    package = zip_of({"m.py": "def f(e, c): return 1\n"})
    made = client.get_function_configuration(FunctionName=name, Qualifier="1")
    answer = client.update_function_code(FunctionName=name, ZipFile=package, Publish=True)
    assert (answer["Version"], answer["State"], answer["LastUpdateStatus"]) == ("1", "Active", "Successful")
    assert answer["RevisionId"] == made["RevisionId"]
    fresh = client.update_function_code(FunctionName=name, ZipFile=OTHER_ZIP, Publish=True)
    assert (fresh["Version"], fresh["State"]) == ("2", "Pending")
    assert "LastUpdateStatus" not in fresh


def test_code_updates_are_refused_before_anything_changes(control: ControlServer, name: str) -> None:
    control.create(name)
    client = control.client()
    before = client.get_function_configuration(FunctionName=name)
    before.pop("ResponseMetadata")
    stale = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"RevisionId": "11111111-1111-1111-1111-111111111111", "ZipFile": OTHER_ZIP}, 412, stale),
        ({"ZipFile": b"x"}, 400, "Could not unzip uploaded file."),
        ({}, 400, "Please provide a source for function code."),
        ({"ImageUri": "x"}, 400, "Please don't provide ImageUri when updating a function with packageType Zip."),
        ({"ZipFile": OTHER_ZIP, "S3ObjectStorageMode": "REFERENCE"}, 400, "S3ObjectStorageMode"),
    ]
    for members, status, text in cases:
        answer = refused(client.update_function_code, FunctionName=name, **members)
        assert answer[0] == status
        assert text in answer[2]
    assert refused(client.update_function_code, FunctionName=f"{name}:1", ZipFile=OTHER_ZIP)[0] == 400
    assert refused(client.update_function_code, FunctionName="nobody", ZipFile=OTHER_ZIP)[2] == f"Function not found: {ARN}nobody"
    after = client.get_function_configuration(FunctionName=name)
    after.pop("ResponseMetadata")
    assert after == before


def test_a_dry_run_judges_the_package_and_keeps_nothing(control: ControlServer, name: str) -> None:
    control.create(name)
    client = control.client()
    before = client.get_function_configuration(FunctionName=name)
    package = zip_of({"m.py": f"# {name} dry\n"})
    would_be = client.update_function_code(FunctionName=name, ZipFile=package, DryRun=True)
    assert would_be["CodeSha256"] == base64.b64encode(hashlib.sha256(package).digest()).decode()
    assert client.get_function_configuration(FunctionName=name)["RevisionId"] == before["RevisionId"]
    assert not control.code.blob(hashlib.sha256(package).hexdigest()).exists()
    assert refused(client.update_function_code, FunctionName=name, ZipFile=b"x", DryRun=True)[0] == 400


def test_an_environment_that_is_emptied_is_gone_and_one_that_says_nothing_changes_nothing(control: ControlServer, name: str) -> None:
    """Terraform saw an environment to take away in every plan, after it had taken away the last variable."""
    control.create(name, Environment={"Variables": {"AA": "1"}})
    client = control.client()
    assert client.update_function_configuration(FunctionName=name, Environment={})["Environment"] == {"Variables": {"AA": "1"}}
    assert "Environment" not in client.update_function_configuration(FunctionName=name, Environment={"Variables": {}})
    assert "Environment" not in client.get_function_configuration(FunctionName=name)
    assert control.entry(name)["versions"]["$LATEST"]["env"] == {}


def test_configuration_members_replace_each_other_whole_but_logging(control: ControlServer, name: str) -> None:
    control.create(name, Environment={"Variables": {"AA": "1", "BB": "2"}}, Timeout=9)
    client = control.client()
    answer = client.update_function_configuration(FunctionName=name, Environment={"Variables": {"CC": "3"}})
    assert answer["LastUpdateStatus"] == "InProgress"
    assert answer["Environment"] == {"Variables": {"CC": "3"}}
    assert answer["Timeout"] == 9
    client.update_function_configuration(FunctionName=name, LoggingConfig={"LogFormat": "JSON"})
    client.update_function_configuration(FunctionName=name, LoggingConfig={"SystemLogLevel": "WARN", "LogGroup": "/mine"})
    got = client.get_function_configuration(FunctionName=name)
    assert got["LoggingConfig"] == {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "WARN", "LogGroup": "/mine"}
    entry = control.entry(name)["versions"]["$LATEST"]
    assert (entry["log_format"], entry["log_level"], entry["system_log_level"], entry["log_group"]) == ("JSON", "INFO", "WARN", "/mine")
    client.update_function_configuration(FunctionName=name, LoggingConfig={"LogFormat": "Text"})
    assert client.get_function_configuration(FunctionName=name)["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": "/mine"}
    stale = refused(client.update_function_configuration, FunctionName=name, RevisionId="11111111-1111-1111-1111-111111111111")
    assert stale[:2] == (412, "PreconditionFailedException")
    for members, status in (
        ({"Timeout": 901}, 400),
        ({"Runtime": "python3.14"}, 400),
        ({"Runtime": ""}, 400),
        ({"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:::"}}, 400),
        ({"Layers": ["arn:aws:lambda:us-east-1:000000000000:layer:l:1"]}, 400),
        ({"Environment": {"Variables": {"_HANDLER": "x"}}}, 400),
    ):
        assert refused(client.update_function_configuration, FunctionName=name, **members)[0] == status
    assert refused(client.update_function_configuration, FunctionName=f"{name}:7", Timeout=1)[0] == 400


def test_versions_are_numbered_frozen_and_made_only_when_something_changed(control: ControlServer, name: str) -> None:
    client = control.client()
    assert control.create(name, Publish=True)["Version"] == "1"
    latest = client.get_function_configuration(FunctionName=name)
    same = client.publish_version(FunctionName=name, Description="ignored")
    assert (same["Version"], same["FunctionArn"], same["Description"]) == ("1", f"{ARN}{name}:1", "")
    assert client.get_function_configuration(FunctionName=name)["RevisionId"] == latest["RevisionId"]
    client.update_function_configuration(FunctionName=name, Timeout=8)
    wrong = refused(client.publish_version, FunctionName=name, CodeSha256="AAAA")
    assert wrong[2] == (
        f"CodeSHA256 (AAAA) is different from current CodeSHA256 in $LATEST ({latest['CodeSha256']}). "
        "Please try again with the CodeSHA256 in $LATEST."
    )
    assert refused(client.publish_version, FunctionName=name, RevisionId="11111111-1111-1111-1111-111111111111")[0] == 412
    current = client.get_function_configuration(FunctionName=name)
    two = client.publish_version(
        FunctionName=name, Description="second", CodeSha256=current["CodeSha256"], RevisionId=current["RevisionId"]
    )
    assert (two["Version"], two["State"], two["LastUpdateStatus"], two["Description"], two["Timeout"]) == ("2", "Active", "Successful", "second", 8)
    assert client.get_function_configuration(FunctionName=name)["RevisionId"] != current["RevisionId"]
    assert client.publish_version(FunctionName=name)["Version"] == "2"
    assert client.get_function_configuration(FunctionName=f"{name}:1")["Timeout"] == 3
    three = client.update_function_code(FunctionName=name, ZipFile=OTHER_ZIP, Publish=True)
    assert (three["Version"], three["FunctionArn"], three["State"]) == ("3", f"{ARN}{name}:3", "Pending")
    assert sorted(control.entry(name)["versions"]) == ["$LATEST", "1", "2", "3"]
    assert client.delete_function(FunctionName=name, Qualifier="3")["ResponseMetadata"]["HTTPStatusCode"] == 204
    client.update_function_configuration(FunctionName=name, Timeout=4)
    assert client.publish_version(FunctionName=name)["Version"] == "4"
    listed = client.list_versions_by_function(FunctionName=name)["Versions"]
    assert [v["Version"] for v in listed] == ["$LATEST", "1", "2", "4"]
    assert [v["FunctionArn"] for v in listed][:2] == [f"{ARN}{name}:$LATEST", f"{ARN}{name}:1"]
    assert not {"State", "LastUpdateStatus", "RuntimeVersionConfig"} & set(listed[0])
    pages = client.get_paginator("list_versions_by_function").paginate(FunctionName=name, PaginationConfig={"PageSize": 3})
    assert [[v["Version"] for v in page["Versions"]] for page in pages] == [["$LATEST", "1", "2"], ["4"]]
    assert refused(client.list_versions_by_function, FunctionName="nobody")[0] == 404


def test_deleting_versions_and_functions(control: ControlServer, name: str) -> None:
    control.create(name, Publish=True)
    client = control.client()
    for qualifier, status, text in (
        ("$LATEST", 400, "$LATEST version cannot be deleted without deleting the function."),
        ("live", 400, "Deletion of aliases is not currently supported."),
    ):
        answer = refused(client.delete_function, FunctionName=name, Qualifier=qualifier)
        assert (answer[0], answer[2]) == (status, text)
    assert client.delete_function(FunctionName=name, Qualifier="77")["ResponseMetadata"]["HTTPStatusCode"] == 204
    client.delete_function(FunctionName=f"{name}:1")
    assert sorted(control.entry(name)["versions"]) == ["$LATEST"]
    answer = client.delete_function(FunctionName=name)
    assert answer["StatusCode"] == 204
    assert ("000000000000", name) not in control.peer.catalogue
    assert refused(client.delete_function, FunctionName=name, Qualifier="1")[2] == f"Function not found: {ARN}{name}"
    control.create(name)


def test_functions_are_listed_by_name_in_pages(control: ControlServer, name: str) -> None:
    account = "222222222222"
    client = control.client(account)
    package = zip_of({"m.py": ""})
    names = [f"{name}-{n}" for n in range(5)]
    for each in reversed(names):
        client.create_function(FunctionName=each, Role=ROLE, Runtime=OWN_RUNTIME, Handler="m.f", Code={"ZipFile": package}, Publish=True)
    everything = client.list_functions()
    assert [f["FunctionName"] for f in everything["Functions"]] == names
    assert "NextMarker" not in everything
    assert not {"State", "LastUpdateStatus", "RuntimeVersionConfig"} & set(everything["Functions"][0])
    pages = list(client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}))
    assert [[f["FunctionName"] for f in p["Functions"]] for p in pages] == [names[:2], names[2:4], names[4:]]
    versions = client.list_functions(FunctionVersion="ALL", MaxItems=3)
    assert [(f["FunctionArn"].split(":", 6)[6], f["Version"]) for f in versions["Functions"]] == [
        (f"{names[0]}:$LATEST", "$LATEST"),
        (f"{names[0]}:1", "1"),
        (f"{names[1]}:$LATEST", "$LATEST"),
    ]
    rest = client.list_functions(FunctionVersion="ALL", Marker=versions["NextMarker"])
    assert len(rest["Functions"]) == 7
    assert client.list_functions(MasterRegion="us-east-1")["Functions"] == []
    for marker in ("nonsense", "bm9uZQ==", "W10="):
        assert refused(client.list_functions, Marker=marker)[:2] == (400, "InvalidParameterValueException")


def test_waiters_end_at_once(control: ControlServer, name: str) -> None:
    control.create(name)
    client = control.client()
    for waiter in ("function_exists", "function_active_v2", "function_updated_v2", "function_active", "function_updated"):
        client.get_waiter(waiter).wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 1})


def test_a_package_that_uses_the_sdk_asks_for_it_in_the_zygote(control: ControlServer, name: str) -> None:
    control.create(name, Code={"ZipFile": zip_of({"m.py": "import boto3\ndef f(e, c): return 1\n"})})
    assert control.entry(name)["versions"]["$LATEST"]["preload"] == ["boto3"]
    control.client().update_function_code(FunctionName=name, ZipFile=OTHER_ZIP)
    assert control.entry(name)["versions"]["$LATEST"]["preload"] == []


def test_a_change_the_supervisor_refuses_is_taken_back(control: ControlServer, name: str) -> None:
    control.create(name)
    client = control.client()
    before = client.get_function_configuration(FunctionName=name)
    control.peer.refusal = lambda op, _value: "no room" if op == "put" else None
    try:
        answer = refused(client.update_function_configuration, FunctionName=name, Timeout=9)
        assert answer[0] == 500
        assert "no room" in answer[2]
        assert refused(control.create, name + "-b")[0] == 500
    finally:
        control.peer.refusal = lambda _op, _value: None
    assert client.get_function_configuration(FunctionName=name)["RevisionId"] == before["RevisionId"]
    assert refused(client.get_function, FunctionName=name + "-b")[0] == 404
    control.create(name + "-b")


def test_a_link_lost_in_the_middle_of_a_change_does_not_lose_it(control: ControlServer, name: str) -> None:
    control.peer.drop_next = True
    control.create(name)
    assert control.entry(name)["versions"]["$LATEST"]["state"] == "Active"


def test_without_a_supervisor_changes_are_refused_and_reads_go_on(tmp_path: Path, name: str) -> None:
    with ControlServer(tmp_path, push_timeout_s=0.3) as control:
        control.create(name)
        control.peer.hang_up()
        until(lambda: not control.link.is_open)
        client = control.client()
        assert client.get_function(FunctionName=name)["Configuration"]["State"] == "Active"
        for call, members in (
            (control.create, {"name": name + "-b"}),
            (client.update_function_code, {"FunctionName": name, "ZipFile": OTHER_ZIP}),
            (client.update_function_configuration, {"FunctionName": name, "Timeout": 5}),
            (client.delete_function, {"FunctionName": name}),
            (client.publish_version, {"FunctionName": name}),
        ):
            assert refused(call, **members)[:2] == (500, "ServiceException")
        control.peer.listen()
        until(lambda: control.link.is_open)
        assert client.get_function_configuration(FunctionName=name)["Timeout"] == 3
        assert refused(client.get_function, FunctionName=name + "-b")[0] == 404


def test_a_change_whose_answer_never_came_is_completed_later(tmp_path: Path, name: str) -> None:
    with ControlServer(tmp_path, push_timeout_s=0.3) as control:
        control.create(name)
        control.peer.mute = True
        client = control.client()
        assert refused(client.update_function_configuration, FunctionName=name, Timeout=5)[0] == 500
        assert client.get_function_configuration(FunctionName=name)["Timeout"] == 5
        control.peer.mute = False
        until(lambda: control.entry(name)["versions"]["$LATEST"]["timeout_s"] == 5)


def test_a_restart_brings_everything_back_and_repairs_trees(tmp_path: Path, name: str) -> None:
    with ControlServer(tmp_path) as control:
        control.create(name, Publish=True, Tags={"a": "b"})
        control.create(name + "-lost", Code={"ZipFile": OTHER_ZIP})
        shown = control.client().get_function(FunctionName=name)["Configuration"]
        entry = control.entry(name)
        tree = Path(entry["versions"]["1"]["code_dir"])
        lost = Path(control.entry(name + "-lost")["versions"]["$LATEST"]["code_dir"])
    for path in (*tree.rglob("*.py"), *tree.rglob("*.pyc")):
        path.unlink()
    for folder in (*tree.rglob("*"), tree):
        folder.rmdir()
    for folder in (lost / "__pycache__", lost):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    (tmp_path / "blobs" / f"{lost.name}.zip").unlink()
    with ControlServer(tmp_path) as control:
        assert control.entry(name) == entry
        assert (tree / "m.py").is_file()
        assert control.entry(name + "-lost")["versions"]["$LATEST"]["state"] == "Failed"
        client = control.client()
        assert client.get_function(FunctionName=name)["Configuration"] == shown
        failed = client.get_function_configuration(FunctionName=name + "-lost")
        assert (failed["State"], failed["StateReasonCode"]) == ("Failed", "InternalError")
        assert failed["StateReason"] == "The function's code is lost: upload it again with UpdateFunctionCode."
        lost_text = refused(client.update_function_configuration, FunctionName=name + "-lost", Timeout=9)[2]
        assert lost_text == "The function's code is lost: upload it again with UpdateFunctionCode first."
        client.update_function_code(FunctionName=name + "-lost", ZipFile=OTHER_ZIP)
        assert control.entry(name + "-lost")["versions"]["$LATEST"]["state"] == "Active"
        assert client.get_function_configuration(FunctionName=name + "-lost")["State"] == "Active"
