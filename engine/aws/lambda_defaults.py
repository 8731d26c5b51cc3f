"""What properties of functions and mappings are where a template says nothing of them. Pure.

Lambda keeps what an update does not speak of, a template that no longer has a property means its default: so an update that leaves one out names it.
Source: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/{aws-resource-lambda-function,aws-resource-lambda-eventsourcemapping}.html.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Properties = Mapping[str, Any]
_FUNCTION: Properties = {
    "Description": "",
    "Timeout": 3,
    "MemorySize": 128,
    "Environment": {"Variables": {}},
    "DeadLetterConfig": {"TargetArn": ""},
    "TracingConfig": {"Mode": "PassThrough"},
    "EphemeralStorage": {"Size": 512},
    "KmsKeyArn": "",
    "Layers": [],
    "FileSystemConfigs": [],
    "VpcConfig": {"SubnetIds": [], "SecurityGroupIds": [], "Ipv6AllowedForDualStack": False},
    "ImageConfig": {},
    "SnapStart": {"ApplyOn": "None"},
}
_LEVELS: Properties = {"ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}
_MAPPING: Properties = {
    "BatchSize": 100,
    "BisectBatchOnFunctionError": False,
    "DestinationConfig": {},
    "Enabled": True,
    "FilterCriteria": {},
    "FunctionResponseTypes": [],
    "KmsKeyArn": "",
    "MaximumBatchingWindowInSeconds": 0,
    "MaximumRecordAgeInSeconds": -1,
    "MaximumRetryAttempts": -1,
    "MetricsConfig": {"Metrics": []},
    "ParallelizationFactor": 1,
    "ProvisionedPollerConfig": {},
    "ScalingConfig": {},
    "SourceAccessConfigurations": [],
    "TumblingWindowInSeconds": 0,
}


def function_changes(name: str, old: Properties, new: Properties, apart: Collection[str]) -> dict[str, Any]:
    """What UpdateFunctionConfiguration is told so that the function of this name becomes ``new``, but for the properties ``apart``."""
    levels = _LEVELS if (new.get("LoggingConfig") or {}).get("LogFormat") == "JSON" else {}
    return _changes(old, new, apart, {**_FUNCTION, "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}", **levels}})


def mapping_changes(old: Properties, new: Properties, apart: Collection[str]) -> dict[str, Any]:
    """Likewise UpdateEventSourceMapping."""
    of_queue = {"BatchSize": 10} if ":sqs:" in (new.get("EventSourceArn") or "") else {}
    return _changes(old, new, apart, {**_MAPPING, **of_queue})


def _changes(old: Properties, new: Properties, apart: Collection[str], defaults: Properties) -> dict[str, Any]:
    result = {}
    for name in {*old, *new} - set(apart):
        value, default = new.get(name), defaults.get(name)
        if value == old.get(name) or (value is None and default is None):
            continue
        if value is None:
            result[name] = default
        else:
            result[name] = {**default, **value} if isinstance(default, Mapping) else value
    return result
