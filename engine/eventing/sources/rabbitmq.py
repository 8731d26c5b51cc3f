"""A session with RabbitMQ: one channel that is given as many messages as a batch has, and acknowledges them when the function has run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from engine.eventing.sources import broker_records as records
from engine.eventing.sources.access import Connect, login
from engine.eventing.sources.brokers import Item, Session
from engine.eventing.sources.orders import Source, encode

TIMEOUT_S = 10.0
# What AMQP can say of a consumer's appetite.
MAX_PREFETCH = 65_535
_PROPERTIES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to", "expiration", "message_id",
    "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip


def opened(source: Source, connect: Connect, _complain: Callable[[str], None]) -> Session:
    """Raises ImportError with a sentence when the extra is not installed."""
    try:
        import pika  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError("RabbitMQ needs the extra 'mq': run pip install 'lambda-engine[mq]'") from None
    return _RabbitSession(pika, source, connect)


class _RabbitSession:
    keeps = False

    def __init__(self, pika: Any, source: Source, connect: Connect) -> None:
        broker = source.broker
        if broker is None:
            raise ValueError("not a broker's")
        servers = broker.servers or _asked(source, connect)
        found = login(source, connect)
        credentials = None if found is None else pika.PlainCredentials(found.user, found.password)
        self._connection = pika.BlockingConnection([_parameters(pika, one, broker.group, credentials) for one in servers])
        self._channel = self._connection.channel()
        self._channel.basic_qos(prefetch_count=min(2 * source.batch_size, MAX_PREFETCH))
        # Raises when there is no such queue.
        self._channel.queue_declare(broker.topic, passive=True)
        self._queue = broker.topic
        self.ready = True

    def next(self, wait_s: float) -> Item | None:
        method, properties, body = next(self._channel.consume(self._queue, inactivity_timeout=max(wait_s, 0.001)), (None, None, None))
        if method is None or body is None:
            return None
        told = {name: getattr(properties, name) for name in _PROPERTIES}
        made = records.rabbitmq(told, body, redelivered=bool(method.redelivered))
        return Item(made, method.delivery_tag, len(encode(made)))

    def done(self, items: Sequence[Item]) -> None:
        self._channel.basic_ack(max(item.handle for item in items), multiple=True)

    def failed(self, items: Sequence[Item]) -> None:
        self._channel.basic_nack(max(item.handle for item in items), multiple=True, requeue=True)
        # What was sent ahead goes back too, or it would overtake this.
        self._channel.cancel()

    def lag(self) -> int | None:
        return None

    def close(self) -> None:
        # What was not acknowledged goes back to its queue.
        if self._connection.is_open:
            self._connection.close()


def _parameters(pika: Any, server: str, host: str, credentials: Any) -> Any:
    parts = urlsplit(server)
    made = pika.URLParameters(f"{parts.scheme}://{parts.netloc}/")
    made.virtual_host = host
    if credentials is not None:
        made.credentials = credentials
    # While a function runs nobody answers heartbeats; TCP notices a broker that is gone.
    made.heartbeat = 0
    made.socket_timeout = made.blocked_connection_timeout = made.stack_timeout = TIMEOUT_S
    return made


def _asked(source: Source, connect: Connect) -> tuple[str, ...]:
    """The endpoints of an Amazon MQ broker."""
    answer = connect(source, "mq").describe_broker(BrokerId=source.arn.rpartition(":")[2])
    found = [end for one in answer.get("BrokerInstances", []) for end in one.get("Endpoints", []) if str(end).startswith("amqp")]
    if not found:
        raise ValueError(f"{source.arn} has no AMQP endpoint")
    return tuple(found)
