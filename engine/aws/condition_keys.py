"""What the condition keys of services say of a request to another AWS service. Pure.

A key that is left out makes conditions hold that were meant to restrain (``ForAllValues`` above all), so that those are here by which rights
are commonly cut: tags, S3's prefixes, DynamoDB's leading keys, IAM's boundaries, what a role's trust policy asks for.
Source: the condition keys of docs.aws.amazon.com/service-authorization/latest/reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from engine.aws.demands import Asked

Keys = dict[str, str | list[str]]
# (member, key)
_MEMBERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "iam": (("PermissionsBoundary", "iam:permissionsboundary"), ("PolicyArn", "iam:policyarn"), ("AWSServiceName", "iam:awsservicename")),
    "sts": (("ExternalId", "sts:externalid"), ("RoleSessionName", "sts:rolesessionname"), ("SourceIdentity", "sts:sourceidentity")),
    "dynamodb": (("Select", "dynamodb:select"), ("ReturnValues", "dynamodb:returnvalues"), ("ReturnConsumedCapacity", "dynamodb:returnconsumedcapacity")),
    "sns": (("Endpoint", "sns:endpoint"), ("Protocol", "sns:protocol")),
    "secretsmanager": (("Name", "secretsmanager:name"), ("SecretId", "secretsmanager:secretid"), ("VersionStage", "secretsmanager:versionstage")),
    "kms": (("EncryptionAlgorithm", "kms:encryptionalgorithm"),),
}  # fmt: skip
_S3_QUERY = (("prefix", "s3:prefix"), ("delimiter", "s3:delimiter"), ("max-keys", "s3:max-keys"), ("versionId", "s3:versionid"))
_S3_HEADERS = (
    "x-amz-acl", "x-amz-copy-source", "x-amz-content-sha256", "x-amz-grant-full-control", "x-amz-grant-read", "x-amz-grant-read-acp", "x-amz-grant-write",
    "x-amz-grant-write-acp", "x-amz-metadata-directive", "x-amz-object-ownership", "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-storage-class",
)  # fmt: skip
_EQUALS = re.compile(r"(#?[\w.-]+)\s*=\s*(:\w+)")
# The value of a key that cannot be read off a request: no policy lists it.
_UNREADABLE = "\ue002"


def of_request(asked: Asked) -> Keys:
    """The keys of a request in JSON or of the query protocol."""
    keys: Keys = {key: asked.text(member) for member, key in _MEMBERS.get(asked.service, ()) if asked.text(member)}
    tags = dict(_tags(asked.members))
    if tags:
        keys |= {f"aws:requesttag/{name}".lower(): value for name, value in tags.items()}
    named = list(tags) or asked.texts("TagKeys", "tagKeys")
    if named:
        keys["aws:tagkeys"] = named
    if asked.service == "dynamodb":
        leading = list(_leading(asked))
        if leading:
            keys["dynamodb:leadingkeys"] = leading
    return keys


def of_objects(query: Mapping[str, str], headers: Mapping[str, str]) -> Keys:
    """The keys of a request to S3; headers by lower-case names."""
    keys: Keys = {key: query[name] for name, key in _S3_QUERY if name in query}
    keys |= {f"s3:{name}": headers[name] for name in _S3_HEADERS if headers.get(name)}
    keys["s3:signatureversion"] = "AWS4-HMAC-SHA256"
    keys["s3:authtype"] = "REST-QUERY-STRING" if "X-Amz-Signature" in query else "REST-HEADER"
    tags = dict(parse_qsl(headers.get("x-amz-tagging", ""), keep_blank_values=True))
    if tags:
        keys |= {f"s3:requestobjecttag/{name}".lower(): value for name, value in tags.items()}
        keys["s3:requestobjecttagkeys"] = list(tags)
    return keys


def _tags(members: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tags in any of the forms that services have for them."""
    for member in ("Tags", "tags"):
        given = members.get(member)
        if isinstance(given, Mapping):
            yield from ((str(k), str(v)) for k, v in given.items())
        for tag in given if isinstance(given, list) else ():
            if isinstance(tag, Mapping):
                name = next((tag[k] for k in ("Key", "key", "TagKey") if k in tag), None)
                if name is not None:
                    yield str(name), str(next((tag[k] for k in ("Value", "value", "TagValue") if k in tag), ""))


def _leading(asked: Asked) -> Iterator[str]:
    """The values of partition keys that a request to DynamoDB names."""
    members = asked.members
    name = asked.text("TableName")
    if name:
        key = asked.find("partition-key", name) or ""
        for item in (members.get("Key"), members.get("Item")):
            yield from _value(item, key)
        if asked.action == "Query":
            yield from _queried(members, key)
    requests = members.get("RequestItems")
    for table, wanted in requests.items() if isinstance(requests, Mapping) else ():
        key = asked.find("partition-key", str(table)) or ""
        for item in wanted.get("Keys", []) if isinstance(wanted, Mapping) else _written(wanted):
            yield from _value(item, key)
    for one in asked.listed("TransactItems"):
        for what in one.values():
            if isinstance(what, Mapping):
                key = asked.find("partition-key", str(what.get("TableName"))) or ""
                yield from _value(what.get("Key") or what.get("Item"), key)
    if "Statement" in asked.action or asked.action == "ExecuteTransaction":
        yield _UNREADABLE


def _written(requests: Any) -> Iterator[Any]:
    for request in requests if isinstance(requests, list) else ():
        for what in request.values() if isinstance(request, Mapping) else ():
            yield (what.get("Item") or what.get("Key")) if isinstance(what, Mapping) else None


def _value(item: Any, key: str) -> Iterator[str]:
    if isinstance(item, Mapping):
        value = item.get(key)
        yield str(next(iter(value.values()), "")) if isinstance(value, Mapping) else _UNREADABLE


def _queried(members: Mapping[str, Any], key: str) -> Iterator[str]:
    names, values = members.get("ExpressionAttributeNames") or {}, members.get("ExpressionAttributeValues") or {}
    found = False
    for name, value in _EQUALS.findall(str(members.get("KeyConditionExpression") or "")):
        if names.get(name, name) == key and isinstance(values.get(value), Mapping):
            found = True
            yield str(next(iter(values[value].values()), ""))
    condition = (members.get("KeyConditions") or {}).get(key)
    for value in condition.get("AttributeValueList", []) if isinstance(condition, Mapping) else ():
        found = True
        yield str(next(iter(value.values()), ""))
    if not found:
        yield _UNREADABLE
