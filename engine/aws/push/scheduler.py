"""EventBridge Scheduler: schedules with time zones, beginnings and ends.

Sources: docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html, managing-schedule-context-attributes.html. A flexible time window is used at its
beginning. The target is reached with the rights of its role, which must allow it where policies are enforced.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine import ids
from engine.aws.push import targets
from engine.aws.push.courier import Courier
from engine.aws.push.permissions import check_role
from engine.aws.push.timekeeper import Entry, Timekeeper
from engine.core import schedules
from engine.core.rule_input import compact

SCHEDULER = "scheduler.amazonaws.com"
_ATTRIBUTE = re.compile(r"<aws\.scheduler\.(schedule-arn|scheduled-time|execution-id|attempt-number)>")
_UNIVERSAL_INVOKE = "arn:aws:scheduler:::aws-sdk:lambda:invoke"


def install(courier: Courier, timekeeper: Timekeeper, *, enforce: bool) -> None:
    """Have schedules run. ``enforce``: roles must allow what is done in their name."""
    from moto.scheduler.exceptions import ValidationException  # noqa: PLC0415 - moto is an extra
    from moto.scheduler.models import EventBridgeSchedulerBackend  # noqa: PLC0415

    def checked(call: Any) -> Any:
        def check(backend: Any, **members: Any) -> Any:
            expression, zone = members["schedule_expression"], members.get("schedule_expression_timezone") or "UTC"
            try:
                schedules.parse(expression, zone)
            except schedules.InvalidSchedule as e:
                wrong = f"Invalid Schedule Expression {expression}." if "time zone" not in str(e) else f"Provided time zone {zone} is not valid."
                raise ValidationException(wrong) from e
            wrong = _wrong(members.get("target") or {}, members.get("flexible_time_window") or {})
            if wrong:
                raise ValidationException(wrong)
            return call(backend, **members)

        return check

    EventBridgeSchedulerBackend.create_schedule = checked(EventBridgeSchedulerBackend.create_schedule)
    EventBridgeSchedulerBackend.update_schedule = checked(EventBridgeSchedulerBackend.update_schedule)
    timekeeper.sources.append(functools.partial(_scheduled, courier, enforce=enforce))


def _wrong(target: Mapping[str, Any], window: Mapping[str, Any]) -> str:
    """What AWS, or whoever would have to reach the target, has against it; nothing is an empty text."""
    arn = str(target.get("Arn") or "")
    if arn.count(":") < 5 or not arn.startswith("arn:"):
        return "Provided Arn is not in correct format."
    if arn != _UNIVERSAL_INVOKE and arn.split(":")[2] not in targets.REACHED:
        return f"The embedded AWS reaches no target like {arn}: Lambda functions, SQS queues, SNS topics, state machines and {_UNIVERSAL_INVOKE} only."
    minutes = window.get("MaximumWindowInMinutes")
    if window.get("Mode") == "FLEXIBLE" and not minutes:
        return "MaximumWindowInMinutes must be provided when FlexibleTimeWindow Mode is FLEXIBLE."
    if window.get("Mode") == "OFF" and minutes:
        return "MaximumWindowInMinutes must not be provided when FlexibleTimeWindow Mode is OFF."
    return ""


def _scheduled(courier: Courier, *, enforce: bool) -> Iterator[Entry]:
    from moto.scheduler.models import scheduler_backends  # noqa: PLC0415 - moto is an extra

    for account, regions in list(scheduler_backends.items()):
        for region, backend in list(regions.items()):
            for group in list(backend.schedule_groups.values()):
                for schedule in list(group.schedules.values()):
                    if schedule.state != "ENABLED":
                        continue
                    made = schedules.parse(schedule.schedule_expression, schedule.schedule_expression_timezone)
                    begin_s = _seconds(schedule.start_date)
                    key = (
                        schedule.arn, schedule.schedule_expression, schedule.schedule_expression_timezone, begin_s, schedule.end_date,
                        schedule.creation_date,
                    )  # fmt: skip
                    yield Entry(
                        key,
                        made,
                        functools.partial(_run, courier, group, schedule, account, region, made, enforce),
                        begin_s=begin_s,
                        end_s=_seconds(schedule.end_date),
                        immediately=isinstance(made, schedules.Rate),
                    )


def _seconds(date: Any) -> float | None:
    return None if date is None else float(date)


def _run(courier: Courier, group: Any, schedule: Any, account: str, region: str, made: schedules.Schedule, enforce: bool, due_s: int) -> None:
    target = dict(schedule.target)
    if isinstance(made, schedules.At) and schedule.action_after_completion == "DELETE":
        group.schedules.pop(schedule.name, None)
    values = {
        "schedule-arn": schedule.arn,
        "scheduled-time": schedules.iso(due_s),
        "execution-id": ids.request_id(),
        "attempt-number": "1",
    }
    given = target.get("Input")
    payload = _ATTRIBUTE.sub(lambda found: values[found[1]], given) if given else _default(schedule.arn, account, region, due_s)
    if target["Arn"] == _UNIVERSAL_INVOKE:
        target, payload = _universal(target, payload, account, region)
    if enforce:
        check_role(str(target.get("RoleArn") or ""), SCHEDULER, str(target["Arn"]), region)
    targets.deliver(courier, target, payload, principal="", source_arn=schedule.arn, account=account)


def _default(arn: str, account: str, region: str, due_s: int) -> str:
    """What a target without an input is sent."""
    event = {
        "version": "0",
        "id": ids.request_id(),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": account,
        "time": schedules.iso(due_s),
        "region": region,
        "resources": [arn],
        "detail": "{}",
    }
    return compact(event)


def _universal(target: dict[str, Any], text: str, account: str, region: str) -> tuple[dict[str, Any], str]:
    """Lambda's Invoke as a universal target: its members are the input."""
    members = json.loads(text)
    name = str(members["FunctionName"])
    arn = name if name.startswith("arn:") else f"arn:aws:lambda:{region}:{account}:function:{name}"
    if members.get("Qualifier"):
        arn = f"{arn}:{members['Qualifier']}"
    payload = members.get("Payload", {})
    return {**target, "Arn": arn}, payload if isinstance(payload, str) else compact(payload)
