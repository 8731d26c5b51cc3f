"""What Lambda refuses, in its own words; and what this engine refuses because it could not obey it. Pure.

Sources: docs.aws.amazon.com/lambda/latest/dg/{lambda-runtimes,configuration-envvars,gettingstarted-limits}.html and recorded replies.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from engine.control import instance_policy
from engine.core.runtimes import Family, family
from engine.errors import (
    AccessDenied,
    CodeStorageExceeded,
    InvalidParameterValue,
    NotImplementedHere,
    PreconditionFailed,
    ValidationError,
)

MAX_TIMEOUT_S = 900
MAX_MEMORY_MIB = 10_240
MAX_TMP_MIB = 10_240
MAX_ENVIRONMENT = 4_096
MAX_TAGS = 50
MAX_STORED_BYTES = 80_530_636_800

# In the order in which the service prints them.
OFFERED_RUNTIMES = (
    "nodejs20.x", "python3.14", "provided.al2023", "python3.12", "python3.13", "nodejs24.x", "nodejs22.x", "java25",
    "python3.10", "python3.11", "java21", "ruby3.3", "ruby3.4", "ruby3.2", "python3.8", "python3.9", "java17", "nodejs16.x",
    "dotnet10", "dotnet8", "java11", "dotnet6", "nodejs18.x", "provided.al2", "java8.al2",
)  # fmt: skip
NEWER_RUNTIMES = ("nodejs26.x", "python3.15", "ruby4.0", "java8.al2023", "java11.al2023", "java17.al2023", "dotnet9")
BLOCKED_RUNTIMES = frozenset(
    {
        "nodejs", "nodejs4.3", "nodejs4.3-edge", "nodejs6.10", "nodejs8.10", "nodejs10.x", "nodejs12.x", "nodejs14.x",
        "python2.7", "python3.6", "python3.7", "java8", "dotnetcore1.0", "dotnetcore2.0", "dotnetcore2.1", "dotnetcore3.1",
        "ruby2.5", "ruby2.7", "go1.x", "provided",
    }
)  # fmt: skip
RESERVED_VARIABLES = frozenset(
    {
        "_HANDLER", "_X_AMZN_TRACE_ID", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN", "AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_MAX_CONCURRENCY", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
    }
)  # fmt: skip

_OBEYED: Mapping[str, frozenset[str]] = {
    "CreateFunction": frozenset(
        {
            "Architectures", "Code", "CodeSigningConfigArn", "DeadLetterConfig", "Description", "Environment", "EphemeralStorage", "FileSystemConfigs", "FunctionName",
            "Handler", "ImageConfig", "KMSKeyArn", "Layers", "LoggingConfig", "MemorySize", "PackageType", "Publish", "Role", "Runtime", "SnapStart", "Tags", "TenancyConfig", "Timeout",
            "TracingConfig", "VpcConfig",
        }
    ),
    "UpdateFunctionConfiguration": frozenset(
        {
            "DeadLetterConfig", "Description", "Environment", "EphemeralStorage", "FileSystemConfigs", "FunctionName", "Handler", "ImageConfig", "KMSKeyArn", "Layers", "LoggingConfig",
            "MemorySize", "RevisionId", "Role", "Runtime", "SnapStart", "Timeout", "TracingConfig", "VpcConfig",
        }
    ),
    "UpdateFunctionCode": frozenset(
        {
            "Architectures", "DryRun", "FunctionName", "ImageUri", "Publish", "RevisionId", "S3Bucket", "S3Key", "S3ObjectStorageMode", "S3ObjectVersion",
            "SourceKMSKeyArn", "ZipFile",
        }
    ),
    "PublishVersion": frozenset({"CodeSha256", "Description", "FunctionName", "RevisionId"}),
    "PublishLayerVersion": frozenset(
        {"CompatibleArchitectures", "CompatibleRuntimes", "Content", "Description", "LayerName", "LicenseInfo"}
    ),
    "LayerContent": frozenset({"S3Bucket", "S3Key", "S3ObjectVersion", "ZipFile"}),
    "FunctionUrlConfig": frozenset({"AuthType", "Cors", "FunctionName", "InvokeMode", "Qualifier"}),
    "FunctionCode": frozenset({"S3Bucket", "S3Key", "S3ObjectStorageMode", "S3ObjectVersion", "SourceKMSKeyArn", "ZipFile", "ImageUri"}),
}  # fmt: skip


# Why a member is refused, for those who read the refusal or the coverage page.
_MANAGED = "managed instances run on EC2 capacity, which one machine does not have"
_DURABLE = "durable executions are a workflow engine of their own, which this is not"
# By what the names of whole families of operations contain.
_FAMILIES = {"DurableExecution": _DURABLE, "CapacityProvider": _MANAGED, "FunctionScalingConfig": _MANAGED}
WHY_NOT: Mapping[str, str] = {
    "AcceleratorConfig": _MANAGED,
    "CapacityProviderConfig": _MANAGED,
    "DurableConfig": _DURABLE,
    "PublishTo": _MANAGED,
    "RuntimeConfig": "it names a customer-managed runtime, which no operation of the service model makes; custom ones come as provided.* or as a container image",
    "S3ObjectStorageMode": "layers are always copied",
}


def why_not_there(operation: str) -> str | None:
    """Why an operation is not there at all; None for one that nobody has left out for a reason."""
    return next((why for part, why in _FAMILIES.items() if part in operation), None)


def _empty(value: Any) -> bool:
    return not value


# Values that ask for nothing: clients send them to clear a member, or because their own defaults do.
_NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    # Layers are always copied.
    "S3ObjectStorageMode": lambda v: v == "COPY",
}


def refuse_unsupported(operation: str, members: Mapping[str, Any]) -> None:
    """Raises NotImplementedHere naming the first member that asks for something nothing here would obey."""
    obeyed = _OBEYED[operation]
    for name, value in members.items():
        if name in obeyed or _NEUTRAL.get(name, _empty)(value):
            continue
        why = f": {WHY_NOT[name]}" if name in WHY_NOT else ""
        raise NotImplementedHere(f"Lambda Engine does not support {name} in {operation}{why}. Nothing was changed: leave the member out.")


def refused_members(operation: str, members: Iterable[str]) -> list[str]:
    """Those of an operation's ``members`` that are refused unless they ask for nothing; none for an operation that obeys all."""
    obeyed = _OBEYED.get(operation)
    return [] if obeyed is None else sorted(set(members) - obeyed)


