"""CreateFunction, GetFunction, GetFunctionConfiguration, DeleteFunction and ListFunctions.

A create answers Pending, as AWS does, but everything is done by then: the next GetFunction says Active and an invocation runs. Only an image
that has to be fetched comes later.
Source: docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html, functions-states.html and recorded replies.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Raw

from engine import ids
from engine.arn import FunctionRef, check_new_name, runtime_version_arn
from engine.control import (
    configuration,
    function_layers,
    images,
    instance_policy,
    rules,
    runtime_management,
    sealed_packages,
    snap_start,
    trust,
)
from engine.control.api import Caller, Registrar
from engine.control.kinds import CODE_SIGNING, CONCURRENCY
from engine.control.link import Hello
from engine.control.listing import listing, next_marker, page_size, position
from engine.control.packages import Package
from engine.control.plane import Plane, locate, not_found, pick
from engine.control.versions import publish
from engine.errors import AccessDenied, InvalidParameterValue, ResourceConflict
from engine.protocol.model import load
from engine.protocol.serialize import encoded
from engine.store.api import LATEST, Function, LayerVersion, Listed, Position, Version

# Functions whose configuration is kept as lists show it, a kilobyte each.
MAX_SHOWN = 4096


class FunctionOperations:
    """Handlers of the operations on whole functions."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._host = rules.host_architecture()
        output = load().operation("ListFunctions").output
        assert output is not None  # noqa: S101 - it has one
        item = output.members["Functions"].item
        assert item is not None  # noqa: S101 - lists have an item shape
        self._shape = item
        self._shown: dict[tuple[object, ...], Raw] = {}

    def register(self, registry: Registrar) -> None:
        registry.add("CreateFunction", self.create)
        registry.add("GetFunction", self.get)
        registry.add("GetFunctionConfiguration", self.get_configuration)
        registry.add("DeleteFunction", self.delete)
        registry.add("ListFunctions", self.list)

    async def create(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = _new_name(caller, params["FunctionName"])
        architectures = self._check(params)
        plane = self._plane
        hello = await plane.link.ready()
        image = configuration.is_image(params)
        if not image:
            rules.check_runtime(params["Runtime"], hello.runtimes)
        await plane.roles.check(params["Role"], ref.account, ref.name)
        dead_letter = (params.get("DeadLetterConfig") or {}).get("TargetArn")
        await plane.roles.check_targets(params["Role"], ref.account, [dead_letter] if dead_letter else [], dead_letter=True)
        async with plane.changes.lock(ref.account, ref.name):
            await self._check_free(ref)
            params = await plane.vpcs.placed(params, ref.account, ref.name, hello)
            if image:
                source = await plane.images.find(params["Code"]["ImageUri"], hello)
                config = configuration.new(params, ref.name, architectures, None)
                config[configuration.IMAGE_URI] = source.uri
                await plane.file_systems.settle({}, config, ref.account, hello)
                plane.images.fetch(source, partial(plane.changes.refresh, ref.account, ref.name))
                return await self._store(ref, params, config, Package(source.digest, 0, Path(), ()), [])
            return await self._create_of_package(caller, ref, params, architectures, hello)

    async def _create_of_package(
        self, caller: Caller, ref: FunctionRef, params: dict[str, Any], architectures: list[str], hello: Hello
    ) -> dict[str, Any]:
        plane, runtime = self._plane, params["Runtime"]
        data = await plane.fetch(params["Code"], ref.account, hello, caller.principal)
        kept = await sealed_packages.keep(plane, data, params["Code"], ref, hello)
        await plane.check_storage(ref.account, kept.stored(len(data)) * (2 if params.get("Publish") else 1))
        async with (
            function_layers.resolved(plane, ref.account, ref.region, params.get("Layers") or []) as layers,
            plane.installed(data, runtime, hello, kept.file) as package,
            trust.kept(plane, params.get("CodeSigningConfigArn")),
        ):
            hashes = [layer.code_sha256 for layer in layers]
            await function_layers.ready(plane, package.sha256, hashes, runtime, hello)
            signed = await trust.check(plane, ref.account, ref.name, params.get("CodeSigningConfigArn"), data, hashes)
            arn = runtime_version_arn(ref.region, runtime, hello.runtimes[runtime].version)
            config = configuration.new(params, ref.name, architectures, arn)
            await plane.file_systems.settle({}, config, ref.account, hello)
            function_layers.attach(config, layers, ref.region)
            config.update(signed)
            kept.show(config)
            return await self._store(ref, params, config, package._replace(size=kept.stored(package.size)), layers)

    async def _store(
        self, ref: FunctionRef, params: dict[str, Any], config: dict[str, Any], package: Package, layers: list[LayerVersion]
    ) -> dict[str, Any]:
        config = await self._plane.environments.sealed(config, ref)
        function = self._new(ref, params, config, package, layers)
        answered = function.latest
        if params.get("Publish"):
            function, answered = publish(function, None)
        await self._plane.changes.apply(None, function)
        shown = configuration.creating(function, answered, ref.region, None, ids.revision_id())
        return await self._plane.environments.reveal(shown, answered.config, ref)

    def _check(self, params: dict[str, Any]) -> list[str]:
        """Everything that can be judged without looking at the package; the function's architectures."""
        if configuration.is_image(params):
            images.check_new(params)
        else:
            rules.check_package(params)
        rules.refuse_unsupported("CreateFunction", params)
        rules.check_limits(params)
        rules.check_environment(configuration.variables_given(params) or {})
        rules.check_tags(params.get("Tags") or {})
        return rules.check_architectures(
            params.get("Architectures"), self._host, ignored=self._plane.ignore_architecture
        )

    async def _check_free(self, ref: FunctionRef) -> None:
        try:
            await self._plane.read(ref)
        except type(not_found(ref)):
            return
        raise ResourceConflict(f"Function already exist: {ref.name}")

    def _new(
        self,
        ref: FunctionRef,
        params: dict[str, Any],
        config: dict[str, Any],
        package: Package,
        layers: list[LayerVersion],
    ) -> Function:
        instance_policy.check(params.get("Tags") or {}, config)
        now_ms = self._plane.clock.epoch_ms()
        latest = Version(
            version=LATEST,
            config=config,
            code_sha256=package.sha256,
            code_size=package.size,
            revision_id=ids.revision_id(),
            last_modified_ms=now_ms,
            generation=ids.revision_id(),
            fingerprint=configuration.fingerprint(config, package.sha256),
            preload=package.preload,
            layers=tuple(layer.code_sha256 for layer in layers),
        )
        function = Function(ref.account, ref.name, now_ms, 1, params.get("Tags") or {}, {LATEST: latest})
        demanded = params.get("CodeSigningConfigArn")
        return function.attach(CODE_SIGNING, "", {"CodeSigningConfigArn": demanded}) if demanded else function

    def _find(self, caller: Caller, params: dict[str, Any]) -> tuple[FunctionRef, Function, Version]:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        function = self._plane.store.get(ref.account, ref.name)
        if function is None:
            raise not_found(ref)
        return ref, function, pick(function, ref)

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, function, version = self._find(caller, params)
        if configuration.is_image(version.config):
            code = images.located(version)
        else:
            location = self._plane.links.url(caller.headers.get("host", "127.0.0.1"), version.code_sha256)
            code = await sealed_packages.located(self._plane, version, ref.account, location)
        answer: dict[str, Any] = {"Configuration": await self._at_rest(ref, function, version), "Code": code}
        if function.tags:
            answer["Tags"] = dict(function.tags)
        reservation = function.document(CONCURRENCY)
        if reservation is not None and ref.qualifier is None:
            answer["Concurrency"] = dict(reservation)
        return answer

    async def get_configuration(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        return await self._at_rest(*self._find(caller, params))

    async def _at_rest(self, ref: FunctionRef, function: Function, version: Version) -> dict[str, Any]:
        """The configuration with the state the version is in now."""
        shown = configuration.shown(function, version, ref.region, ref.qualifier)
        await self._plane.environments.reveal(shown, version.config, ref)
        code = self._plane.code
        if configuration.is_image(version.config):
            state = self._plane.images.standing(version.code_sha256)
            if state is not None:
                return configuration.in_state(shown, *state)
            there = self._plane.images.image(version.code_sha256) is not None
        else:
            there = all(code.tree(sha256).is_dir() for sha256 in (version.code_sha256, *version.layers))
        if not there:
            return configuration.lost(shown)
        if self._plane.vpcs.full(version.config):
            return configuration.out_of_addresses(shown)
        hello = self._plane.link.hello
        if hello is not None and "RuntimeVersionConfig" in shown:
            shown = runtime_management.in_state(shown, function, version, hello.runtimes, ref.region)
            if shown["State"] == "Failed":
                return shown
        return await snap_start.with_state(self._plane.link, function, version, shown)

    async def delete(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        whole = FunctionRef(ref.account, ref.region, ref.name)
        plane = self._plane
        if ref.qualifier is not None:
            _check_deletable(ref.qualifier)
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(whole)
            if ref.qualifier is None:
                await plane.link.ready()
                await plane.changes.apply(function, None)
            else:
                await self._delete_version(function, ref.qualifier)
        return {"StatusCode": 204}

    async def _delete_version(self, function: Function, qualifier: str) -> None:
        users = sorted(a.name for a in function.aliases.values() if qualifier == a.version or qualifier in a.weights)
        if users:
            raise ResourceConflict(f"Unable to delete version because the following aliases reference it: [{', '.join(users)}]")
        if qualifier in function.versions:
            await self._plane.link.ready()
            await self._plane.changes.apply(function, function.without_qualifier(qualifier))

    async def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        if params.get("MasterRegion") not in (None, "ALL"):
            # Asks for replicas of Lambda@Edge functions, of which there are none.
            return {"Functions": []}
        every_version = params.get("FunctionVersion") == "ALL"
        limit = page_size(params.get("MaxItems"))
        found = self._plane.store.page(
            caller.account, name=None, latest_only=not every_version, after=position(listing(caller), params.get("Marker")), limit=limit + 1
        )
        shown = found[:limit]
        answer: dict[str, Any] = {"Functions": [await self._listed(caller, item, every_version=every_version) for item in shown]}
        if len(found) > limit:
            answer["NextMarker"] = next_marker(listing(caller), Position(shown[-1].name, shown[-1].version.ordinal))
        return answer

    async def _listed(self, caller: Caller, item: Listed, *, every_version: bool) -> Raw:
        """A function as a list shows it. Encoded once: nothing it shows changes without the version's RevisionId, but what KMS lets see."""
        version = item.version
        key = (caller.account, caller.region, item.name, version.version, version.revision_id, every_version)
        found = self._shown.get(key)
        if found is None:
            if len(self._shown) >= MAX_SHOWN:
                self._shown.clear()
            qualifier = version.version if every_version else None
            shown = configuration.listed(item.name, version, caller.account, caller.region, qualifier)
            if configuration.SEALED in version.config:
                ref = FunctionRef(caller.account, caller.region, item.name)
                return encoded(self._shape, await self._plane.environments.reveal(shown, version.config, ref))
            found = encoded(self._shape, shown)
            self._shown[key] = found
        return found


def _check_deletable(qualifier: str) -> None:
    """Raises InvalidParameterValue for what is never deleted alone, whether or not there is such a function: this is judged first."""
    if qualifier == LATEST:
        raise InvalidParameterValue("$LATEST version cannot be deleted without deleting the function.")
    if not qualifier.isdigit() and "$" not in qualifier:
        raise InvalidParameterValue("Deletion of aliases is not currently supported.")


def _new_name(caller: Caller, name: str) -> FunctionRef:
    """Raises AccessDenied for another account's ARN, InvalidParameterValue for a name that is too long or has a qualifier."""
    ref = locate(caller, name)
    check_new_name(ref.name)
    if ref.account != caller.account:
        raise AccessDenied(None)
    if ref.qualifier is not None:
        raise InvalidParameterValue("A function is created without a qualifier; publish a version or make an alias afterwards.")
    return ref
