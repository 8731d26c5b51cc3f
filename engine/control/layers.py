"""PublishLayerVersion, GetLayerVersion, GetLayerVersionByArn, ListLayers, ListLayerVersions and DeleteLayerVersion.

A layer version is an archive with a number. Its content is unpacked once, whoever uses it, and stays while any function has it.
Source: docs.aws.amazon.com/lambda/latest/dg/chapter-layers.html and recorded replies.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from engine import ids
from engine.control import configuration, layer_names, rules
from engine.control.api import Caller, Registrar
from engine.control.layer_names import LayerRef
from engine.control.listing import listing, next_marker, page_size, position
from engine.control.plane import Plane
from engine.errors import AccessDenied
from engine.store.api import LayerVersion, Position


class LayerOperations:
    """Handlers of the operations on layers and their versions."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("PublishLayerVersion", self.publish)
        registry.add("GetLayerVersion", self.get)
        registry.add("GetLayerVersionByArn", self.get_by_arn)
        registry.add("ListLayers", self.list_layers)
        registry.add("ListLayerVersions", self.list_versions)
        registry.add("DeleteLayerVersion", self.delete)

    async def publish(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = layer_names.parse_here(params["LayerName"], caller.account, caller.region)
        if ref.account != caller.account:
            raise AccessDenied(None)
        rules.refuse_unsupported("PublishLayerVersion", params)
        rules.refuse_unsupported("LayerContent", params["Content"])
        plane = self._plane
        hello = await plane.link.ready()
        data = await asyncio.to_thread(plane.sources.fetch, params["Content"], ref.account, hello, caller.principal)
        await plane.check_storage(ref.account, len(data))
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        async with plane.holding(sha256):
            await asyncio.to_thread(plane.packages.unpack, data)
            layer = await plane.layers.publish(self._new(ref, params, sha256, len(data)))
        return self._whole(caller, layer)

    def _new(self, ref: LayerRef, params: dict[str, Any], sha256: str, size: int) -> LayerVersion:
        runtimes, architectures = params.get("CompatibleRuntimes"), params.get("CompatibleArchitectures")
        return LayerVersion(
            account=ref.account,
            name=ref.name,
            version=0,
            description=params.get("Description") or "",
            runtimes=None if runtimes is None else tuple(runtimes),
            architectures=None if architectures is None else tuple(architectures),
            license_info=params.get("LicenseInfo"),
            code_sha256=sha256,
            code_size=size,
            created_ms=self._plane.clock.epoch_ms(),
            revision_id=ids.revision_id(),
        )

    def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = layer_names.parse(params["LayerName"], caller.account, caller.region)
        return self._get(caller, ref, params["VersionNumber"])

    def get_by_arn(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, version = layer_names.parse_version_arn(params["Arn"])
        return self._get(caller, ref, version)

    def _get(self, caller: Caller, ref: LayerRef, version: int) -> dict[str, Any]:
        layer_names.check_version(version)
        layer = self._plane.layers.get(ref.account, ref.name, version) if ref.is_of(caller.region) else None
        layer_names.check_access(ref, version, layer, caller.account)
        if layer is None:
            raise layer_names.not_found()
        return self._whole(caller, layer)

    def list_layers(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        after = position(listing(caller), params.get("Marker"))
        matching = (layer for layer in self._plane.layers.everything(caller.account) if _matches(layer, params))
        newest = [next(group) for _, group in groupby(matching, key=lambda layer: layer.name)]
        found = [layer for layer in newest if after is None or layer.name > after.name]
        limit = page_size(params.get("MaxItems"))
        answer: dict[str, Any] = {"Layers": [self._named(caller, layer) for layer in found[:limit]]}
        if len(found) > limit:
            answer["NextMarker"] = next_marker(listing(caller), Position(found[limit - 1].name, 0))
        return answer

    def list_versions(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = layer_names.parse_here(params["LayerName"], caller.account, caller.region)
        rules.check_account(ref.account, caller.account, verified=caller.principal.verified and caller.principal.identity is None)
        after = position(listing(caller, f"{ref.account}:{ref.name}"), params.get("Marker"))
        every: Iterable[LayerVersion] = self._plane.layers.everything(ref.account, ref.name)
        found = [layer for layer in every if _matches(layer, params) and (after is None or layer.version < after.ordinal)]
        limit = page_size(params.get("MaxItems"))
        answer: dict[str, Any] = {"LayerVersions": [_shown(layer, caller.region) for layer in found[:limit]]}
        if len(found) > limit:
            answer["NextMarker"] = next_marker(listing(caller, f"{ref.account}:{ref.name}"), Position(ref.name, found[limit - 1].version))
        return answer

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        ref = layer_names.parse(params["LayerName"], caller.account, caller.region)
        rules.check_account(ref.account, caller.account, verified=caller.principal.verified and caller.principal.identity is None)
        layer_names.check_version(params["VersionNumber"])
        if not ref.is_of(caller.region):
            # Like any other that is not there.
            return
        await self._plane.layers.delete(ref.account, ref.name, params["VersionNumber"], self._plane.clock.epoch_ms())

    def _whole(self, caller: Caller, layer: LayerVersion) -> dict[str, Any]:
        host = caller.headers.get("host", "127.0.0.1")
        return {
            "Content": {
                "Location": self._plane.links.url(host, layer.code_sha256),
                "CodeSha256": configuration.code_sha256(layer.code_sha256),
                "CodeSize": layer.code_size,
            },
            "LayerArn": LayerRef(layer.account, caller.region, layer.name).arn(),
            **_shown(layer, caller.region),
        }

    @staticmethod
    def _named(caller: Caller, layer: LayerVersion) -> dict[str, Any]:
        return {
            "LayerName": layer.name,
            "LayerArn": LayerRef(layer.account, caller.region, layer.name).arn(),
            "LatestMatchingVersion": _shown(layer, caller.region),
        }


def _matches(layer: LayerVersion, params: dict[str, Any]) -> bool:
    """Whether a layer version is among those a listing asks for."""
    runtime, architecture = params.get("CompatibleRuntime"), params.get("CompatibleArchitecture")
    return (runtime is None or runtime in (layer.runtimes or ())) and (
        architecture is None or architecture in (layer.architectures or ())
    )


def _shown(layer: LayerVersion, region: str) -> dict[str, Any]:
    """A layer version as in lists: what its publisher did not say is absent."""
    answer: dict[str, Any] = {
        "LayerVersionArn": LayerRef(layer.account, region, layer.name).arn(layer.version),
        "Version": layer.version,
        "Description": layer.description,
        "CreatedDate": configuration.last_modified(layer.created_ms),
    }
    if layer.runtimes is not None:
        answer["CompatibleRuntimes"] = list(layer.runtimes)
    if layer.architectures is not None:
        answer["CompatibleArchitectures"] = list(layer.architectures)
    if layer.license_info is not None:
        answer["LicenseInfo"] = layer.license_info
    return answer
