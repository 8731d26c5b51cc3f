"""Kinds of documents attached to functions, versions and aliases, in one place so that no two resources share one.

The documents have the members of the API's answers under their AWS names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.store.api import Function

# {"Version", "Id", "Statement": [...]}, by qualifier: the resource policy as it is printed.
POLICY = "policy"
# {"ReservedConcurrentExecutions": n}, of the function.
CONCURRENCY = "concurrency"
# {"ProvisionedConcurrentExecutions": n, "LastModified": text, "Revision": id}, by version or alias.
PROVISIONED = "provisioned-concurrency"
# {"RecursiveLoop": "Allow"}, of the function; absent means Terminate.
RECURSION = "recursion"
# {"UrlId", "AuthType", "CreationTime", "LastModifiedTime"[, "Cors", "InvokeMode"]}, of the function or of an alias.
URL = "url"
# {"LastModified": epoch s, "DestinationConfig"[, "MaximumRetryAttempts", "MaximumEventAgeInSeconds"]}, by qualifier.
EVENT_INVOKE = "event-invoke"
# {"CodeSigningConfigArn": arn}, of the function.
CODE_SIGNING = "code-signing"
# {"UpdateRuntimeOn": "Manual" or "FunctionUpdate", "RuntimeVersionArn": arn, "Version": text}, by version; absent means Auto.
RUNTIME_MANAGEMENT = "runtime-management"


def reserved_concurrency(function: Function) -> int | None:
    """What is reserved for the function; None when it draws on what is left of the account's limit."""
    found = function.document(CONCURRENCY)
    return None if found is None else int(found["ReservedConcurrentExecutions"])


def provisioned_concurrency(function: Function) -> dict[str, Mapping[str, Any]]:
    """Configurations by qualifier."""
    return {key.qualifier: document for key, document in function.attached.items() if key.kind == PROVISIONED}


def provisioned_total(function: Function) -> int:
    """What is provisioned for all versions and aliases of the function together."""
    return sum(int(d["ProvisionedConcurrentExecutions"]) for d in provisioned_concurrency(function).values())


def may_loop(function: Function) -> bool:
    """Whether recursive invocations are let go on."""
    found = function.document(RECURSION)
    return found is not None and found["RecursiveLoop"] == "Allow"


def held_runtime(function: Function, version: str) -> Mapping[str, Any] | None:
    """The version of its runtime that a version is held to; None when it runs on what the host has."""
    return function.document(RUNTIME_MANAGEMENT, version)


def resource_policies(function: Function) -> dict[str, str]:
    """The resource policies by qualifier (empty: the function's own), as JSON text."""
    return {key.qualifier: json.dumps(document) for key, document in function.attached.items() if key.kind == POLICY}
