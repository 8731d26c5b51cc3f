"""What an event source mapping may say, in Lambda's words; and what is refused because nothing here would obey it. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/{services-sqs-parameters,services-kinesis-parameters,services-ddb-params,
invocation-eventfiltering}.html and recorded replies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from engine.control import broker_rules
from engine.control.record_targets import is_target
from engine.errors import InvalidParameterValue, NotImplementedHere, ValidationError
from engine.eventing import patterns

MAX_FILTERS = 10
MAX_FIFO_BATCH = 10
MIN_RECORD_AGE_S = 60
RESULT, NO_RESULT = "LastProcessingResult", "No records processed"
_METRICS, _COUNTED = "MetricsConfig", "EventCount"
_EVERY = ("BatchSize", "MaximumBatchingWindowInSeconds", "FunctionResponseTypes", "FilterCriteria", "KMSKeyArn", _METRICS)
_NOT_OBEYED = ("LoggingConfig",)
_PROVISIONED = "ProvisionedPollerConfig"
# Provisioned pollers of queues: the least of either, and what AWS takes where one is not given.
MIN_POLLERS, MAX_POLLERS = 2, 200


class Kind(NamedTuple):
    """A kind of source: the members that may be given, those that only creation takes, and what replies have where nothing was given.

    ``ordered``: it is read from a starting position on; ``says``: how the last batch went; ``later``: members that AWS has for it and this
    engine does not obey.
    """

    name: str
    settings: tuple[str, ...]
    fixed: tuple[str, ...]
    defaults: Mapping[str, Any]
    ordered: bool
    says: bool
    reason: str
    later: tuple[str, ...] = ()

    def members(self) -> tuple[str, ...]:
        return self.settings + self.fixed

    @property
    def is_broker(self) -> bool:
        return "SourceAccessConfigurations" in self.settings


SQS = Kind(
    "sqs",
    (*_EVERY, "ScalingConfig", _PROVISIONED),
    (),
    {"BatchSize": 10, "MaximumBatchingWindowInSeconds": 0, "FunctionResponseTypes": []},
    ordered=False,
    says=False,
    reason="USER_INITIATED",
)
_STREAM = (
    "ParallelizationFactor", "DestinationConfig", "MaximumRecordAgeInSeconds", "BisectBatchOnFunctionError", "MaximumRetryAttempts",
    "TumblingWindowInSeconds",
)  # fmt: skip
_STREAM_DEFAULTS = {
    "BatchSize": 100, "MaximumBatchingWindowInSeconds": 0, "FunctionResponseTypes": [], "ParallelizationFactor": 1,
    "DestinationConfig": {"OnFailure": {}}, "MaximumRecordAgeInSeconds": -1, "BisectBatchOnFunctionError": False,
    "MaximumRetryAttempts": -1, "TumblingWindowInSeconds": 0,
}  # fmt: skip
_POSITION = ("StartingPosition", "StartingPositionTimestamp")
KINESIS = Kind("kinesis", _EVERY + _STREAM, _POSITION, _STREAM_DEFAULTS, ordered=True, says=True, reason="User action")
DYNAMODB = KINESIS._replace(name="dynamodb")
# What brokers of any kind may be told; there is no batching window until one was given, but half a second.
_BROKER = ("BatchSize", "MaximumBatchingWindowInSeconds", "FilterCriteria", "KMSKeyArn", "SourceAccessConfigurations", _METRICS)
_LATER = ("FunctionResponseTypes", "DestinationConfig", "MaximumRetryAttempts", "MaximumRecordAgeInSeconds", "BisectBatchOnFunctionError", _PROVISIONED)
KAFKA = Kind(
    "self-managed kafka",
    _BROKER,
    ("Topics", "SelfManagedEventSource", "SelfManagedKafkaEventSourceConfig", *_POSITION),
    {"BatchSize": 100},
    ordered=True,
    says=True,
    reason="USER_INITIATED",
    later=_LATER,
)
MSK = KAFKA._replace(name="kafka", fixed=("Topics", "AmazonManagedKafkaEventSourceConfig", *_POSITION))
MQ = KAFKA._replace(name="mq", fixed=("Queues",), ordered=False, later=())
_KINDS = {kind.name: kind for kind in (SQS, KINESIS, DYNAMODB, MSK, MQ)}
# Every member that some kind of source has.
_KNOWN = (
    *_EVERY, "ScalingConfig", _PROVISIONED, *_STREAM, *_POSITION, "Topics", "Queues", "SourceAccessConfigurations", "SelfManagedEventSource",
    "AmazonManagedKafkaEventSourceConfig", "SelfManagedKafkaEventSourceConfig", "DocumentDBEventSourceConfig",
)  # fmt: skip
# What the last part of the ARN of a source looks like.
_RESOURCES = {
    KINESIS.name: re.compile(r"stream/[^/]+(?:/consumer/[^/]+)?"),
    DYNAMODB.name: re.compile("table/.+/stream/.+"),
    MQ.name: re.compile("broker:.+"),
    MSK.name: re.compile("cluster/.+"),
}
_NOT_POLLED = {"rds": "DocumentDB clusters"}


def kind_of(params: Mapping[str, Any]) -> Kind:
    """By the members of a request or a document. Raises NotImplementedHere for what is not polled, InvalidParameterValue for no source."""
    arn = str(params.get("EventSourceArn") or "")
    if not arn:
        if params.get("SelfManagedEventSource"):
            return KAFKA
        raise InvalidParameterValue("Unrecognized event source.")
    parts = arn.split(":", 5)
    if parts[2] in _NOT_POLLED:
        raise _unpolled(_NOT_POLLED[parts[2]])
    kind = _KINDS.get(parts[2])
    if kind is None or len(parts) != 6 or not all(parts[3:6]) or not _is_resource(kind, parts[5]):
        raise InvalidParameterValue("Unrecognized event source.")
    return kind


def _is_resource(kind: Kind, resource: str) -> bool:
    form = _RESOURCES.get(kind.name)
    return ":" not in resource if form is None else form.fullmatch(resource) is not None


def _unpolled(kind: str) -> NotImplementedHere:
    return NotImplementedHere(f"Lambda Engine does not poll {kind} yet. Nothing was created.")


def check_members(operation: str, kind: Kind, params: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue for what the source does not have, NotImplementedHere for what is not obeyed here."""
    if kind is SQS and any(params.get(name) for name in _POSITION):
        raise InvalidParameterValue("StartingPosition is not valid for SQS event sources.")
    for name in (*kind.later, *_NOT_OBEYED):
        if not _asks_nothing(params.get(name)):
            raise NotImplementedHere(
                f"Lambda Engine does not support {name} of such a source in {operation}. Nothing was changed: leave the member out."
            )
    _check_metrics(operation, kind, (params.get(_METRICS) or {}).get("Metrics") or [])
    for name in _KNOWN:
        if name not in kind.members() and not _asks_nothing(params.get(name)):
            raise InvalidParameterValue(f"Unsupported {name} parameter for given event source mapping type.")


