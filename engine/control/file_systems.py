"""FileSystemConfigs: which directory of this host a function finds below /mnt, and what Lambda refuses of it.

Access points are those that the setting ``file_systems`` names. Where this host has no VPCs none is asked for, though Lambda mounts nothing
outside of one. Source: docs.aws.amazon.com/lambda/latest/dg/configuration-filesystem.html and recorded refusals.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config import FileSystemSettings
from engine.control.link import Hello
from engine.errors import InvalidParameterValue, NotImplementedHere

MEMBER = "FileSystemConfigs"


def put(config: dict[str, Any], wanted: Sequence[Mapping[str, Any]]) -> None:
    """Replace what a configuration has by what a request brings; an empty list takes it away."""
    config.pop(MEMBER, None)
    if wanted:
        config[MEMBER] = [dict(one) for one in wanted]


def of(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """(ARN of the access point, place), None for a function without one."""
    found = config.get(MEMBER)
    return (str(found[0]["Arn"]), str(found[0]["LocalMountPath"])) if found else None


class FileSystems:
    """The access points that there are."""

    def __init__(self, settings: Mapping[str, FileSystemSettings]) -> None:
        self._known = settings

    def check(self, before: Mapping[str, Any], after: Mapping[str, Any], hello: Hello) -> None:
        """Judge a configuration that is about to take the place of ``before``.

        Raises InvalidParameterValue with AWS's words, NotImplementedHere for what only this engine or this host does not do.
        """
        wanted = of(after)
        if wanted is None:
            return
        arn, place = wanted
        if not hello.no_vpc and not (after.get("VpcConfig") or {}).get("SubnetIds"):
            if of(before) == wanted:
                raise InvalidParameterValue(f"Function VPC configuration cannot be removed with access point {arn} referenced.")
            raise InvalidParameterValue(
                f"Function must be configured to execute in a VPC to reference access point {arn}. "
                "Please update the function configuration to include VPC subnets and security groups."
            )
        if after.get(MEMBER) != before.get(MEMBER):
            self._check_new(arn, place, after[MEMBER][0].get("S3FilesConfig") or {}, hello)

    def _check_new(self, arn: str, place: str, s3_files: Mapping[str, str], hello: Hello) -> None:
        if place in ("/mnt/.", "/mnt/.."):
            raise InvalidParameterValue(f"The local mount path {place} is not a directory in /mnt.")
        if s3_files and ":s3files:" not in arn:
            raise InvalidParameterValue(f"S3FilesConfig is valid for Amazon S3 Files access points only, which {arn} is not.")
        if s3_files.get("DirectS3Read") == "ENABLED":
            raise NotImplementedHere("Lambda Engine reads files from a directory, never from S3: leave DirectS3Read out, or AUTO or DISABLED.")
        known = self._known.get(arn)
        if known is None:
            raise InvalidParameterValue(
                f"The access point {arn} does not exist. Lambda Engine knows those that its setting file_systems gives a directory."
            )
        if hello.no_mounts and os.path.realpath(place) != os.path.realpath(known.path):
            raise NotImplementedHere(
                f"Lambda Engine does not support FileSystemConfigs here: {hello.no_mounts}, and {place} is not {known.path} on this host. "
                "Make it a link to that directory, or run the engine at sandbox level user or full. Nothing was changed."
            )
