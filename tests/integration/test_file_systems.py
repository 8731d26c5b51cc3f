"""FileSystemConfigs from the API to the file: every kind of runtime, what Lambda refuses, and what is left when all is over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from tests.framework import clients, host
from tests.framework.engine import OWN_RUNTIME, Engine, engine
from tests.framework.wait import until
from tests.integration import test_images as image
from tests.integration.test_ruby import ruby

ARN = "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef0"
S3_FILES = "arn:aws:s3files:us-east-1:000000000000:file-system/fs-0123456789abcdef0/access-point/fsap-0123456789abcdef0"
UNKNOWN = ARN.replace("def0", "def9")
OWNER = 4321
VPC = {"SubnetIds": ["subnet-own"], "SecurityGroupIds": ["sg-own"]}
VPCS = {"vpc-own": {"cidr": "10.9.0.0/16", "subnets": {"subnet-own": "10.9.1.0/24"}, "security_groups": {"sg-own": {}}}}
# Writes what it is sent, answers what there is.
PYTHON = """
import os
def f(event, context):
    for name, text in event.items():
        with open(f"/mnt/files/{name}", "a") as out:
            out.write(text)
    return {name: open(f"/mnt/files/{name}").read() for name in sorted(os.listdir("/mnt/files"))}
"""
NODE = """
const fs = require("fs");
exports.handler = async event => {
  for (const [name, text] of Object.entries(event)) fs.appendFileSync(`/mnt/files/${name}`, text);
  return Object.fromEntries(fs.readdirSync("/mnt/files").sort().map(name => [name, fs.readFileSync(`/mnt/files/${name}`, "utf8")]));
};
"""
RUBY = """
def f(event:, context:)
  event.each { |name, text| File.write("/mnt/files/#{name}", text, mode: 'a') }
  Dir.children('/mnt/files').sort.to_h { |name| [name, File.read("/mnt/files/#{name}")] }
end
"""
BASH = """#!/bin/bash
API="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
  HEADERS=$(mktemp)
  curl -sS -D "$HEADERS" "$API/invocation/next" > /dev/null
  ID=$(grep -i Lambda-Runtime-Aws-Request-Id "$HEADERS" | tr -d '[:space:]' | cut -d: -f2)
  echo -n "from bash;" >> /mnt/files/log
  curl -sS -d "\\"$(cat /mnt/files/log)\\"" "$API/invocation/$ID/response"
done
"""
LOOKS = """
import os
def handler(event, context):
    with open("/mnt/files/log", "a") as out:
        out.write("from an image;")
    return [open("/mnt/files/log").read(), sorted(os.listdir("/mnt"))]
