"""What buckets tell EventBridge. Source: docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html."""

from __future__ import annotations

import sys
import time
from typing import Any

from engine import ids
from engine.aws.push import request

_REASONS = {
    "ObjectCreated:Put": "PutObject",
    "ObjectCreated:Post": "POST Object",
    "ObjectCreated:Copy": "CopyObject",
    "ObjectCreated:CompleteMultipartUpload": "CompleteMultipartUpload",
}
_DELETIONS = {"ObjectRemoved:Delete": "Permanently Deleted", "ObjectRemoved:DeleteMarkerCreated": "Delete Marker Created"}
_OTHERS = {
    "ObjectTagging:Put": "Object Tags Added",
    "ObjectTagging:Delete": "Object Tags Deleted",
    "ObjectAcl:Put": "Object ACL Updated",
    "ObjectRestore:Post": "Object Restore Initiated",
    "ObjectRestore:Completed": "Object Restore Completed",
}


def tell(name: str, bucket: Any, key: Any, sequencer: str) -> None:
    """Put an event on the default bus of the bucket's account. ``name``: that of the notification, without ``s3:``."""
    from moto.events.models import events_backends  # noqa: PLC0415 - moto is an extra

    made = event(name, bucket, key, sequencer)
    if made is None:
        return
    backend = events_backends[bucket.account_id][bucket.region_name]
    for rule in list(backend.event_buses["default"].rules.values()):
        try:
            rule.send_to_targets(dict(made))
        except Exception as e:  # noqa: BLE001 - the object is there whatever becomes of the event
            sys.stderr.write(f"embedded AWS: {bucket.arn} did not reach {rule.arn}: {type(e).__name__}: {e}\n")


def event(name: str, bucket: Any, key: Any, sequencer: str) -> dict[str, Any] | None:
    """The event; None for what EventBridge is not told."""
    thing: dict[str, Any] = {"key": key.name}
    if name in _REASONS:
        thing["size"] = key.size
    etag = getattr(key, "etag", None)
    if etag:
        thing["etag"] = etag.replace('"', "")
    if bucket.is_versioned:
        thing["version-id"] = str(key.version_id)
    detail: dict[str, Any] = {"version": "0", "bucket": {"name": bucket.name}, "object": thing}
    detail |= {"request-id": request.identifier(), "requester": bucket.account_id, "source-ip-address": "127.0.0.1"}
    if name in _REASONS:
        kind = "Object Created"
        thing["sequencer"] = sequencer
        detail["reason"] = _REASONS[name]
    elif name in _DELETIONS:
        kind = "Object Deleted"
        thing["sequencer"] = sequencer
        detail |= {"reason": "DeleteObject", "deletion-type": _DELETIONS[name]}
    elif name in _OTHERS:
        kind = _OTHERS[name]
    else:
        return None
    return {
        "version": "0", "id": ids.request_id(), "detail-type": kind, "source": "aws.s3", "account": bucket.account_id,
        "time": time.time(), "region": bucket.region_name, "resources": [bucket.arn], "detail": detail,
    }  # fmt: skip
