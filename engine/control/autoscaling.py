"""Application Auto Scaling of provisioned concurrency: obeys what clients told the service that keeps it.

Scalable targets, policies and scheduled actions are kept by whichever server plays AWS (``aws_endpoint``); here they are read once a
minute and acted on, as Lambda's side of it does: by PutProvisionedConcurrencyConfig between the target's bounds. Nothing is asked before a
client has used that service through this engine, so that the embedded AWS is not started for it.
Source: docs.aws.amazon.com/lambda/latest/dg/provisioned-concurrency.html (Application Auto Scaling)
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from engine.arn import FunctionRef
from engine.clock import Clock
from engine.control.link import ControlLink
from engine.control.provisioned import ProvisionedOperations
from engine.control.sources import Sources
from engine.core import autoscaling
from engine.core.schedules import InvalidSchedule
from engine.errors import AwsError

# Looks at what is in use, for each point of utilisation.
_SAMPLES = 6
_METRIC = "LambdaProvisionedConcurrencyUtilization"
_log = logging.getLogger(__name__)


class AutoScaler:
    """``period_s``: what counts as a minute. ``account`` and ``region``: whose functions are scaled."""

    def __init__(
        self,
        link: ControlLink,
        sources: Sources,
        operations: ProvisionedOperations,
        clock: Clock,
        *,
        account: str,
        region: str,
        period_s: float,
    ) -> None:
        self._link = link
        self._sources = sources
        self._operations = operations
        self._clock = clock
        self._account = account
        self._region = region
        self._period_s = period_s
        self._samples: dict[str, list[float]] = {}
        self._points: dict[str, deque[float]] = {}
        # When a policy last moved what, in epoch seconds.
        self._moved_s: dict[str, float] = {}
        self._looked_s = clock.epoch_ms() / 1000

    async def run(self) -> None:
        """Until cancelled."""
        count = 0
        while True:
            await asyncio.sleep(self._period_s / _SAMPLES)
            try:
                if not await self._link.query("autoscaling"):
                    continue
                known = await self._sample()
                count += 1
                if count % _SAMPLES == 0:
                    await self._evaluate(known)
            except AwsError as e:
                _log.warning("provisioned concurrency is not scaled: %s", e)
            except Exception:  # noqa: BLE001 - a server that answers nonsense must not end the loop
                _log.exception("provisioned concurrency is not scaled")

    async def _sample(self) -> dict[str, Mapping[str, Any]]:
        """Configurations by resource id; their utilisation is noted."""
        known: dict[str, Mapping[str, Any]] = {}
        for figures in await self._link.query("provisioned"):
            if figures["account"] == self._account:
                resource = f"function:{figures['name']}:{figures['qualifier']}"
                known[resource] = figures
                used = figures["in_use"] / figures["available"] if figures["available"] else 0.0
                self._samples.setdefault(resource, []).append(min(1.0, used))
        return known

    async def _evaluate(self, known: Mapping[str, Mapping[str, Any]]) -> None:
        for resource, values in self._samples.items():
            points = self._points.setdefault(resource, deque(maxlen=autoscaling.IN_POINTS))
            points.append(sum(values) / len(values))
        self._samples.clear()
        for gone in self._points.keys() - known.keys():
            del self._points[gone]
        hello = await self._link.ready()
        client = self._sources.aws(self._account, hello).client("application-autoscaling")
        until_s = self._clock.epoch_ms() / 1000
        asked = await asyncio.to_thread(_read, client, self._looked_s, until_s)
        self._looked_s = until_s
        for resource, (target, policy) in asked.items():
            current = int(known[resource]["requested"]) if resource in known else 0
            tracked = self._tracked(resource, current, target, policy, until_s) if policy is not None and current else current
            wanted = autoscaling.clamp(tracked, int(target["MinCapacity"]), int(target["MaxCapacity"]))
            if wanted != current:
                if tracked != current:
                    self._moved_s[resource] = until_s
                await self._scale(resource, current, wanted)

    def _tracked(self, resource: str, current: int, target: Mapping[str, Any], policy: Mapping[str, Any], now_s: float) -> int:
        """What target tracking makes of ``current``, unless it was told to wait or to leave it."""
        wanted = autoscaling.track(self._points.get(resource, ()), policy["TargetValue"], current)
        if wanted == current:
            return current
        way = "Out" if wanted > current else "In"
        suspended = _suspended(target, f"DynamicScaling{way}Suspended") or (way == "In" and policy.get("DisableScaleIn"))
        # Cooldowns are in seconds, of which a minute has sixty however long it takes here.
        cooldown_s = float(policy.get(f"Scale{way}Cooldown") or 0) * self._period_s / 60.0
        return current if suspended or now_s < self._moved_s.get(resource, 0.0) + cooldown_s else wanted

    async def _scale(self, resource: str, current: int, wanted: int) -> None:
        _, name, qualifier = resource.split(":")
        self._points.pop(resource, None)
        _log.info("scaling %s from %d to %d", resource, current, wanted)
        try:
            ref = FunctionRef(self._account, self._region, name)
            if wanted:
                await self._operations.provide(ref, qualifier, wanted)
            else:
                await self._operations.withdraw(ref, qualifier)
        except AwsError as e:
            _log.warning("%s cannot be scaled to %d: %s", resource, wanted, e)


def _read(client: Any, after_s: float, until_s: float) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
    """Targets and how they are tracked, by resource; scheduled actions that fell due have changed the bounds. Blocks."""
    targets = {t["ResourceId"]: t for t in _all(client.describe_scalable_targets, "ScalableTargets")}
    for action in _all(client.describe_scheduled_actions, "ScheduledActions"):
        target = targets.get(action["ResourceId"])
        if target is None or _suspended(target, "ScheduledScalingSuspended") or not _is_due(action, after_s, until_s):
            continue
        bounds = {k: v for k, v in action["ScalableTargetAction"].items() if k in ("MinCapacity", "MaxCapacity")}
        client.register_scalable_target(
            ServiceNamespace="lambda",
            ResourceId=action["ResourceId"],
            ScalableDimension=action["ScalableDimension"],
            **bounds,
        )
        target.update(bounds)
    tracked = {}
    for policy in _all(client.describe_scaling_policies, "ScalingPolicies"):
        settings = policy.get("TargetTrackingScalingPolicyConfiguration") or {}
        if (settings.get("PredefinedMetricSpecification") or {}).get("PredefinedMetricType") == _METRIC:
            tracked[policy["ResourceId"]] = settings
        else:
            _log.warning(
                "scaling policy %s of %s is not obeyed: only target tracking on %s is", policy["PolicyName"], policy["ResourceId"], _METRIC
            )
    return {resource: (target, tracked.get(resource)) for resource, target in targets.items()}


def _all(describe: Any, member: str) -> list[dict[str, Any]]:
    """Every page of a listing."""
    found: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        page = describe(ServiceNamespace="lambda", **more)
        found += page[member]
        following = {"NextToken": page["NextToken"]} if page.get("NextToken") else {}
        # The embedded server's third page is its second once more.
        if not following or following == more:
            return found
        more = following


def _suspended(target: Mapping[str, Any], what: str) -> bool:
    return bool((target.get("SuspendedState") or {}).get(what))


def _is_due(action: Mapping[str, Any], after_s: float, until_s: float) -> bool:
    start, end = action.get("StartTime"), action.get("EndTime")
    if (start is not None and until_s < start.timestamp()) or (end is not None and after_s > end.timestamp()):
        return False
    anchor = start or action.get("CreationTime")
    try:
        return autoscaling.due(
            action["Schedule"], after_s, until_s, anchor.timestamp() if anchor is not None else 0.0, action.get("Timezone") or "UTC"
        )
    except InvalidSchedule as e:
        _log.warning("scheduled action %s of %s: %s", action.get("ScheduledActionName"), action.get("ResourceId"), e)
        return False
