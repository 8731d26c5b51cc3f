"""What the control plane and the process that polls tell each other: one JSON document per line, down its stdin and up its stdout."""

from __future__ import annotations

from typing import Any

import msgspec


class Stream(msgspec.Struct, frozen=True):
    """What only mappings of streams have. ``since_ms``: when LATEST was, or what AT_TIMESTAMP says; limits of -1 are none.

    ``role``: the function's execution role, which events name; ``tumbling_s`` 0: no such windows; ``on_failure``: a destination's ARN.
    """

    role: str
    position: str
    since_ms: int
    parallel: int
    max_age_s: int
    max_retries: int
    bisect: bool
    tumbling_s: int
    on_failure: str | None


class Broker(msgspec.Struct, frozen=True):
    """What only mappings of brokers have. ``kind``: ``kafka`` or ``rabbitmq``; ``servers``: bootstrap servers or URLs, none: they are asked
    of MSK or Amazon MQ. ``topic``: that or a queue's name; ``group``: the consumer group, or the virtual host. ``access``: kinds and URIs.
    """

    kind: str
    servers: tuple[str, ...]
    topic: str
    group: str
    position: str | None
    since_ms: int
    access: tuple[tuple[str, str], ...]


class Lane(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far one of the parallel parts of a shard is, and the state of its tumbling window, which starts at ``window_s`` (epoch)."""

    after: str | None = None
    window_s: int | None = None
    state: dict[str, Any] | None = None


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a shard is done with: everything up to the sequence number ``after``, and by lane what is done beyond it.

    ``since_ms`` stands in while nothing was read yet. ``ended``: the shard was closed, and all of it is done.
    """

    after: str | None = None
    since_ms: int | None = None
    ended: bool = False
    lanes: dict[str, Lane] = {}


class Source(msgspec.Struct, frozen=True):
    """A mapping as it is to be polled. ``revision`` changes whenever anything else of it but ``credentials`` does.

    ``function`` is the unqualified ARN; ``arn`` that of what is polled, if it has one; ``filters`` are patterns; ``endpoint`` None means the real AWS;
    ``credentials`` (key, secret, token) None the ambient ones. ``direct``: the socket of the embedded SQS, where it may be used.
    ``min_pollers`` and ``max_pollers`` of provisioned mode; 0 without it.
    """

    mapping: str
    revision: int
    function: str
    qualifier: str | None
    arn: str
    batch_size: int
    window_s: float
    partial: bool
    max_concurrency: int | None
    filters: tuple[str, ...]
    endpoint: str | None
    credentials: tuple[str, str, str | None] | None
    stream: Stream | None = None
    direct: str | None = None
    broker: Broker | None = None
    min_pollers: int = 0
    max_pollers: int = 0

    @property
    def service(self) -> str:
        """What has the source: ``sqs``, ``kinesis``, ``dynamodb``, ``kafka``, ``rabbitmq``."""
        return self.arn.split(":")[2] if self.broker is None else self.broker.kind

    @property
    def stream_arn(self) -> str:
        """Of a consumer the stream it is a consumer of."""
        return self.arn.partition("/consumer/")[0]

    @property
    def region(self) -> str:
        return (self.arn or self.function).split(":")[3]

    @property
    def fifo(self) -> bool:
        """Whether messages have an order within their groups."""
        return self.arn.endswith(".fifo")


class Orders(msgspec.Struct, frozen=True):
    """Everything that is to be polled from now on; what is missing is not. ``engine``: where functions are invoked.

    ``checkpoints``: by mapping and shard, how far streams were read, for whoever does not read them yet. ``over_pull``: see the setting
    ``event_over_pull``.
    """

    number: int
    engine: str
    poll_s: int
    sources: tuple[Source, ...]
    checkpoints: dict[str, dict[str, Checkpoint]] = {}
    over_pull: bool = False


class Standing(msgspec.Struct, frozen=True):
    """What is polled now. ``revision``: the newest one that all threads work by; ``counts`` since the process started.

    ``result``: LastProcessingResult, of sources that have one. ``age_ms``: how old the last record of the last batch was when it was sent;
    ``lag``: how many messages of a topic are not read yet.
    """

    revision: int
    counts: dict[str, int]
    result: str | None = None
    age_ms: int | None = None
    lag: int | None = None


class Report(msgspec.Struct, frozen=True):
    """``number``: the last orders that were read; a mapping without a standing has no thread any more.

    ``checkpoints``: those that changed since the report before; None for a shard that the stream has forgotten.
    """

    number: int
    standings: dict[str, Standing]
    checkpoints: dict[str, dict[str, Checkpoint | None]] = {}


_orders = msgspec.json.Decoder(Orders)
_report = msgspec.json.Decoder(Report)


def line(document: Orders | Report) -> bytes:
    """One line."""
    return msgspec.json.encode(document) + b"\n"


def read_orders(text: bytes) -> Orders:
    """Raises msgspec.DecodeError."""
    return _orders.decode(text)


def read_report(text: bytes) -> Report:
    """Raises msgspec.DecodeError."""
    return _report.decode(text)


def event(records: list[bytes]) -> bytes:
    """The payload of a batch."""
    return b'{"Records":[' + b",".join(records) + b"]}"


def encode(record: dict[str, Any]) -> bytes:
    """A record as it stands in an event."""
    return msgspec.json.encode(record)
