"""PublishVersion and ListVersionsByFunction.

Source: docs.aws.amazon.com/lambda/latest/dg/configuration-versions.html and recorded replies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine import ids
from engine.control import configuration, rules, runtime_management, snap_start
from engine.control.api import Caller, Registrar
from engine.control.kinds import RUNTIME_MANAGEMENT, held_runtime
from engine.control.listing import listing, next_marker, page_size, position
from engine.control.plane import Plane, locate, locate_unqualified, not_found
from engine.errors import InvalidParameterValue
from engine.store.api import LATEST, Function, Position, Version


def publish(function: Function, description: str | None) -> tuple[Function, Version]:
    """The function with a version of what ``$LATEST`` is now, and that version; both as they were when nothing changed since the last
    publication. Pure but for the ids.
    """
    latest = function.latest
    last = max(function.versions.values(), key=lambda v: v.ordinal)
    if last.version != LATEST and last.fingerprint == latest.fingerprint:
        return function, last
    config = dict(latest.config)
    if description is not None:
        config["Description"] = description
    made = replace(
        latest,
        version=str(function.next_version),
        config=config,
        revision_id=ids.revision_id(),
        generation=ids.revision_id(),
    )
    versions = {**function.versions, LATEST: replace(latest, revision_id=ids.revision_id()), made.version: made}
    after = replace(function, next_version=function.next_version + 1, versions=versions)
    held = held_runtime(function, LATEST)
    return after if held is None else after.attach(RUNTIME_MANAGEMENT, made.version, held), made


class VersionOperations:
    """Handlers of the operations on versions."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("PublishVersion", self.publish_version)
        registry.add("ListVersionsByFunction", self.list_versions)

    async def publish_version(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        rules.refuse_unsupported("PublishVersion", params)
        hello = await self._plane.link.ready()
        async with self._plane.changes.lock(ref.account, ref.name):
            function = await self._plane.read(ref)
            latest = function.latest
            rules.check_revision(params.get("RevisionId"), latest.revision_id)
            given, actual = params.get("CodeSha256"), configuration.shown_sha256(latest)
            if given is not None and given != actual:
                raise InvalidParameterValue(
                    f"CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({actual}). "
                    "Please try again with the CodeSHA256 in $LATEST."
                )
            after, version = publish(function, params.get("Description"))
            if after is not function:
                await self._plane.check_storage(ref.account, version.code_size)
                await self._plane.changes.apply(function, after)
        shown = configuration.shown(after, version, ref.region, version.version)
        await self._plane.environments.reveal(shown, version.config, ref)
        shown = runtime_management.in_state(shown, after, version, hello.runtimes, ref.region)
        return shown if shown["State"] == "Failed" else await snap_start.with_state(self._plane.link, after, version, shown)

    async def list_versions(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"])
        if self._plane.store.get(ref.account, ref.name) is None:
            raise not_found(ref)
        limit = page_size(params.get("MaxItems"))
        after = position(listing(caller, ref.name), params.get("Marker"))
        found = self._plane.store.page(ref.account, name=ref.name, latest_only=False, after=after, limit=limit + 1)
        shown = found[:limit]
        answer: dict[str, Any] = {
            "Versions": [
                await self._plane.environments.reveal(
                    configuration.listed(ref.name, item.version, ref.account, ref.region, item.version.version), item.version.config, ref
                )
                for item in shown
            ]
        }
        if len(found) > limit:
            answer["NextMarker"] = next_marker(listing(caller, ref.name), Position(ref.name, shown[-1].version.ordinal))
        return answer
