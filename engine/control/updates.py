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
from engine.control import configuration, rules
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
            if params.get("ImageUri"):
                raise InvalidParameterValue("Please don't provide ImageUri when updating a function with packageType Zip.")
            rules.refuse_unsupported("UpdateFunctionCode", params)
            architectures = rules.check_architectures(params.get("Architectures"), self._host)
            hello = await plane.link.ready()
            runtime = function.latest.config["Runtime"]
            rules.check_runtime(runtime, hello.runtimes)
            code = {name: params[name] for name in _CODE_MEMBERS if params.get(name) is not None}
            data = await plane.fetch(code, ref.account, hello)
            config = {**function.latest.config, "Architectures": architectures}
            if params.get("DryRun"):
                return await self._dry_run(ref, function, config, data)
            added = len(data) * (2 if params.get("Publish") else 1) - function.latest.code_size
            await plane.check_storage(ref.account, added)
            async with plane.installed(data, runtime, hello) as package:
                after = self._updated(function, config, package.sha256, len(data), package.preload)
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
        return configuration.shown(function, would_be, ref.region, None)

    async def _apply(self, ref: FunctionRef, before: Function, after: Function, *, publishing: bool) -> dict[str, Any]:
        version: Version | None = None
        if publishing:
            after, version = publish(after, None)
        await self._plane.changes.apply(before, after)
        if version is None:
            return configuration.updating(after, after.latest, ref.region, ids.revision_id())
        return configuration.creating(after, version, ref.region, version.version, ids.revision_id())

    async def update_configuration(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        plane = self._plane
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            latest = function.latest
            rules.check_revision(params.get("RevisionId"), latest.revision_id)
            rules.refuse_unsupported("UpdateFunctionConfiguration", params)
            rules.check_limits(params)
            rules.check_environment((params.get("Environment") or {}).get("Variables") or {})
            hello = await plane.link.ready()
            config = configuration.merged(latest.config, params)
            await self._prepare_runtime(ref, latest, config, hello, chosen=bool(params.get("Runtime")))
            after = self._updated(function, config, latest.code_sha256, latest.code_size, latest.preload)
            return await self._apply(ref, function, after, publishing=False)

    async def _prepare_runtime(
        self, ref: FunctionRef, latest: Version, config: dict[str, Any], hello: Hello, *, chosen: bool
    ) -> None:
        """Compile for the runtime and name its interpreter in ``config``. A function whose runtime has since been removed from the host
        may still be given other settings.
        """
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
        arn = configuration.runtime_version_arn(ref.region, runtime, installed.version)
        config["RuntimeVersionConfig"] = {"RuntimeVersionArn": arn}

    def _updated(
        self, function: Function, config: Mapping[str, Any], sha256: str, size: int, preload: tuple[str, ...]
    ) -> Function:
        latest = replace(
            function.latest,
            config=config,
            code_sha256=sha256,
            code_size=size,
            preload=preload,
            revision_id=ids.revision_id(),
            last_modified_ms=self._plane.clock.epoch_ms(),
            generation=ids.revision_id(),
            fingerprint=configuration.fingerprint(config, sha256),
        )
        return replace(function, versions={**function.versions, LATEST: latest})
