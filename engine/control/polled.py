"""What the process that polls must know of a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.arn import parse_function_name
from engine.aws.embedded import queue_lane
from engine.config import Settings
from engine.control import broker_rules, sealed_filters
from engine.control.event_source_rules import DYNAMODB, KINESIS, MQ, SQS, Kind, kind_of
from engine.control.plane import Plane
from engine.errors import InvalidParameterValue
from engine.eventing.sources.orders import Broker, Source, Stream
from engine.store.api import LATEST, EventSourceMapping, Version

# Of brokers, until a mapping says another; as on AWS.
BROKER_WINDOW_S = 0.5


async def source_of(mapping: EventSourceMapping, plane: Plane, settings: Settings) -> Source:
    """Raises AwsError while the function is not there, its role cannot be assumed or the key of its filters cannot be used."""
    document = mapping.document
    kind = kind_of(document)
    ref = parse_function_name(document["FunctionArn"], account=mapping.account, region=settings.region)
    version = _version(plane, ref.account, ref.name, ref.qualifier or LATEST)
    if version is None:
        raise InvalidParameterValue(f"Function not found under accountId {ref.account}")
    role = str(version.config.get("Role") or "")
    aws = await plane.roles.clients(role, ref.account, ref.name)
    document = await sealed_filters.opened(plane, mapping.account, document)
    endpoint, credentials = aws.access()
    provisioned = document.get("ProvisionedPollerConfig", {})
    return Source(
        mapping=mapping.mapping,
        revision=mapping.revision,
        function=ref.unqualified_arn(),
        qualifier=ref.qualifier,
        arn=document.get("EventSourceArn", ""),
        batch_size=int(document["BatchSize"]),
        window_s=float(document.get("MaximumBatchingWindowInSeconds", BROKER_WINDOW_S)),
        partial="ReportBatchItemFailures" in document.get("FunctionResponseTypes", ()),
        max_concurrency=document.get("ScalingConfig", {}).get("MaximumConcurrency"),
        filters=tuple(given["Pattern"] for given in document.get("FilterCriteria", {}).get("Filters", [])),
        endpoint=endpoint,
        credentials=credentials,
        stream=_stream(document, role) if kind in (KINESIS, DYNAMODB) else None,
        direct=queue_lane(settings) if kind is SQS else None,
        broker=_broker(document, kind, settings) if kind.is_broker else None,
        min_pollers=provisioned.get("MinimumPollers", 0),
        max_pollers=provisioned.get("MaximumPollers", 0),
    )


def _stream(document: Mapping[str, Any], role: str) -> Stream:
    return Stream(
        role=role,
        position=document["StartingPosition"],
        since_ms=round(float(document.get("StartingPositionTimestamp") or 0) * 1000),
        parallel=int(document["ParallelizationFactor"]),
        max_age_s=int(document["MaximumRecordAgeInSeconds"]),
        max_retries=int(document["MaximumRetryAttempts"]),
        bisect=bool(document["BisectBatchOnFunctionError"]),
        tumbling_s=int(document["TumblingWindowInSeconds"]),
        on_failure=document["DestinationConfig"].get("OnFailure", {}).get("Destination") or None,
    )


def _broker(document: Mapping[str, Any], kind: Kind, settings: Settings) -> Broker:
    arn = document.get("EventSourceArn", "")
    told = tuple(one for one in settings.event_brokers.get(arn, "").split(",") if one)
    return Broker(
        kind="rabbitmq" if kind is MQ else "kafka",
        servers=broker_rules.servers_of(document) or told,
        topic=[*document.get("Topics", ()), *document.get("Queues", ())][0],
        group=broker_rules.group_of(document),
        position=document.get("StartingPosition"),
        since_ms=round(float(document.get("StartingPositionTimestamp") or 0) * 1000),
        access=tuple((one["Type"], one["URI"]) for one in document.get("SourceAccessConfigurations") or ()),
    )


def _version(plane: Plane, account: str, name: str, qualifier: str) -> Version | None:
    function = plane.store.get(account, name)
    if function is None:
        return None
    alias = function.aliases.get(qualifier)
    return function.versions.get(qualifier if alias is None else alias.version)
