"""CreateAlias, GetAlias, UpdateAlias, DeleteAlias and ListAliases.

Source: docs.aws.amazon.com/lambda/latest/dg/configuration-aliases.html and recorded replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine import ids
from engine.arn import FunctionRef, function_arn
from engine.control import rules
from engine.control.api import Caller, Registrar
from engine.control.kinds import provisioned_concurrency
from engine.control.listing import listing, page_of
from engine.control.plane import Plane, locate_unqualified, not_found
from engine.errors import InvalidParameterValue, ResourceConflict, ResourceNotFound, UntypedInvalidParameterValue
from engine.store.api import LATEST, Alias, Function

ALREADY_PROVISIONED = "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
_SHARED = (("Role", "execution role"), ("DeadLetterConfig", "dead-letter queue configuration"))


class AliasOperations:
    """Handlers of the operations on aliases."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("CreateAlias", self.create)
        registry.add("GetAlias", self.get)
        registry.add("UpdateAlias", self.update)
        registry.add("DeleteAlias", self.delete)
        registry.add("ListAliases", self.list)

    async def create(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            if function is None:
                raise not_found(replace(ref, qualifier=params["FunctionVersion"]))
            alias = Alias(
                name=params["Name"],
                version=params["FunctionVersion"],
                description=params.get("Description") or "",
                revision_id=ids.revision_id(),
                weights=weights_of(params) or {},
            )
            check_routing(function, alias, ref)
            if alias.name in function.aliases:
                raise ResourceConflict(f"Alias already exists: {_arn(ref, alias.name)}")
            await plane.changes.apply(function, with_alias(function, alias))
        return shown(ref, alias)

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        function = self._plane.store.get(ref.account, ref.name)
        if function is None:
            raise not_found(ref)
        return shown(ref, find_alias(function, ref, params["Name"]))

    async def update(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            former = function.aliases.get(params["Name"])
            if former is None:
                raise ResourceNotFound(f"Alias not found: {_arn(ref, params['Name'])}")
            rules.check_revision(params.get("RevisionId"), former.revision_id)
            weights, description = weights_of(params), params.get("Description")
            alias = Alias(
                name=former.name,
                version=params.get("FunctionVersion") or former.version,
                description=former.description if description is None else description,
                revision_id=ids.revision_id(),
                weights=former.weights if weights is None else weights,
            )
            check_routing(function, alias, ref)
            check_provisioned(function, alias)
            await plane.changes.apply(function, with_alias(function, alias))
        return shown(ref, alias)

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        """Deleting what is not there succeeds, as at AWS."""
        ref = locate_unqualified(caller, params["FunctionName"])
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            if function is not None and params["Name"] in function.aliases:
                await plane.changes.apply(function, function.without_qualifier(params["Name"]))

    async def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        function = self._plane.store.get(ref.account, ref.name)
        if function is None:
            raise not_found(ref)
        version = params.get("FunctionVersion")
        names = sorted(name for name, alias in function.aliases.items() if version in (None, alias.version))
        page, marker = page_of(listing(caller, ref.name), names, params)
        answer: dict[str, Any] = {"Aliases": [shown(ref, function.aliases[name]) for name in page]}
        return answer if marker is None else {**answer, "NextMarker": marker}


def with_alias(function: Function, alias: Alias) -> Function:
    """``function`` with this alias added or replaced."""
    return replace(function, aliases={**function.aliases, alias.name: alias})


def find_alias(function: Function | None, ref: FunctionRef, name: str) -> Alias:
    """The alias called ``name``. Raises ResourceNotFound in the words of GetAlias, also where there is no function."""
    found = None if function is None else function.aliases.get(name)
    if found is None:
        raise ResourceNotFound(f"Cannot find alias arn: {_arn(ref, name)}")
    return found


def weights_of(params: Mapping[str, Any]) -> dict[str, float] | None:
    """The shares a request asks for: empty to have none, None when it does not say. Raises InvalidParameterValue for more than one."""
    routing = params.get("RoutingConfig")
    if routing is None:
        return None
    weights = dict(routing.get("AdditionalVersionWeights") or {})
    if len(weights) > 1:
        raise InvalidParameterValue("Number of items in AdditionalVersionWeights cannot be greater than 1")
    return weights


def check_routing(function: Function, alias: Alias, ref: FunctionRef) -> None:
    """Raises ResourceNotFound for a version that is not there, InvalidParameterValue for versions that cannot share an alias."""
    main = function.versions.get(alias.version)
    if main is None:
        raise not_found(replace(ref, qualifier=alias.version))
    if alias.weights and alias.version == LATEST:
        raise UntypedInvalidParameterValue("$LATEST is not supported for an alias pointing to more than 1 version")
    for name in alias.weights:
        if name == alias.version:
            raise InvalidParameterValue(
                f"Invalid function version {name}. Function version {name} is already included in routing configuration."
            )
        other = function.versions.get(name)
        if other is None:
            raise not_found(replace(ref, qualifier=name))
        for member, what in _SHARED:
            if main.config.get(member) != other.config.get(member):
                raise InvalidParameterValue(
                    f"The versions of an alias must have the same {what}; those of {alias.version} and {name} differ."
                )


def check_provisioned(function: Function, alias: Alias) -> None:
    """Raises for versions that an alias with provisioned concurrency may not point to."""
    configs = provisioned_concurrency(function)
    if alias.name not in configs:
        return
    if alias.version == LATEST:
        raise InvalidParameterValue("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
    if {alias.version, *alias.weights} & provisioned_versions(function, alias.name):
        raise ResourceConflict(ALREADY_PROVISIONED)


def provisioned_versions(function: Function, but: str) -> set[str]:
    """Versions that have provisioned concurrency, of their own or by an alias other than ``but``: none may have it twice."""
    found: set[str] = set()
    for qualifier in provisioned_concurrency(function).keys() - {but}:
        alias = function.aliases.get(qualifier)
        found |= {qualifier} if alias is None else {alias.version, *alias.weights}
    return found


def shown(ref: FunctionRef, alias: Alias) -> dict[str, Any]:
    """An AliasConfiguration."""
    answer: dict[str, Any] = {
        "AliasArn": _arn(ref, alias.name),
        "Name": alias.name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RevisionId": alias.revision_id,
    }
    if alias.weights:
        answer["RoutingConfig"] = {"AdditionalVersionWeights": dict(alias.weights)}
    return answer


def _arn(ref: FunctionRef, name: str) -> str:
    return function_arn(ref.region, ref.account, ref.name, name)
