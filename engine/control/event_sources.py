"""Create-, Get-, Update-, Delete- and ListEventSourceMappings.

Every change is answered in a transitional state and is settled by ``engine.control.pollers`` once the process that polls works by it.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-eventsourcemapping.html and recorded replies.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Mapping
from typing import Any

from engine.arn import FunctionRef
from engine.control import broker_rules, rules, sealed_filters, tenancy
from engine.control import event_source_rules as mapping_rules
from engine.control.api import Caller, Registrar
from engine.control.event_source_checks import check_source, conflict
from engine.control.listing import listing, page_of
from engine.control.plane import Plane, locate
from engine.control.tags import Change
from engine.errors import InvalidParameterValue, ResourceConflict, ResourceInUse, ResourceNotFound
from engine.store.api import LATEST, EventSourceMapping, Version

MISSING = "The resource you requested does not exist."
STABLE = ("Enabled", "Disabled")
MAX_PAGE = 100
# What the document has beside the members of the API: whether the mapping is to be polled, which its states only lead to.
WANTED = "Enabled"


class EventSourceOperations:
    """The handlers; also lends mappings their tags."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("CreateEventSourceMapping", self.create)
        registry.add("GetEventSourceMapping", self.get)
        registry.add("UpdateEventSourceMapping", self.update)
        registry.add("DeleteEventSourceMapping", self.delete)
        registry.add("ListEventSourceMappings", self.list)

    async def create(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        kind, source = mapping_rules.kind_of(params), str(params.get("EventSourceArn") or "")
        mapping_rules.check_members("CreateEventSourceMapping", kind, params)
        tags = params.get("Tags") or {}
        rules.check_tags(tags)
        plane = self._plane
        position = mapping_rules.position(kind, params, plane.clock.epoch_ms() / 1000)
        settings = mapping_rules.settings(kind, {}, params)
        mapping_rules.check_settings(kind, settings, fifo=source.endswith(".fifo"))
        ref, version = self._function(caller, params["FunctionName"])
        async with self._all(caller):
            await self._check_unique(caller, kind, params, ref)
            await check_source(plane, kind, source, ref, version)
            name = str(uuid.uuid4())
            document = {
                "UUID": name,
                "EventSourceMappingArn": f"arn:aws:lambda:{caller.region}:{caller.account}:event-source-mapping:{name}",
                **({"EventSourceArn": source} if source else {}),
                "FunctionArn": _shown_arn(params["FunctionName"], ref),
                **position,
                **(broker_rules.fixed(kind.name, params, name) if kind.is_broker else {}),
                **settings,
                **({mapping_rules.RESULT: mapping_rules.NO_RESULT} if kind.says else {}),
                **self._now(),
                "State": "Creating",
                "StateTransitionReason": kind.reason,
                WANTED: params.get("Enabled") is not False,
            }
            kept = await sealed_filters.sealed(plane, caller.account, document, new_key=True)
            await self._put(EventSourceMapping(name, caller.account, 1, kept, tags))
        return shown(document)

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        found = await asyncio.to_thread(self._read, caller, params["UUID"])
        return shown(await sealed_filters.revealed(self._plane, caller.account, found.document))

    async def update(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        async with contextlib.AsyncExitStack() as locks:
            if params.get("FunctionName"):
                # Whether another has the same source and function is judged for one mapping at a time.
                await locks.enter_async_context(self._all(caller))
            await locks.enter_async_context(lock(self._plane, params["UUID"]))
            former = await asyncio.to_thread(self._read, caller, params["UUID"])
            document = await self._updated(caller, former.document, params)
            await self._put(former._replace(document=document, revision=former.revision + 1))
        return shown(await sealed_filters.revealed(self._plane, caller.account, document))

    async def _updated(self, caller: Caller, former: Mapping[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        kind, source = mapping_rules.kind_of(former), former.get("EventSourceArn", "")
        mapping_rules.check_members("UpdateEventSourceMapping", kind, params)
        _check_stable(former, "update")
        document = await sealed_filters.opened_for(self._plane, caller.account, former, params)
        settings = mapping_rules.settings(kind, document, params)
        mapping_rules.check_settings(kind, settings, fifo=source.endswith(".fifo"))
        if params.get("FunctionName"):
            ref, version = self._function(caller, params["FunctionName"])
            if ref.arn() != _plain_arn(document):
                await self._check_unique(caller, kind, document, ref)
                await check_source(self._plane, kind, source, ref, version)
            document["FunctionArn"] = _shown_arn(params["FunctionName"], ref)
        was = document[WANTED]
        wanted = was if params.get("Enabled") is None else params["Enabled"]
        state = "Updating" if wanted == was else "Enabling" if wanted else "Disabling"
        kept = {name: value for name, value in document.items() if name not in kind.settings}
        document = {**kept, **settings, **self._now(), "State": state, WANTED: wanted}
        return await sealed_filters.sealed(self._plane, caller.account, document, new_key=bool(params.get("KMSKeyArn")))

    async def delete(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        async with lock(self._plane, params["UUID"]):
            former = await asyncio.to_thread(self._read, caller, params["UUID"])
            _check_stable(former.document, "delete")
            document = {**former.document, "State": "Deleting", WANTED: False}
            await self._put(former._replace(document=document, revision=former.revision + 1))
        return shown(await sealed_filters.revealed(self._plane, caller.account, document))

    def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        found = {m.mapping: m.document for m in self._plane.mappings.everything() if m.account == caller.account}
        if params.get("EventSourceArn"):
            found = {k: d for k, d in found.items() if d.get("EventSourceArn") == params["EventSourceArn"]}
        if params.get("FunctionName"):
            arn = _plain(locate(caller, params["FunctionName"])).arn()
            found = {k: d for k, d in found.items() if _plain_arn(d) == arn}
        page, marker = page_of(listing(caller), sorted(found), params, largest=MAX_PAGE)
        answer: dict[str, Any] = {"EventSourceMappings": [shown(found[key]) for key in page]}
        return answer if marker is None else {**answer, "NextMarker": marker}

    async def tags(self, caller: Caller, arn: str) -> Mapping[str, str]:
        return (await asyncio.to_thread(self._tagged, caller, arn)).tags

    async def retag(self, caller: Caller, arn: str, change: Change) -> None:
        async with lock(self._plane, arn.rpartition(":")[2]):
            mapping = await asyncio.to_thread(self._tagged, caller, arn)
            await self._plane.mappings.put(mapping._replace(tags=change(mapping.tags)))

    def _all(self, caller: Caller) -> asyncio.Lock:
        """Held while a mapping gets its source or function. Taken before a mapping's own."""
        return self._plane.changes.lock("event-source-mappings", caller.account)

    def _tagged(self, caller: Caller, arn: str) -> EventSourceMapping:
        found = self._plane.mappings.get(arn.rpartition(":")[2])
        if found is None or found.account != caller.account or found.document["EventSourceMappingArn"] != arn:
            raise ResourceNotFound(f"Event source mapping not found: {arn}")
        return found

    def _read(self, caller: Caller, name: str) -> EventSourceMapping:
        """Raises ResourceNotFound."""
        found = self._plane.mappings.get(name)
        if found is None or found.account != caller.account:
            raise ResourceNotFound(MISSING)
        return found

    async def _put(self, mapping: EventSourceMapping) -> None:
        await self._plane.mappings.put(mapping)
        self._plane.mappings_changed.set()

    def _now(self) -> dict[str, float]:
        return {"LastModified": self._plane.clock.epoch_ms() / 1000}

    def _function(self, caller: Caller, name: str) -> tuple[FunctionRef, Version]:
        """Raises InvalidParameterValue when the function, version or alias is not there, and for one that no source may invoke."""
        ref = _plain(locate(caller, name))
        function = self._plane.store.get(ref.account, ref.name)
        if function is not None:
            wanted = ref.qualifier or LATEST
            alias = function.aliases.get(wanted)
            version = function.versions.get(wanted if alias is None else alias.version)
            if version is not None:
                tenancy.refuse(function, "An event source mapping")
                return ref, version
        raise InvalidParameterValue("Function does not exist")

    async def _check_unique(self, caller: Caller, kind: mapping_rules.Kind, wanted: Mapping[str, Any], ref: FunctionRef) -> None:
        """``wanted``: the members that say what the source is."""
        source = broker_rules.source_of(wanted)
        for other in await asyncio.to_thread(self._plane.mappings.everything):
            same = (broker_rules.source_of(other.document), _plain_arn(other.document)) == (source, ref.arn())
            if same and other.account == caller.account:
                raise ResourceConflict(conflict(kind, wanted, ref, other.mapping))


def lock(plane: Plane, name: str) -> asyncio.Lock:
    """Held while a mapping is read and changed. No account has such a name."""
    return plane.changes.lock("event-source-mapping", name)


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """An EventSourceMappingConfiguration; of encrypted filters nothing."""
    return {name: value for name, value in document.items() if name not in (WANTED, sealed_filters.SEALED)}


def _plain(ref: FunctionRef) -> FunctionRef:
    return FunctionRef(ref.account, ref.region, ref.name) if ref.qualifier == LATEST else ref


def _shown_arn(name: str, ref: FunctionRef) -> str:
    """``$LATEST`` is repeated where the name was not a whole ARN, as on AWS."""
    named = ref.qualifier is None and name.endswith(f":{LATEST}") and not name.startswith("arn:")
    return f"{ref.arn()}:{LATEST}" if named else ref.arn()


def _plain_arn(document: Mapping[str, Any]) -> str:
    return str(document["FunctionArn"]).removesuffix(f":{LATEST}")


def function_of(mapping: EventSourceMapping) -> str:
    """The ARN of the function, version or alias that the mapping calls."""
    return _plain_arn(mapping.document)


def _check_stable(document: Mapping[str, Any], verb: str) -> None:
    if document["State"] not in STABLE:
        raise ResourceInUse(f"Cannot {verb} the event source mapping because it is in use.")
