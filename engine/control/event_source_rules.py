"""What an event source mapping may say, in Lambda's words; and what is refused because nothing here would obey it. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/{services-sqs-parameters,invocation-eventfiltering}.html and recorded replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidParameterValue, NotImplementedHere
from engine.eventing import patterns

MAX_FILTERS = 10
MAX_FIFO_BATCH = 10
DEFAULT_BATCH = 10
# Members that the document of a mapping has as they were given.
SETTINGS = ("BatchSize", "MaximumBatchingWindowInSeconds", "FunctionResponseTypes", "FilterCriteria", "ScalingConfig")
_NOT_POLLED = {
    "kinesis": "Kinesis streams",
    "dynamodb": "DynamoDB streams",
    "kafka": "Amazon MSK clusters",
    "mq": "Amazon MQ brokers",
    "rds": "DocumentDB clusters",
}
# Of streams, brokers or Kafka only.
_FOREIGN = (
    "ParallelizationFactor", "DestinationConfig", "MaximumRecordAgeInSeconds", "BisectBatchOnFunctionError", "MaximumRetryAttempts",
    "TumblingWindowInSeconds", "Topics", "Queues", "SourceAccessConfigurations", "SelfManagedEventSource",
    "AmazonManagedKafkaEventSourceConfig", "SelfManagedKafkaEventSourceConfig", "DocumentDBEventSourceConfig",
)  # fmt: skip
_NOT_OBEYED = ("KMSKeyArn", "MetricsConfig", "LoggingConfig", "ProvisionedPollerConfig")


def check_source(params: Mapping[str, Any]) -> str:
    """The ARN of the queue. Raises NotImplementedHere for another kind of source, InvalidParameterValue for none."""
    arn = str(params.get("EventSourceArn") or "")
    if not arn:
        if params.get("SelfManagedEventSource"):
            raise _unpolled("Kafka clusters")
        raise InvalidParameterValue("Unrecognized event source.")
    parts = arn.split(":")
    if parts[2] in _NOT_POLLED:
        raise _unpolled(_NOT_POLLED[parts[2]])
    if parts[2] != "sqs" or len(parts) != 6 or not all(parts[3:6]):
        raise InvalidParameterValue("Unrecognized event source.")
    return arn


def _unpolled(kind: str) -> NotImplementedHere:
    return NotImplementedHere(f"Lambda Engine does not poll {kind} yet. Nothing was created.")


def check_members(operation: str, params: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue for what queues do not have, NotImplementedHere for what is not obeyed here."""
    if params.get("StartingPosition") or params.get("StartingPositionTimestamp"):
        raise InvalidParameterValue("StartingPosition is not valid for SQS event sources.")
    for name in _FOREIGN:
        if params.get(name) not in (None, False, {}, []):
            raise InvalidParameterValue(f"Unsupported {name} parameter for given event source mapping type.")
    for name in _NOT_OBEYED:
        if params.get(name):
            raise NotImplementedHere(
                f"Lambda Engine does not support {name} in {operation}. Nothing was changed: leave the member out."
            )


def settings(former: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a mapping of a queue: those given, else the former ones. Raises InvalidParameterValue."""
    merged = {name: former[name] for name in SETTINGS if name in former}
    merged |= {name: params[name] for name in SETTINGS if params.get(name) is not None}
    merged.setdefault("BatchSize", DEFAULT_BATCH)
    merged.setdefault("MaximumBatchingWindowInSeconds", 0)
    merged.setdefault("FunctionResponseTypes", [])
    filters = merged.pop("FilterCriteria", {}).get("Filters") or []
    if filters:
        merged["FilterCriteria"] = {"Filters": _filters(filters)}
    if merged.get("ScalingConfig", {}).get("MaximumConcurrency") is None:
        merged.pop("ScalingConfig", None)
    return merged


def check_settings(merged: Mapping[str, Any], *, fifo: bool) -> None:
    """Raises InvalidParameterValue for settings that do not go together."""
    window_s, size = merged["MaximumBatchingWindowInSeconds"], merged["BatchSize"]
    if fifo and window_s > 0:
        raise InvalidParameterValue("Batching window is not supported for FIFO queues")
    if fifo and size > MAX_FIFO_BATCH:
        raise InvalidParameterValue(f"Batch size must not exceed {MAX_FIFO_BATCH} for FIFO queues")
    if size > MAX_FIFO_BATCH and window_s == 0:
        raise InvalidParameterValue("Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10")


def _filters(filters: list[Mapping[str, Any]]) -> list[dict[str, str]]:
    if len(filters) > MAX_FILTERS:
        raise InvalidParameterValue(f"A mapping has at most {MAX_FILTERS} filters.")
    texts = [str(given.get("Pattern") or "") for given in filters]
    for text in texts:
        try:
            patterns.parse(text)
        except patterns.InvalidPattern:
            raise InvalidParameterValue("Invalid filter pattern definition.") from None
    return [{"Pattern": text} for text in texts]
