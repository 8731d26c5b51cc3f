"""Code signing configurations, and which function has which.

CreateCodeSigningConfig, GetCodeSigningConfig, UpdateCodeSigningConfig, DeleteCodeSigningConfig, ListCodeSigningConfigs,
ListFunctionsByCodeSigningConfig; PutFunctionCodeSigningConfig, GetFunctionCodeSigningConfig, DeleteFunctionCodeSigningConfig. What a
configuration demands is checked when code is deployed: ``engine.control.signatures``.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-codesigning.html and recorded replies.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Mapping
from typing import Any

from engine.arn import function_arn
from engine.control import configuration, rules
from engine.control.api import Caller, Registrar
from engine.control.kinds import CODE_SIGNING
from engine.control.listing import listing, page_of
from engine.control.plane import Plane, locate_unqualified
from engine.control.tags import Change
from engine.errors import CodeSigningConfigNotFound, ResourceConflict, UntypedResourceNotFound
from engine.store.api import CodeSigningConfig

_LETTERS = string.ascii_lowercase + string.digits
_ID_LENGTH = 17


class CodeSigningOperations:
    """Handlers of the operations on code signing configurations; also lends them their tags."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("CreateCodeSigningConfig", self.create)
        registry.add("GetCodeSigningConfig", self.get)
        registry.add("UpdateCodeSigningConfig", self.update)
        registry.add("DeleteCodeSigningConfig", self.delete)
        registry.add("ListCodeSigningConfigs", self.list_configs)
        registry.add("ListFunctionsByCodeSigningConfig", self.list_functions)
        registry.add("PutFunctionCodeSigningConfig", self.bind)
        registry.add("GetFunctionCodeSigningConfig", self.bound)
        registry.add("DeleteFunctionCodeSigningConfig", self.unbind)

    async def create(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        tags = params.get("Tags") or {}
        rules.check_tags(tags)
        config_id = "csc-" + "".join(secrets.choice(_LETTERS) for _ in range(_ID_LENGTH))
        document = {
            "CodeSigningConfigId": config_id,
            "CodeSigningConfigArn": f"arn:aws:lambda:{caller.region}:{caller.account}:code-signing-config:{config_id}",
            "Description": params.get("Description") or "",
            "AllowedPublishers": params["AllowedPublishers"],
            "CodeSigningPolicies": _policies(params.get("CodeSigningPolicies")),
            "LastModified": self._now(),
        }
        await self._plane.signing.put(CodeSigningConfig(caller.account, config_id, document, tags))
        return {"CodeSigningConfig": document}

    def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        return {"CodeSigningConfig": dict(self._read(caller, params["CodeSigningConfigArn"]).document)}

    async def update(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        arn = params["CodeSigningConfigArn"]
        async with self._lock(arn):
            former = await asyncio.to_thread(self._read, caller, arn)
            document = {**former.document, "LastModified": self._now()}
            for name in ("Description", "AllowedPublishers"):
                if params.get(name) is not None:
                    document[name] = params[name]
            if params.get("CodeSigningPolicies") is not None:
                document["CodeSigningPolicies"] = _policies(params["CodeSigningPolicies"])
            await self._plane.signing.put(former._replace(document=document))
        return {"CodeSigningConfig": document}

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        arn = params["CodeSigningConfigArn"]
        async with self._lock(arn):
            config = await asyncio.to_thread(self._read, caller, arn)
            used = await asyncio.to_thread(self._functions, config)
            if used:
                raise ResourceConflict(
                    f"The code signing configuration {arn} cannot be deleted: {len(used)} function(s) use it, {used[0]} among them."
                )
            await self._plane.signing.delete(config.account, config.config_id)

    def list_configs(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        found = {config.config_id: config for config in self._plane.signing.everything(caller.account)}
        page, marker = page_of(listing(caller), sorted(found), params)
        answer: dict[str, Any] = {"CodeSigningConfigs": [dict(found[key].document) for key in page]}
        return answer if marker is None else {**answer, "NextMarker": marker}

    def list_functions(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        config = self._read(caller, params["CodeSigningConfigArn"])
        page, marker = page_of(listing(caller, config.config_id), self._functions(config), params)
        answer: dict[str, Any] = {"FunctionArns": [function_arn(caller.region, config.account, name) for name in page]}
        return answer if marker is None else {**answer, "NextMarker": marker}

    async def bind(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        arn, plane = params["CodeSigningConfigArn"], self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name), self._lock(arn):
            await asyncio.to_thread(find, plane, ref.account, arn)
            function = await plane.read(ref)
            after = function.attach(CODE_SIGNING, "", {"CodeSigningConfigArn": arn})
            await plane.changes.apply(function, after)
        return {"CodeSigningConfigArn": arn, "FunctionName": ref.name}

    async def bound(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate_unqualified(caller, params["FunctionName"])
        document = (await self._plane.read(ref)).document(CODE_SIGNING)
        return {**(document or {}), "FunctionName": ref.name}

    async def unbind(self, caller: Caller, params: dict[str, Any]) -> None:
        ref = locate_unqualified(caller, params["FunctionName"])
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            if function.document(CODE_SIGNING) is not None:
                await plane.changes.apply(function, function.attach(CODE_SIGNING, "", None))

    async def tags(self, caller: Caller, arn: str) -> Mapping[str, str]:
        return (await asyncio.to_thread(self._read, caller, arn)).tags

    async def retag(self, caller: Caller, arn: str, change: Change) -> None:
        async with self._lock(arn):
            config = await asyncio.to_thread(self._read, caller, arn)
            await self._plane.signing.put(config._replace(tags=change(config.tags)))

    def _read(self, caller: Caller, arn: str) -> CodeSigningConfig:
        """The configuration. Raises ResourceNotFound."""
        account, config_id = split(arn)
        rules.check_account(account, caller.account, verified=caller.principal.verified)
        config = self._plane.signing.get(account, config_id)
        if config is None or config.document["CodeSigningConfigArn"] != arn:
            raise UntypedResourceNotFound(f"The Lambda code signing configuration {arn} can not be found.")
        return config

    def _functions(self, config: CodeSigningConfig) -> list[str]:
        """Names of the functions that have the configuration, sorted."""
        arn = config.document["CodeSigningConfigArn"]
        bound = self._plane.store.attached(config.account, CODE_SIGNING)
        return sorted(name for (name, _), document in bound.items() if document["CodeSigningConfigArn"] == arn)

    def _lock(self, arn: str) -> asyncio.Lock:
        return lock(self._plane, arn)

    def _now(self) -> str:
        return configuration.last_modified(self._plane.clock.epoch_ms())


def lock(plane: Plane, arn: str) -> asyncio.Lock:
    """Held while a configuration changes or finds a function, so that none is deleted from under one. No account has such a name."""
    return plane.changes.lock("code-signing-config", arn)


def split(arn: str) -> tuple[str, str]:
    """Account and id; the service model has judged the ARN's form."""
    parts = arn.split(":")
    return parts[4], parts[-1]


def find(plane: Plane, account: str, arn: str) -> CodeSigningConfig:
    """The configuration that a function of ``account`` is given. Raises CodeSigningConfigNotFound. Blocks."""
    owner, config_id = split(arn)
    config = plane.signing.get(account, config_id) if owner == account else None
    if config is None or config.document["CodeSigningConfigArn"] != arn:
        raise CodeSigningConfigNotFound(
            f"The code signing configuration cannot be found. Check that the provided configuration is not deleted: {arn}."
        )
    return config


def _policies(given: Mapping[str, Any] | None) -> dict[str, str]:
    return {"UntrustedArtifactOnDeployment": (given or {}).get("UntrustedArtifactOnDeployment") or "Warn"}
