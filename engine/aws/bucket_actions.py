"""The actions of IAM that a request to S3 needs. Pure.

A request says by its query what it is about, and may name more than one thing; what is done is then for the server to choose. So the rights to
all that is named are needed, and nothing depends on the order in which somebody looks.
Source: docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qs, unquote, urlparse

_Named = Mapping[str, str]
_BUCKET: Mapping[str, tuple[_Named, str]] = {
    "HEAD": ({}, "ListBucket"),
    "GET": (
        {
            "accelerate": "GetAccelerateConfiguration", "acl": "GetBucketAcl", "cors": "GetBucketCORS", "encryption": "GetEncryptionConfiguration",
            "inventory": "GetInventoryConfiguration", "lifecycle": "GetLifecycleConfiguration", "location": "GetBucketLocation",
            "logging": "GetBucketLogging", "notification": "GetBucketNotification", "object-lock": "GetBucketObjectLockConfiguration",
            "ownershipControls": "GetBucketOwnershipControls", "policy": "GetBucketPolicy", "policyStatus": "GetBucketPolicyStatus",
            "publicAccessBlock": "GetBucketPublicAccessBlock", "replication": "GetReplicationConfiguration", "tagging": "GetBucketTagging",
            "uploads": "ListBucketMultipartUploads", "versioning": "GetBucketVersioning", "versions": "ListBucketVersions",
            "website": "GetBucketWebsite",
        },
        "ListBucket",
    ),
    "PUT": (
        {
            "accelerate": "PutAccelerateConfiguration", "acl": "PutBucketAcl", "cors": "PutBucketCORS", "encryption": "PutEncryptionConfiguration",
            "inventory": "PutInventoryConfiguration", "lifecycle": "PutLifecycleConfiguration", "logging": "PutBucketLogging",
            "notification": "PutBucketNotification", "object-lock": "PutBucketObjectLockConfiguration",
            "ownershipControls": "PutBucketOwnershipControls", "policy": "PutBucketPolicy", "publicAccessBlock": "PutBucketPublicAccessBlock",
            "replication": "PutReplicationConfiguration", "tagging": "PutBucketTagging", "versioning": "PutBucketVersioning",
            "website": "PutBucketWebsite",
        },
        "CreateBucket",
    ),
    "DELETE": (
        {
            "cors": "PutBucketCORS", "encryption": "PutEncryptionConfiguration", "lifecycle": "PutLifecycleConfiguration",
            "ownershipControls": "PutBucketOwnershipControls", "policy": "DeleteBucketPolicy", "publicAccessBlock": "PutBucketPublicAccessBlock",
            "replication": "PutReplicationConfiguration", "tagging": "PutBucketTagging", "website": "DeleteBucketWebsite",
        },
        "DeleteBucket",
    ),
}  # fmt: skip
_KEY: Mapping[str, tuple[_Named, str]] = {
    "HEAD": ({}, "GetObject"),
    "GET": (
        {
            "acl": "GetObjectAcl", "attributes": "GetObjectAttributes", "legal-hold": "GetObjectLegalHold", "retention": "GetObjectRetention",
            "tagging": "GetObjectTagging", "uploadId": "ListMultipartUploadParts",
        },
        "GetObject",
    ),
    "PUT": (
        {
            "acl": "PutObjectAcl", "legal-hold": "PutObjectLegalHold", "retention": "PutObjectRetention", "tagging": "PutObjectTagging",
            "uploadId": "PutObject",
        },
        "PutObject",
    ),
    "DELETE": ({"tagging": "DeleteObjectTagging", "uploadId": "AbortMultipartUpload"}, "DeleteObject"),
    "POST": ({"restore": "RestoreObject", "select": "GetObject", "uploadId": "PutObject", "uploads": "PutObject"}, "PutObject"),
}  # fmt: skip
# Of one version they have names of their own.
_OF_VERSIONS = frozenset(
    {
        "DeleteObject", "DeleteObjectTagging", "GetObject", "GetObjectAcl", "GetObjectAttributes", "GetObjectTagging", "PutObjectAcl", "PutObjectTagging",
    }
)  # fmt: skip
# Headers that do more than the request's action says.
_OBJECT_HEADERS = {
    "x-amz-acl": "PutObjectAcl", "x-amz-tagging": "PutObjectTagging", "x-amz-object-lock-mode": "PutObjectRetention",
    "x-amz-object-lock-retain-until-date": "PutObjectRetention", "x-amz-object-lock-legal-hold": "PutObjectLegalHold",
}  # fmt: skip
_BUCKET_HEADERS = {
    "x-amz-acl": "PutBucketAcl", "x-amz-bucket-object-lock-enabled": "PutBucketObjectLockConfiguration",
    "x-amz-object-ownership": "PutBucketOwnershipControls",
}  # fmt: skip


def actions(method: str, query: Collection[str], headers: Mapping[str, str], *, key: bool) -> list[str]:
    """The actions, without ``s3:``; at least one. ``query``: the names in it; ``headers``: by lower-case names."""
    named, usual = (_KEY if key else _BUCKET).get(method, ({}, "ListBucket"))
    found = list(dict.fromkeys(action for name, action in named.items() if name in query)) or [usual]
    if key and "versionId" in query:
        found = [_of_version(action) for action in found]
    if method in ("PUT", "POST") and not (named.keys() - {"uploads"}).intersection(query):
        more = _OBJECT_HEADERS if key else _BUCKET_HEADERS
        found += [action for name, action in more.items() if headers.get(name)]
        if any(name.startswith("x-amz-grant-") for name in headers):
            found.append("PutObjectAcl" if key else "PutBucketAcl")
    if headers.get("x-amz-bypass-governance-retention", "").lower() == "true":
        found.append("BypassGovernanceRetention")
    return list(dict.fromkeys(found))


def _of_version(action: str) -> str:
    return action.replace("Object", "ObjectVersion", 1) if action in _OF_VERSIONS else action


def copied(source: str) -> tuple[str, str]:
    """(action, ARN) that reading the source of a copy needs; the source is taken apart as moto does it."""
    parsed = urlparse(source)
    version = parse_qs(parsed.query).get("versionId")
    return ("s3:GetObjectVersion" if version else "s3:GetObject", "arn:aws:s3:::" + unquote(parsed.path).lstrip("/"))
