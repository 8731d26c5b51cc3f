"""AddLayerVersionPermission, RemoveLayerVersionPermission and GetLayerVersionPolicy: who may use a layer version beside its owner.

Source: docs.aws.amazon.com/lambda/latest/api/API_AddLayerVersionPermission.html and recorded replies.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from engine import ids
from engine.control import layer_names, policy_document, rules
from engine.control.api import Caller, Registrar
from engine.control.layer_names import LayerRef
from engine.control.plane import Plane
from engine.errors import InvalidParameterValue, ResourceConflict, ResourceNotFound
from engine.store.api import LayerStore, LayerVersion


class LayerPolicies:
    """The policy of a layer version by its ARN, for whoever decides about access; None for any other resource. Blocks."""

    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers

    def __call__(self, arn: str, /) -> dict[str, Any] | None:
        if ":layer:" not in arn:
            return None
        try:
            ref, version = layer_names.parse_version_arn(arn)
        except InvalidParameterValue:
            return None
        layer = self._layers.get(ref.account, ref.name, version)
        return None if layer is None or not layer.policy else policy_document.document(layer.policy)


class LayerPermissionOperations:
    """Handlers of the operations on a layer version's policy."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("AddLayerVersionPermission", self.add)
        registry.add("RemoveLayerVersionPermission", self.remove)
        registry.add("GetLayerVersionPolicy", self.get)

    async def add(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, version = _locate(caller, params)
        statement = _statement(ref.arn(version), params)

        def change(layer: LayerVersion | None) -> LayerVersion:
            layer = _present(layer, ref, version)
            rules.check_revision(params.get("RevisionId"), layer.revision_id, "GetLayerPolicy")
            if policy_document.find(layer.policy, statement["Sid"]) is not None:
                raise ResourceConflict(
                    f"The statement id ({statement['Sid']}) provided already exists. "
                    "Please provide a new statement id, or remove the existing statement."
                )
            policy = (*layer.policy, statement)
            policy_document.check_size(policy_document.document(policy))
            return replace(layer, policy=policy, revision_id=ids.revision_id())

        after = await self._plane.layers.amend(ref.account, ref.name, version, change)
        return {"Statement": policy_document.text(statement), "RevisionId": after.revision_id}

    async def remove(self, caller: Caller, params: dict[str, Any]) -> None:
        ref, version = _locate(caller, params)
        sid = params["StatementId"]

        def change(layer: LayerVersion | None) -> LayerVersion:
            layer = _present(layer, ref, version)
            _check_policy(layer)
            kept = tuple(statement for statement in layer.policy if statement["Sid"] != sid)
            if len(kept) == len(layer.policy):
                raise ResourceNotFound(f"Statement {sid} is not found in resource policy.")
            rules.check_revision(params.get("RevisionId"), layer.revision_id, "GetLayerPolicy")
            return replace(layer, policy=kept, revision_id=ids.revision_id())

        await self._plane.layers.amend(ref.account, ref.name, version, change)

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, version = _locate(caller, params)
        layer = _present(await asyncio.to_thread(self._plane.layers.get, ref.account, ref.name, version), ref, version)
        _check_policy(layer)
        return {"Policy": policy_document.text(policy_document.document(layer.policy)), "RevisionId": layer.revision_id}


def _locate(caller: Caller, params: dict[str, Any]) -> tuple[LayerRef, int]:
    ref = layer_names.parse(params["LayerName"], caller.account, caller.region)
    rules.check_account(ref.account, caller.account, verified=caller.principal.verified)
    layer_names.check_version(params["VersionNumber"])
    if not ref.is_of(caller.region):
        # Like any other that is not there.
        _present(None, ref, params["VersionNumber"])
    return ref, params["VersionNumber"]


def _present(layer: LayerVersion | None, ref: LayerRef, version: int) -> LayerVersion:
    if layer is None:
        raise ResourceNotFound(f"Layer version {ref.arn(version)} does not exist.")
    return layer


def _check_policy(layer: LayerVersion) -> None:
    if not layer.policy:
        raise ResourceNotFound("No policy is associated with the given resource.")


def _statement(resource: str, params: dict[str, Any]) -> dict[str, Any]:
    organization = params.get("OrganizationId")
    if organization and params["Principal"] != "*":
        raise InvalidParameterValue("OrganizationId can be given only with the principal *.")
    return policy_document.statement({**params, "PrincipalOrgID": organization}, resource)
