"""Who the embedded IAM and STS know: records (see ``engine.auth.identity``) of their access keys. Runs in the embedded AWS's process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PARTITION = "aws"
# Noted with a session: the function whose environments have its credentials.
SOURCE_FUNCTION = "source_function"
# And what it was asked for with (see engine.aws.sessions).
_NOTHING = '{"Statement":[]}'
SESSION_POLICIES, SESSION_TAGS, SOURCE_IDENTITY = "engine_session_policies", "engine_session_tags", "engine_source_identity"


def record_of(access_key_id: str) -> dict[str, Any] | None:
    """What there is to know of an access key of a user or of an assumed role; None for one that is not there or not active."""
    from moto.iam.models import iam_backends  # noqa: PLC0415 - moto is an extra

    for account, backends in list(iam_backends.items()):
        backend = backends[PARTITION]
        user = backend.get_user_from_access_key_id(access_key_id)
        if user is not None:
            return _user(account, backend, user, access_key_id)
    return _session(access_key_id)


def _user(account: str, backend: Any, user: Any, access_key_id: str) -> dict[str, Any] | None:
    key = next(k for k in user.access_keys if k.access_key_id == access_key_id)
    if key.status != "Active":
        return None
    documents = list(_documents(user))
    for group in backend.get_groups_for_user(user.name):
        documents += _documents(group)
    return {
        "access_key": access_key_id,
        "secret": key.secret_access_key,
        "token": None,
        "expires": None,
        "kind": "user",
        "arn": user.arn,
        "account": account,
        "user_id": user.id,
        "policies": documents,
        "boundary": _boundary(backend, getattr(user, "permissions_boundary_arn", None)),
        "session": None,
        "tags": tags_of(backend.list_user_tags(user.name)),
    }


def _session(access_key_id: str) -> dict[str, Any] | None:
    from moto.iam.models import iam_backends  # noqa: PLC0415 - moto is an extra
    from moto.sts.models import sts_backends  # noqa: PLC0415

    for account, backends in list(sts_backends.items()):
        found = next((r for r in backends[PARTITION].assumed_roles if r.access_key_id == access_key_id), None)
        if found is None:
            continue
        backend = iam_backends[account][PARTITION]
        role = role_of(found.role_arn)
        return {
            "access_key": access_key_id,
            "secret": found.secret_access_key,
            "token": found.session_token,
            "expires": found.expiration.timestamp(),
            "kind": "session",
            "arn": found.arn,
            "account": account,
            "user_id": found.user_id,
            "role_arn": found.role_arn,
            # A role that has since been deleted allows nothing.
            "policies": [] if role is None else list(_documents(role)),
            "boundary": None if role is None else _boundary(backend, role.permissions_boundary_arn),
            "session": [*([found.policy] if found.policy else []), *getattr(found, SESSION_POLICIES, [])] or None,
            "tags": ({} if role is None else tags_of(role.tags)) | getattr(found, SESSION_TAGS, {}),
            "source_function": getattr(found, SOURCE_FUNCTION, None),
            "source_identity": getattr(found, SOURCE_IDENTITY, None),
        }
    return None


def role_record(arn: str) -> dict[str, Any] | None:
    """What a service acts as in a role: a session without keys. None for a role that is not there."""
    role = role_of(arn)
    if role is None:
        return None
    from moto.iam.models import iam_backends  # noqa: PLC0415 - moto is an extra

    account = arn.split(":")[4]
    return {
        "kind": "session",
        "arn": arn,
        "account": account,
        "user_id": role.id,
        "role_arn": arn,
        "policies": list(_documents(role)),
        "boundary": _boundary(iam_backends[account][PARTITION], role.permissions_boundary_arn),
        "session": None,
        "tags": tags_of(role.tags),
    }


def role_of(arn: str) -> Any:
    """The role with this ARN, or None."""
    from moto.iam.models import iam_backends  # noqa: PLC0415 - moto is an extra

    account = arn.split(":")[4] if arn.count(":") >= 5 else ""
    if account not in iam_backends:
        return None
    return next((r for r in iam_backends[account][PARTITION].roles.values() if r.arn == arn), None)


def _documents(holder: Any) -> Iterator[str]:
    """The inline and attached policies of a user, role or group."""
    yield from holder.policies.values()
    for policy in holder.managed_policies.values():
        yield _default_version(policy)


def managed_policy(account: str, arn: str) -> str:
    """The document of a managed policy; of one that is not there, one that allows nothing."""
    from moto.iam.models import iam_backends  # noqa: PLC0415 - moto is an extra

    return _boundary(iam_backends[account][PARTITION], arn) or _NOTHING


def _boundary(backend: Any, arn: str | None) -> str | None:
    if not arn:
        return None
    policy = backend.managed_policies.get(arn)
    # A boundary that is not there bounds everything away.
    return _NOTHING if policy is None else _default_version(policy)


def _default_version(policy: Any) -> str:
    return str(next(v.document for v in policy.versions if v.is_default))


def tags_of(tags: Any) -> dict[str, str]:
    """Tags by name, of whatever moto or a request keeps them in."""
    listed = tags.values() if isinstance(tags, dict) else tags or []
    return {str(t["Key"]): str(t["Value"]) for t in listed if isinstance(t, dict) and "Key" in t and "Value" in t}
