"""AddPermission, RemovePermission and GetPolicy: the resource policy of a function, a version or an alias.

Each of the three has a policy of its own; publishing copies none. A change of a policy gives what it hangs on a new RevisionId.
Source: docs.aws.amazon.com/lambda/latest/dg/access-control-resource-based.html and recorded replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine import ids
from engine.arn import FunctionRef
from engine.control import policy_document, rules
from engine.control.aliases import find_alias, with_alias
from engine.control.api import Caller, Registrar
from engine.control.kinds import POLICY
from engine.control.plane import Plane, locate, not_found
from engine.errors import InvalidParameterValue, ResourceConflict, ResourceNotFound
from engine.store.api import LATEST, Function

NOTHING = "The resource you requested does not exist."


def statements(function: Function, qualifier: str | None) -> Sequence[Mapping[str, Any]]:
    """The statements attached to a version or alias, or (None) to the function itself; none when there is no policy."""
    found = function.document(POLICY, qualifier or "")
    return () if found is None else found["Statement"]


class PermissionOperations:
    """Handlers of the operations on function policies."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("AddPermission", self.add)
        registry.add("RemovePermission", self.remove)
        registry.add("GetPolicy", self.get)

    async def add(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            if function is None:
                raise not_found(ref)
            if ref.qualifier == LATEST:
                raise InvalidParameterValue("We currently do not support adding policies for $LATEST.")
            check_there(function, ref)
            made = policy_document.statement(params, ref.arn())
            present = statements(function, ref.qualifier)
            if policy_document.find(present, made["Sid"]) is not None:
                raise ResourceConflict(
                    f"The statement id ({made['Sid']}) provided already exists. "
                    "Please provide a new statement id, or remove the existing statement."
                )
            rules.check_revision(params.get("RevisionId"), revision(function, ref.qualifier), "GetPolicy")
            policy = policy_document.document([*present, made])
            policy_document.check_size(policy)
            await plane.changes.apply(function, with_policy(function, ref.qualifier, policy))
        return {"Statement": policy_document.text(made)}

    async def remove(self, caller: Caller, params: dict[str, Any]) -> None:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        plane, sid = self._plane, params["StatementId"]
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            if function is None:
                raise ResourceNotFound(f"No policy found for: {ref.unqualified_arn()}")
            if ref.qualifier != LATEST:
                check_there(function, ref)
            present = statements(function, ref.qualifier)
            if not present:
                raise ResourceNotFound("No policy is associated with the given resource.")
            if policy_document.find(present, sid) is None:
                raise ResourceNotFound(f"Statement {sid} is not found in resource policy.")
            rules.check_revision(params.get("RevisionId"), revision(function, ref.qualifier), "GetPolicy")
            kept = [s for s in present if s.get("Sid") != sid]
            policy = policy_document.document(kept) if kept else None
            await plane.changes.apply(function, with_policy(function, ref.qualifier, policy))

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        function = self._plane.store.get(ref.account, ref.name)
        found = None if function is None else function.document(POLICY, ref.qualifier or "")
        if function is None or found is None:
            raise ResourceNotFound(NOTHING)
        return {"Policy": policy_document.text(found), "RevisionId": revision(function, ref.qualifier)}


def revision(function: Function, qualifier: str | None) -> str:
    """The RevisionId of what a policy hangs on, which must be there."""
    alias = function.aliases.get(qualifier or "")
    return alias.revision_id if alias is not None else function.versions[qualifier or LATEST].revision_id


def check_there(function: Function, ref: FunctionRef) -> None:
    """Raises ResourceNotFound for a version or an alias that is not."""
    qualifier = ref.qualifier
    if qualifier is None or qualifier in function.versions:
        return
    if qualifier.isdigit() or "$" in qualifier:
        raise not_found(ref)
    find_alias(function, ref, qualifier)


def with_policy(function: Function, qualifier: str | None, policy: Mapping[str, Any] | None) -> Function:
    """``function`` with another policy (None: without one) and the RevisionId that goes with it."""
    after = function.attach(POLICY, qualifier or "", policy)
    alias = function.aliases.get(qualifier or "")
    if alias is not None:
        return with_alias(after, replace(alias, revision_id=ids.revision_id()))
    version = function.versions[qualifier or LATEST]
    return replace(after, versions={**after.versions, version.version: replace(version, revision_id=ids.revision_id())})