def _check_metrics(operation: str, kind: Kind, groups: list[str]) -> None:
    """Events are counted for every mapping, asked for or not; the other groups are of topics only. Raises as ``check_members``."""
    others = [group for group in groups if group != _COUNTED]
    if others and kind not in (KAFKA, MSK):
        raise InvalidParameterValue(f"Unsupported {_METRICS} parameter for given event source mapping type: {', '.join(others)}.")
    if others:
        raise NotImplementedHere(
            f"Lambda Engine does not support the metrics {', '.join(others)} of {_METRICS} in {operation}. Nothing was changed: leave them out."
        )


def _asks_nothing(value: Any) -> bool:
    """Whether a member has nothing in it, however deep: tools send those that somebody took everything out of."""
    return all(map(_asks_nothing, value.values())) if isinstance(value, Mapping) else value in (None, False, [])


def position(kind: Kind, params: Mapping[str, Any], now_s: float) -> dict[str, Any]:
    """Where a new mapping begins to read, as the document has it. Raises ValidationError, InvalidParameterValue."""
    if not kind.ordered:
        return {}
    where, moment = params.get("StartingPosition"), params.get("StartingPositionTimestamp")
    if where is None:
        raise InvalidParameterValue(
            "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must not be null."
        )
    if where != "AT_TIMESTAMP":
        if moment is not None:
            raise InvalidParameterValue("Timestamp only valid with StartingPosition AT_TIMESTAMP")
        return {"StartingPosition": where}
    if kind is DYNAMODB:
        raise InvalidParameterValue(f"Unsupported starting position for arn type: {params['EventSourceArn']}")
    if moment is None:
        raise InvalidParameterValue("StartingPositionTimestamp is required with StartingPosition AT_TIMESTAMP.")
    at_s = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    if at_s > now_s:
        raise InvalidParameterValue("StartingPositionTimestamp cannot be in the future.")
    return {"StartingPosition": where, "StartingPositionTimestamp": at_s}


