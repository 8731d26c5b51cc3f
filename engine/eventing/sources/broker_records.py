"""Messages of brokers as Lambda sees them: their records, which of them a filter takes, the events they make. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/{with-kafka-process,with-mq,kafka-filtering,with-mq-filtering}.html. Bytes in headers are Java's: signed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.eventing import patterns
from engine.eventing.sources.orders import Source, encode

# What a record carries of its own, by kind of broker: a filter may look into it.
_DATA: Mapping[str, tuple[str, ...]] = {"kafka": ("key", "value"), "rabbitmq": ("data",)}
CREATED, APPENDED = "CREATE_TIME", "LOG_APPEND_TIME"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def kafka(
    topic: str,
    partition: int,
    offset: int,
    stamp: tuple[str, int],
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes | None]],
) -> dict[str, Any]:
    """A record of Kafka; ``stamp`` is the kind of its time and the time (epoch, ms)."""
    made: dict[str, Any] = {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": stamp[1],
        "timestampType": stamp[0],
    }
    if key is not None:
        made["key"] = _base64(key)
    if value is not None:
        made["value"] = _base64(value)
    return {**made, "headers": [{name: _signed(content or b"")} for name, content in headers]}


def rabbitmq(properties: Mapping[str, Any], body: bytes, *, redelivered: bool) -> dict[str, Any]:
    """A message of RabbitMQ; ``properties`` under pika's names."""
    stamp = properties.get("timestamp")
    basic = {
        "contentType": properties.get("content_type"),
        "contentEncoding": properties.get("content_encoding"),
        "headers": {name: _header(value) for name, value in (properties.get("headers") or {}).items()},
        "deliveryMode": properties.get("delivery_mode"),
        "priority": properties.get("priority"),
        "correlationId": properties.get("correlation_id"),
        "replyTo": properties.get("reply_to"),
        "expiration": properties.get("expiration"),
        "messageId": properties.get("message_id"),
        "timestamp": None if stamp is None else _java_time(int(stamp)),
        "type": properties.get("type"),
        "userId": properties.get("user_id"),
        "appId": properties.get("app_id"),
        "clusterId": properties.get("cluster_id"),
        "bodySize": len(body),
    }
    return {"basicProperties": basic, "redelivered": redelivered, "data": _base64(body)}


def _base64(given: bytes) -> str:
    return base64.b64encode(given).decode("ascii")


def _signed(given: bytes) -> list[int]:
    return [one - 256 if one > 127 else one for one in given]


def _header(value: Any) -> Any:
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes | bytearray):
        return {"bytes": _signed(bytes(value))}
    if isinstance(value, Mapping):
        return {name: _header(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_header(one) for one in value]
    if isinstance(value, datetime):
        return _java_time(int(value.replace(tzinfo=value.tzinfo or UTC).timestamp()))
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def _java_time(at_s: int) -> str:
    """``Jan 1, 1970, 12:33:41 AM``."""
    at = datetime.fromtimestamp(at_s, UTC)
    return f"{_MONTHS[at.month - 1]} {at.day}, {at.year}, {at.hour % 12 or 12}:{at:%M:%S} {'AM' if at.hour < 12 else 'PM'}"


class Filters:
    """The filters of a mapping. Data that is of another kind than a pattern expects is left out of the comparison, as on AWS."""

    def __init__(self, kind: str, texts: Sequence[str]) -> None:
        self._kind = kind
        self._texts = texts
        self._parsed = [patterns.parse(text) for text in texts]
        self._without: dict[tuple[int, frozenset[str]], patterns.Pattern | None] = {}

    def take(self, record: Mapping[str, Any]) -> bool:
        """Whether one of them, if there are any, matches."""
        if not self._texts:
            return True
        loaded = patterns.load(encode(dict(record)))
        return isinstance(loaded, dict) and any(self._matches(n, loaded) for n in range(len(self._texts)))

    def _matches(self, n: int, record: Mapping[str, Any]) -> bool:
        seen, strange = dict(record), set()
        for name in _DATA[self._kind]:
            if name in self._parsed[n].fields:
                wanted, data = json.loads(self._texts[n])[name], _data(seen.get(name))
                if isinstance(wanted, dict) is isinstance(data, dict) and data is not None:
                    seen[name] = data
                else:
                    strange.add(name)
        pattern = self._reduced(n, frozenset(strange)) if strange else self._parsed[n]
        return pattern is None or pattern.matches(seen)

    def _reduced(self, n: int, strange: frozenset[str]) -> patterns.Pattern | None:
        """The pattern without what it says of these fields; None when that was all."""
        if (n, strange) not in self._without:
            left = {name: value for name, value in json.loads(self._texts[n]).items() if name not in strange}
            self._without[n, strange] = patterns.parse(json.dumps(left)) if left else None
        return self._without[n, strange]


def _data(encoded: Any) -> Any:
    """What the data is: a JSON object, else a string, else None."""
    if not isinstance(encoded, str):
        return None
    raw = base64.b64decode(encoded)
    try:
        found = patterns.load(raw)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def event(source: Source, records: Sequence[Mapping[str, Any]]) -> bytes:
    """The payload of a batch."""
    broker = source.broker
    if broker is None:
        raise ValueError("not a broker's")
    if broker.kind == "rabbitmq":
        return encode({"eventSource": "aws:rmq", "eventSourceArn": source.arn, "rmqMessagesByQueue": {f"{broker.topic}::{broker.group}": records}})
    around: dict[str, Any] = {"eventSource": "aws:kafka" if source.arn else "SelfManagedKafka"}
    if source.arn:
        around["eventSourceArn"] = source.arn
    by_partition: dict[str, list[Mapping[str, Any]]] = {}
    for one in records:
        by_partition.setdefault(f"{one['topic']}-{one['partition']}", []).append(one)
    return encode({**around, "bootstrapServers": ",".join(broker.servers), "records": by_partition})
