"""Which version of its runtime a version of a function is held to, and what follows where the host has another. Pure.

A runtime's version is that of the host's interpreter, and there is one of each runtime. By default (``Auto``) a function runs on it, whichever it
is. ``FunctionUpdate`` holds to the one there was at the last update, ``Manual`` to the one that was named. What is held is never run on
another: it is refused, and says so, until the host has that version again or somebody lets go. A published version begins with what
``$LATEST`` is held to. Of functions that bring their own runtime there is one version for ever.
Source: docs.aws.amazon.com/lambda/latest/dg/runtimes-update.html, runtime-management-rollback.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.arn import runtime_version_arn
from engine.control.configuration import is_image
from engine.control.kinds import RUNTIME_MANAGEMENT, held_runtime
from engine.control.link import InstalledRuntime
from engine.errors import InvalidParameterValue
from engine.store.api import LATEST, Function, Version

AUTO, MANUAL, FUNCTION_UPDATE = "Auto", "Manual", "FunctionUpdate"
Runtimes = Mapping[str, InstalledRuntime]


def chosen(function: Function, version: Version, params: Mapping[str, Any], runtimes: Runtimes, region: str) -> dict[str, Any] | None:
    """What a PutRuntimeManagementConfig makes of a version: the document to be attached, None for Auto. Raises InvalidParameterValue."""
    mode, arn = params["UpdateRuntimeOn"], params.get("RuntimeVersionArn")
    if mode == MANUAL and not arn:
        raise InvalidParameterValue("RuntimeVersionArn is required when UpdateRuntimeOn is Manual.")
    if mode != MANUAL and arn:
        raise InvalidParameterValue("RuntimeVersionArn can be given only when UpdateRuntimeOn is Manual.")
    if mode == AUTO:
        return None
    if is_image(version.config):
        raise InvalidParameterValue(f"UpdateRuntimeOn {mode} is not supported for container images: their runtime is part of the image.")
    former = held_runtime(function, version.version)
    if mode == FUNCTION_UPDATE and former is not None:
        # It stays where it is until the next update.
        return {**former, "UpdateRuntimeOn": mode}
    runtime = version.config["Runtime"]
    installed = runtimes.get(runtime)
    if installed is None:
        raise InvalidParameterValue(f"There is no {runtime} on this host to hold the function to.")
    document = _document(mode, runtime, installed, region)
    if mode == MANUAL and arn != document["RuntimeVersionArn"]:
        raise InvalidParameterValue(
            f"The runtime version {arn} is not available: the {runtime} of this host is {installed.version}, {document['RuntimeVersionArn']}"
        )
    return document


def _document(mode: str, runtime: str, installed: InstalledRuntime, region: str) -> dict[str, Any]:
    arn = runtime_version_arn(region, runtime, installed.version)
    return {"UpdateRuntimeOn": mode, "RuntimeVersionArn": arn, "Version": installed.version}


def answer(document: Mapping[str, Any] | None, function_arn: str) -> dict[str, Any]:
    """A configuration as the API shows it: with the runtime version's ARN where that was chosen."""
    mode = AUTO if document is None else document["UpdateRuntimeOn"]
    arn = {"RuntimeVersionArn": document["RuntimeVersionArn"]} if document is not None and mode == MANUAL else {}
    return {"UpdateRuntimeOn": mode, "FunctionArn": function_arn, **arn}


def check_update(function: Function, members: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue when an update of ``$LATEST`` needs another runtime than the one it is held to by hand."""
    document = held_runtime(function, LATEST)
    if document is None or document["UpdateRuntimeOn"] != MANUAL:
        return
    for member in ("Runtime", "Architectures"):
        if members.get(member) and members[member] != function.latest.config.get(member):
            raise InvalidParameterValue(
                f"{member} cannot be changed while UpdateRuntimeOn is Manual: set it to Auto or FunctionUpdate with PutRuntimeManagementConfig first."
            )


def named(config: Mapping[str, Any], runtimes: Runtimes, region: str) -> dict[str, Any]:
    """A configuration with the version of its runtime that the host has; as it was where the host has none."""
    runtime = config.get("Runtime", "")
    installed = runtimes.get(runtime)
    if installed is None:
        return dict(config)
    return {**config, "RuntimeVersionConfig": {"RuntimeVersionArn": runtime_version_arn(region, runtime, installed.version)}}


def updated(function: Function, runtimes: Runtimes, region: str) -> Function:
    """The function after an update of ``$LATEST``: held to the host's version of now, if it is held from update to update."""
    document = held_runtime(function, LATEST)
    runtime = function.latest.config.get("Runtime", "")
    if document is None or document["UpdateRuntimeOn"] != FUNCTION_UPDATE or runtime not in runtimes:
        return function
    return function.attach(RUNTIME_MANAGEMENT, LATEST, _document(FUNCTION_UPDATE, runtime, runtimes[runtime], region))


def refusal(function: Function, version: Version, runtimes: Runtimes) -> str:
    """Why a version must not be started on what the host has, and what to do; empty when it may."""
    document = held_runtime(function, version.version)
    if document is None:
        return ""
    runtime, wanted, mode = version.config["Runtime"], document["Version"], document["UpdateRuntimeOn"]
    installed = runtimes.get(runtime)
    if installed is not None and installed.version == wanted:
        return ""
    has = f"has no {runtime}" if installed is None else f"has {installed.version}"
    update = ", update the function" if mode == FUNCTION_UPDATE and version.version == LATEST else ""
    return (
        f"The function is held to {runtime} version {wanted} ({document['RuntimeVersionArn']}) by UpdateRuntimeOn {mode}, and this host {has}. "
        f"Have the engine find {wanted} (LAMBDA_ENGINE_RUNTIMES){update}, or set UpdateRuntimeOn to Auto with PutRuntimeManagementConfig."
    )


def in_state(shown: Mapping[str, Any], function: Function, version: Version, runtimes: Runtimes, region: str) -> dict[str, Any]:
    """A configuration with the version it runs on now, or Failed when it is held to one that is not there."""
    reason = refusal(function, version, runtimes)
    if reason:
        error = {"Error": {"ErrorCode": "InvalidRuntime", "Message": reason}}
        held = {"RuntimeVersionConfig": {**shown["RuntimeVersionConfig"], **error}}
        return {**shown, **held, "State": "Failed", "StateReason": reason, "StateReasonCode": "InvalidRuntime"}
    return dict(shown) if held_runtime(function, version.version) is not None else {**shown, **_current(version, runtimes, region)}


def _current(version: Version, runtimes: Runtimes, region: str) -> dict[str, Any]:
    found = named(version.config, runtimes, region).get("RuntimeVersionConfig")
    return {} if found is None else {"RuntimeVersionConfig": found}
