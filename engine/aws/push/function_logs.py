"""The embedded CloudWatch Logs, answering with functions' logs too. Runs in the embedded AWS's process.

Source: docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.aws import log_pages
from engine.aws.log_files import Event, LogDirectory
from engine.aws.log_groups import FunctionLogs
from engine.core import log_patterns

MAX_LISTED = 50
# How far ahead of the clock an event may be.
TOO_NEW_MS = 2 * 3600 * 1000
_ALL: Callable[[Event], bool] = lambda _event: True  # noqa: E731
NO_STREAM = "The specified log stream does not exist."
BAD_TOKEN = "The specified nextToken is invalid."  # noqa: S105 - an error's text
BOTH_PREFIX_AND_PATTERN = "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters."
BOTH_NAME_AND_ARN = "LogGroup name and LogGroup ARN are mutually exclusive parameters."


def install(root: Path, region: str) -> FunctionLogs:
    """Have moto's log groups show what functions wrote below ``root``."""
    from moto.logs import models  # noqa: PLC0415 - moto is an extra
    from moto.logs.responses import LogsResponse  # noqa: PLC0415

    logs = FunctionLogs(LogDirectory(root), region, lambda backend, name: backend.ensure_log_group(name))
    own = LogsResponse.logs_backend.fget
    LogsResponse.logs_backend = property(lambda response: logs.bring(own(response)))
    for operation in (_describe_log_groups, _describe_log_streams, _get_log_events, _filter_log_events):
        setattr(LogsResponse, operation.__name__[1:], functools.partialmethod(_answered, functools.partial(operation, logs)))
    _forget_what_is_deleted(models, logs)
    models.LogsBackend.put_log_events = _telling_what_is_rejected(models.LogsBackend.put_log_events)
    _query_files(models, logs)
    return logs


def _answered(response: Any, operation: Callable[[Any], dict[str, Any]]) -> str:
    return json.dumps({k: v for k, v in operation(response).items() if v is not None})


def _invalid(message: str) -> Exception:
    from moto.logs.exceptions import InvalidParameterException  # noqa: PLC0415

    error: Exception = InvalidParameterException(message)
    return error


