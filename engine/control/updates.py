"""UpdateFunctionCode and UpdateFunctionConfiguration.

An update answers InProgress, as AWS does, but everything is done by then: the next GetFunction says Successful. Invocations that run
finish on what they started with.
Source: docs.aws.amazon.com/lambda/latest/api/API_UpdateFunctionCode.html, API_UpdateFunctionConfiguration.html and recorded replies.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine import ids
from engine.arn import FunctionRef
from engine.control import configuration, function_layers, images, instance_policy, rules, runtime_management, sealed_packages, trust
from engine.control.api import Caller, Registrar
from engine.control.link import Hello
from engine.control.plane import Plane, locate_unqualified
from engine.control.versions import publish
from engine.errors import InvalidParameterValue, ServiceError
from engine.store.api import LATEST, Function, Version

_CODE_MEMBERS = ("ZipFile", "S3Bucket", "S3Key", "S3ObjectVersion")


class UpdateOperations:
    """Handlers of the operations that change ``$LATEST``."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._host = rules.host_architecture()

    def register(self, registry: Registrar) -> None:
        registry.add("UpdateFunctionCode", self.update_code)
        registry.add("UpdateFunctionConfiguration", self.update_configuration)

    async def update_code(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        plane = self._plane
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            rules.check_revision(params.get("RevisionId"), function.latest.revision_id)
            rules.refuse_unsupported("UpdateFunctionCode", params)
            runtime_management.check_update(function, params)
            former = function.latest.config["Architectures"] if plane.ignore_architecture else None
            wanted = params.get("Architectures") or former
            architectures = rules.check_architectures(wanted, self._host, ignored=plane.ignore_architecture)
            hello = await plane.link.ready()
            if configuration.is_image(function.latest.config):
                return await self._update_image(ref, function, params, hello)
            if params.get("ImageUri"):
                raise InvalidParameterValue("Please don't provide ImageUri when updating a function with packageType Zip.")
            runtime = function.latest.config["Runtime"]
            rules.check_runtime(runtime, hello.runtimes)
            source = {name: params[name] for name in _CODE_MEMBERS if params.get(name) is not None}
            data = await plane.fetch(source, ref.account, hello, caller.principal)
            config = {**function.latest.config, "Architectures": architectures}
            kept = await sealed_packages.keep(plane, data, params, ref, hello, function.latest)
            kept.show(config)
            trust.show(config, await trust.check(plane, ref.account, ref.name, trust.demanded(function), data))
            if params.get("DryRun"):
                return await self._dry_run(ref, function, config, data)
            added = kept.stored(len(data)) * (2 if params.get("Publish") else 1) - function.latest.code_size
            await plane.check_storage(ref.account, added)
            async with plane.installed(data, runtime, hello, kept.file) as package:
                await function_layers.ready(plane, package.sha256, function.latest.layers, runtime, hello)
                code = replace(function.latest, code_sha256=package.sha256, code_size=kept.stored(len(data)), preload=package.preload)
                after = self._updated(ref, function, code, config, hello)
                return await self._apply(ref, function, after, publishing=bool(params.get("Publish")))

    async def _update_image(
        self, ref: FunctionRef, function: Function, params: Mapping[str, Any], hello: Hello
    ) -> dict[str, Any]:
        """What the address means now, which may be another image than last time."""
        if not params.get("ImageUri"):
            raise InvalidParameterValue("Please provide ImageUri when updating a function with packageType Image.")
        images.check_key(params)
        source = await self._plane.images.find(params["ImageUri"], hello)
        await self._plane.images.fetched(source)
        config = {**function.latest.config, configuration.IMAGE_URI: source.uri}
        after = self._updated(ref, function, replace(function.latest, code_sha256=source.digest), config, hello)
        if params.get("DryRun"):
            shown = configuration.shown(function, after.latest, ref.region, None)
            return await self._plane.environments.reveal(shown, after.latest.config, ref)
        return await self._apply(ref, function, after, publishing=bool(params.get("Publish")))

    async def _dry_run(self, ref: FunctionRef, function: Function, config: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        """The configuration as it would be; the package is judged and forgotten."""
        await asyncio.to_thread(self._plane.packages.check, data)
        would_be = replace(
            function.latest,
            config=config,
            code_sha256=hashlib.sha256(data).hexdigest(),
            code_size=len(data),
            last_modified_ms=self._plane.clock.epoch_ms(),
        )
        shown = configuration.shown(function, would_be, ref.region, None)
        return await self._plane.environments.reveal(shown, config, ref)

    async def _apply(self, ref: FunctionRef, before: Function, after: Function, *, publishing: bool) -> dict[str, Any]:
        version, updated = None, after
        if publishing:
            after, version = publish(after, None)
        await self._plane.changes.apply(before, after)
        if version is None:
            shown = configuration.updating(after, after.latest, ref.region, ids.revision_id())
            return await self._plane.environments.reveal(shown, after.latest.config, ref)
        if after is updated:
            # What is published last is the same: it is there, and nothing about it is under way.
            shown = configuration.shown(after, version, ref.region, version.version)
        else:
            shown = configuration.creating(after, version, ref.region, version.version, ids.revision_id())
        return await self._plane.environments.reveal(shown, version.config, ref)

    async def update_configuration(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        plane = self._plane
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            latest = function.latest
            rules.check_revision(params.get("RevisionId"), latest.revision_id)
            rules.refuse_unsupported("UpdateFunctionConfiguration", params)
            runtime_management.check_update(function, params)
            image = configuration.is_image(latest.config)
            if image:
                images.check_members(params)
            else:
                rules.check_no_image(params)
            rules.check_limits(params)
            rules.check_environment(configuration.variables_given(params) or {})
            hello = await plane.link.ready()
            if params.get("Role"):
                await plane.roles.check(params["Role"], ref.account, ref.name)
            params = await plane.vpcs.placed(params, ref.account, ref.name, hello, latest.config.get("VpcConfig") or {})
            config = configuration.merged(await plane.environments.unsealed(latest.config, params, ref), params)
            if params.get("Role") or params.get("DeadLetterConfig"):
                dead_letter = (config.get("DeadLetterConfig") or {}).get("TargetArn")
                await plane.roles.check_targets(config["Role"], ref.account, [dead_letter] if dead_letter else [], dead_letter=True)
            await plane.file_systems.settle(latest.config, config, ref.account, hello)
            config = await plane.environments.sealed(config, ref)
            instance_policy.check(function.tags, config)
            if image:
                return await self._apply(ref, function, self._updated(ref, function, latest, config, hello), publishing=False)
            await self._prepare_runtime(latest, config, hello, chosen=params.get("Runtime") is not None)
            async with function_layers.resolved(plane, ref.account, ref.region, params.get("Layers") or []) as layers:
                if params.get("Layers") is not None:
                    function_layers.attach(config, layers, ref.region)
                    latest = replace(latest, layers=tuple(layer.code_sha256 for layer in layers))
                    await trust.check_layers(plane, ref.account, ref.name, trust.demanded(function), latest.layers)
                await function_layers.ready(plane, latest.code_sha256, latest.layers, config["Runtime"], hello)
                after = self._updated(ref, function, latest, config, hello)
                return await self._apply(ref, function, after, publishing=False)

    async def _prepare_runtime(self, latest: Version, config: Mapping[str, Any], hello: Hello, *, chosen: bool) -> None:
        """Compile for the runtime. A function whose runtime has since been removed from the host may still be given other settings."""
        runtime = config["Runtime"]
        if chosen:
            rules.check_runtime(runtime, hello.runtimes)
        installed = hello.runtimes.get(runtime)
        if installed is None:
            return
        try:
            await asyncio.to_thread(self._plane.packages.ensure, latest.code_sha256, runtime, installed.interpreter)
        except FileNotFoundError as e:
            raise ServiceError("The function's code is lost: upload it again with UpdateFunctionCode first.") from e

    def _updated(self, ref: FunctionRef, function: Function, latest: Version, config: Mapping[str, Any], hello: Hello) -> Function:
        """The function with ``latest``, whose code and layers are right already, as configured and new."""
        config = runtime_management.named(config, hello.runtimes, ref.region)
        made = replace(
            latest,
            config=config,
            revision_id=ids.revision_id(),
            last_modified_ms=self._plane.clock.epoch_ms(),
            generation=ids.revision_id(),
            fingerprint=configuration.fingerprint(config, latest.code_sha256),
        )
        return runtime_management.updated(replace(function, versions={**function.versions, LATEST: made}), hello.runtimes, ref.region)
