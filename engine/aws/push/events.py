"""Rules of event buses: patterns, inputs and schedules.

Source: docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html.
"""

from __future__ import annotations

import copy
import functools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from engine import ids
from engine.aws.push import targets
from engine.aws.push.courier import Courier
from engine.aws.push.timekeeper import Entry, Timekeeper
from engine.core import patterns, rule_input, schedules
from engine.core.rule_input import compact

PRINCIPAL = "events.amazonaws.com"
_MEMBERS = ("version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail", "replay-name")

_TESTED = ("id", "account", "source", "time", "region", "resources", "detail-type")


@functools.lru_cache(maxsize=1024)
def _pattern(text: str) -> patterns.Pattern:
    return patterns.parse(text, patterns.BUS)


def install(courier: Courier, timekeeper: Timekeeper) -> None:
    """Have rules reach functions of the engine, by the whole pattern language, and schedules run."""
    from moto.events.exceptions import InvalidEventPatternException, ValidationException  # noqa: PLC0415 - moto is an extra
    from moto.events.models import EventPattern, EventsBackend, Rule  # noqa: PLC0415
    from moto.events.responses import EventsHandler  # noqa: PLC0415

    send = Rule.send_to_targets

    def send_to_targets(rule: Any, original_event: dict[str, Any], transform_input: bool = True) -> None:
        event = _event(original_event)
        text = rule.event_pattern.dump()
        if rule.state == "DISABLED" or not text or not _pattern(text).matches(patterns.load(compact(event))):  # type: ignore[arg-type]
            return
        ingested = schedules.iso(float(original_event.get("ingestion-time") or time.time()))
        for target in list(rule.targets):
            if str(target["Arn"]).split(":")[2] in targets.REACHED:
                _deliver(courier, rule, target, event, ingested)
                continue
            if ":api-destination/" in str(target["Arn"]):
                # moto would do nothing, and say nothing.
                _say(rule, target, NotImplementedError("API destinations are not called here"))
                continue
            # moto's own way with its other kinds of targets, one by one: what one of them raises must not keep the others' events.
            alone = copy.copy(rule)
            alone.targets, alone.event_pattern = [target], EventPattern(None, {})
            try:
                send(alone, original_event, transform_input)
            except Exception as e:  # noqa: BLE001 - moto raises whatever its services do
                _say(rule, target, e)

    put = EventsBackend.put_rule

    def put_rule(backend: Any, name: str, *arguments: Any, **members: Any) -> Any:
        if members.get("event_pattern"):
            try:
                _pattern(members["event_pattern"])
            except patterns.InvalidPattern as e:
                raise InvalidEventPatternException(str(e)) from e
        if members.get("scheduled_expression"):
            try:
                schedules.parse(members["scheduled_expression"], rule=True)
            except schedules.InvalidSchedule as e:
                raise ValidationException("Parameter ScheduleExpression is not valid.") from e
        return put(backend, name, *arguments, **members)

    EventsHandler.test_event_pattern = _tested
    Rule.send_to_targets = send_to_targets
    EventsBackend.put_rule = put_rule
    timekeeper.sources.append(functools.partial(_scheduled, courier))


def _tested(handler: Any) -> str:
    """The answer of TestEventPattern, which moto leaves empty."""
    from moto.events.exceptions import InvalidEventPatternException, ValidationException  # noqa: PLC0415 - moto is an extra

    try:
        pattern = _pattern(handler._get_param("EventPattern"))  # noqa: SLF001 - moto has no other name for it
    except patterns.InvalidPattern as e:
        raise InvalidEventPatternException(str(e)) from e
    try:
        event = patterns.load(handler._get_param("Event"))  # noqa: SLF001
    except ValueError as e:
        raise ValidationException("Parameter Event is not valid.") from e
    missing = next((name for name in _TESTED if not isinstance(event, dict) or name not in event), None)
    if missing is not None or not isinstance(event, dict):
        raise ValidationException(f"Parameter Event is not valid. Reason: {missing} is missing.")
    return json.dumps({"Result": pattern.matches(event)})


def _deliver(courier: Courier, rule: Any, target: dict[str, Any], event: dict[str, Any], ingested: str) -> None:
    try:
        payload = rule_input.payload(target, event, rule.arn, rule.name, ingested)
        targets.deliver(courier, target, payload, principal=PRINCIPAL, source_arn=rule.arn, account=rule.account_id)
    except Exception as e:  # noqa: BLE001 - moto raises a class per service; the rule's other targets must get theirs
        _say(rule, target, e)


def _say(rule: Any, target: dict[str, Any], error: Exception) -> None:
    sys.stderr.write(f"embedded AWS: {rule.arn} did not reach {target['Arn']}: {type(error).__name__}: {error}\n")


def _event(given: dict[str, Any]) -> dict[str, Any]:
    """The event as EventBridge hands it on: AWS's members in AWS's order, its time as text."""
    event = {name: given[name] for name in _MEMBERS if name in given}
    at = event.get("time")
    if isinstance(at, int | float):
        event["time"] = schedules.iso(at)
    return event


def _scheduled(courier: Courier) -> Iterator[Entry]:
    """The enabled rules with a schedule, of all accounts and regions."""
    from moto.events.models import events_backends  # noqa: PLC0415 - moto is an extra

    for regions in list(events_backends.values()):
        for backend in list(regions.values()):
            for bus in list(backend.event_buses.values()):
                for rule in list(bus.rules.values()):
                    text = rule.scheduled_expression
                    if text and rule.state == "ENABLED":
                        yield Entry((rule.arn, text), schedules.parse(text, rule=True), functools.partial(_run, courier, rule))


def _run(courier: Courier, rule: Any, due_s: int) -> None:
    event = {
        "version": "0",
        "id": ids.request_id(),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": rule.account_id,
        "time": schedules.iso(due_s),
        "region": rule.region_name,
        "resources": [rule.arn],
        "detail": {},
    }
    for target in list(rule.targets):
        _deliver(courier, rule, target, event, schedules.iso(due_s))
