"""Application Auto Scaling of provisioned concurrency, minute by minute: bounds, target tracking, schedules. The clock is the test's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from engine.arn import FunctionRef
from engine.clock import ManualClock
from engine.control.autoscaling import AutoScaler
from engine.control.link import ControlLink
from engine.control.provisioned import ProvisionedOperations
from engine.control.sources import Sources
from engine.errors import InvalidParameterValue

ACCOUNT = "000000000000"
RESOURCE = "function:f:live"
DIMENSION = {"ResourceId": RESOURCE, "ScalableDimension": "lambda:function:ProvisionedConcurrency", "ServiceNamespace": "lambda"}


def tracking(target: float, **more: Any) -> dict[str, Any]:
    metric = {"PredefinedMetricSpecification": {"PredefinedMetricType": "LambdaProvisionedConcurrencyUtilization"}}
    return {"PolicyName": "p", "ResourceId": RESOURCE, "TargetTrackingScalingPolicyConfiguration": {"TargetValue": target, **metric, **more}}


class World:
    """A supervisor, the service that keeps targets, and the operations: what the scaler sees and does."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.requested = 0
        self.in_use = 0
        self.refuse = False
        self.targets: dict[str, Any] = {}
        self.policies: list[dict[str, Any]] = []
        self.actions: list[dict[str, Any]] = []
        self.scaler = AutoScaler(
            cast("ControlLink", self), cast("Sources", self), cast("ProvisionedOperations", self), self.clock,
            account=ACCOUNT, region="us-east-1", period_s=60.0,
        )  # fmt: skip

    async def query(self, what: str) -> Any:
        assert what == "provisioned"
        shown = {"account": ACCOUNT, "name": "f", "qualifier": "live", "requested": self.requested, "available": self.requested, "in_use": self.in_use}
        return [shown] if self.requested else []

    async def ready(self) -> dict[str, Any]:
        return {}

    def aws(self, _account: str, _hello: Any) -> World:
        return self

    def client(self, _service: str) -> World:
        return self

    async def provide(self, ref: FunctionRef, qualifier: str, wanted: int) -> None:
        assert (ref.name, qualifier) == ("f", "live")
        if self.refuse:
            raise InvalidParameterValue("no")
        self.requested = wanted

    async def withdraw(self, _ref: FunctionRef, _qualifier: str) -> None:
        self.requested = 0

    def describe_scheduled_actions(self, **_: Any) -> dict[str, Any]:
        return {"ScheduledActions": self.actions}

    def describe_scaling_policies(self, **_: Any) -> dict[str, Any]:
        return {"ScalingPolicies": self.policies}

    def describe_scalable_targets(self, **_: Any) -> dict[str, Any]:
        return {"ScalableTargets": [{**DIMENSION, **self.targets}] if self.targets else []}

    def register_scalable_target(self, **members: Any) -> None:
        self.targets |= {k: v for k, v in members.items() if k.endswith("Capacity")}

    async def minutes(self, number: int) -> int:
        """What is provisioned after so many minutes."""
        for _ in range(number):
            known: Any = {}
            for _ in range(6):
                self.clock.advance(10.0)
                known = await self.scaler._sample()
            await self.scaler._evaluate(known)
        return self.requested


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario(World())

    asyncio.run(whole())


def test_bounds_hold_whatever_is_used() -> None:
    async def scenario(world: World) -> None:
        assert await world.minutes(1) == 0, "nothing was asked for"
        world.targets = {"MinCapacity": 2, "MaxCapacity": 5}
        assert await world.minutes(1) == 2
        world.targets = {"MinCapacity": 0, "MaxCapacity": 1}
        assert await world.minutes(1) == 1
        world.targets = {"MinCapacity": 0, "MaxCapacity": 0}
        assert await world.minutes(1) == 0

    play(scenario)


def test_three_minutes_above_the_target_scale_out_to_the_maximum_and_fifteen_below_scale_in_to_the_minimum() -> None:
    async def scenario(world: World) -> None:
        world.targets = {"MinCapacity": 2, "MaxCapacity": 6}
        world.policies = [tracking(0.5)]
        assert await world.minutes(1) == 2
        world.in_use = 2
        assert await world.minutes(2) == 2
        assert await world.minutes(1) == 4
        # Points of another size say nothing of this one.
        world.in_use = 4
        assert await world.minutes(2) == 4
        assert await world.minutes(1) == 6
        world.in_use = 6
        assert await world.minutes(5) == 6
        world.in_use = 0
        assert await world.minutes(14) == 6
        assert await world.minutes(20) == 2

    play(scenario)


