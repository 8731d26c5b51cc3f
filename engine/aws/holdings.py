"""What the embedded AWS has by the names in requests: ARNs, owners and policies. Runs in the embedded AWS's process; raises nothing for what is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.aws.identities import PARTITION
from engine.aws.targets import account_in, region_in


def find(account: str, region: str, kind: str, name: str) -> str | None:
    """The ARN of what a name of this kind means; for the kind ``partition-key`` the name of a table's; None for what is not there."""
    finder = _FINDERS.get(kind)
    return None if finder is None else finder(account, region, name)


def policy_of(service: str, resource: str, account: str, region: str) -> Any:
    """The document of the policy on a resource, where the embedded service keeps one, or None. ``account`` and ``region``: of the request."""
    finder = _POLICIES.get(service)
    if finder is None:
        return None
    return finder(resource, account_in(resource) or account, region_in(resource) or region)


def bucket(name: str) -> Any:
    """The bucket with this name, whosever it is, or None."""
    from moto.s3.models import s3_backends  # noqa: PLC0415 - moto is an extra

    for backends in list(s3_backends.values()):
        found = backends[PARTITION].buckets.get(name)
        if found is not None:
            return found
    return None


def _held(holders: Any, name: str) -> str | None:
    return next((str(h.arn) for h in list(holders) if h.name == name), None)


def _iam(collection: str) -> Callable[[str, str, str], str | None]:
    def finder(account: str, _region: str, name: str) -> str | None:
        from moto.iam.models import iam_backends  # noqa: PLC0415 - moto is an extra

        return _held(getattr(iam_backends[account][PARTITION], collection).values(), name)

    return finder


def _key_holder(account: str, _region: str, access_key_id: str) -> str | None:
    from moto.iam.models import iam_backends  # noqa: PLC0415 - moto is an extra

    user = iam_backends[account][PARTITION].get_user_from_access_key_id(access_key_id)
    return None if user is None else str(user.arn)


def _secret(account: str, region: str, name: str) -> Any:
    from moto.secretsmanager.models import secretsmanager_backends  # noqa: PLC0415 - moto is an extra

    return secretsmanager_backends[account][region].secrets.get(name)


def _secret_arn(account: str, region: str, name: str) -> str | None:
    secret = _secret(account, region, name)
    return None if secret is None else str(secret.arn)


def _kms_key(account: str, region: str, name: str) -> Any:
    from moto.kms.models import kms_backends  # noqa: PLC0415 - moto is an extra

    backend = kms_backends[account][region]
    try:
        return backend.keys.get(backend.any_id_to_key_id(name))
    except Exception:  # noqa: BLE001 - moto's own refusal of a name, which the operation will repeat
        return None


def _kms_arn(account: str, region: str, name: str) -> str | None:
    key = _kms_key(account, region, name)
    return None if key is None else str(key.arn)


def _partition_key(account: str, region: str, name: str) -> str | None:
    from moto.dynamodb.models import dynamodb_backends  # noqa: PLC0415 - moto is an extra

    table = dynamodb_backends[account][region].tables.get(name.rpartition("/")[2])
    return None if table is None else str(table.hash_key_attr)


def _bucket_policy(resource: str, _account: str, _region: str) -> Any:
    found = bucket(resource.rpartition(":::")[2].partition("/")[0])
    return None if found is None else found.policy


def _queue_policy(resource: str, account: str, region: str) -> Any:
    from moto.sqs.models import sqs_backends  # noqa: PLC0415 - moto is an extra

    queue = sqs_backends[account][region].queues.get(resource.rpartition(":")[2])
    return None if queue is None else queue.policy


def _topic_policy(resource: str, account: str, region: str) -> Any:
    from moto.sns.models import sns_backends  # noqa: PLC0415 - moto is an extra

    topic = sns_backends[account][region].topics.get(resource)
    return None if topic is None else topic.policy


def _secret_policy(resource: str, account: str, region: str) -> Any:
    secret = _secret(account, region, resource)
    return None if secret is None else getattr(secret, "policy", None)


def _key_policy(resource: str, account: str, region: str) -> Any:
    key = _kms_key(account, region, resource)
    return None if key is None else key.policy


_FINDERS: Mapping[str, Callable[[str, str, str], str | None]] = {
    "user": _iam("users"), "role": _iam("roles"), "group": _iam("groups"), "instance-profile": _iam("instance_profiles"),
    "policy": _iam("managed_policies"), "access-key": _key_holder, "secret": _secret_arn, "key": _kms_arn, "partition-key": _partition_key,
}  # fmt: skip
_POLICIES: Mapping[str, Callable[[str, str, str], Any]] = {
    "s3": _bucket_policy, "sqs": _queue_policy, "sns": _topic_policy, "secretsmanager": _secret_policy, "kms": _key_policy,
}  # fmt: skip
