"""Policies and scheduled actions of the embedded Application Auto Scaling belong to a target, as at AWS. Runs in the embedded AWS's process.

moto takes them for targets that nobody registered, keeps them when a target goes, deletes what is not there without a word, and has one error for
everything. Source: docs.aws.amazon.com/autoscaling/application/APIReference (ObjectNotFoundException).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.aws import resource_tags


def install() -> None:
    """Work so from now on, tags of targets included; once per process."""
    resource_tags.install()
    from moto.applicationautoscaling.models import ApplicationAutoscalingBackend  # noqa: PLC0415 - moto is an extra

    kind: Any = ApplicationAutoscalingBackend
    deregister = kind.deregister_scalable_target
    delete_policy = kind.delete_scaling_policy
    delete_action = kind.delete_scheduled_action

    def deregister_scalable_target(self: Any, namespace: str, r_id: str, dimension: str) -> None:
        _check_target(self, namespace, r_id, dimension)
        deregister(self, namespace, r_id, dimension)
        for policy in [p for p in self.policies.values() if (p.resource_id, p.scalable_dimension) == (r_id, dimension)]:
            delete_policy(self, policy.policy_name, namespace, r_id, dimension)
        self.scheduled_actions = [a for a in self.scheduled_actions if (a.resource_id, a.scalable_dimension) != (r_id, dimension)]

    def delete_scaling_policy(self: Any, policy_name: str, service_namespace: str, resource_id: str, scalable_dimension: str) -> None:
        names = (policy_name, resource_id, scalable_dimension)
        if not any((p.policy_name, p.resource_id, p.scalable_dimension) == names for p in self.policies.values()):
            raise _not_found("scaling policy", service_namespace, resource_id, scalable_dimension, f", policy name: {policy_name}")
        delete_policy(self, policy_name, service_namespace, resource_id, scalable_dimension)

    def delete_scheduled_action(self: Any, service_namespace: str, scheduled_action_name: str, resource_id: str, scalable_dimension: str) -> None:
        names = (scheduled_action_name, resource_id, scalable_dimension)
        if not any((a.scheduled_action_name, a.resource_id, a.scalable_dimension) == names for a in self.scheduled_actions):
            raise _not_found("scheduled action", service_namespace, resource_id, scalable_dimension, f", scheduled action name: {scheduled_action_name}")
        delete_action(self, service_namespace, scheduled_action_name, resource_id, scalable_dimension)

    kind.deregister_scalable_target = deregister_scalable_target
    kind.delete_scaling_policy = delete_scaling_policy
    kind.delete_scheduled_action = delete_scheduled_action
    kind.put_scaling_policy = _of_a_target(kind.put_scaling_policy)
    kind.put_scheduled_action = _of_a_target(kind.put_scheduled_action)


def _of_a_target(put: Callable[..., Any]) -> Callable[..., Any]:
    """For targets that are registered."""

    def checked(self: Any, **members: Any) -> Any:
        _check_target(self, members["service_namespace"], members["resource_id"], members["scalable_dimension"])
        return put(self, **members)

    return checked


def _check_target(backend: Any, namespace: str, resource: str, dimension: str) -> None:
    if resource not in backend.targets.get(dimension, ()):
        raise _not_found("scalable target", namespace, resource, dimension, "")


def _not_found(what: str, namespace: str, resource: str, dimension: str, more: str) -> Exception:
    from moto.core.exceptions import JsonRESTError  # noqa: PLC0415

    message = f"No {what} found for service namespace: {namespace}, resource ID: {resource}, scalable dimension: {dimension}{more}"
    error: Exception = JsonRESTError("ObjectNotFoundException", message)
    return error