def test_nothing_is_taken_away_where_that_is_switched_off() -> None:
    async def scenario(world: World) -> None:
        world.targets = {"MinCapacity": 1, "MaxCapacity": 6}
        world.policies = [tracking(0.5, DisableScaleIn=True)]
        world.requested = 4
        assert await world.minutes(40) == 4
        world.in_use = 4
        assert await world.minutes(3) == 6

    play(scenario)


def test_scheduled_actions_move_the_bounds_when_they_fall_due_and_not_before_or_after_their_time() -> None:
    async def scenario(world: World) -> None:
        now_s = world.clock.epoch_ms() / 1000

        def at(seconds: float) -> datetime:
            return datetime.fromtimestamp(now_s + seconds, UTC)

        world.targets = {"MinCapacity": 1, "MaxCapacity": 3}
        more = {**DIMENSION, "ScalableTargetAction": {"MinCapacity": 5, "MaxCapacity": 8}, "Schedule": f"at({at(150):%Y-%m-%dT%H:%M:%S})"}
        never = {"ScalableTargetAction": {"MinCapacity": 9}, "Schedule": "rate(1 minute)", **DIMENSION}
        world.actions = [
            {**more, "ScheduledActionName": "up"},
            {**never, "ScheduledActionName": "not yet", "StartTime": at(100_000)},
            {**never, "ScheduledActionName": "no more", "EndTime": at(-100_000)},
            {**never, "ScheduledActionName": "nonsense", "Schedule": "when I like"},
        ]
        assert await world.minutes(2) == 1
        assert await world.minutes(1) == 5
        assert world.targets == {"MinCapacity": 5, "MaxCapacity": 8}
        assert await world.minutes(3) == 5

    play(scenario)


def test_what_was_suspended_waits_and_so_does_a_cooldown() -> None:
    async def scenario(world: World) -> None:
        world.targets = {"MinCapacity": 1, "MaxCapacity": 9, "SuspendedState": {"DynamicScalingOutSuspended": True, "ScheduledScalingSuspended": True}}
        world.actions = [{**DIMENSION, "ScheduledActionName": "up", "Schedule": "rate(1 minute)", "ScalableTargetAction": {"MinCapacity": 5}}]
        world.policies = [tracking(0.5, ScaleOutCooldown=600)]
        world.requested = world.in_use = 1
        assert await world.minutes(9) == 1
        del world.targets["SuspendedState"], world.actions[:]
        assert await world.minutes(1) == 2
        world.in_use = 2
        assert await world.minutes(9) == 2, "three points say out, and the cooldown lasts ten minutes"
        assert await world.minutes(1) == 4

    play(scenario)


def test_actions_at_local_times_and_of_targets_that_are_gone() -> None:
    async def scenario(world: World) -> None:
        here = datetime.fromtimestamp(world.clock.epoch_ms() / 1000 + 90, ZoneInfo("Asia/Tokyo"))
        up = {**DIMENSION, "ScheduledActionName": "up", "Schedule": f"at({here:%Y-%m-%dT%H:%M:%S})", "ScalableTargetAction": {"MinCapacity": 3, "MaxCapacity": 3}}
        world.targets = {"MinCapacity": 1, "MaxCapacity": 2}
        world.actions = [{**up, "Timezone": "Asia/Tokyo"}, {**up, "ResourceId": "function:f:gone", "Schedule": "rate(1 minute)"}]
        assert await world.minutes(1) == 1
        assert await world.minutes(1) == 3

    play(scenario)


def test_what_is_not_obeyed_and_what_fails_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.targets = {"MinCapacity": 2, "MaxCapacity": 5}
        world.policies = [{"PolicyName": "steps", "ResourceId": RESOURCE, "StepScalingPolicyConfiguration": {}}]
        world.refuse = True
        assert await world.minutes(1) == 0
        world.refuse = False
        assert await world.minutes(1) == 2

    with caplog.at_level(logging.WARNING):
        play(scenario)
    said = [r.getMessage() for r in caplog.records]
    assert f"scaling policy steps of {RESOURCE} is not obeyed: only target tracking on LambdaProvisionedConcurrencyUtilization is" in said
    assert f"{RESOURCE} cannot be scaled to 2: no" in said