def check_package(members: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue for what only a container image has, and for what a package must have."""
    if members["Code"].get("ImageUri"):
        raise InvalidParameterValue("Please don't provide ImageUri when creating a function with packageType Zip.")
    check_no_image(members)
    if not members.get("Runtime") or not members.get("Handler"):
        raise InvalidParameterValue("Runtime and Handler are mandatory parameters for functions created with deployment packages.")


def check_no_image(members: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue when a function made of a package is given an image's settings."""
    if any((members.get("ImageConfig") or {}).values()):
        raise InvalidParameterValue("Please don't provide ImageConfig when the intended function PackageType is Zip.")


def host_architecture() -> str:
    """This host's processor in Lambda's words."""
    return "arm64" if platform.machine().lower() in ("aarch64", "arm64") else "x86_64"


def check_architectures(wanted: list[str] | None, host: str, *, ignored: bool = False) -> list[str]:
    """The function's architectures. Raises NotImplementedHere when this host's processor is another, unless that is ``ignored``."""
    if wanted and wanted != [host] and not ignored:
        raise NotImplementedHere(
            f"Architectures {', '.join(wanted)} cannot run here: this host is {host}. "
            "With the setting ignore_architecture it runs what is not compiled for another."
        )
    return wanted or [host]


def check_runtime(runtime: str, installed: Collection[str]) -> None:
    """Raises InvalidParameterValue for a runtime that Lambda refuses or that this host lacks, NotImplementedHere for one that this
    engine cannot run.
    """
    if runtime in BLOCKED_RUNTIMES:
        raise InvalidParameterValue(
            f"The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda functions. "
            "We recommend you use a supported runtime while creating or updating functions."
        )
    if runtime not in OFFERED_RUNTIMES and runtime not in NEWER_RUNTIMES:
        raise InvalidParameterValue(
            f"Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{', '.join(OFFERED_RUNTIMES)}] or be a valid ARN"
        )
    if runtime in installed:
        return
    here = f"Installed: {', '.join(sorted(installed, key=_by_number)) or 'none'}."
    if family(runtime) is None:
        raise NotImplementedHere(f"Lambda Engine does not run the runtime {runtime} yet. {here}")
    needs = ""
    if family(runtime) is Family.JAVA:
        needs = " It takes a JDK of that version and LAMBDA_ENGINE_JAVA_CLIENT, the jars of AWS's runtime interface client for Java."
    raise InvalidParameterValue(f"Runtime {runtime} is not installed on this host.{needs} {here}")


def _by_number(runtime: str) -> tuple[str, int]:
    name, _, minor = runtime.rpartition(".")
    return name, int(minor) if minor.isdigit() else 0


def check_limits(members: Mapping[str, Any]) -> None:
    """Upper bounds of plain functions, which the service model sets wider. Raises ValidationError."""
    for value, key, limit in (
        (members.get("Timeout"), "timeout", MAX_TIMEOUT_S),
        (members.get("MemorySize"), "memorySize", MAX_MEMORY_MIB),
        ((members.get("EphemeralStorage") or {}).get("Size"), "ephemeralStorage.size", MAX_TMP_MIB),
    ):
        if value is not None and value > limit:
            raise ValidationError(
                f"1 validation error detected: Value '{value}' at '{key}' failed to satisfy constraint: "
                f"Member must have value less than or equal to {limit}"
            )


def check_environment(variables: Mapping[str, str]) -> None:
    """Raises InvalidParameterValue for reserved names, for values that cannot be had and for more than 4 KB."""
    opening = "Lambda was unable to configure your environment variables because the environment variables you have provided"
    reserved = [name for name in variables if name in RESERVED_VARIABLES]
    if reserved:
        raise InvalidParameterValue(
            f"{opening} contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    impossible = [name for name, value in variables.items() if "\0" in value]
    if impossible:
        raise InvalidParameterValue(f"{opening} contains null characters, which no process's can have. Keys of such values: {', '.join(impossible)}")
    measured = json.dumps(variables, separators=(",", ":"), ensure_ascii=False)
    if len(measured.encode()) > MAX_ENVIRONMENT:
        raise InvalidParameterValue(f"{opening} exceeded the 4KB limit. String measured: {measured}")


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises InvalidParameterValue for more than 50 tags, for keys that AWS keeps for itself and for ours with impossible values."""
    if len(tags) > MAX_TAGS:
        raise InvalidParameterValue("Number of tags exceeds resource tag limit.")
    for key in tags:
        if key.lower().startswith("aws:"):
            raise InvalidParameterValue(f"The tag key {key} is reserved: keys that begin with 'aws:' cannot be set.")
    instance_policy.of_tags(tags)


def check_revision(given: str | None, current: str, source: str = "GetFunction/GetAlias") -> None:
    """Raises PreconditionFailed when a RevisionId is given and stale; ``source``: the operation that would have told the latest one."""
    if given is not None and given != current:
        raise PreconditionFailed(
            "The Revision Id provided does not match the latest Revision Id. "
            f"Call the {source} API to retrieve the latest Revision Id"
        )


def check_storage(stored: int, added: int) -> None:
    """Raises CodeStorageExceeded when the account would keep more than 75 GB of code."""
    if stored + added > MAX_STORED_BYTES:
        raise CodeStorageExceeded("Code storage limit exceeded.")


def check_account(named: str, caller: str, *, verified: bool) -> None:
    """Raises AccessDenied when a proven caller names another account's function. Without authentication nobody proves anything."""
    if verified and named != caller:
        raise AccessDenied(None)
