"""PutProvisionedConcurrencyConfig, Get…, Delete… and ListProvisionedConcurrencyConfigs.

What is asked for is kept here; what there is the supervisor knows, and is asked each time, so that counts and status are never older
than the answer.
Source: docs.aws.amazon.com/lambda/latest/dg/provisioned-concurrency.html and recorded replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine import ids
from engine.arn import FunctionRef, function_arn
from engine.control import snap_start, tenancy
from engine.control.aliases import ALREADY_PROVISIONED, find_alias, provisioned_versions
from engine.control.api import Caller, Registrar
from engine.control.concurrency import FLOOR, reserved_by_others
from engine.control.kinds import PROVISIONED, provisioned_concurrency, provisioned_total, reserved_concurrency
from engine.control.listing import listing, page_of
from engine.control.plane import Plane, locate, not_found
from engine.core.provisioning import Status, refusal
from engine.errors import (
    InvalidParameterValue,
    ProvisionedConcurrencyConfigNotFound,
    ResourceConflict,
    UntypedInvalidParameterValue,
)
from engine.store.api import LATEST, Function

_MEMBER = "ProvisionedConcurrentExecutions"
_UNPUBLISHED = "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
_NOT_A_RESOURCE = "The function resource provided must be an alias or a published version."


class ProvisionedOperations:
    """Handlers of the operations on provisioned concurrency."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("PutProvisionedConcurrencyConfig", self.put)
        registry.add("GetProvisionedConcurrencyConfig", self.get)
        registry.add("DeleteProvisionedConcurrencyConfig", self.delete)
        registry.add("ListProvisionedConcurrencyConfigs", self.list)

    async def put(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, qualifier = _located(caller, params, _UNPUBLISHED)
        return await self.provide(ref, qualifier, int(params[_MEMBER]))

    async def provide(self, ref: FunctionRef, qualifier: str, wanted: int) -> dict[str, Any]:
        """Ask for so many instances; the configuration as the API shows it."""
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.account_lock(ref.account), plane.changes.lock(ref.account, ref.name):
            function = await _read(plane, ref, qualifier)
            _check_free(function, qualifier)
            _check_snap_start(function, qualifier)
            tenancy.refuse(function, "Provisioned concurrency")
            await self._check_room(function, qualifier, wanted)
            fresh = function.document(PROVISIONED, qualifier) is None
            document = {_MEMBER: wanted, "LastModified": _text(plane.clock.epoch_ms()), "Revision": ids.revision_id()}
            await plane.changes.apply(function, function.attach(PROVISIONED, qualifier, document))
        # The first answer never has any, however soon they are there: it is for GetProvisionedConcurrencyConfig to say so.
        return _shown(document, None if fresh else await self._figures(ref, qualifier, document))

    async def _check_room(self, function: Function, qualifier: str, wanted: int) -> None:
        plane, limit = self._plane, self._plane.account_concurrency
        others = await asyncio.to_thread(reserved_by_others, plane, function.account, function.name)
        present = function.document(PROVISIONED, qualifier)
        beside = provisioned_total(function) - (0 if present is None else int(present[_MEMBER]))
        reserved = reserved_concurrency(function)
        problem = refusal(wanted, beside, reserved, limit - others - beside, min(FLOOR, limit) if limit > FLOOR else 0)
        if problem is not None:
            raise (UntypedInvalidParameterValue if reserved is None else InvalidParameterValue)(problem)

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, qualifier = _located(caller, params, _NOT_A_RESOURCE)
        function = await _read(self._plane, ref, qualifier)
        document = function.document(PROVISIONED, qualifier)
        if document is None:
            raise ProvisionedConcurrencyConfigNotFound("No Provisioned Concurrency Config found for this function")
        return _shown(document, await self._figures(ref, qualifier, document))

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        """Deleting what is not there succeeds, as at AWS."""
        await self.withdraw(*_located(caller, params, _NOT_A_RESOURCE))

    async def withdraw(self, ref: FunctionRef, qualifier: str) -> None:
        """Ask for no instances any more."""
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.account_lock(ref.account), plane.changes.lock(ref.account, ref.name):
            function = await _read(plane, ref, qualifier)
            if function.document(PROVISIONED, qualifier) is not None:
                await plane.changes.apply(function, function.attach(PROVISIONED, qualifier, None))

    async def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"])
        function = await self._plane.read(FunctionRef(ref.account, ref.region, ref.name))
        configs = provisioned_concurrency(function)
        page, marker = page_of(listing(caller, ref.name), sorted(configs), params)
        known = await self._all_figures() if page else {}
        shown = [
            {
                "FunctionArn": function_arn(ref.region, ref.account, ref.name, qualifier),
                **_shown(configs[qualifier], known.get((ref.account, ref.name, qualifier, configs[qualifier]["Revision"]))),
            }
            for qualifier in page
        ]
        answer: dict[str, Any] = {"ProvisionedConcurrencyConfigs": shown}
        return answer if marker is None else {**answer, "NextMarker": marker}

    async def _all_figures(self) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
        found = await self._plane.link.query("provisioned")
        return {(f["account"], f["name"], f["qualifier"], f["revision"]): f for f in found}

    async def _figures(self, ref: FunctionRef, qualifier: str, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return (await self._all_figures()).get((ref.account, ref.name, qualifier, document["Revision"]))


def _located(caller: Caller, params: Mapping[str, Any], unpublished: str) -> tuple[FunctionRef, str]:
    """The function and the version or alias a request means. Raises InvalidParameterValue for ``$LATEST``."""
    ref = locate(caller, params["FunctionName"], params["Qualifier"])
    if ref.qualifier in (None, LATEST):
        raise InvalidParameterValue(unpublished)
    assert ref.qualifier is not None  # noqa: S101 - seen above
    return FunctionRef(ref.account, ref.region, ref.name), ref.qualifier


async def _read(plane: Plane, ref: FunctionRef, qualifier: str) -> Function:
    """The function that has this version or alias. Raises ResourceNotFound, of a function that is not there in the same words."""
    function = await plane.find(ref)
    if not qualifier.isdigit():
        find_alias(function, ref, qualifier)
    if function is None or (qualifier.isdigit() and qualifier not in function.versions):
        raise not_found(FunctionRef(ref.account, ref.region, ref.name, qualifier))
    return function


def _check_free(function: Function, qualifier: str) -> None:
    """Raises ResourceConflict when a version would be provisioned twice, by itself or by aliases, InvalidParameterValue for a split alias."""
    alias = function.aliases.get(qualifier)
    if alias is None:
        if qualifier in provisioned_versions(function, qualifier):
            raise ResourceConflict("Version is pointed by a Provisioned Concurrency alias")
        return
    if alias.version == LATEST:
        raise InvalidParameterValue(_UNPUBLISHED)
    if alias.weights:
        raise InvalidParameterValue("Alias with weights can not be used with Provisioned Concurrency")
    if alias.version in provisioned_versions(function, qualifier):
        raise ResourceConflict(ALREADY_PROVISIONED)


def _check_snap_start(function: Function, qualifier: str) -> None:
    """Raises InvalidParameterValue where a version starts from a snapshot: Lambda offers one or the other."""
    alias = function.aliases.get(qualifier)
    if snap_start.of_version(function.versions[qualifier if alias is None else alias.version]):
        raise InvalidParameterValue("Provisioned Concurrency is not supported for SnapStart enabled functions.")


def _text(epoch_ms: int) -> str:
    return f"{datetime.fromtimestamp(epoch_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}+0000"


def _shown(document: Mapping[str, Any], figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """A configuration as the API prints it; without figures the supervisor has not begun."""
    known = figures or {"allocated": 0, "available": 0, "status": Status.IN_PROGRESS.value, "reason": None}
    shown = {
        "RequestedProvisionedConcurrentExecutions": int(document[_MEMBER]),
        "AvailableProvisionedConcurrentExecutions": known["available"],
        "AllocatedProvisionedConcurrentExecutions": known["allocated"],
        "Status": known["status"],
        "LastModified": document["LastModified"],
    }
    if known["reason"] is not None:
        shown["StatusReason"] = known["reason"]
    return shown
