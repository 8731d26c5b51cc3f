"""FileSystemConfigs: which directory of this host a function finds below /mnt, and what Lambda refuses of it.

Access points are those that the setting ``file_systems`` names, and those of the EFS that plays along with this engine. Where this host has no VPCs none is asked for, though Lambda mounts nothing
outside of one. Source: docs.aws.amazon.com/lambda/latest/dg/configuration-filesystem.html and recorded refusals.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config import Settings
from engine.control.link import Hello
from engine.control.sources import Sources
from engine.errors import InvalidParameterValue, NotImplementedHere, ServiceError

MEMBER = "FileSystemConfigs"
# Kept beside it, never shown: what EFS says of an access point that the setting does not know.
OWN = "_FileSystem"
_PERMISSIONS = "0755"


def put(config: dict[str, Any], wanted: Sequence[Mapping[str, Any]]) -> None:
    """Replace what a configuration has by what a request brings; an empty list takes it away."""
    config.pop(MEMBER, None)
    config.pop(OWN, None)
    if wanted:
        config[MEMBER] = [dict(one) for one in wanted]


def of(config: Mapping[str, Any]) -> tuple[str, str, dict[str, Any] | None] | None:
    """(ARN of the access point, place, what EFS says of it if it matters), None for a function without one."""
    found = config.get(MEMBER)
    return (str(found[0]["Arn"]), str(found[0]["LocalMountPath"]), config.get(OWN)) if found else None


class FileSystems:
    """The access points that there are."""

    def __init__(self, settings: Settings, sources: Sources) -> None:
        self._known = settings.file_systems
        self._asks = settings.aws_endpoint != "aws"
        self._sources = sources

    async def settle(self, before: Mapping[str, Any], after: dict[str, Any], account: str, hello: Hello) -> None:
        """Judge a configuration that is about to take the place of ``before``, and note in it what EFS says of its access point.

        Raises as ``check``, and ServiceError when EFS cannot be asked.
        """
        former, wanted = of(before), of(after)
        if former is not None and wanted is not None and former[0] == wanted[0] and former[2] is not None:
            # Access points do not change, and the embedded EFS may have forgotten this one meanwhile.
            after[OWN] = former[2]
        arn = self.check(before, after, hello)
        if not arn or OWN in after:
            return
        own = await asyncio.to_thread(self._ask, arn, account, hello) if self._asks and ":elasticfilesystem:" in arn else None
        if own is None:
            raise InvalidParameterValue(
                f"The access point {arn} does not exist. Lambda Engine knows those of the embedded EFS, and those that its setting file_systems gives a directory."
            )
        if hello.no_mounts:
            raise NotImplementedHere(f"Lambda Engine does not support FileSystemConfigs here: {hello.no_mounts}. Nothing was changed.")
        after[OWN] = own

    def _ask(self, arn: str, account: str, hello: Hello) -> dict[str, Any] | None:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

        from engine.aws import efs  # noqa: PLC0415 - imports boto3

        try:
            found = efs.access_point(self._sources.aws(account, hello), arn)
        except (BotoCoreError, ClientError) as e:
            raise ServiceError(f"EFS could not be asked (DescribeAccessPoints): {e}") from e
        return None if found is None else _noted(found)

    def check(self, before: Mapping[str, Any], after: Mapping[str, Any], hello: Hello) -> str:
        """Judge it by what is known here; the ARN of a new access point that is not, else nothing.

        Raises InvalidParameterValue with AWS's words, NotImplementedHere for what only this engine or this host does not do.
        """
        wanted = of(after)
        if wanted is None:
            return ""
        arn, place, _ = wanted
        if not hello.no_vpc and not (after.get("VpcConfig") or {}).get("SubnetIds"):
            former = of(before)
            if former is not None and former[0] == arn:
                raise InvalidParameterValue(f"Function VPC configuration cannot be removed with access point {arn} referenced.")
            raise InvalidParameterValue(
                f"Function must be configured to execute in a VPC to reference access point {arn}. "
                "Please update the function configuration to include VPC subnets and security groups."
            )
        if after.get(MEMBER) == before.get(MEMBER):
            return ""
        return self._check_new(arn, place, after[MEMBER][0].get("S3FilesConfig") or {}, hello)

    def _check_new(self, arn: str, place: str, s3_files: Mapping[str, str], hello: Hello) -> str:
        if place in ("/mnt/.", "/mnt/.."):
            raise InvalidParameterValue(f"The local mount path {place} is not a directory in /mnt.")
        if s3_files and ":s3files:" not in arn:
            raise InvalidParameterValue(f"S3FilesConfig is valid for Amazon S3 Files access points only, which {arn} is not.")
        if s3_files.get("DirectS3Read") == "ENABLED":
            raise NotImplementedHere("Lambda Engine reads files from a directory, never from S3: leave DirectS3Read out, or AUTO or DISABLED.")
        known = self._known.get(arn)
        if known is None:
            return arn
        if hello.no_mounts and os.path.realpath(place) != os.path.realpath(known.path):
            raise NotImplementedHere(
                f"Lambda Engine does not support FileSystemConfigs here: {hello.no_mounts}, and {place} is not {known.path} on this host. "
                "Make it a link to that directory, or run the engine at sandbox level user or full. Nothing was changed."
            )
        return ""


def _noted(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of an access point's description: for ``SpecialiseSpec.file_system``."""
    user, root = found.get("PosixUser") or {}, found.get("RootDirectory") or {}
    made = root.get("CreationInfo")
    return {
        "id": str(found["FileSystemId"]),
        "path": str(root.get("Path") or "/"),
        "uid": int(user.get("Uid") or 0),
        "gid": int(user.get("Gid") or 0),
        "made": [int(made["OwnerUid"]), int(made["OwnerGid"]), int(made.get("Permissions") or _PERMISSIONS, 8)] if made else None,
    }
