"""Subscriptions of log groups. Source of the event: docs.aws.amazon.com/lambda/latest/dg/services-cloudwatchlogs.html."""

from __future__ import annotations

import base64
import functools
import gzip
import sys
from collections.abc import Callable, Mapping
from typing import Any

from engine.aws.log_groups import Follower, FunctionLogs
from engine.aws.push.courier import Courier, Unreachable
from engine.core import log_patterns
from engine.core.rule_input import compact

REFUSED = "Could not execute the lambda function. Make sure you have given CloudWatch Logs permission to execute your function."
ID_DIGITS = 56


@functools.lru_cache(maxsize=1024)
def _pattern(text: str) -> Callable[[str], bool]:
    return log_patterns.parse(text)


def install(courier: Courier, logs: FunctionLogs | None = None) -> None:
    """Have log groups send what subscriptions ask for to functions of the engine; ``logs``: what functions themselves write among it."""
    from moto.logs.exceptions import InvalidParameterException, ResourceNotFoundException  # noqa: PLC0415 - moto is an extra
    from moto.logs.models import LogsBackend, LogStream  # noqa: PLC0415

    follower = None
    if logs is not None:
        follower = Follower(logs, lambda group, name, events: _offer(courier, LogStream(group, name), group.subscription_filters, events))
    put_filter, put_events = LogsBackend.put_subscription_filter, LogStream.put_log_events

    def put_subscription_filter(
        backend: Any, log_group_name: str, filter_name: str, filter_pattern: str, destination_arn: str, role_arn: str
    ) -> None:
        group = backend.groups.get(log_group_name)
        if group is None:
            raise ResourceNotFoundException
        try:
            _pattern(filter_pattern or "")
        except log_patterns.InvalidLogPattern as e:
            raise InvalidParameterException(f"Invalid filter pattern: {e}") from e
        if destination_arn.split(":")[2] != "lambda":
            put_filter(backend, log_group_name, filter_name, filter_pattern, destination_arn, role_arn)
            follow(group)
            return
        try:
            verdict = courier.check(destination_arn, _principals(backend.region_name), _source(group), group.account_id)
        except Unreachable as e:
            raise InvalidParameterException(f"The engine could not be asked about {destination_arn}: {e}") from e
        if not verdict.accepted:
            raise InvalidParameterException(REFUSED)
        group.put_subscription_filter(filter_name, filter_pattern, destination_arn, role_arn)
        follow(group)

    def follow(group: Any) -> None:
        if follower is not None:
            follower.follow(group)

    def put_log_events(stream: Any, log_events: list[dict[str, Any]]) -> Any:
        """moto's own, which sends everything to everybody, without its subscriptions; then ours, each with what it asks for."""
        group = stream.log_group
        filters = dict(group.subscription_filters)
        known = len(stream.events)
        if not filters:
            return put_events(stream, log_events)
        group.subscription_filters = {}
        try:
            token = put_events(stream, log_events)
        finally:
            group.subscription_filters = filters
        added = [{"id": f"{e.event_id:0{ID_DIGITS}d}", "timestamp": e.timestamp, "message": e.message} for e in stream.events[known:]]
        _offer(courier, stream, filters, added)
        return token

    LogsBackend.put_subscription_filter = put_subscription_filter
    LogStream.put_log_events = put_log_events


def _offer(courier: Courier, stream: Any, filters: Mapping[str, Any], events: list[dict[str, Any]]) -> None:
    """Send each subscription what it asks for."""
    for each in list(filters.values()):
        wanted = _pattern(each.filter_pattern or "")
        found = [event for event in events if wanted(event["message"])]
        if found:
            _send(courier, stream, each, found)


def _send(courier: Courier, stream: Any, subscription: Any, found: list[dict[str, Any]]) -> None:
    service = subscription.destination_arn.split(":")[2]
    if service != "lambda":
        try:
            stream._send_log_events(  # noqa: SLF001 - moto's own way with its other destinations
                service=service, destination_arn=subscription.destination_arn, filter_name=subscription.name, log_events=found
            )
        except Exception as e:  # noqa: BLE001 - moto raises a class per service; who writes and the other subscriptions have no part in it
            sys.stderr.write(
                f"embedded AWS: {_source(stream.log_group)} did not reach {subscription.destination_arn}: {type(e).__name__}: {e}\n"
            )
        return
    group = stream.log_group
    message = {
        "messageType": "DATA_MESSAGE",
        "owner": group.account_id,
        "logGroup": group.name,
        "logStream": stream.log_stream_name,
        "subscriptionFilters": [subscription.name],
        "logEvents": found,
    }
    data = base64.b64encode(gzip.compress(compact(message).encode())).decode()
    courier.send(
        subscription.destination_arn,
        compact({"awslogs": {"data": data}}),
        principal=_principals(group.region),
        source_arn=_source(group),
        source_account=group.account_id,
    )


def _principals(region: str) -> str:
    return f"logs.amazonaws.com logs.{region}.amazonaws.com"


def _source(group: Any) -> str:
    return f"arn:aws:logs:{group.region}:{group.account_id}:log-group:{group.name}:*"
