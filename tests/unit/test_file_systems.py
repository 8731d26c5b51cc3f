"""File systems as settings, as a configuration, and as the key of a stock of sandboxes."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import Settings
from engine.control import snap_start
from engine.control.file_systems import FileSystems, of
from engine.control.link import Hello
from engine.control.sources import Sources
from engine.core.model import VersionConfig
from engine.errors import InvalidParameterValue, MountFailure, NotImplementedHere
from engine.sandbox.shares import Shares
from engine.supervisor import zygotes
from engine.supervisor.zygotes import Interpreter

ARN = "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef0"
S3_FILES = "arn:aws:s3files:us-east-1:000000000000:file-system/fs-0123456789abcdef0/access-point/fsap-0123456789abcdef0"
HELLO = Hello({}, "http://127.0.0.1:4566", ("", "", ""), "us-east-1", "000000000000")
VPC = {"VpcConfig": {"SubnetIds": ["subnet-1"]}}


def settings(**table: Any) -> Settings:
    return Settings(data_dir=Path("/srv/engine/data"), file_systems=table)


def config(arn: str = ARN, place: str = "/mnt/a", **more: Any) -> dict[str, Any]:
    return {**VPC, "FileSystemConfigs": [{"Arn": arn, "LocalMountPath": place, **more}]}


def test_a_directory_alone_or_with_its_user() -> None:
    found = settings(**{ARN: "/srv/files", S3_FILES: {"path": "/srv/others", "uid": 5, "gid": 6}}).file_systems
    assert (found[ARN].path, found[ARN].uid, found[ARN].gid) == (Path("/srv/files"), None, None)
    assert (found[S3_FILES].uid, found[S3_FILES].gid) == (5, 6)


@pytest.mark.parametrize(("arn", "value", "text"), [
    (ARN, "files", "absolute directory"),
    (ARN, "/", "absolute directory"),
    (ARN, "/srv/x/../files", "absolute directory"),
    (ARN, "/srv/engine", "must lie apart"),
    (ARN, "/srv/engine/data/code", "must lie apart"),
    (ARN, {"path": "/srv/files", "uid": 0}, "greater than or equal to 1"),
    (ARN, {"path": "/srv/files", "mode": "ro"}, "Extra inputs"),
    ("fsap-1", "/srv/files", "not the ARN of an access point"),
])  # fmt: skip
def test_what_is_no_file_system_is_refused_at_start(arn: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        settings(**{arn: value})


def check(after: dict[str, Any], before: dict[str, Any] | None = None, hello: Hello = HELLO) -> None:
    known = settings(**{ARN: "/srv/files", S3_FILES: "/srv/s3"})
    unknown = FileSystems(known, Sources(known)).check(before or {}, after, hello)
    assert not unknown, f"{unknown} is not known"


def test_what_passes() -> None:
    assert of({}) is None
    assert of(config()) == (ARN, "/mnt/a", None)
    for after in ({}, VPC, config(), config(S3_FILES, S3FilesConfig={"DirectS3Read": "DISABLED"})):
        check(after)
    check({**config(), "VpcConfig": {}}, hello=replace(HELLO, no_vpc="level user"))
    # An access point that the setting has since forgotten does not stand in the way of other changes.
    forgotten = config(ARN.replace("def0", "def1"))
    check(forgotten, before=forgotten)


@pytest.mark.parametrize(("after", "text"), [
    ({**config(), "VpcConfig": {}}, f"^Function must be configured to execute in a VPC to reference access point {ARN}"),
    ({**config(), "VpcConfig": {"SubnetIds": []}}, "^Function must be configured to execute in a VPC"),
    (config(place="/mnt/."), "is not a directory in /mnt"),
    (config(place="/mnt/.."), "is not a directory in /mnt"),
    (config(S3FilesConfig={"DirectS3Read": "AUTO"}), "S3FilesConfig is valid for Amazon S3 Files access points only"),
])  # fmt: skip
def test_what_is_refused(after: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidParameterValue, match=text):
        check(after)


def test_the_real_efs_is_not_asked() -> None:
    """What it has cannot be mounted here."""
    real = settings().model_copy(update={"aws_endpoint": "aws"})
    with pytest.raises(InvalidParameterValue, match=f"^The access point {ARN} does not exist"):
        asyncio.run(FileSystems(real, Sources(real)).settle({}, config(), "000000000000", HELLO))


def test_what_efs_said_once_is_kept() -> None:
    own = {"id": "fs-01234567", "path": "/", "uid": 0, "gid": 0, "made": None}
    after = config(ARN, "/mnt/b")
    asyncio.run(FileSystems(settings(), Sources(settings())).settle({**config(), "_FileSystem": own}, after, "000000000000", HELLO))
    assert of(after) == (ARN, "/mnt/b", own)


def test_a_vpc_is_not_taken_away_beneath_it() -> None:
    with pytest.raises(InvalidParameterValue, match=f"^Function VPC configuration cannot be removed with access point {ARN} referenced.$"):
        check({**config(), "VpcConfig": {"SubnetIds": []}}, before=config())


def test_what_only_this_engine_refuses() -> None:
    with pytest.raises(NotImplementedHere, match="DirectS3Read"):
        check(config(S3_FILES, S3FilesConfig={"DirectS3Read": "ENABLED"}))
    with pytest.raises(NotImplementedHere, match="/mnt/a is not /srv/files on this host"):
        check(config(), hello=replace(HELLO, no_mounts="nothing can be mounted"))


def test_a_snapshot_has_none() -> None:
    versions = {"SnapStart": {"ApplyOn": "PublishedVersions"}, "PackageType": "Zip", "Runtime": "python3.13", "EphemeralStorage": {"Size": 512}}
    snap_start.check(versions)
    with pytest.raises(InvalidParameterValue, match=r"^SnapStart does not support Amazon EFS"):
        snap_start.check({**versions, **config()})


def test_its_sandboxes_come_from_a_zygote_of_their_own() -> None:
    plain = VersionConfig("0", "f", "1", "g", "Active", "python3.13", "m.f", 3, 128, 512, "/c")
    with_files = replace(plain, file_system=(ARN, "/mnt/a", None))
    assert zygotes.key(plain) == "python3.13"
    assert zygotes.key(with_files) == "python3.13/mnt"
    assert zygotes.key(replace(with_files, network="vpc-1/a/b")) == "python3.13/mnt@vpc-1/a/b"
    assert zygotes.key(replace(with_files, runtime="provided.al2023")) == "agent/mnt"
    runtimes = {"python3.13": Interpreter("/usr/bin/python3.13", "3.13.1")}
    for key in ("python3.13", "python3.13+boto3", "agent"):
        one, other = zygotes.spec(key, runtimes), zygotes.spec(f"{key}/mnt", runtimes)
        assert not isinstance(one, str)
        assert not isinstance(other, str)
        assert (one.files, other.files, other.key) == (False, True, f"{key}/mnt")
        assert (one.interpreter, one.preload, one.entry) == (other.interpreter, other.preload, other.entry)
    assert zygotes.spec("ruby3.4/mnt", runtimes) == "the runtime ruby3.4 is not installed on this host"


@pytest.mark.parametrize(("arn", "code", "text"), [(ARN, "EFSMountFailureException", "Amazon EFS"), (S3_FILES, "S3FilesMountFailureException", "Amazon S3 Files")])
def test_a_mount_that_fails_is_named_by_its_service(arn: str, code: str, text: str) -> None:
    error = MountFailure.of(arn, "gone")
    assert (error.code, error.status) == (code, 403)
    assert error.message == f"The function could not mount the {text} file system with access point {arn}: gone"


def own(uid: int = 0, owner: int = 0) -> tuple[Any, ...]:
    return "fs-0123456789abcdef0", "/a/b", uid, 0, (owner, 0, 0o755)


@pytest.mark.parametrize(("uid", "owner"), [(1 << 32, 0), ((1 << 32) - 1, 0), (0, 1 << 40), (0, -1)])
def test_users_that_no_host_knows_are_an_error_of_the_file_system(tmp_path: Path, uid: int, owner: int) -> None:
    with pytest.raises(OSError, match="must have numbers below"):
        Shares({}, str(tmp_path), idmapped=False).attach(ARN, "/mnt/a", 0, own(uid, owner))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="openat2 is Linux's")
def test_a_directory_that_cannot_be_finished_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _mode: int) -> None:
        raise OSError(errno.EROFS, "no")

    shares = Shares({}, str(tmp_path), idmapped=False)
    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(OSError, match="no") as raised:
        shares.attach(ARN, "/mnt/a", 0, own())
    assert raised.value.errno == errno.EROFS
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(fd)]
