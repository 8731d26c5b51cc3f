"""Roles of the embedded CloudFormation's stacks, with all that their templates say. Runs in the embedded AWS's process.

moto leaves out the managed policies that a role names, keeps inline policies as something other than text, and changes nothing of a role but
its description: a template that takes a right away would not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def install() -> None:
    """Work so from now on; once per process."""
    from moto.iam.models import Role  # noqa: PLC0415 - moto is an extra

    made, deleted = Role.create_from_cloudformation_json, Role.delete_from_cloudformation_json

    def create(_cls: Any, /, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **more: Any) -> Any:
        role = made(resource_name, cloudformation_json, account_id, region_name, **more)
        try:
            _obey(role, cloudformation_json["Properties"], _backend(account_id, region_name))
        except Exception:
            _delete(resource_name, cloudformation_json, account_id, region_name)
            raise
        return role

    def update(
        _cls: Any, /, original_resource: Any, new_resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> Any:
        del new_resource_name
        properties = cloudformation_json["Properties"]
        if properties.get("RoleName", original_resource.name) != original_resource.name:
            raise NotImplementedError(f"The role {original_resource.name} cannot be given another name: name another resource so")
        _obey(original_resource, properties, _backend(account_id, region_name))
        return original_resource

    def _delete(resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str) -> None:
        backend = _backend(account_id, region_name)
        for role in [r for r in backend.roles.values() if r.name == resource_name]:
            for arn in list(role.managed_policies):
                backend.detach_role_policy(arn, role.name)
        deleted(resource_name, cloudformation_json, account_id, region_name)

    def delete(_cls: Any, /, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str) -> None:
        _delete(resource_name, cloudformation_json, account_id, region_name)

    Role.create_from_cloudformation_json = classmethod(create)
    Role.update_from_cloudformation_json = classmethod(update)
    Role.delete_from_cloudformation_json = classmethod(delete)


def _backend(account: str, region: str) -> Any:
    from moto.iam.models import iam_backends  # noqa: PLC0415
    from moto.utilities.utils import get_partition  # noqa: PLC0415

    return iam_backends[account][get_partition(region)]


def _obey(role: Any, properties: Mapping[str, Any], backend: Any) -> None:
    """Make the role what the properties say. Raises moto's NotFoundException for a managed policy that is none."""
    wanted = [str(arn) for arn in properties.get("ManagedPolicyArns") or []]
    for arn in [a for a in role.managed_policies if a not in wanted]:
        backend.detach_role_policy(arn, role.name)
    for arn in [a for a in wanted if a not in role.managed_policies]:
        backend.attach_role_policy(arn, role.name)
    inline = {str(p["PolicyName"]): _text(p["PolicyDocument"]) for p in properties.get("Policies") or []}
    # What AWS::IAM::Policy put there is another resource's: only what this one had before goes away.
    for name in [n for n in getattr(role, "stack_policies", ()) if n not in inline]:
        role.policies.pop(name, None)
    role.policies.update(inline)
    role.stack_policies = tuple(inline)
    role.assume_role_policy_document = _text(properties["AssumeRolePolicyDocument"])
    role.permissions_boundary_arn = properties.get("PermissionsBoundary", "")
    role.description = properties.get("Description", "")
    role.max_session_duration = properties.get("MaxSessionDuration", 3600)


def _text(document: Any) -> str:
    # YAML makes a date of the version.
    return document if isinstance(document, str) else json.dumps(document, default=str)
