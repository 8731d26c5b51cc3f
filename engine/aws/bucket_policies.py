"""Bucket policies of the embedded S3, decided by the engine's own evaluator. Runs in the embedded AWS's process.

moto denies what a Deny statement names whether its conditions hold or not, and tools put such a statement on the buckets that they deploy through: nothing
without TLS. Here what does not come by TLS comes over loopback, and counts as secure.
"""

from __future__ import annotations

import os
import time
from typing import Any

from engine.auth.authorization import context_of
from engine.auth.identity import root_of
from engine.auth.policy import Identity, Kind, MalformedPolicy, Reason, Request, evaluate, parse
from engine.aws.embedded import ENFORCE_VARIABLE
from engine.aws.moto_requests import is_kept

_ANYBODY = Identity(Kind.ANONYMOUS, "anonymous", "")


def install() -> None:
    """Have moto's buckets ask here."""
    from moto.iam.access_control import PermissionResult  # noqa: PLC0415 - moto is an extra
    from moto.s3.models import FakeBucket  # noqa: PLC0415

    if os.environ.get(ENFORCE_VARIABLE):
        # Who asks is known and was decided about; what is left are the objects of requests that delete many.
        FakeBucket.get_permission = lambda _bucket, _action, arn: PermissionResult.DENIED if is_kept(arn) else PermissionResult.NEUTRAL
        return

    def get_permission(bucket: Any, action: str, resource: str) -> Any:
        """Denied to everybody, allowed to anybody, or neither: who asks is decided elsewhere, where it is at all."""
        if bucket.policy is None:
            return PermissionResult.NEUTRAL
        try:
            policy = parse(bucket.policy)
        except MalformedPolicy:
            return PermissionResult.NEUTRAL
        context = {**context_of(_ANYBODY, now_epoch_s=time.time(), region=bucket.region_name), "aws:securetransport": "true"}
        request = Request(action, resource, bucket.account_id, context)
        if evaluate(request, root_of(bucket.account_id), policy).reason is Reason.EXPLICIT:
            return PermissionResult.DENIED
        return PermissionResult.PERMITTED if evaluate(request, _ANYBODY, policy).allowed else PermissionResult.NEUTRAL

    FakeBucket.get_permission = get_permission
