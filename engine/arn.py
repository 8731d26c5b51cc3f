"""Function names and ARNs in every form Lambda accepts.

Source: docs.aws.amazon.com/lambda/latest/api/API_Invoke.html (FunctionName) and recorded replies.
Pure: no I/O; region and account of the endpoint are arguments.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from engine.errors import InvalidParameterValue, ResourceNotFound, ValidationError

REGION_PATTERN = r"(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}"
NAMESPACED_PATTERN = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?"
    r"(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)
QUALIFIER_PATTERN = r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+"
MAX_QUALIFIER = 128
_QUALIFIER = re.compile(QUALIFIER_PATTERN)
_FORM = re.compile(
    r"(?:arn:(?P<partition>aws[a-zA-Z-]*):lambda:)?(?:(?P<region>" + REGION_PATTERN + r"):)?(?:(?P<account>\d{12}):)?"
    r"(?:function:)?(?P<name>[a-zA-Z0-9_.-]+)(?::(?P<qualifier>\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9_-]+))?"
)
MAX_BARE_NAME = 64
# How the regions outside the partition aws begin.
_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "us-isob-": "aws-iso-b", "eu-isoe-": "aws-iso-e", "us-isof-": "aws-iso-f", "eusc-": "aws-eusc"}


def fits(partition: str | None, region: str) -> bool:
    """Whether there can be an ARN of this partition (None: it names none) and region. ``aws`` is what this engine's own say of every region."""
    return partition in (None, "aws") or any(region.startswith(prefix) and partition == name for prefix, name in _PARTITIONS.items())


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """A function as the caller named it: account and region filled in, ``qualifier`` None when none was given."""

    account: str
    region: str
    name: str
    qualifier: str | None = None

    def unqualified_arn(self) -> str:
        return function_arn(self.region, self.account, self.name)

    def arn(self) -> str:
        """The ARN with the qualifier, if the caller gave one."""
        return function_arn(self.region, self.account, self.name, self.qualifier)


def function_arn(region: str, account: str, name: str, qualifier: str | None = None) -> str:
    """``arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]``."""
    tail = f":{qualifier}" if qualifier else ""
    return f"arn:aws:lambda:{region}:{account}:function:{name}{tail}"


def check_qualifier(text: str) -> None:
    """Raises ValidationError for a ``?Qualifier=`` of an invocation that cannot name anything."""
    broken = [f"Member must have length less than or equal to {MAX_QUALIFIER}"] if len(text) > MAX_QUALIFIER else []
    if not text:
        broken.append("Member must have length greater than or equal to 1")
    if _QUALIFIER.fullmatch(text) is None:
        broken.append(f"Member must satisfy regular expression pattern: {QUALIFIER_PATTERN}")
    if broken:
        found = "; ".join(f"Value '{text}' at 'qualifier' failed to satisfy constraint: {constraint}" for constraint in broken)
        raise ValidationError(f"{len(broken)} validation error{'s' if len(broken) > 1 else ''} detected: {found}")


def check_new_name(name: str) -> None:
    """Raises InvalidParameterValue for a name that no function can be given."""
    if len(name) > MAX_BARE_NAME:
        raise InvalidParameterValue(
            f"1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: "
            f"Member must have length less than or equal to {MAX_BARE_NAME}"
        )


@lru_cache(maxsize=4096)
def parse_function_name(
    text: str, *, account: str, region: str, qualifier: str | None = None
) -> FunctionRef:
    """Read a FunctionName (bare, partial ARN, full ARN, with or without qualifier).

    ``qualifier`` is the separate ``?Qualifier=`` value. Raises ValidationError for a malformed name,
    InvalidParameterValue when two different qualifiers are given, and ResourceNotFound when the ARN names another region or partition.
    How long the name of a function may be is for its creation to judge: elsewhere a longer one is just not there.
    """
    match = _FORM.fullmatch(text)
    if match is None or len(text) > 256:
        constraint = (
            f"Member must satisfy regular expression pattern: {NAMESPACED_PATTERN}"
            if match is None
            else "Member must have length less than or equal to 256"
        )
        raise ValidationError(
            f"1 validation error detected: Value '{text}' at 'functionName' failed to satisfy constraint: {constraint}"
        )
    named = match["qualifier"]
    if named and qualifier and named != qualifier:
        raise InvalidParameterValue(
            "The derived qualifier from the function name does not match the specified qualifier."
        )
    if match["region"] and match["region"] != region:
        raise ResourceNotFound(
            f"Functions from '{match['region']}' are not reachable in this region ('{region}')"
        )
    if not fits(match["partition"], region):
        raise ResourceNotFound(f"Function not found: {text}")
    return FunctionRef(match["account"] or account, region, match["name"], named or qualifier or None)


@lru_cache
def runtime_version_arn(region: str, runtime: str, version: str) -> str:
    """Names the interpreter: another patch release gives another ARN, as AWS's runtime updates do."""
    digest = hashlib.sha256(f"{runtime} {version}".encode()).hexdigest()
    return f"arn:aws:lambda:{region}::runtime:{digest}"
