"""A session with a Kafka cluster, by librdkafka: a consumer group of one, whose offsets are committed when the function has run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from engine.eventing.sources import broker_records as records
from engine.eventing.sources.access import Connect, is_here, login
from engine.eventing.sources.brokers import Item, Session
from engine.eventing.sources.orders import Source, encode

ASK_S = 10.0
# A batch may run for fourteen minutes, and again: nobody else is in the group to wait for it.
PATIENCE_MS, SESSION_MS = 86_400_000, 10_000
_quiet = logging.getLogger("librdkafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def opened(source: Source, connect: Connect, complain: Callable[[str], None]) -> Session:
    """Raises ImportError with a sentence when the extra is not installed."""
    try:
        import confluent_kafka  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError("Kafka needs the extra 'kafka': run pip install 'lambda-engine[kafka]'") from None
    return _KafkaSession(confluent_kafka, source, connect, complain)


class _KafkaSession:
    keeps = True

    def __init__(self, library: Any, source: Source, connect: Connect, complain: Callable[[str], None]) -> None:
        broker = source.broker
        if broker is None:
            raise ValueError("not a broker's")
        self._library = library
        self._broker = broker
        self.ready = False
        self._servers = broker.servers or _asked(source, connect)
        settings = {
            "bootstrap.servers": ",".join(self._servers),
            "group.id": broker.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "max.poll.interval.ms": PATIENCE_MS,
            # What a killed poller leaves behind in its group is forgotten after this.
            "session.timeout.ms": SESSION_MS,
            "error_cb": lambda error: complain(error.str()),
            **_security(source, connect, self._servers),
        }
        self._consumer = library.Consumer(settings, logger=_quiet)
        self._consumer.subscribe([broker.topic], on_assign=self._assigned)

    def _assigned(self, consumer: Any, partitions: Sequence[Any]) -> None:
        """Begin where the group has been, else where the mapping says; that is committed, so that it is said once."""
        first = []
        for one in consumer.committed(list(partitions), timeout=ASK_S):
            if one.offset < 0:
                low, high = consumer.get_watermark_offsets(one, timeout=ASK_S)
                one.offset = high if self._broker.position == "LATEST" else low
                first.append(one)
            next(p for p in partitions if p.partition == one.partition).offset = one.offset
        if first:
            consumer.commit(offsets=first, asynchronous=False)
        consumer.assign(list(partitions))
        self.ready = True

    def next(self, wait_s: float) -> Item | None:
        message = self._consumer.poll(wait_s)
        if message is None:
            return None
        if message.error():
            raise self._library.KafkaException(message.error())
        kind, at_ms = message.timestamp()
        if self._broker.position == "AT_TIMESTAMP" and at_ms < self._broker.since_ms:
            return None
        stamp = (records.APPENDED if kind == self._library.TIMESTAMP_LOG_APPEND_TIME else records.CREATED, at_ms)
        made = records.kafka(
            message.topic(), message.partition(), message.offset(), stamp, message.key(), message.value(), message.headers() or ()
        )
        return Item(made, (message.partition(), message.offset()), len(encode(made)))

    def done(self, items: Sequence[Item]) -> None:
        ordered = sorted(item.handle for item in items)
        last = {partition: list(group)[-1][1] for partition, group in itertools.groupby(ordered, key=lambda at: at[0])}
        offsets = [self._library.TopicPartition(self._broker.topic, partition, offset + 1) for partition, offset in last.items()]
        self._consumer.commit(offsets=offsets, asynchronous=False)

    def failed(self, items: Sequence[Item]) -> None:
        """It is run again in place."""

    def part(self, item: Item) -> int:
        return int(item.handle[0])

    def hold(self, part: int) -> None:
        self._consumer.pause([self._library.TopicPartition(self._broker.topic, part)])

    def release(self, part: int) -> None:
        self._consumer.resume([self._library.TopicPartition(self._broker.topic, part)])

    def lag(self) -> int | None:
        behind = 0
        for one in self._consumer.position(self._consumer.assignment()):
            _, high = self._consumer.get_watermark_offsets(one, cached=True)
            behind += max(0, high - one.offset) if one.offset >= 0 and high >= 0 else 0
        return behind

    def close(self) -> None:
        self._consumer.close()


def _asked(source: Source, connect: Connect) -> tuple[str, ...]:
    """The brokers of an MSK cluster."""
    answer = connect(source, "kafka").get_bootstrap_brokers(ClusterArn=source.arn)
    for name in ("BootstrapBrokerStringSaslScram", "BootstrapBrokerStringTls", "BootstrapBrokerString"):
        if answer.get(name):
            return tuple(str(answer[name]).split(","))
    raise ValueError(f"{source.arn} has no brokers")


def _security(source: Source, connect: Connect, servers: Sequence[str]) -> dict[str, Any]:
    found, plain = login(source, connect), all(map(is_here, servers))
    if found is None:
        return {"security.protocol": "plaintext" if plain else "ssl"}
    return {
        "security.protocol": "sasl_plaintext" if plain else "sasl_ssl",
        "sasl.mechanism": found.mechanism,
        "sasl.username": found.user,
        "sasl.password": found.password,
    }
