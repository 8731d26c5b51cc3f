"""What the control plane and the process that polls tell each other: one JSON document per line, down its stdin and up its stdout."""

from __future__ import annotations

from typing import Any

import msgspec


class Source(msgspec.Struct, frozen=True):
    """A mapping as it is to be polled. ``revision`` changes whenever anything else of it but ``credentials`` does.

    ``function`` is the unqualified ARN; ``filters`` are patterns; ``endpoint`` None means the real AWS; ``credentials`` (key, secret,
    token) None the ambient ones.
    """

    mapping: str
    revision: int
    function: str
    qualifier: str | None
    queue: str
    batch_size: int
    window_s: int
    partial: bool
    max_concurrency: int | None
    filters: tuple[str, ...]
    endpoint: str | None
    credentials: tuple[str, str, str | None] | None

    @property
    def fifo(self) -> bool:
        """Whether messages have an order within their groups."""
        return self.queue.endswith(".fifo")


class Orders(msgspec.Struct, frozen=True):
    """Everything that is to be polled from now on; what is missing is not. ``engine``: where functions are invoked."""

    number: int
    engine: str
    poll_s: int
    sources: tuple[Source, ...]


class Standing(msgspec.Struct, frozen=True):
    """What is polled now. ``revision``: the newest one that all threads work by; ``counts`` since the process started."""

    revision: int
    counts: dict[str, int]


class Report(msgspec.Struct, frozen=True):
    """``number``: the last orders that were read; a mapping without a standing has no thread any more."""

    number: int
    standings: dict[str, Standing]


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
