"""Create-, Get-, Update-, Delete- and ListEventSourceMappings, for queues of SQS.

Every change is answered in a transitional state and is settled by ``engine.control.pollers`` once the process that polls works by it.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-eventsourcemapping.html and recorded replies.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from engine.arn import FunctionRef
from engine.control import event_source_rules as mapping_rules
from engine.control import rules
from engine.control.api import Caller, Registrar
from engine.control.listing import page_of
from engine.control.plane import Plane, locate
from engine.control.tags import Change
from engine.errors import InvalidParameterValue, ResourceConflict, ResourceInUse, ResourceNotFound, ServiceError
from engine.eventing.sources.messages import queue_url
from engine.store.api import LATEST, EventSourceMapping, Version

MISSING = "The resource you requested does not exist."
STABLE = ("Enabled", "Disabled")
MAX_PAGE = 100
# What the document has beside the members of the API: whether the mapping is to be polled, which its states only lead to.
WANTED = "Enabled"
_DENIED = "AccessDenied"


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
        queue = mapping_rules.check_source(params)
        mapping_rules.check_members("CreateEventSourceMapping", params)
        tags = params.get("Tags") or {}
        rules.check_tags(tags)
        settings = mapping_rules.settings({}, params)
        mapping_rules.check_settings(settings, fifo=queue.endswith(".fifo"))
        ref, version = self._function(caller, params["FunctionName"])
        plane = self._plane
        async with plane.changes.lock("event-source-mappings", caller.account):
            await self._check_unique(caller, queue, ref)
            await self._check_queue(caller, queue, ref, version)
            name = str(uuid.uuid4())
            document = {
                "UUID": name,
                "EventSourceMappingArn": f"arn:aws:lambda:{caller.region}:{caller.account}:event-source-mapping:{name}",
                "EventSourceArn": queue,
                "FunctionArn": ref.arn(),
                **settings,
                **self._now(),
                "State": "Creating",
                "StateTransitionReason": "USER_INITIATED",
                WANTED: params.get("Enabled") is not False,
            }
            await self._put(EventSourceMapping(name, caller.account, 1, document, tags))
        return shown(document)

    def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        return shown(self._read(caller, params["UUID"]).document)

    async def update(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        mapping_rules.check_members("UpdateEventSourceMapping", params)
        async with lock(self._plane, params["UUID"]):
            former = await asyncio.to_thread(self._read, caller, params["UUID"])
            document = dict(former.document)
            _check_stable(document, "update")
            queue = document["EventSourceArn"]
            settings = mapping_rules.settings(document, params)
            mapping_rules.check_settings(settings, fifo=queue.endswith(".fifo"))
            if params.get("FunctionName"):
                ref, version = self._function(caller, params["FunctionName"])
                if ref.arn() != document["FunctionArn"]:
                    await self._check_unique(caller, queue, ref)
                    await self._check_queue(caller, queue, ref, version)
                document["FunctionArn"] = ref.arn()
            was = document[WANTED]
            wanted = was if params.get("Enabled") is None else params["Enabled"]
            state = "Updating" if wanted == was else "Enabling" if wanted else "Disabling"
            kept = {name: value for name, value in document.items() if name not in mapping_rules.SETTINGS}
            document = {**kept, **settings, **self._now(), "State": state, WANTED: wanted}
            await self._put(former._replace(document=document, revision=former.revision + 1))
        return shown(document)

    async def delete(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        async with lock(self._plane, params["UUID"]):
            former = await asyncio.to_thread(self._read, caller, params["UUID"])
            _check_stable(former.document, "delete")
            document = {**former.document, "State": "Deleting", WANTED: False}
            await self._put(former._replace(document=document, revision=former.revision + 1))
        return shown(document)

    def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        found = {m.mapping: m.document for m in self._plane.mappings.everything() if m.account == caller.account}
        if params.get("EventSourceArn"):
            found = {k: d for k, d in found.items() if d["EventSourceArn"] == params["EventSourceArn"]}
        if params.get("FunctionName"):
            arn = _plain(locate(caller, params["FunctionName"])).arn()
            found = {k: d for k, d in found.items() if d["FunctionArn"] == arn}
        page, marker = page_of(sorted(found), params, largest=MAX_PAGE)
        answer: dict[str, Any] = {"EventSourceMappings": [shown(found[key]) for key in page]}
        return answer if marker is None else {**answer, "NextMarker": marker}

    async def tags(self, caller: Caller, arn: str) -> Mapping[str, str]:
        return (await asyncio.to_thread(self._tagged, caller, arn)).tags

    async def retag(self, caller: Caller, arn: str, change: Change) -> None:
        async with lock(self._plane, arn.rpartition(":")[2]):
            mapping = await asyncio.to_thread(self._tagged, caller, arn)
            await self._plane.mappings.put(mapping._replace(tags=change(mapping.tags)))

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
        """Raises InvalidParameterValue when the function, version or alias is not there."""
        ref = _plain(locate(caller, name))
        function = self._plane.store.get(ref.account, ref.name)
        if function is not None:
            wanted = ref.qualifier or LATEST
            alias = function.aliases.get(wanted)
            version = function.versions.get(wanted if alias is None else alias.version)
            if version is not None:
                return ref, version
        raise InvalidParameterValue("Function does not exist")

    async def _check_unique(self, caller: Caller, queue: str, ref: FunctionRef) -> None:
        for other in await asyncio.to_thread(self._plane.mappings.everything):
            document = other.document
            same = (document["EventSourceArn"], document["FunctionArn"]) == (queue, ref.arn())
            if same and other.account == caller.account:
                raise ResourceConflict(
                    f'An event source mapping with SQS arn (" {queue} ") and function (" {ref.name} ") already exists. '
                    f"Please update or delete the existing mapping with UUID {other.mapping}"
                )

    async def _check_queue(self, caller: Caller, queue: str, ref: FunctionRef, version: Version) -> None:
        """Raises InvalidParameterValue for a queue that is not there, is closed to the function's role, or gives too little time."""
        aws = await self._plane.roles.clients(str(version.config.get("Role") or ""), ref.account, ref.name)
        visible_s = await asyncio.to_thread(_visibility_s, aws, queue)
        timeout_s = int(version.config.get("Timeout", 3))
        if visible_s < timeout_s:
            raise InvalidParameterValue(
                f"Queue visibility timeout: {visible_s} seconds is less than Function timeout: {timeout_s} seconds"
            )


