"""ARNs of what takes records and dead letters: whether one can name a target of some service at all. Pure.

Whether the target is there, and the function's role may write to it, shows when something is delivered.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html and the services' rules for names.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from engine.arn import fits

_HERE = r"arn:aws[a-zA-Z-]*:{}:[a-z0-9-]+:\d{{12}}:"
# FIFO queues and topics, whose names have a dot, take neither.
_FORMS = {
    "sqs": re.compile(_HERE.format("sqs") + r"[a-zA-Z0-9_-]{1,80}"),
    "sns": re.compile(_HERE.format("sns") + r"[a-zA-Z0-9_-]{1,256}"),
    "lambda": re.compile(_HERE.format("lambda") + r"function:.+"),
    "events": re.compile(_HERE.format("events") + r"event-bus/[a-zA-Z0-9._/-]+"),
    "s3": re.compile(r"arn:aws[a-zA-Z-]*:s3:[a-z0-9-]*:(?:\d{12})?:[a-zA-Z0-9._-]+"),
}


def service_of(arn: str) -> str:
    """The service that an ARN names; empty for what is no ARN."""
    return arn.split(":", 3)[2] if arn.startswith("arn:") and arn.count(":") > 2 else ""


def is_target(arn: str, services: Collection[str]) -> bool:
    """Whether ``arn`` can name what one of ``services`` (of sqs, sns, lambda, events and s3) takes records with."""
    service = service_of(arn)
    if service not in services or _FORMS[service].fullmatch(arn) is None:
        return False
    _, partition, _, region, _ = arn.split(":", 4)
    return not region or fits(partition, region)
