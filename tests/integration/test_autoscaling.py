"""Application Auto Scaling of provisioned concurrency, told by boto3 and kept by the embedded AWS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.framework.control import refused
from tests.framework.engine import engine
from tests.framework.frame_server import until
from tests.integration.test_provisioned import SOURCE, config, invoke

ARN = "arn:aws:lambda:us-east-1:000000000000:function:scaled"


@pytest.mark.slow
def test_bounds_target_tracking_and_schedules_move_the_configuration() -> None:
    with engine(autoscaling_period_s=0.6) as running:
        client = running.client()
        scaling = running.client("application-autoscaling")
        running.deploy("scaled", {"m.py": SOURCE}, Publish=True, Timeout=100)
        client.create_alias(FunctionName="scaled", Name="live", FunctionVersion="1")
        target = {
            "ServiceNamespace": "lambda",
            "ResourceId": "function:scaled:live",
            "ScalableDimension": "lambda:function:ProvisionedConcurrency",
        }
        action = {"ScheduledActionName": "up", "Schedule": "rate(1 minute)"}
        there = "found for service namespace: lambda, resource ID: function:scaled:live, scalable dimension: lambda:function:ProvisionedConcurrency"
        for call, more, what in (
            (scaling.deregister_scalable_target, {}, f"No scalable target {there}"),
            (scaling.put_scheduled_action, action, f"No scalable target {there}"),
            (scaling.put_scaling_policy, {"PolicyName": "p", "PolicyType": "TargetTrackingScaling"}, f"No scalable target {there}"),
            (scaling.delete_scaling_policy, {"PolicyName": "p"}, f"No scaling policy {there}, policy name: p"),
            (scaling.delete_scheduled_action, {"ScheduledActionName": "up"}, f"No scheduled action {there}, scheduled action name: up"),
        ):
            assert refused(call, **target, **more) == (400, "ObjectNotFoundException", what)
        scaling.register_scalable_target(**target, MinCapacity=2, MaxCapacity=5)
        until(lambda: bool(client.list_provisioned_concurrency_configs(FunctionName="scaled")["ProvisionedConcurrencyConfigs"]), 60)
        until(lambda: config(client, "scaled", "live") == ("READY", [2, 2, 2]), 60)

        scaling.put_scaling_policy(
            **target,
            PolicyName="track",
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration={
                "TargetValue": 0.5,
                "PredefinedMetricSpecification": {"PredefinedMetricType": "LambdaProvisionedConcurrencyUtilization"},
            },
        )
        with ThreadPoolExecutor(2) as pool:
            running_now = [pool.submit(invoke, client, "scaled", "live", True) for _ in range(2)]
            until(lambda: config(client, "scaled", "live") == ("READY", [4, 4, 4]), 60)
            client.tag_resource(Resource=ARN, Tags={"go": ""})
            assert {f.result()[0] for f in running_now} == {"provisioned-concurrency"}
        until(lambda: config(client, "scaled", "live")[1] == [2, 2, 2], 60)

        scaling.put_scheduled_action(
            **target,
            ScheduledActionName="up",
            Timezone="Asia/Tokyo",
            Schedule=f"at({datetime.now(ZoneInfo('Asia/Tokyo')) + timedelta(seconds=10):%Y-%m-%dT%H:%M:%S})",
            ScalableTargetAction={"MinCapacity": 3, "MaxCapacity": 3},
        )
        until(lambda: config(client, "scaled", "live") == ("READY", [3, 3, 3]), 90)

        scaling.deregister_scalable_target(**target)
        scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=5)
        assert scaling.describe_scaling_policies(ServiceNamespace="lambda")["ScalingPolicies"] == [], "they went with it"
        assert scaling.describe_scheduled_actions(ServiceNamespace="lambda")["ScheduledActions"] == []
