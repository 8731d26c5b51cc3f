"""TagResource, UntagResource and ListTags.

Functions are tagged here; other resources lend their own ``Tagged`` and are found by the resource type in the ARN.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-tags.html and recorded replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from engine import ids
from engine.control import instance_policy, rules
from engine.control.api import Caller, Registrar
from engine.control.plane import Plane, locate
from engine.errors import InvalidParameterValue, ResourceNotFound
from engine.store.api import LATEST

Change = Callable[[Mapping[str, str]], dict[str, str]]
_QUALIFIED = "Tags on function aliases and versions are not supported. Please specify a function ARN."
_MISSING = {
    "event-source-mapping": "Event source mapping not found: {}",
    "code-signing-config": "The Lambda code signing configuration {} can not be found.",
    "capacity-provider": "Capacity provider not found: {}",
    "network-connector": "Network connector not found: {}",
}


class Tagged(Protocol):
    """A kind of resource that has tags. Both raise ResourceNotFound."""

    async def tags(self, caller: Caller, arn: str) -> Mapping[str, str]:
        """The resource's tags."""
        ...

    async def retag(self, caller: Caller, arn: str, change: Change) -> None:
        """Replace the resource's tags by what ``change`` makes of them."""
        ...


class TagOperations:
    """Handlers of the operations on tags; ``others``: resource types that are not functions, by their name in an ARN."""

    def __init__(self, plane: Plane, others: Mapping[str, Tagged] | None = None) -> None:
        self._kinds: dict[str, Tagged] = {"function": TaggedFunctions(plane), **(others or {})}

    def register(self, registry: Registrar) -> None:
        registry.add("TagResource", self.tag)
        registry.add("UntagResource", self.untag)
        registry.add("ListTags", self.list)

    async def tag(self, caller: Caller, params: dict[str, Any]) -> None:
        added: dict[str, str] = params["Tags"]
        if not added:
            raise InvalidParameterValue("An error occurred and the request cannot be processed.")

        def change(present: Mapping[str, str]) -> dict[str, str]:
            after = {**present, **added}
            rules.check_tags(after)
            return after

        await self._of(params["Resource"]).retag(caller, params["Resource"], change)

    async def untag(self, caller: Caller, params: dict[str, Any]) -> None:
        gone = frozenset(params["TagKeys"])
        await self._of(params["Resource"]).retag(
            caller, params["Resource"], lambda present: {k: v for k, v in present.items() if k not in gone}
        )

    async def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        return {"Tags": dict(await self._of(params["Resource"]).tags(caller, params["Resource"]))}

    def _of(self, arn: str) -> Tagged:
        kind = arn.split(":")[5]
        found = self._kinds.get(kind)
        if found is None:
            raise ResourceNotFound(_MISSING.get(kind, "The resource you requested does not exist: {}").format(arn))
        return found


class TaggedFunctions:
    """Tags of functions; a change of them changes the function's RevisionId."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def tags(self, caller: Caller, arn: str) -> Mapping[str, str]:
        ref = locate(caller, arn)
        if ref.qualifier is not None:
            raise InvalidParameterValue(_QUALIFIED)
        return (await self._plane.read(ref)).tags

    async def retag(self, caller: Caller, arn: str, change: Change) -> None:
        ref = locate(caller, arn)
        if ref.qualifier is not None:
            raise InvalidParameterValue(_QUALIFIED)
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            latest = replace(function.latest, revision_id=ids.revision_id())
            tags = change(function.tags)
            instance_policy.check(tags, function.latest.config)
            after = replace(function, tags=tags, versions={**function.versions, LATEST: latest})
            await plane.changes.apply(function, after)
