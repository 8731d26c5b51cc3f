"""Which resource a request to another AWS service is about, as far as its members say. Pure.

Only what can be read off the request is here; for the rest the answer is None, and the evaluator then takes an allow for any resource.
Source: the resource types of docs.aws.amazon.com/service-authorization/latest/reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/([^/,\s]+)/([^/,\s]+)/aws4_request")
_QUERY_SCOPE = re.compile(r"X-Amz-Credential=[^&]*?(?:%2F|/)\d{8}(?:%2F|/)[^&/%]+(?:%2F|/)([^&/%]+)(?:%2F|/)aws4_request", re.IGNORECASE)
REST_JSON = frozenset({"apigateway", "scheduler", "pipes", "kafka", "es", "batch", "eks", "appsync", "xray", "elasticfilesystem", "iot", "polly"})
# Service -> (member, the ARN's last part with {} for the member), of services with nothing more to them (the others: engine.aws.demands).
_NAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "firehose": (("DeliveryStreamName", "deliverystream/{}"),),
    "cloudformation": (("StackName", "stack/{}/*"),),
    "cognito-idp": (("UserPoolId", "userpool/{}"),),
    "ecr": (("repositoryName", "repository/{}"),),
    "elasticfilesystem": (("FileSystemId", "file-system/{}"),),
}
_ARN_MEMBERS = ("StackName", "StackId", "ResourceArn", "ResourceARN", "resourceArn", "DeliveryStreamArn")


def scope(authorization: str) -> tuple[str | None, str]:
    """(service, region) of a signature; (None, "") without one."""
    match = _SCOPE.search(authorization)
    return (match[2], match[1]) if match else (None, "")


def service(authorization: str, query: str = "") -> str | None:
    """The service a request's signature is for, in its header or its query; None without one."""
    named, _ = scope(authorization)
    if named is None and "X-Amz-Credential=" in query:
        match = _QUERY_SCOPE.search(query)
        return match[1] if match else None
    return named


def resource(service: str, members: Mapping[str, Any], account: str, region: str, path: str = "") -> str | None:
    """The resource's ARN, or None when the request does not name one in a way known here."""
    # A name alone is enough, and the path names the queue where no member does.
    url = members.get("QueueUrl") or ("" if "QueueName" in members else path.strip("/"))
    if service == "sqs" and isinstance(url, str) and url:
        owner, name = ["", *url.rstrip("/").split("/")][-2:]
        return f"arn:aws:sqs:{region}:{owner if owner.isdigit() else account}:{name}"
    if service == "sqs" and members.get("QueueName"):
        return f"arn:aws:sqs:{region}:{account}:{members['QueueName']}"
    for member in _ARN_MEMBERS:
        value = members.get(member)
        if isinstance(value, str) and value.startswith("arn:"):
            return value
    for member, pattern in _NAMED.get(service, ()):
        value = members.get(member)
        if isinstance(value, str) and value:
            return f"arn:aws:{service}:{region}:{account}:{pattern.format(value)}"
    return None


def account_in(arn: str) -> str:
    """The account that an ARN names, or nothing."""
    parts = arn.split(":", 5)
    return parts[4] if len(parts) == 6 else ""


def region_in(arn: str) -> str:
    """The region that an ARN names, or nothing."""
    parts = arn.split(":", 5)
    return parts[3] if len(parts) == 6 else ""
