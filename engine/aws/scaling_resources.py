"""Application Auto Scaling in templates: targets with their scheduled actions, and policies, told to the service that keeps them.

Source: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_ApplicationAutoScaling.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.aws.lambda_resources import Handler, Made, Properties, Replace

_TARGET = ("ServiceNamespace", "ResourceId", "ScalableDimension")
_ACTION = ("Schedule", "Timezone", "StartTime", "EndTime")
_POLICY = ("PolicyType", "TargetTrackingScalingPolicyConfiguration", "StepScalingPolicyConfiguration", "PredictiveScalingPolicyConfiguration")
_BOUNDS = ("MinCapacity", "MaxCapacity")
_NUMBERS = frozenset((*_BOUNDS, "TargetValue", "ScaleInCooldown", "ScaleOutCooldown"))


class ScalableTargetHandler(Handler):
    """AWS::ApplicationAutoScaling::ScalableTarget. Its id joins what names it, as CloudFormation's does."""

    def create(self, name: str, properties: Properties) -> Made:
        target = _target_of(properties)
        self._register(target, {}, properties)
        known = "|".join((target["ResourceId"], target["ScalableDimension"], target["ServiceNamespace"]))
        return Made(known, known, {"Id": known})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(member) != new.get(member) for member in _TARGET):
            raise Replace
        self._register(_target_of(new), old, new)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        target = _target_of(properties)
        for action in _actions(properties):
            self._forget(target, action)
        scaling = self.clients("application-autoscaling")
        self.forgiving(scaling.deregister_scalable_target, scaling.exceptions.ClientError, **target)

    def _register(self, target: Mapping[str, str], old: Properties, new: Properties) -> None:
        scaling = self.clients("application-autoscaling")
        more = {member: new[member] for member in ("RoleARN", "SuspendedState") if new.get(member) is not None}
        scaling.register_scalable_target(**target, **_typed({member: new[member] for member in _BOUNDS}), **more)
        actions = _actions(new)
        for gone in _actions(old).keys() - actions.keys():
            self._forget(target, gone)
        for called, action in actions.items():
            arguments = {member: action[member] for member in _ACTION if action.get(member) is not None}
            bounds = _typed(action.get("ScalableTargetAction") or {})
            scaling.put_scheduled_action(**target, ScheduledActionName=called, ScalableTargetAction=bounds, **arguments)

    def _forget(self, target: Mapping[str, str], action: str) -> None:
        scaling = self.clients("application-autoscaling")
        self.forgiving(scaling.delete_scheduled_action, scaling.exceptions.ClientError, **target, ScheduledActionName=action)


class ScalingPolicyHandler(Handler):
    """AWS::ApplicationAutoScaling::ScalingPolicy, of a target named by its id or by its parts."""

    def create(self, name: str, properties: Properties) -> Made:
        arn = self._put(properties.get("PolicyName") or name, properties)
        return Made(properties.get("PolicyName") or name, arn, {"Arn": arn})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if _policy_of(old) != _policy_of(new) or old.get("PolicyName") != new.get("PolicyName"):
            raise Replace
        self._put(made.physical, new)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        scaling = self.clients("application-autoscaling")
        self.forgiving(scaling.delete_scaling_policy, scaling.exceptions.ClientError, PolicyName=made.physical, **_policy_of(properties))

    def _put(self, called: str, properties: Properties) -> str:
        settings = _typed({member: properties[member] for member in _POLICY if properties.get(member) is not None})
        answer = self.clients("application-autoscaling").put_scaling_policy(PolicyName=called, **_policy_of(properties), **settings)
        return str(answer["PolicyARN"])


def _target_of(properties: Properties) -> dict[str, str]:
    return {member: str(properties[member]) for member in _TARGET}


def _policy_of(properties: Properties) -> dict[str, str]:
    """What a policy's target is called by."""
    known = properties.get("ScalingTargetId")
    if known is None:
        return _target_of(properties)
    resource, dimension, namespace = str(known).split("|")
    return {"ServiceNamespace": namespace, "ResourceId": resource, "ScalableDimension": dimension}


def _actions(properties: Properties) -> dict[str, Properties]:
    return {str(action["ScheduledActionName"]): action for action in properties.get("ScheduledActions") or ()}


def _typed(value: Any) -> Any:
    """Templates may write numbers and truths as text; the API has them typed."""
    if not isinstance(value, Mapping):
        return value
    return {k: _scalar(k, v) if isinstance(v, str) else _typed(v) for k, v in value.items()}


def _scalar(member: str, text: str) -> Any:
    if member == "DisableScaleIn":
        return text.lower() == "true"
    if member not in _NUMBERS:
        return text
    return float(text) if member == "TargetValue" else int(text)


SCALING: Mapping[str, type[Handler]] = {
    "AWS::ApplicationAutoScaling::ScalableTarget": ScalableTargetHandler,
    "AWS::ApplicationAutoScaling::ScalingPolicy": ScalingPolicyHandler,
}
