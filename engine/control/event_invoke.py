"""Put-, Update-, Get-, Delete- and ListFunctionEventInvokeConfig, and what they mean for an event.

A configuration belongs to one qualifier and is not inherited: an event sent to an alias obeys the alias's own, or the defaults.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-configuring.html and recorded replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.arn import FunctionRef, function_arn, parse_function_name
from engine.control.api import Caller, Registrar
from engine.control.kinds import EVENT_INVOKE, reserved_concurrency
from engine.control.listing import listing, page_of
from engine.control.plane import Plane, locate
from engine.control.record_targets import is_target, service_of
from engine.errors import AwsError, InvalidParameterValue, ResourceNotFound
from engine.eventing.policies import MAX_AGE_MS, MAX_RETRIES, Policy
from engine.store.api import LATEST, Function, FunctionStore

NO_FUNCTION = "The function doesn't exist."
_RETRIES, _AGE, _DESTINATIONS = "MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig"
# Buckets take records of failures only.
_ALLOWED = {"OnSuccess": ("sqs", "sns", "lambda", "events"), "OnFailure": ("sqs", "sns", "lambda", "events", "s3")}


class EventInvokeOperations:
    """The handlers."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("PutFunctionEventInvokeConfig", self.put)
        registry.add("UpdateFunctionEventInvokeConfig", self.update)
        registry.add("GetFunctionEventInvokeConfig", self.get)
        registry.add("DeleteFunctionEventInvokeConfig", self.delete)
        registry.add("ListFunctionEventInvokeConfigs", self.list)

    async def put(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        return await self._write(caller, params, merge=False)

    async def update(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        return await self._write(caller, params, merge=True)

    async def _write(self, caller: Caller, params: dict[str, Any], *, merge: bool) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        plane = self._plane
        given = {name: params[name] for name in (_RETRIES, _AGE, _DESTINATIONS) if params.get(name) is not None}
        if not given:
            raise InvalidParameterValue("You must specify at least one of error handling or destination setting.")
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = self._function(ref)
            former = function.document(EVENT_INVOKE, _key(ref))
            if merge and former is None:
                raise _missing(ref)
            if _DESTINATIONS in given:
                given[_DESTINATIONS] = self._destinations(ref, given[_DESTINATIONS])
                await plane.roles.check_targets(_role(function, ref), ref.account, [d["Destination"] for d in given[_DESTINATIONS].values()])
            kept = dict(former or {}) if merge else {}
            document = {_DESTINATIONS: {}, **kept, **given, "LastModified": plane.clock.epoch_ms() / 1000}
            await plane.changes.apply(function, function.attach(EVENT_INVOKE, _key(ref), document))
        return shown(ref, document)

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        return shown(ref, self._document(ref))

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            self._document(ref)
            function = self._function(ref)
            await plane.changes.apply(function, function.attach(EVENT_INVOKE, _key(ref), None))

    async def list(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"])
        function = self._plane.store.get(ref.account, ref.name)
        if function is None:
            raise ResourceNotFound(NO_FUNCTION)
        found = {key.qualifier: document for key, document in function.attached.items() if key.kind == EVENT_INVOKE}
        page, marker = page_of(listing(caller, ref.name), sorted(found), params)
        configs = [shown(FunctionRef(ref.account, ref.region, ref.name, q or None), found[q]) for q in page]
        answer: dict[str, Any] = {"FunctionEventInvokeConfigs": configs}
        return answer if marker is None else {**answer, "NextMarker": marker}

    def _function(self, ref: FunctionRef) -> Function:
        """Raises ResourceNotFound when the function, version or alias is not there."""
        function = self._plane.store.get(ref.account, ref.name)
        wanted = ref.qualifier or LATEST
        if function is None or (wanted not in function.versions and wanted not in function.aliases):
            raise ResourceNotFound(NO_FUNCTION)
        return function

    def _document(self, ref: FunctionRef) -> Mapping[str, Any]:
        function = self._plane.store.get(ref.account, ref.name)
        document = None if function is None else function.document(EVENT_INVOKE, _key(ref))
        if document is None:
            raise _missing(ref)
        return document

    def _destinations(self, ref: FunctionRef, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The destinations as they are kept: an empty one is none. Raises InvalidParameterValue."""
        kept: dict[str, Any] = {}
        arns = {side: (wanted.get(side) or {}).get("Destination") or "" for side in _ALLOWED}
        for side, arn in arns.items():
            if not arn:
                continue
            if not is_target(arn, _ALLOWED[side]):
                raise InvalidParameterValue(f"The provided destination config {_printed(arns)} is invalid.")
            if service_of(arn) == "lambda":
                self._check_function(ref, arn)
            kept[side] = {"Destination": arn}
        return kept

    def _check_function(self, ref: FunctionRef, arn: str) -> None:
        invalid = InvalidParameterValue(f"The destination ARN {arn} is invalid.")
        try:
            target = parse_function_name(arn, account=ref.account, region=ref.region)
        except AwsError:
            raise invalid from None
        if (target.account, target.name) == (ref.account, ref.name):
            raise InvalidParameterValue("You can't specify the function as a destination for itself.")
        function = self._plane.store.get(target.account, target.name)
        qualifier = target.qualifier or LATEST
        if function is None or (qualifier not in function.versions and qualifier not in function.aliases):
            raise invalid


class StoredPolicies:
    """``engine.eventing.policies.Policies`` from what the store has."""

    def __init__(self, store: FunctionStore) -> None:
        self._store = store

    def policy(self, account: str, function: str, qualifier: str | None) -> Policy | None:
        found = self._store.get(account, function)
        if found is None:
            return None
        wanted = qualifier or LATEST
        alias = found.aliases.get(wanted)
        version = found.versions.get(wanted if alias is None else alias.version) or found.versions.get(LATEST)
        config: Mapping[str, Any] = {} if version is None else version.config
        document = found.document(EVENT_INVOKE, "" if wanted == LATEST else wanted) or {}
        destinations = document.get(_DESTINATIONS) or {}
        return Policy(
            max_retries=int(document.get(_RETRIES, MAX_RETRIES)),
            max_age_ms=int(document.get(_AGE, MAX_AGE_MS // 1000)) * 1000,
            on_success=(destinations.get("OnSuccess") or {}).get("Destination"),
            on_failure=(destinations.get("OnFailure") or {}).get("Destination"),
            dead_letter=(config.get("DeadLetterConfig") or {}).get("TargetArn") or None,
            role=str(config.get("Role") or ""),
            closed=reserved_concurrency(found) == 0,
        )


def shown(ref: FunctionRef, document: Mapping[str, Any]) -> dict[str, Any]:
    """A FunctionEventInvokeConfig: the ARN always qualified, both destinations always there."""
    destinations = document.get(_DESTINATIONS) or {}
    answer: dict[str, Any] = {"LastModified": document["LastModified"], "FunctionArn": _arn(ref)}
    answer.update({name: document[name] for name in (_RETRIES, _AGE) if name in document})
    answer[_DESTINATIONS] = {side: dict(destinations.get(side) or {}) for side in _ALLOWED}
    return answer


def _role(function: Function, ref: FunctionRef) -> str:
    """The execution role of what is configured."""
    wanted = ref.qualifier or LATEST
    alias = function.aliases.get(wanted)
    version = function.versions.get(wanted if alias is None else alias.version) or function.latest
    return str(version.config["Role"])


def _key(ref: FunctionRef) -> str:
    return "" if ref.qualifier in (None, LATEST) else str(ref.qualifier)


def _arn(ref: FunctionRef) -> str:
    return function_arn(ref.region, ref.account, ref.name, ref.qualifier or LATEST)


def _missing(ref: FunctionRef) -> ResourceNotFound:
    return ResourceNotFound(f"The function {_arn(ref)} doesn't have an EventInvokeConfig")


def _printed(arns: Mapping[str, str]) -> str:
    """As AWS's own code prints the object."""

    def side(name: str, arn: str) -> str:
        return f"{name}(destination={arn})" if arn else "null"

    return f"DestinationConfig(onSuccess={side('OnSuccess', arns['OnSuccess'])}, onFailure={side('OnFailure', arns['OnFailure'])})"
