"""SnapStart as the API sees it: what may have it, and the state of a version whose snapshot is being made.

Source: docs.aws.amazon.com/lambda/latest/dg/snapstart.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.control.link import ControlLink
from engine.errors import InvalidParameterValue, NotImplementedHere
from engine.store.api import LATEST, Function, Version

# The runtimes that Lambda offers it for and that this engine can copy.
_OLDEST_PYTHON = 12
_ELSEWHERE = ("java11", "java17", "java21", "java25", "dotnet8", "dotnet10")
MAX_TMP_MIB = 512


def applied(config: Mapping[str, Any]) -> bool:
    """Whether published versions of this configuration start from a snapshot."""
    return bool(config["SnapStart"]["ApplyOn"] == "PublishedVersions")


def of_version(version: Version) -> bool:
    """Whether this version starts from a snapshot."""
    return version.version != LATEST and applied(version.config)


def check(config: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue for what Lambda does not snapshot, NotImplementedHere for what only this engine does not."""
    if not applied(config):
        return
    runtime = str(config.get("Runtime") or config["PackageType"])
    if runtime in _ELSEWHERE:
        raise NotImplementedHere(f"Lambda Engine does not support SnapStart for {runtime}: only Python workers can be copied.")
    minor = runtime.removeprefix("python3.")
    if not runtime.startswith("python3.") or int(minor) < _OLDEST_PYTHON:
        raise InvalidParameterValue(f"{runtime} is not supported for SnapStart enabled functions.")
    if config["EphemeralStorage"]["Size"] > MAX_TMP_MIB:
        raise InvalidParameterValue("SnapStart does not support ephemeral storage greater than 512 MB.")
    if config.get("FileSystemConfigs"):
        raise InvalidParameterValue("SnapStart does not support Amazon EFS or Amazon S3 Files.")


def shown(config: Mapping[str, Any], version: str) -> dict[str, str]:
    """The member SnapStart of a FunctionConfiguration."""
    on = version != LATEST and applied(config)
    return {"ApplyOn": config["SnapStart"]["ApplyOn"], "OptimizationStatus": "On" if on else "Off"}


async def with_state(link: ControlLink, function: Function, version: Version, answer: dict[str, Any]) -> dict[str, Any]:
    """``answer`` with the state of the version's snapshot. Raises ServiceError when the supervisor cannot be asked."""
    if not of_version(version):
        return answer
    key = (function.account, function.name, version.version)
    found = next((t for t in await link.query("templates") if (t["account"], t["name"], t["version"]) == key), None)
    if found is not None and found["stage"] == "building" and found["first"]:
        answer |= {"State": "Pending", "StateReason": "The function is being created.", "StateReasonCode": "Creating"}
        answer.pop("LastUpdateStatus", None)
    elif found is not None and found["stage"] == "failed":
        answer |= {"State": "Failed", "StateReason": f"SnapStart: {found['reason']}", "StateReasonCode": "FunctionError"}
    elif found is not None and (found["warning"] or found["reason"]):
        # No member of Lambda's says more of a version that works.
        answer["StateReason"] = f"SnapStart: {found['reason'] or found['warning']}"
    return answer
