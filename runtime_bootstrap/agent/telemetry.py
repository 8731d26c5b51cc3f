"""Telemetry API 2022-07-01 and the older Logs API 2020-08-15: subscriptions, buffering, delivery.

Theory of operation. Every platform event and every line of the function and of extensions comes here once, whether anybody has
subscribed or not (events of the init that come before the first subscription are kept for it). A subscription holds what it wants to hear
until its buffer's count, size or age is reached, then sends it as one HTTP POST of a JSON array, or as lines on a TCP connection. One
delivery is under way at a time; what a consumer does not take in time is dropped, and told as dropped.
Sources: docs.aws.amazon.com/lambda/latest/dg/telemetry-api.html, runtimes-logs-api.html
"""

from __future__ import annotations

import errno
import json
import socket
import time
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from runtime_bootstrap.agent.extensions import Extension, Extensions
from runtime_bootstrap.agent.http import Exchange
from runtime_bootstrap.agent.loop import READ, WRITE, Loop, Timer
from runtime_bootstrap.agent.runtime import fault

TELEMETRY = b"/2022-07-01/telemetry"
LOGS = b"/2020-08-15/logs"
_TYPES = ("platform", "function", "extension")
_SCHEMAS = {"2022-07-01": ("2022-07-01", "2022-12-13", "2025-01-29"), "2020-08-15": ("2020-08-15", "2021-03-18")}
# name: (least, most, default)
_BUFFERING = {"maxItems": (1000, 10000, 10000), "maxBytes": (262144, 1048576, 262144), "timeoutMs": (25, 30000, 1000)}
# Events that the Logs API never had, and the members that it had of others.
_NEWER = ("platform.init", "platform.restore", "platform.telemetry")
_OF_OLD = {"platform.runtimeDone": ("requestId", "status"), "platform.report": ("requestId", "metrics")}
_HOSTS = ("sandbox", "sandbox.localdomain", "localhost", "127.0.0.1")
_RESERVED_PORT = 9001
_KEPT_EARLY = 1000
# Buffers that may wait behind a slow consumer.
_MOST_BUFFERS = 4
_ATTEMPTS = 5
_RETRY_S = 0.1
_ANSWER_S = 5.0
_SLOW = "Some logs were dropped because the downstream consumer is slower than the logs production rate"


def iso(now_s: Optional[float] = None) -> str:
    """``2026-01-31T12:00:00.000Z``."""
    now_s = time.time() if now_s is None else now_s
    return "%s.%03dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)), int(now_s * 1000) % 1000)


class Invalid(Exception):
    """A subscription that cannot be taken; its text says why."""


class Subscription:
    """What one extension wants to hear, and where. Raises Invalid."""

    def __init__(self, name: str, wanted: Any, api: str) -> None:
        if not isinstance(wanted, dict):
            raise Invalid("the body must be a JSON object")
        self.name = name
        self.old = api == "2020-08-15"
        self.schema = wanted.get("schemaVersion") or _SCHEMAS[api][0]
        if self.schema not in _SCHEMAS[api]:
            raise Invalid("schemaVersion must be one of %s" % ", ".join(_SCHEMAS[api]))
        types = wanted.get("types")
        if not isinstance(types, list) or not types or any(t not in _TYPES for t in types):
            raise Invalid("types must be a non-empty array of platform, function, extension")
        self.types = list(dict.fromkeys(types))
        buffering = {} if wanted.get("buffering") is None else wanted["buffering"]
        if not isinstance(buffering, dict):
            raise Invalid("buffering must be an object")
        values = []
        for key, (least, most, default) in _BUFFERING.items():
            value = buffering.get(key, default)
            if type(value) is not int or not least <= value <= most:
                raise Invalid("buffering.%s must be a number from %d to %d" % (key, least, most))
            values.append(value)
        self.max_items, self.max_bytes, self.timeout_ms = values
        self.http, self.port, self.path = _destination(wanted.get("destination"))


