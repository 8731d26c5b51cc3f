"""CreateFunctionUrlConfig, GetFunctionUrlConfig, UpdateFunctionUrlConfig, DeleteFunctionUrlConfig and ListFunctionUrlConfigs.

A URL belongs to a function (its ``$LATEST``) or to an alias, and goes with it. The supervisor serves it: it is part of the catalogue. Each answer
spells it so that whoever asked can call it.
Source: docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html and recorded replies.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.arn import FunctionRef, function_arn
from engine.control import rules, tenancy
from engine.control.api import Caller, Registrar
from engine.control.kinds import URL
from engine.control.listing import listing, page_of
from engine.control.plane import Plane, locate
from engine.errors import ResourceConflict, ResourceNotFound
from engine.local_names import address
from engine.store.api import Function

ID_LENGTH = 32
_ID_LETTERS = string.ascii_lowercase + string.digits
_MEMBERS = ("AuthType", "Cors", "InvokeMode")


class UrlOperations:
    """Handlers of the operations on function URLs."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("CreateFunctionUrlConfig", self.create)
        registry.add("GetFunctionUrlConfig", self.get)
        registry.add("UpdateFunctionUrlConfig", self.update)
        registry.add("DeleteFunctionUrlConfig", self.delete)
        registry.add("ListFunctionUrlConfigs", self.list)

    async def create(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = _locate(caller, params)
        rules.refuse_unsupported("FunctionUrlConfig", params)
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            if function is None or (ref.qualifier and ref.qualifier not in function.aliases):
                raise _no_function()
            tenancy.refuse(function, "Function URL")
            if function.document(URL, ref.qualifier or "") is not None:
                raise ResourceConflict(
                    f"Failed to create function url config for [functionArn = {ref.arn()}]. "
                    "Error message:  FunctionUrlConfig exists for this Lambda function"
                )
            document = {
                "UrlId": "".join(secrets.choice(_ID_LETTERS) for _ in range(ID_LENGTH)),
                "CreationTime": (now := self._now()),
                "LastModifiedTime": now,
                **_given(params),
            }
            if not document.get("Cors", True):
                del document["Cors"]
            await plane.changes.apply(function, function.attach(URL, ref.qualifier or "", document))
        return await self._shown(caller, ref, document, "CreationTime")

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = _locate(caller, params)
        function = self._plane.store.get(ref.account, ref.name)
        document = None if function is None else function.document(URL, ref.qualifier or "")
        if document is None:
            raise _no_url()
        return {"InvokeMode": "BUFFERED", **await self._shown(caller, ref, document, "CreationTime", "LastModifiedTime")}

    async def update(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = _locate(caller, params)
        rules.refuse_unsupported("FunctionUrlConfig", params)
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            former = None if function is None else function.document(URL, ref.qualifier or "")
            if function is None or (ref.qualifier and ref.qualifier not in function.aliases):
                raise _no_function()
            if former is None:
                raise _no_url()
            document = {**former, **_given(params), "LastModifiedTime": self._now()}
            if not document.get("Cors", True):
                # An empty one takes the former away: so do tools that no longer want any.
                del document["Cors"]
            await plane.changes.apply(function, function.attach(URL, ref.qualifier or "", document))
        return await self._shown(caller, ref, document, "CreationTime", "LastModifiedTime")

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        ref = _locate(caller, params)
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            if function is None or function.document(URL, ref.qualifier or "") is None:
                raise _no_url()
            await plane.changes.apply(function, function.attach(URL, ref.qualifier or "", None))

    async def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"])
        function: Function | None = self._plane.store.get(ref.account, ref.name)
        if function is None:
            raise _no_function()
        documents = {key.qualifier: document for key, document in function.attached.items() if key.kind == URL}
        page, marker = page_of(listing(caller, ref.name), sorted(documents), params)
        times = ("CreationTime", "LastModifiedTime")
        items = [
            {"InvokeMode": "BUFFERED", **await self._shown(caller, FunctionRef(ref.account, ref.region, ref.name, q or None), documents[q], *times)}
            for q in page
        ]
        answer: dict[str, Any] = {"FunctionUrlConfigs": items}
        return answer if marker is None else {**answer, "NextMarker": marker}

    async def _shown(self, caller: Caller, ref: FunctionRef, document: Mapping[str, Any], *times: str) -> dict[str, Any]:
        answer = {name: document[name] for name in (*_MEMBERS, *times) if name in document}
        local = self._plane.names
        names = await asyncio.to_thread(local.lead_here) if local.known is None else local.known
        where = address(caller.headers.get("host", ""), document["UrlId"], "lambda-url", caller.region, "/_url/", names=names)
        return {
            "FunctionUrl": f"http://{where}/",
            "FunctionArn": function_arn(ref.region, ref.account, ref.name, ref.qualifier),
            **answer,
        }

    def _now(self) -> str:
        epoch_ms = self._plane.clock.epoch_ms()
        return f"{datetime.fromtimestamp(epoch_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{epoch_ms % 1000:03d}Z"


def _locate(caller: Caller, params: dict[str, Any]) -> FunctionRef:
    """The function or alias named. The service model lets no version through: those cannot have a URL."""
    return locate(caller, params["FunctionName"], params.get("Qualifier"))


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in _MEMBERS if params.get(name) is not None}


def _no_function() -> ResourceNotFound:
    return ResourceNotFound("Function does not exist")


def _no_url() -> ResourceNotFound:
    return ResourceNotFound("The resource you requested does not exist.")