"""


class Lab(NamedTuple):
    """An engine, and the directories that play its file systems."""

    engine: Engine
    share: Path
    other: Path

    def deploy(self, name: str, files: dict[str, str | bytes], *arguments: str, arn: str = ARN, **settings: Any) -> dict[str, Any]:
        given = {"VpcConfig": VPC, "FileSystemConfigs": [{"Arn": arn, "LocalMountPath": "/mnt/files"}], "Timeout": 30, **settings}
        return self.engine.deploy(name, files, *arguments, **given)

    def invoke(self, name: str, event: Any = None) -> Any:
        return json.loads(self.engine.client().invoke(FunctionName=name, Payload=json.dumps({} if event is None else event))["Payload"].read())


@contextlib.contextmanager
def laboratory(**settings: Any) -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="lambda-engine-share-"))
    try:
        folder.chmod(0o755)
        share, other = folder / "share", folder / "other"
        for path in (share, other):
            path.mkdir()
            if settings["sandbox"] == "full":
                os.chown(path, OWNER, OWNER)
        with engine(vpcs=VPCS, file_systems={ARN: str(share), S3_FILES: {"path": str(other)}}, **settings) as running:
            yield Lab(running, share, other)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with laboratory(sandbox="full", max_age_s=0.0) as made:
        yield made


def _refused(lab: Lab, **settings: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as e:
        lab.deploy("refused", {"m.py": PYTHON}, **settings)
    return e.value.response["Error"]["Code"], e.value.response["Error"]["Message"]


@pytest.mark.root
def test_two_functions_and_every_kind_of_runtime_share_files(lab: Lab, tmp_path: Path) -> None:
    created = lab.deploy("one", {"m.py": PYTHON})
    config = [{"Arn": ARN, "LocalMountPath": "/mnt/files"}]
    assert created["FileSystemConfigs"] == config
    assert lab.engine.client().get_function_configuration(FunctionName="one")["FileSystemConfigs"] == config
    lab.deploy("two", {"m.py": PYTHON})
    assert lab.invoke("one", {"log": "from one;"}) == {"log": "from one;"}
    assert lab.invoke("two", {"log": "from two;"}) == {"log": "from one;from two;"}
    lab.deploy("in-bash", {"bootstrap": BASH}, Runtime="provided.al2023")
    expected = "from one;from two;from bash;"
    assert lab.invoke("in-bash") == expected
    folder = tmp_path / "image"
    image.build(folder, LOOKS)
    assert image.command("import", str(folder), data_dir=lab.engine.data_dir).returncode == 0
    image.create(lab.engine.client(), "image", ImageConfig={"Command": ["looks.handler"]}, VpcConfig=VPC, FileSystemConfigs=config)
    expected += "from an image;"
    assert lab.invoke("image") == [expected, ["files"]]
    stat = (lab.share / "log").stat()
    assert (stat.st_uid, stat.st_gid) == (OWNER, OWNER)
    assert lab.invoke("one") == {"log": expected}


@pytest.mark.root
@pytest.mark.slow
def test_nodejs_and_ruby_have_it_too() -> None:
    host.require("no Node.js with npm")
    runtime, program = ruby()
    with laboratory(sandbox="full", runtimes={"nodejs22.x": str(clients.node_program(22)), runtime: program}) as lab:
        (lab.share / "log").write_text("")
        (lab.share / "log").chmod(0o666)
        lab.deploy("node", {"index.js": NODE}, "index.handler", Runtime="nodejs22.x")
        lab.deploy("late", {"index.js": NODE}, "index.handler", Runtime="nodejs22.x", Environment={"Variables": {"NODE_OPTIONS": "--no-warnings"}})
        assert lab.invoke("node", {"f": "x"}) == {"f": "x", "log": ""}
        assert lab.invoke("late", {"f": "y"}) == {"f": "xy", "log": ""}
        lab.deploy("ruby", {"m.rb": RUBY}, "m.f", Runtime=runtime)
        assert lab.invoke("ruby", {"f": "z"}) == {"f": "xyz", "log": ""}


@pytest.mark.root
def test_what_lambda_refuses(lab: Lab) -> None:
    where = "Please update the function configuration to include VPC subnets and security groups."
    assert _refused(lab, VpcConfig={}) == (
        "InvalidParameterValueException", f"Function must be configured to execute in a VPC to reference access point {ARN}. {where}"
    )  # fmt: skip
    code, message = _refused(lab, arn=UNKNOWN)
    assert (code, message.partition(". ")[0]) == ("InvalidParameterValueException", f"The access point {UNKNOWN} does not exist")
    code, message = _refused(lab, FileSystemConfigs=[{"Arn": ARN, "LocalMountPath": "/mnt/.."}])
    assert (code, message) == ("InvalidParameterValueException", "The local mount path /mnt/.. is not a directory in /mnt.")
    code, message = _refused(lab, FileSystemConfigs=[{"Arn": ARN, "LocalMountPath": "/data"}])
    assert code == "ValidationException"
    assert "Member must satisfy regular expression pattern" in message
    code, message = _refused(lab, FileSystemConfigs=[{"Arn": ARN, "LocalMountPath": f"/mnt/{n}"} for n in "ab"])
    assert code == "ValidationException"
    assert "Member must have length less than or equal to 1" in message
    s3 = {"DirectS3Read": "AUTO"}
    assert _refused(lab, FileSystemConfigs=[{"Arn": ARN, "LocalMountPath": "/mnt/a", "S3FilesConfig": s3}])[0] == "InvalidParameterValueException"
    s3 = {"DirectS3Read": "ENABLED"}
    assert _refused(lab, FileSystemConfigs=[{"Arn": S3_FILES, "LocalMountPath": "/mnt/a", "S3FilesConfig": s3}])[0] == "NotImplementedException"


@pytest.mark.root
def test_it_comes_goes_and_moves_with_an_update(lab: Lab) -> None:
    aws = lab.engine.client()
    lab.deploy("changing", {"m.py": PYTHON}, FileSystemConfigs=[])
    assert "FileSystemConfigs" not in aws.get_function_configuration(FunctionName="changing")
    assert "FileNotFoundError" in lab.invoke("changing")["errorType"]
    where = [{"Arn": S3_FILES, "LocalMountPath": "/mnt/files", "S3FilesConfig": {"DirectS3Read": "AUTO"}}]
    assert aws.update_function_configuration(FunctionName="changing", FileSystemConfigs=where)["FileSystemConfigs"] == where
    assert lab.invoke("changing", {"s3": "x"}) == {"s3": "x"}
    assert (lab.other / "s3").read_text() == "x"
    version = aws.publish_version(FunctionName="changing")["Version"]
    with pytest.raises(ClientError, match=f"Function VPC configuration cannot be removed with access point {S3_FILES} referenced."):
        aws.update_function_configuration(FunctionName="changing", VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})
    assert "FileSystemConfigs" in aws.update_function_configuration(FunctionName="changing", Description="new")
    after = aws.update_function_configuration(FunctionName="changing", FileSystemConfigs=[], VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})
    assert "FileSystemConfigs" not in after
    assert "FileNotFoundError" in lab.invoke("changing")["errorType"]
    assert lab.invoke(f"changing:{version}") == {"s3": "x"}


@pytest.mark.root
@pytest.mark.parametrize(("arn", "code", "service"), [(ARN, "EFSMountFailureException", "EFS"), (S3_FILES, "S3FilesMountFailureException", "S3 Files")])
def test_a_directory_that_is_missing_is_a_mount_failure(lab: Lab, arn: str, code: str, service: str) -> None:
    name = f"missing-{service[:2].lower()}"
    lab.deploy(name, {"m.py": PYTHON}, arn=arn)
    directory = lab.share if arn == ARN else lab.other
    directory.rename(directory.with_suffix(".away"))
    try:
        with pytest.raises(ClientError) as e:
            lab.invoke(name)
    finally:
        directory.with_suffix(".away").rename(directory)
    assert e.value.response["Error"]["Code"] == code
    assert e.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    text = f"The function could not mount the Amazon {service} file system with access point {arn}"
    assert str(e.value.response["Error"]["Message"]).startswith(text)
    # The next invocation finds it again.
    assert isinstance(lab.invoke(name), dict)


@pytest.mark.root
@pytest.mark.slow
def test_access_points_of_the_embedded_efs_have_directories_of_the_engines(lab: Lab) -> None:
    efs, aws, place = lab.engine.client("efs"), lab.engine.client(), [{"Arn": "", "LocalMountPath": "/mnt/files"}]
    system = efs.create_file_system(CreationToken="files")["FileSystemId"]
    root = {"Path": "/team", "CreationInfo": {"OwnerUid": 1001, "OwnerGid": 1001, "Permissions": "0750"}}
    point = efs.create_access_point(
        ClientToken="team", FileSystemId=system, PosixUser={"Uid": 1001, "Gid": 1001}, RootDirectory=root
    )  # fmt: skip
    assert efs.describe_access_points(AccessPointId=point["AccessPointId"])["AccessPoints"][0]["AccessPointArn"] == point["AccessPointArn"]
    place[0]["Arn"] = point["AccessPointArn"]
    for name in ("efs-one", "efs-two"):
        lab.deploy(name, {"m.py": PYTHON}, FileSystemConfigs=place)
    assert lab.invoke("efs-one", {"log": "x"}) == {"log": "x"}
    assert lab.invoke("efs-two", {"log": "y"}) == {"log": "xy"}
    made = lab.engine.data_dir / "file-systems" / system / "team" / "log"
    assert (made.read_text(), made.stat().st_uid) == ("xy", 1001)
    efs.delete_access_point(AccessPointId=point["AccessPointId"])
    # What has it keeps it; nobody else gets it.
    assert aws.update_function_configuration(FunctionName="efs-two", FileSystemConfigs=place, Description="again")["FileSystemConfigs"] == place
    assert lab.invoke("efs-two") == {"log": "xy"}
    assert _refused(lab, FileSystemConfigs=place)[1].startswith(f"The access point {place[0]['Arn']} does not exist. ")


@pytest.mark.root
@pytest.mark.slow
def test_a_stack_brings_it(lab: Lab) -> None:
    config = [{"Arn": ARN, "LocalMountPath": "/mnt/files"}]
    role = "arn:aws:iam::000000000000:role/any"
    function = {
        "FunctionName": "stacked", "Handler": "index.f", "Role": role, "Runtime": OWN_RUNTIME, "VpcConfig": VPC, "FileSystemConfigs": config,
        "Code": {"ZipFile": PYTHON},
    }  # fmt: skip
    own = {**function, "FunctionName": "stacked-efs", "FileSystemConfigs": [{"Arn": {"Fn::GetAtt": ["Point", "Arn"]}, "LocalMountPath": "/mnt/files"}]}
    stacks = lab.engine.client("cloudformation")
    template = {
        "Resources": {
            "F": {"Type": "AWS::Lambda::Function", "Properties": function},
            "System": {"Type": "AWS::EFS::FileSystem", "Properties": {}},
            "Point": {"Type": "AWS::EFS::AccessPoint", "Properties": {"FileSystemId": {"Ref": "System"}}},
            "G": {"Type": "AWS::Lambda::Function", "Properties": own},
        },
        "Outputs": {"Point": {"Value": {"Ref": "Point"}}},
    }
    stacks.create_stack(StackName="files", TemplateBody=json.dumps(template))
    until(lambda: stacks.describe_stacks(StackName="files")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE", "the stack is there")
    assert lab.engine.client().get_function_configuration(FunctionName="stacked")["FileSystemConfigs"] == config
    assert isinstance(lab.invoke("stacked"), dict)
    assert lab.invoke("stacked-efs", {"f": "x"}) == {"f": "x"}
    assert stacks.describe_stacks(StackName="files")["Stacks"][0]["Outputs"][0]["OutputValue"].startswith("fsap-")


@pytest.mark.root
def test_nothing_is_left_of_it(lab: Lab) -> None:
    def cycle(n: int) -> None:
        lab.deploy(f"leaving-{n}", {"m.py": PYTHON})
        lab.invoke(f"leaving-{n}")
        lab.engine.client().delete_function(FunctionName=f"leaving-{n}")

    cycle(0)
    cycle(1)
    until(lambda: not [i for i in lab.engine.state()["instances"] if i["function"].startswith("leaving")], "they are gone")
    assert str(lab.share) not in Path("/proc/self/mountinfo").read_text()
    broker = lab.engine.state()["processes"]["broker"]
    assert str(lab.share) not in Path(f"/proc/{broker}/mountinfo").read_text()


def test_without_root_and_without_a_vpc() -> None:
    with laboratory(sandbox="user") as lab:
        assert "VpcConfig" not in lab.deploy("one", {"m.py": PYTHON}, VpcConfig={}).get("VpcConfig", {})
        assert lab.invoke("one", {"f": "x"}) == {"f": "x"}
        assert (lab.share / "f").read_text() == "x"


@pytest.mark.slow
def test_without_namespaces_the_hosts_own_place_is_asked_for() -> None:
    with laboratory(sandbox="process") as lab:
        code, message = _refused(lab, VpcConfig={})
        assert code == "NotImplementedException"
        assert "nothing can be mounted at sandbox level process" in message
        assert f"/mnt/files is not {lab.share} on this host" in message
