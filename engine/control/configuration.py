"""A function's configuration: from a request's members to what is kept, and from there to what the API shows. Pure.

Kept members have AWS's names and shapes; what AWS leaves out unless it was set is not kept either.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.arn import function_arn
from engine.control import file_systems, snap_start, tenancy
from engine.control.kinds import held_runtime
from engine.control.record_targets import is_target
from engine.errors import InvalidParameterValue, SubnetIPAddressLimitReached
from engine.store.api import Function, Version

DEFAULTS: Mapping[str, Any] = {"Description": "", "Timeout": 3, "MemorySize": 128, "EphemeralStorage": {"Size": 512}}
IMAGE = "Image"
# Kept with a version, never shown as its configuration: the image's address as it was given.
IMAGE_URI = "_ImageUri"
# Likewise: its encrypted environment variables (see ``engine.control.sealed``), in place of Environment.
SEALED = "_Sealed"
# Likewise: {"Sha256": hex, "Key": ARN} of a package that is kept encrypted, {"Sha256", "Object": {...}, "Size": n} of one that stays in S3 (see ``engine.control.sealed_packages``).
PACKAGE = "_Package"
_PLAIN = ("Role", "Handler", "Runtime", "Description", "Timeout", "MemorySize", "EphemeralStorage")
_CREATING = ("The function is being created.", "Creating")


def is_image(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a container image."""
    return bool(config.get("PackageType") == IMAGE)


def new(members: Mapping[str, Any], name: str, architectures: list[str], runtime_version_arn: str | None) -> dict[str, Any]:
    """The configuration of a function that is being created, defaults filled in; a container image's has no runtime. Raises
    InvalidParameterValue.
    """
    config: dict[str, Any] = {
        **DEFAULTS,
        "PackageType": IMAGE if runtime_version_arn is None else "Zip",
        "Architectures": architectures,
        "TracingConfig": {"Mode": "PassThrough"},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
    }
    if members.get("TenancyConfig"):
        config["TenancyConfig"] = dict(members["TenancyConfig"])
    if runtime_version_arn is not None:
        config["RuntimeVersionConfig"] = {"RuntimeVersionArn": runtime_version_arn}
    config = merged(config, members)
    if members.get("Environment") is not None:
        config.setdefault("Environment", {"Variables": {}})
    return config