def _visibility_s(aws: Any, queue: str) -> int:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

    try:
        sqs = aws.client("sqs")
        url = queue_url(sqs.meta.endpoint_url, queue)
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    except ClientError as e:
        code, message = e.response["Error"].get("Code", ""), e.response["Error"].get("Message", "")
        if code.startswith(_DENIED):
            text = "The function execution role does not have permissions to call ReceiveMessage on SQS"
            raise InvalidParameterValue(text) from e
        if "NonExistentQueue" in code or "QueueDoesNotExist" in code:
            code, message = "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist."
        raise InvalidParameterValue(
            f"Error occurred while ReceiveMessage. SQS Error Code: {code}. SQS Error Message: {message}"
        ) from e
    except BotoCoreError as e:
        raise ServiceError(f"SQS could not be asked for {queue}: {e}") from e
    return int(attributes["VisibilityTimeout"])


def lock(plane: Plane, name: str) -> asyncio.Lock:
    """Held while a mapping is read and changed. No account has such a name."""
    return plane.changes.lock("event-source-mapping", name)


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """An EventSourceMappingConfiguration."""
    return {name: value for name, value in document.items() if name != WANTED}


def _plain(ref: FunctionRef) -> FunctionRef:
    return FunctionRef(ref.account, ref.region, ref.name) if ref.qualifier == LATEST else ref


def _check_stable(document: Mapping[str, Any], verb: str) -> None:
    if document["State"] not in STABLE:
        raise ResourceInUse(f"Cannot {verb} the event source mapping because it is in use.")