def _destination(wanted: Any) -> "tuple[bool, int, str]":
    """(HTTP or TCP, port, path). Raises Invalid."""
    if not isinstance(wanted, dict):
        raise Invalid("destination must be an object")
    protocol = wanted.get("protocol")
    if protocol == "TCP":
        port = wanted.get("port")
        if type(port) is not int or not 0 < port < 65536:
            raise Invalid("destination.port must be a port number")
        path = ""
    elif protocol == "HTTP":
        try:
            parts = urlsplit(wanted.get("URI") or "")
            port = parts.port or 80
        except (ValueError, AttributeError):
            raise Invalid("destination.URI is not a URI") from None
        if parts.scheme != "http" or parts.hostname not in _HOSTS:
            raise Invalid("destination.URI must be http://sandbox.localdomain:PORT/...")
        path = parts.path or "/"
    else:
        raise Invalid("destination.protocol must be HTTP or TCP")
    if port == _RESERVED_PORT:
        raise Invalid("port %d is reserved" % port)
    return protocol == "HTTP", port, path


def _event(at: str, kind: str, record: Any) -> bytes:
    return json.dumps({"time": at, "type": kind, "record": record}, separators=(",", ":")).encode()


class Delivery:
    """One subscription at work: its buffer and its connection."""

    def __init__(self, loop: Loop, subscription: Subscription) -> None:
        self.subscription = subscription
        self._loop = loop
        self._items: "list[bytes]" = []
        self._size = 0
        self._timer: Optional[Timer] = None
        self._full: "list[bytes]" = []
        self._dropped = [0, 0]
        self._sock: Optional[socket.socket] = None
        self._out = b""
        self._attempt = 0
        self._guard: Optional[Timer] = None
        self.on_empty: "Optional[Callable[[], Any]]" = None

    @property
    def empty(self) -> bool:
        return not (self._items or self._full or self._out)

    def put(self, event: bytes) -> None:
        """One encoded event."""
        subscription = self.subscription
        if self._items and (self._size + len(event) > subscription.max_bytes or len(self._items) >= subscription.max_items):
            self.flush()
        self._items.append(event)
        self._size += len(event)
        if self._timer is None:
            self._timer = self._loop.later(subscription.timeout_ms / 1000.0, self.flush)

    def flush(self) -> None:
        """Send what is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items, self._items, self._size = self._items, [], 0
        if items:
            if self._dropped[0] and len(self._full) < _MOST_BUFFERS:
                record = {"reason": _SLOW, "droppedRecords": self._dropped[0], "droppedBytes": self._dropped[1]}
                items.append(json.dumps({"time": iso(), "type": "platform.logsDropped", "record": record}).encode())
                self._dropped = [0, 0]
            body = b"[" + b",".join(items) + b"]" if self.subscription.http else b"\n".join(items) + b"\n"
            if len(self._full) >= _MOST_BUFFERS:
                self._dropped[0] += len(items)
                self._dropped[1] += len(body)
            else:
                self._full.append(body)
        self._begin()

    def _begin(self) -> None:
        if self._out:
            return
        if not self._full:
            if not self._items and self.on_empty is not None:
                self.on_empty()
            return
        body = self._full[0]
        if self.subscription.http:
            self._close()
            head = "POST %s HTTP/1.1\r\nHost: sandbox.localdomain:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            self._out = (head % (self.subscription.path, self.subscription.port, len(body))).encode() + body
        else:
            self._out = body
        if self._sock is None:
            self._connect()
        else:
            self._loop.change(self._sock.fileno(), READ | WRITE)

    def _connect(self) -> None:
        sock = self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex(("127.0.0.1", self.subscription.port))
        if code not in (0, errno.EINPROGRESS):
            self._failed()
            return
        self._loop.watch(sock.fileno(), self._ready, READ | WRITE)
        self._guard = self._loop.later(_ANSWER_S, self._failed)

    def _ready(self, mask: int) -> None:
        sock = self._sock
        assert sock is not None
        try:
            if mask & WRITE and self._out:
                self._out = self._out[sock.send(self._out) :]
                if not self._out:
                    self._loop.change(sock.fileno(), READ)
                    if not self.subscription.http:
                        self._done()
                        return
            if mask & ~WRITE:
                data = sock.recv(65536)
                if not self.subscription.http:
                    if not data:
                        self._close()
                    return
                # Whatever it answers, it has been told.
                if data and not self._out:
                    self._done()
                elif not data:
                    self._failed()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._failed()

    def _done(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
        self._attempt = 0
        self._out = b""
        if self._full:
            self._full.pop(0)
        if self.subscription.http:
            self._close()
        self._begin()

    def _failed(self) -> None:
        self._close()
        self._out = b""
        self._attempt += 1
        if self._attempt >= _ATTEMPTS:
            self._attempt = 0
            if self._full:
                lost = self._full.pop(0)
                self._dropped[0] += lost.count(b'"type"')
                self._dropped[1] += len(lost)
            self._begin()
        else:
            self._loop.later(_RETRY_S * self._attempt, self._begin)

    def _close(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.forget(sock.fileno())
            sock.close()


class Telemetry:
    """Everything that can be subscribed to, on its way to whoever has."""

    def __init__(self, loop: Loop, extensions: Extensions, *, json_format: bool, on_subscribed: "Callable[[Subscription], Any]") -> None:
        self._loop = loop
        self._extensions = extensions
        self._json = json_format
        self._on_subscribed = on_subscribed
        self._deliveries: "dict[str, Delivery]" = {}
        self._early: "list[tuple[str, str, Any]]" = []
        # What nobody can subscribe to any more needs no keeping.
        self.closed = False

    @property
    def wanted(self) -> bool:
        """Whether events must be made at all."""
        return bool(self._deliveries) or not self.closed

    def serve(self, exchange: Exchange, body: bytes) -> bool:
        """Answer a subscription; False for another path."""
        path = exchange.path
        if exchange.method != b"PUT" or path not in (TELEMETRY, LOGS):
            return False
        api, name = ("2022-07-01", "Telemetry") if path == TELEMETRY else ("2020-08-15", "Logs")
        extension: Optional[Extension] = self._extensions.caller(exchange)
        if extension is None:
            return True
        if self.closed:
            exchange.reply(403, fault("%s.SubscriptionClosed" % name, "%s API subscription is closed" % name))
            return True
        try:
            subscription = Subscription(extension.name, json.loads(body), api)
        except (Invalid, ValueError) as e:
            kind = "ValidationError" if path == TELEMETRY else "Logs.ValidationError"
            exchange.reply(400, fault(kind, str(e)))
            return True
        exchange.reply(200, b'"OK"')
        delivery = self._deliveries[extension.name] = Delivery(self._loop, subscription)
        for at, kind, record in self._early:
            self._offer(delivery, at, kind, record)
        self._on_subscribed(subscription)
        return True

    def emit(self, kind: str, record: Any, at: Optional[str] = None) -> None:
        """One event: ``platform.*`` with its record, or ``function`` or ``extension`` with a line."""
        if not self.wanted:
            return
        at = at or iso()
        if not self.closed and len(self._early) < _KEPT_EARLY:
            self._early.append((at, kind, record))
        for delivery in self._deliveries.values():
            self._offer(delivery, at, kind, record)

    def _offer(self, delivery: Delivery, at: str, kind: str, record: Any) -> None:
        subscription = delivery.subscription
        if kind.partition(".")[0] not in subscription.types:
            return
        if subscription.old:
            if kind.startswith(_NEWER) or (kind == "platform.runtimeDone" and subscription.schema == "2020-08-15"):
                return
            if kind == "platform.report":
                delivery.put(_event(at, "platform.end", {"requestId": record["requestId"]}))
            if kind in _OF_OLD:
                record = {name: record[name] for name in _OF_OLD[kind] if name in record}
        elif self._json and subscription.schema != "2022-07-01" and isinstance(record, str) and record.startswith("{"):
            try:
                record = json.loads(record)
            except ValueError:
                pass
        delivery.put(_event(at, kind, record))

    def close(self) -> None:
        """Init is over: no more subscriptions."""
        self.closed = True
        self._early.clear()

    def flush(self) -> None:
        for delivery in self._deliveries.values():
            delivery.flush()

    def forget(self, name: str) -> None:
        """The extension has ended."""
        self._deliveries.pop(name, None)

    @property
    def empty(self) -> bool:
        """Whether everything has been delivered."""
        return all(d.empty for d in self._deliveries.values())