def _limit(response: Any, most: int) -> int:
    limit = response._get_param("limit")  # noqa: SLF001 - as moto's own operations read their members
    if limit is None:
        return most
    if not 1 <= limit <= most:
        bound = f"less than or equal to {most}" if limit > most else "greater than or equal to 1"
        raise _invalid(f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: Member must have value {bound}")
    return int(limit)


def _group(response: Any) -> Any:
    """The group that a request names, by name or by identifier (its ARN, or again its name)."""
    from moto.logs.exceptions import ResourceNotFoundException, ValidationException  # noqa: PLC0415

    name, identifier = response._get_param("logGroupName"), response._get_param("logGroupIdentifier")  # noqa: SLF001
    if name and identifier:
        raise ValidationException(BOTH_NAME_AND_ARN)
    groups = response.logs_backend.groups
    if identifier:
        arn = re.fullmatch(r"arn:[^:]+:logs:[^:]+:\d{12}:log-group:([^:]+)(:\*)?", identifier)
        name = arn[1] if arn else identifier
    if name not in groups:
        raise ResourceNotFoundException
    return groups[name]


def _describe_log_groups(logs: FunctionLogs, response: Any) -> dict[str, Any]:
    prefix, pattern = response._get_param("logGroupNamePrefix"), response._get_param("logGroupNamePattern")  # noqa: SLF001
    if prefix and pattern:
        raise _invalid(BOTH_PREFIX_AND_PATTERN)
    limit = _limit(response, MAX_LISTED)
    after = response._get_param("nextToken") or ""  # noqa: SLF001
    groups = response.logs_backend.groups
    names = sorted(
        name
        for name in list(groups)
        if name > after and name.startswith(prefix or "") and (not pattern or pattern.lower() in name.lower())
    )
    return {
        "logGroups": [_described(logs, groups[name]) for name in names[:limit]],
        "nextToken": names[limit - 1] if len(names) > limit else None,
    }


def _described(logs: FunctionLogs, group: Any) -> dict[str, Any]:
    about = {"logGroupClass": "STANDARD", "deletionProtectionEnabled": False, **group.to_describe_dict()}
    files = logs.files(group)
    if files is not None:
        size, begun_ms = files.figures()
        about["storedBytes"] += size
        about["creationTime"] = min(about["creationTime"], begun_ms or about["creationTime"])
    return about


def _describe_log_streams(logs: FunctionLogs, response: Any) -> dict[str, Any]:
    group = _group(response)
    limit = _limit(response, MAX_LISTED)
    prefix = response._get_param("logStreamNamePrefix", "")  # noqa: SLF001
    order = response._get_param("orderBy", "LogStreamName")  # noqa: SLF001
    if order not in ("LogStreamName", "LastEventTime"):
        raise _invalid(
            f"1 validation error detected: Value '{order}' at 'orderBy' failed to satisfy constraint: "
            "Member must satisfy enum value set: [LogStreamName, LastEventTime]"
        )
    if order == "LastEventTime" and prefix:
        raise _invalid("Cannot order by LastEventTime with a logStreamNamePrefix.")
    descending = bool(response._get_param("descending", False))  # noqa: SLF001
    keyed = sorted(
        ((about.get("lastEventTimestamp", 0) if order == "LastEventTime" else 0, name), about)
        for name, about in logs.streams(group).items()
        if name.startswith(prefix)
    )
    if descending:
        keyed.reverse()
    after = response._get_param("nextToken")  # noqa: SLF001
    if after:
        at, _, name = after.partition("@")
        if not at.isdecimal() or not name:
            raise _invalid(BAD_TOKEN)
        last = (int(at), name)
        keyed = [each for each in keyed if (each[0] < last if descending else each[0] > last)]
    token = "{}@{}".format(*keyed[limit - 1][0]) if len(keyed) > limit else None
    return {"logStreams": [about for _, about in keyed[:limit]], "nextToken": token}


def _get_log_events(logs: FunctionLogs, response: Any) -> dict[str, Any]:
    from moto.logs.exceptions import ResourceNotFoundException  # noqa: PLC0415

    group = _group(response)
    stream = response._get_param("logStreamName")  # noqa: SLF001
    if stream not in group.streams and stream not in logs.streams(group):
        raise ResourceNotFoundException(NO_STREAM)
    limit = _limit(response, log_pages.MAX_EVENTS)
    start_ms = response._get_param("startTime") or 0  # noqa: SLF001
    end_ms = response._get_param("endTime")  # noqa: SLF001
    text = response._get_param("nextToken")  # noqa: SLF001
    given = log_pages.place(text) if text else None
    if text and given is None:
        raise _invalid(BAD_TOKEN)
    options: dict[str, Any] = {"newest": not response._get_param("startFromHead", False)}  # noqa: SLF001
    if given is not None:
        direction, at = given
        options = {"newest": False, "after": at} if direction == "f" else {"newest": True, "before": at}
    # The end is not included, unlike FilterLogEvents'.
    until_ms = log_pages.FOREVER_MS if end_ms is None else int(end_ms) - 1
    found, _ = logs.page(group, int(start_ms), until_ms, _ALL, stream, limit=limit, **options)
    edge = given[1] if given is not None else log_pages.FIRST
    return {
        "events": [{"timestamp": e.at_ms, "message": e.message, "ingestionTime": e.at_ms} for e in found],
        "nextForwardToken": log_pages.token("f", found[-1].event_id if found else edge),
        "nextBackwardToken": log_pages.token("b", found[0].event_id if found else edge),
    }


def _filter_log_events(logs: FunctionLogs, response: Any) -> dict[str, Any]:
    group = _group(response)
    limit = _limit(response, log_pages.MAX_EVENTS)
    names, prefix = response._get_param("logStreamNames") or [], response._get_param("logStreamNamePrefix")  # noqa: SLF001
    if names and prefix:
        raise _invalid("logStreamNames and logStreamNamePrefix are mutually exclusive parameters.")
    try:
        test = log_patterns.parse(response._get_param("filterPattern") or "")  # noqa: SLF001
    except log_patterns.InvalidLogPattern as e:
        raise _invalid(f"Invalid filter pattern: {e}") from e
    text = response._get_param("nextToken")  # noqa: SLF001
    after = log_pages.FIRST
    if text:
        given = log_pages.place(text)
        if given is None:
            raise _invalid(BAD_TOKEN)
        after = given[1]
    chosen = frozenset(names)

    def wanted(event: Event) -> bool:
        return (not chosen or event.stream in chosen) and (not prefix or event.stream.startswith(prefix)) and test(event.message)

    start_ms, end_ms = response._get_param("startTime") or 0, response._get_param("endTime")  # noqa: SLF001
    if after != log_pages.FIRST:
        start_ms = max(int(start_ms), int(after[:14]))
    until_ms = log_pages.FOREVER_MS if end_ms is None else int(end_ms)
    only = names[0] if len(names) == 1 else None
    found, more = logs.page(group, int(start_ms), until_ms, wanted, only, after=after, limit=limit)
    return {
        "events": [
            {"logStreamName": e.stream, "timestamp": e.at_ms, "message": e.message, "ingestionTime": e.at_ms, "eventId": e.event_id}
            for e in found
        ],
        "searchedLogStreams": [],
        "nextToken": log_pages.token("f", found[-1].event_id) if more else None,
    }


def _telling_what_is_rejected(put_events: Callable[..., tuple[str, dict[str, int]]]) -> Callable[..., tuple[str, dict[str, int]]]:
    """moto says which event was the last too old one, where the API has the one behind it, and the last too new one in place of the first."""

    @functools.wraps(put_events)
    def put_log_events(backend: Any, log_group_name: str, log_stream_name: str, log_events: list[dict[str, Any]]) -> tuple[str, dict[str, int]]:
        newest = time.time() * 1000 + TOO_NEW_MS
        token, rejected = put_events(backend, log_group_name, log_stream_name, log_events)
        if "tooOldLogEventEndIndex" in rejected:
            rejected["tooOldLogEventEndIndex"] += 1
        if "tooNewLogEventStartIndex" in rejected:
            known = rejected["tooNewLogEventStartIndex"]
            rejected["tooNewLogEventStartIndex"] = next((n for n, event in enumerate(log_events) if event["timestamp"] > newest), known)
        return token, rejected

    return put_log_events


def _forget_what_is_deleted(models: Any, logs: FunctionLogs) -> None:
    """Deleting groups and streams deletes what functions wrote to them."""
    from moto.logs.exceptions import ResourceNotFoundException  # noqa: PLC0415

    delete_group, delete_stream = models.LogsBackend.delete_log_group, models.LogGroup.delete_log_stream

    def delete_log_group(backend: Any, log_group_name: str) -> None:
        group = backend.groups.get(log_group_name)
        if group is not None:
            logs.forget(group)
            # Whoever follows it sees that nobody subscribes any more.
            group.subscription_filters.clear()
        delete_group(backend, log_group_name)

    def delete_log_stream(group: Any, log_stream_name: str) -> None:
        hidden = logs.hide(group, log_stream_name)
        if log_stream_name in group.streams:
            delete_stream(group, log_stream_name)
        elif not hidden:
            raise ResourceNotFoundException(NO_STREAM)

    models.LogsBackend.delete_log_group = delete_log_group
    models.LogGroup.delete_log_stream = delete_log_stream


def _query_files(models: Any, logs: FunctionLogs) -> None:
    """Queries (Insights) read functions' logs too, up to the most events that a page may have."""
    execute = models.execute_query

    def execute_query(log_groups: list[Any], query: str, start_time: int, end_time: int) -> Any:
        until_ms = (end_time or log_pages.FOREVER_MS // 1000) * 1000
        whole = []
        for group in log_groups:
            found, _ = logs.page(group, (start_time or 0) * 1000, until_ms, _ALL, newest=True)
            streams: dict[str, Any] = {}
            for event in found:
                stream = streams.setdefault(event.stream, SimpleNamespace(log_stream_name=event.stream, events=[]))
                stream.events.append(SimpleNamespace(timestamp=event.at_ms, message=event.message, event_id=event.event_id))
            whole.append(SimpleNamespace(name=group.name, streams=streams))
        return execute(log_groups=whole, query=query, start_time=start_time, end_time=end_time)

    models.execute_query = execute_query