def variables_given(members: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The environment variables that a request sets; an Environment without any says nothing of them."""
    return (members.get("Environment") or {}).get("Variables")


def merged(config: Mapping[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the members of a request: a member that is present replaces the former one whole, but LoggingConfig, whose
    parts are kept one by one. A VpcConfig has been resolved. Raises InvalidParameterValue.
    """
    result = dict(config)
    result.update({name: members[name] for name in _PLAIN if members.get(name) is not None})
    variables = variables_given(members)
    if variables is not None:
        result.pop("Environment", None)
        result.pop(SEALED, None)
    if variables:
        result["Environment"] = {"Variables": dict(variables)}
    if members.get("KMSKeyArn"):
        result["KMSKeyArn"] = members["KMSKeyArn"]
    elif members.get("KMSKeyArn") is not None:
        result.pop("KMSKeyArn", None)
    if members.get("VpcConfig") is not None:
        result["VpcConfig"] = dict(members["VpcConfig"])
    if members.get(file_systems.MEMBER) is not None:
        file_systems.put(result, members[file_systems.MEMBER])
    if members.get("TracingConfig") is not None:
        result["TracingConfig"] = {"Mode": members["TracingConfig"].get("Mode") or config["TracingConfig"]["Mode"]}
    _dead_letter(result, members.get("DeadLetterConfig") or {})
    if members.get("ImageConfig") is not None:
        result.pop("ImageConfigResponse", None)
        if any(members["ImageConfig"].values()):
            result["ImageConfigResponse"] = {"ImageConfig": {k: v for k, v in members["ImageConfig"].items() if v}}
    if members.get("SnapStart") is not None:
        result["SnapStart"] = {"ApplyOn": members["SnapStart"].get("ApplyOn") or "None", "OptimizationStatus": "Off"}
    tenancy.check_snap_start(result)
    snap_start.check(result)
    if members.get("LoggingConfig") is not None:
        result["LoggingConfig"] = _logging(config["LoggingConfig"], members["LoggingConfig"])
    return result


def _dead_letter(config: dict[str, Any], given: Mapping[str, str]) -> None:
    """An empty ARN takes the target away, an absent one changes nothing. Raises InvalidParameterValue."""
    target = given.get("TargetArn")
    if target == "":
        config.pop("DeadLetterConfig", None)
    elif target is not None:
        if not is_target(target, ("sqs", "sns")):
            raise InvalidParameterValue(
                f"The dead-letter target {target} is invalid: it must be the ARN of a standard SQS queue or a standard SNS topic."
            )
        config["DeadLetterConfig"] = {"TargetArn": target}


def _logging(former: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    after = {**former, **given}
    if after["LogFormat"] != "JSON":
        levels = [name for name in ("ApplicationLogLevel", "SystemLogLevel") if given.get(name)]
        if levels:
            raise InvalidParameterValue(f"{' and '.join(levels)} can be set only when LogFormat is JSON.")
        return {"LogFormat": "Text", "LogGroup": after["LogGroup"]}
    return {
        "LogFormat": "JSON",
        "ApplicationLogLevel": after.get("ApplicationLogLevel") or "INFO",
        "SystemLogLevel": after.get("SystemLogLevel") or "INFO",
        "LogGroup": after["LogGroup"],
    }


def fingerprint(config: Mapping[str, Any], code_sha256: str) -> str:
    """The same for the same code and configuration, whenever it was made."""
    document = json.dumps([config, code_sha256], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()


def last_modified(epoch_ms: int) -> str:
    """``2025-11-25T02:26:24.123+0000``."""
    moment = datetime.fromtimestamp(epoch_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{epoch_ms % 1000:03d}+0000"


def code_sha256(hexadecimal: str) -> str:
    """A package's digest as the API shows it."""
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode("ascii")


def shown_sha256(version: Version) -> str:
    """The digest of a version's code as the API shows it: of an image hexadecimal."""
    if is_image(version.config):
        return version.code_sha256
    return code_sha256(version.config[PACKAGE]["Sha256"] if PACKAGE in version.config else version.code_sha256)


def listed(name: str, version: Version, account: str, region: str, qualifier: str | None) -> dict[str, Any]:
    """A FunctionConfiguration as in lists: without states and without the runtime's version. ``qualifier`` goes into the ARN."""
    # What begins so is kept and never shown.
    shown = {k: v for k, v in version.config.items() if k != "RuntimeVersionConfig" and not k.startswith("_")}
    return {
        "FunctionName": name,
        "FunctionArn": function_arn(region, account, name, qualifier),
        **shown,
        "SnapStart": snap_start.shown(version.config, version.version),
        "CodeSize": version.config.get(PACKAGE, {}).get("Size", version.code_size),
        "CodeSha256": shown_sha256(version),
        "LastModified": last_modified(version.last_modified_ms),
        "Version": version.version,
        "RevisionId": version.revision_id,
    }


def shown(function: Function, version: Version, region: str, qualifier: str | None) -> dict[str, Any]:
    """A FunctionConfiguration of a function at rest: Active, its last update Successful, its runtime the one it was last seen with or is
    held to.
    """
    runtime = version.config.get("RuntimeVersionConfig")
    held = held_runtime(function, version.version)
    if held is not None:
        runtime = {"RuntimeVersionArn": held["RuntimeVersionArn"]}
    return {
        **listed(function.name, version, function.account, region, qualifier),
        **({} if runtime is None else {"RuntimeVersionConfig": runtime}),
        "State": "Active",
        "LastUpdateStatus": "Successful",
    }


def lost(shown: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a version whose package the disk has lost: it cannot be invoked."""
    reason = "The function's code is lost: upload it again with UpdateFunctionCode."
    return {**shown, "State": "Failed", "StateReason": reason, "StateReasonCode": "InternalError"}


def out_of_addresses(shown: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a version for which no subnet of its VPC has an address: it cannot be invoked, and what made it so did not succeed."""
    why = {"Reason": SubnetIPAddressLimitReached.words, "ReasonCode": "SubnetOutOfIPAddresses"}
    failed = {"": "Failed", **why}
    return {**shown, **{f"{field}{name}": value for field in ("State", "LastUpdateStatus") for name, value in failed.items()}}


def in_state(shown: Mapping[str, Any], state: str, reason: str, code: str) -> dict[str, Any]:
    """A configuration of a version that cannot be invoked, yet or at all."""
    answer = {**shown, "State": state, "StateReason": reason, "StateReasonCode": code}
    if state == "Pending":
        del answer["LastUpdateStatus"]
    return answer


def creating(function: Function, version: Version, region: str, qualifier: str | None, revision_id: str) -> dict[str, Any]:
    """As ``shown``, but as AWS answers while it still works on a new function or version. ``revision_id``: the one before it is done."""
    reason, code = _CREATING
    answer = {
        **shown(function, version, region, qualifier),
        "RevisionId": revision_id,
        "State": "Pending",
        "StateReason": reason,
        "StateReasonCode": code,
    }
    del answer["LastUpdateStatus"]
    return answer


def updating(function: Function, version: Version, region: str, revision_id: str) -> dict[str, Any]:
    """As ``shown``, but as AWS answers while an update is under way."""
    reason, code = _CREATING
    return {
        **shown(function, version, region, None),
        "RevisionId": revision_id,
        "LastUpdateStatus": "InProgress",
        "LastUpdateStatusReason": reason,
        "LastUpdateStatusReasonCode": code,
    }
