"""What the embedded CloudWatch Logs knows of functions' logs: its own log groups with the engine's files beside them.

Theory of operation. Groups of functions are groups like others: when they have files and are not known yet they are made, so that retention, tags and
subscriptions are the embedded service's own affair. What is asked of the events of any group is answered here, from its streams and from its files together.
Deleting a group deletes its files; a deleted stream is not shown again by this process, though its file keeps it until it is rotated away. Nothing here knows
moto but by the members of its groups and streams.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from engine.aws import log_pages
from engine.aws.log_files import ID_DIGITS, Event, GroupFiles, LogDirectory, event_id
from engine.aws.log_pages import Chunk

LOOK_S = 0.5
DAY_MS = 86_400_000
# What one message to a subscriber may hold: it must fit into an asynchronous invocation.
MAX_SENT = 1000
MAX_SENT_CHARACTERS = 150_000


class FunctionLogs:
    """Groups of the engine's ``region``. ``make`` gives a backend (an account and region) a group that it does not have."""

    def __init__(self, directory: LogDirectory, region: str, make: Callable[[Any, str], None]) -> None:
        self._directory = directory
        self._region = region
        self._make = make
        self._lock = threading.Lock()

    def bring(self, backend: Any) -> Any:
        """The backend, with every group in it that has files."""
        if backend.region_name == self._region:
            with self._lock:
                for name, files in self._directory.groups(backend.account_id).items():
                    if name not in backend.groups:
                        self._make(backend, name)
                    backend.groups[name].function_files = files
        return backend

    def files(self, group: Any) -> GroupFiles | None:
        """The files of a group, if it has some by now."""
        if group.region != self._region:
            return None
        return self._directory.groups(group.account_id).get(group.name)

    def streams(self, group: Any) -> dict[str, dict[str, Any]]:
        """The description of every stream, by name."""
        result = {name: stream.to_describe_dict() for name, stream in group.streams.items()}
        files = self.files(group)
        if files is None:
            return result
        hidden, since_ms = _hidden(group), _since_ms(group)
        for name, about in files.streams().items():
            if name not in result and about.last_ms > hidden.get(name, -1) and about.last_ms >= since_ms:
                result[name] = {
                    "logStreamName": name,
                    "creationTime": about.first_ms,
                    "firstEventTimestamp": about.first_ms,
                    "lastEventTimestamp": about.last_ms,
                    "lastIngestionTime": about.last_ms,
                    "uploadSequenceToken": "0" * ID_DIGITS,
                    "arn": f"{group.arn}:log-stream:{name}",
                    "storedBytes": 0,
                }
        return result

    def page(
        self, group: Any, start_ms: int, end_ms: int, wanted: Callable[[Event], bool], stream: str | None = None, **options: Any
    ) -> tuple[list[Event], bool]:
        """As ``log_pages.page``, of the events of these times, both included; of one stream, if it is named."""
        start_ms = max(start_ms, _since_ms(group))
        hidden = _hidden(group)
        chunks = [
            Chunk(min(times), max(times), functools.partial(_events_of, known))
            for name, known in list(group.streams.items())
            if known.events and stream in (None, name)
            for times in [[event.timestamp for event in known.events]]
        ]

        def shown(event: Event) -> bool:
            return start_ms <= event.at_ms <= end_ms and event.at_ms > hidden.get(event.stream, -1) and wanted(event)

        files = self.files(group)
        if files is None:
            return log_pages.page(chunks, shown, **options)
        with files.opened() as opened:
            for log, file in opened:
                chunks += [Chunk(b.first_ms, b.last_ms, functools.partial(log.events, file, b, stream)) for b in log.blocks(start_ms, end_ms)]
            return log_pages.page(chunks, shown, **options)

    def hide(self, group: Any, stream: str) -> bool:
        """Show nothing that a stream has so far; whether there was such a stream in the files."""
        files = self.files(group)
        about = None if files is None else files.streams().get(stream)
        if about is None:
            return False
        group.function_streams_hidden = {**_hidden(group), stream: about.last_ms}
        return True

    def forget(self, group: Any) -> None:
        """The group is deleted: what functions wrote to it goes."""
        files = self.files(group)
        if files is not None:
            files.remove()


def _hidden(group: Any) -> Mapping[str, int]:
    """Streams that were deleted, and the last time that they had by then."""
    found: Mapping[str, int] = getattr(group, "function_streams_hidden", {})
    return found


def _since_ms(group: Any) -> int:
    """What is older has been kept long enough."""
    days = group.retention_in_days
    return int(time.time() * 1000) - int(days) * DAY_MS if days else 0


def _events_of(stream: Any) -> list[Event]:
    return [Event(event_id(e.timestamp, 0, e.event_id), e.timestamp, stream.log_stream_name, e.message) for e in list(stream.events)]


Send = Callable[[Any, str, list[dict[str, Any]]], None]


class Follower:
    """Sends what functions add to groups with subscriptions: a thread that looks twice a second as long as there are any.

    ``send(group, stream name, events)`` hands events over to a group's subscribers.
    """

    def __init__(self, logs: FunctionLogs, send: Send) -> None:
        self._logs = logs
        self._send = send
        self._groups: dict[Any, dict[int, int]] = {}
        self._lock = threading.Lock()
        self._running = False

    def follow(self, group: Any) -> None:
        """Somebody subscribed: what comes from now on is sent. Idempotent."""
        with self._lock:
            if group in self._groups:
                return
            files = self._logs.files(group)
            self._groups[group] = {} if files is None else files.ends()
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="subscriptions", daemon=True).start()

    def _work(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                for group in [g for g in self._groups if not g.subscription_filters]:
                    del self._groups[group]
                if not self._groups:
                    self._running = False
                    return
                groups = dict(self._groups)
            for group, ends in groups.items():
                try:
                    self.look(group, ends)
                except Exception as e:  # noqa: BLE001 - moto raises a class per service; other groups must go on
                    sys.stderr.write(f"embedded AWS: subscriptions of {group.name} could not be served: {type(e).__name__}: {e}\n")

    def look(self, group: Any, ends: dict[int, int]) -> None:
        """Send what came since ``ends``, which are brought up to date."""
        files = self._logs.files(group)
        by_stream: dict[str, list[dict[str, Any]]] = {}
        for event in [] if files is None else files.added(ends):
            by_stream.setdefault(event.stream, []).append({"id": event.event_id, "timestamp": event.at_ms, "message": event.message})
        for stream, events in by_stream.items():
            for batch in _batches(events):
                self._send(group, stream, batch)


def _batches(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    batches: list[list[dict[str, Any]]] = []
    size = MAX_SENT_CHARACTERS + 1
    for event in events:
        size += len(event["message"])
        if size > MAX_SENT_CHARACTERS or len(batches[-1]) >= MAX_SENT:
            batches.append([])
            size = len(event["message"])
        batches[-1].append(event)
    return batches