def settings(kind: Kind, former: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a mapping: those given, else the former ones. Raises InvalidParameterValue."""
    merged = {name: former[name] for name in kind.settings if name in former}
    merged |= {name: params[name] for name in kind.settings if params.get(name) is not None}
    merged = {**kind.defaults, **merged}
    if kind.is_broker:
        broker_rules.check_access(kind.name, merged)
    filters = merged.pop("FilterCriteria", {}).get("Filters") or []
    if filters:
        merged["FilterCriteria"] = {"Filters": _filters(kind, filters)}
    if not merged.get("KMSKeyArn"):
        merged.pop("KMSKeyArn", None)
    if not (merged.get(_METRICS) or {}).get("Metrics"):
        merged.pop(_METRICS, None)
    if merged.get("ScalingConfig", {}).get("MaximumConcurrency") is None:
        merged.pop("ScalingConfig", None)
    if _PROVISIONED in merged:
        provisioned = _provisioned(merged.pop(_PROVISIONED))
        merged |= {_PROVISIONED: provisioned} if provisioned else {}
    if "DestinationConfig" in merged:
        merged["DestinationConfig"] = _destination(merged["DestinationConfig"])
    return merged


def check_settings(kind: Kind, merged: Mapping[str, Any], *, fifo: bool) -> None:
    """Raises InvalidParameterValue for settings that do not go together."""
    if kind is SQS:
        window_s, size = merged["MaximumBatchingWindowInSeconds"], merged["BatchSize"]
        if fifo and window_s > 0:
            raise InvalidParameterValue("Batching window is not supported for FIFO queues")
        if fifo and size > MAX_FIFO_BATCH:
            raise InvalidParameterValue(f"Batch size must not exceed {MAX_FIFO_BATCH} for FIFO queues")
        if "ScalingConfig" in merged and _PROVISIONED in merged:
            raise InvalidParameterValue("ScalingConfig and ProvisionedPollerConfig cannot be used together.")
        if size > MAX_FIFO_BATCH and window_s == 0:
            raise InvalidParameterValue("Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10")
    age_s = merged.get("MaximumRecordAgeInSeconds", -1)
    if age_s != -1 and age_s < MIN_RECORD_AGE_S:
        raise ValidationError(
            f"1 validation error detected: Value '{age_s}' at 'maximumRecordAgeInSeconds' failed to satisfy constraint: "
            f"Member must be -1 or have value greater than or equal to {MIN_RECORD_AGE_S}"
        )


def _provisioned(given: Mapping[str, Any]) -> dict[str, int]:
    """As it is kept; nothing where nothing was said. Raises InvalidParameterValue."""
    if given.get("PollerGroupName"):
        raise InvalidParameterValue("Unsupported PollerGroupName parameter for given event source mapping type.")
    least, most = given.get("MinimumPollers"), given.get("MaximumPollers")
    if least is None and most is None:
        return {}
    least = MIN_POLLERS if least is None else int(least)
    most = max(MAX_POLLERS, least) if most is None else int(most)
    if least < MIN_POLLERS or most < MIN_POLLERS:
        raise InvalidParameterValue(f"MinimumPollers and MaximumPollers must be at least {MIN_POLLERS} for SQS event sources.")
    if least > most:
        raise InvalidParameterValue("MinimumPollers must be less than or equal to MaximumPollers.")
    return {"MinimumPollers": least, "MaximumPollers": most}


def _destination(given: Mapping[str, Any]) -> dict[str, Any]:
    """As it is kept: of streams, only failures have a destination."""
    arns = {side: str((given.get(side) or {}).get("Destination") or "") for side in ("OnSuccess", "OnFailure")}
    arn = arns["OnFailure"]
    if arns["OnSuccess"] or (arn and not is_target(arn, ("sqs", "sns", "s3"))):
        shown = [f"{name}(destination={value})" if value else "null" for name, value in arns.items()]
        raise InvalidParameterValue(
            f"The provided destination config DestinationConfig(onSuccess={shown[0]}, onFailure={shown[1]}) is invalid."
        )
    return {"OnFailure": {"Destination": arn} if arn else {}}


def _filters(kind: Kind, filters: list[Mapping[str, Any]]) -> list[dict[str, str]]:
    if len(filters) > MAX_FILTERS:
        raise InvalidParameterValue(f"A mapping has at most {MAX_FILTERS} filters.")
    texts = [str(given.get("Pattern") or "") for given in filters]
    for text in texts:
        try:
            patterns.parse(text)
        except patterns.InvalidPattern:
            raise InvalidParameterValue("Invalid filter pattern definition.") from None
        if kind is KINESIS and not isinstance(json.loads(text).get("data", {}), dict):
            # Data that is no JSON object never matches: AWS refuses to look for it.
            raise InvalidParameterValue("Invalid filter pattern definition.")
    return [{"Pattern": text} for text in texts]
