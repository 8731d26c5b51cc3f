"""GetResourcePolicy, PutResourcePolicy and DeleteResourcePolicy: the same policies as AddPermission's, as whole documents.

Source: the service model, 2026-07-09; texts of refusals are this engine's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.arn import FunctionRef
from engine.control import policy_document, rules
from engine.control.api import Caller, Registrar
from engine.control.kinds import POLICY
from engine.control.permissions import NOTHING, check_there, revision, with_policy
from engine.control.plane import Plane, locate
from engine.errors import InvalidParameterValue, ResourceNotFound
from engine.store.api import LATEST, Function

_SOURCE = "GetResourcePolicy"


class ResourcePolicyOperations:
    """Handlers of the operations on whole policies."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("GetResourcePolicy", self.get)
        registry.add("PutResourcePolicy", self.put)
        registry.add("DeleteResourcePolicy", self.delete)

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = _locate(caller, params["ResourceArn"])
        function = self._plane.store.get(ref.account, ref.name)
        found = None if function is None else function.document(POLICY, ref.qualifier or "")
        if function is None or found is None:
            raise ResourceNotFound(NOTHING)
        return _shown(function, ref, found)

    async def put(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = _locate(caller, params["ResourceArn"])
        if ref.qualifier == LATEST:
            raise InvalidParameterValue("We currently do not support adding policies for $LATEST.")
        policy = parsed(params["Policy"])
        policy_document.check_size(policy)
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            check_there(function, ref)
            rules.check_revision(params.get("RevisionId"), revision(function, ref.qualifier), _SOURCE)
            after = with_policy(function, ref.qualifier, policy)
            await plane.changes.apply(function, after)
        return _shown(after, ref, policy)

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        ref = _locate(caller, params["ResourceArn"])
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            if function.document(POLICY, ref.qualifier or "") is None:
                raise ResourceNotFound("No policy is associated with the given resource.")
            rules.check_revision(params.get("RevisionId"), revision(function, ref.qualifier), _SOURCE)
            await plane.changes.apply(function, with_policy(function, ref.qualifier, None))


def parsed(text: str) -> dict[str, Any]:
    """A policy that a caller wrote, its statements as a list. Raises InvalidParameterValue naming what is wrong with it."""
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidParameterValue(f"The policy is not valid JSON: {e}") from None
    if not isinstance(policy, dict):
        raise InvalidParameterValue("The policy is not a JSON object.")
    if policy.get("Version") not in ("2012-10-17", "2008-10-17"):
        raise InvalidParameterValue("The policy needs a Version of 2012-10-17.")
    statements = policy.get("Statement")
    found = [statements] if isinstance(statements, dict) else statements
    if not isinstance(found, list) or not found:
        raise InvalidParameterValue("The policy needs at least one Statement.")
    for statement in found:
        _check(statement)
    sids = [s["Sid"] for s in found if "Sid" in s]
    if len(set(sids)) < len(sids):
        raise InvalidParameterValue("Two statements of the policy have the same Sid.")
    return {**policy, "Statement": found}


def _check(statement: Any) -> None:
    if not isinstance(statement, dict):
        raise InvalidParameterValue("A Statement of the policy is not a JSON object.")
    if not isinstance(statement.get("Sid", ""), str):
        raise InvalidParameterValue("A Sid of the policy is not a string.")
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise InvalidParameterValue("The Effect of a Statement is Allow or Deny.")
    for one, other in (("Principal", "NotPrincipal"), ("Action", "NotAction"), ("Resource", "NotResource")):
        if (one in statement) == (other in statement):
            raise InvalidParameterValue(f"A Statement of the policy needs either {one} or {other}.")


def _locate(caller: Caller, arn: str) -> FunctionRef:
    """Raises ResourceNotFound for ARNs of what has no policy here (custom runtimes)."""
    if arn.split(":")[5] != "function":
        raise ResourceNotFound(NOTHING)
    return locate(caller, arn)


def _shown(function: Function, ref: FunctionRef, policy: Mapping[str, Any]) -> dict[str, Any]:
    return {"Policy": policy_document.text(policy), "RevisionId": revision(function, ref.qualifier)}
