"""What a request to IAM asks for: who or what it changes or shows. Pure.

IAM's resources have paths, which a request's names do not say: they are asked for. A request that names nobody is about its caller.
Source: docs.aws.amazon.com/service-authorization/latest/reference/list_awsidentityandaccessmanagementiam.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.aws.demands import Asked, Demand

# (member, kind), the most telling first: members of groups and roles of instance profiles are not what such requests are about, nor are policies
# that are attached to somebody.
_NAMED = (
    ("GroupName", "group"), ("InstanceProfileName", "instance-profile"), ("UserName", "user"), ("RoleName", "role"), ("PolicyName", "policy"),
)  # fmt: skip
_ARNS = ("PolicySourceArn", "PolicyArn", "SAMLProviderArn", "OpenIDConnectProviderArn", "ServerCertificateArn", "Arn")
_OWN = frozenset(
    {
        "ChangePassword", "CreateAccessKey", "CreateLoginProfile", "DeleteAccessKey", "DeleteLoginProfile", "GetLoginProfile", "GetUser", "ListAccessKeys",
        "ListMFADevices", "ListSSHPublicKeys", "ListServiceSpecificCredentials", "ListSigningCertificates", "UpdateAccessKey", "UpdateLoginProfile",
    }
)  # fmt: skip
_LISTS: Mapping[str, str] = {
    "ListUsers": "user/", "ListRoles": "role/", "ListGroups": "group/", "ListPolicies": "policy/", "ListInstanceProfiles": "instance-profile/",
}  # fmt: skip


def iam(asked: Asked) -> list[Demand]:
    """At least one."""
    found: list[Demand] = [(asked.does, _resource(asked))]
    if asked.action == "AddRoleToInstanceProfile":
        found.append(("iam:PassRole", _arn(asked, "role", asked.text("RoleName"))))
    return found


def _resource(asked: Asked) -> str:
    own = f"arn:aws:iam::{asked.account}:"
    for member, kind in _NAMED:
        if asked.text(member):
            return _arn(asked, kind, asked.text(member))
    for member in _ARNS:
        if asked.text(member):
            return asked.text(member)
    if asked.action in _OWN:
        key = asked.text("AccessKeyId")
        # Whose key it is decides whose is changed.
        return (asked.find("access-key", key) if key else None) or asked.caller or f"{own}*"
    if asked.text("AWSServiceName"):
        return f"{own}role/aws-service-role/{asked.text('AWSServiceName')}/*"
    return own + _LISTS.get(asked.action, "*")


def _arn(asked: Asked, kind: str, name: str) -> str:
    """The ARN of what there is by this name, or of what would be made."""
    found = asked.find(kind, name)
    if found is not None:
        return found
    path = asked.text("Path") if asked.action == f"Create{kind.title().replace('-', '')}" else ""
    return f"arn:aws:iam::{asked.account}:{kind}{path or '/'}{name}"
