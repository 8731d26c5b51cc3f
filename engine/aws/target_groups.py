"""Target groups in stacks: their targets and attributes, which moto leaves out. Runs in the embedded AWS's process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def install() -> None:
    """Teach moto's class; once per process."""
    from moto.elbv2.models import FakeTargetGroup, elbv2_backends  # noqa: PLC0415 - moto is an extra

    create = FakeTargetGroup.create_from_cloudformation_json

    def created(resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **named: Any) -> Any:
        made = create(resource_name, cloudformation_json, account_id, region_name, **named)
        _fill(elbv2_backends[account_id][region_name], made, cloudformation_json["Properties"])
        return made

    def updated(original_resource: Any, new_resource_name: str, cloudformation_json: Any, account_id: str, region_name: str) -> Any:  # noqa: ARG001 - moto's way to call it
        _fill(elbv2_backends[account_id][region_name], original_resource, cloudformation_json["Properties"])
        return original_resource

    FakeTargetGroup.create_from_cloudformation_json = staticmethod(created)
    FakeTargetGroup.update_from_cloudformation_json = staticmethod(updated)


def _fill(backend: Any, group: Any, properties: Mapping[str, Any]) -> None:
    """Register what the template names, and nothing else."""
    targets = [dict(one) for one in properties.get("Targets") or []]
    kept = {one["Id"] for one in targets}
    backend.deregister_targets(group.arn, [{"Id": name} for name in list(group.targets) if name not in kept])
    backend.register_targets(group.arn, targets)
    attributes = {one["Key"]: str(one["Value"]) for one in properties.get("TargetGroupAttributes") or []}
    if attributes:
        backend.modify_target_group_attributes(group.arn, attributes)
