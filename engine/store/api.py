"""What the control plane keeps, as values, and the ports through which it is kept. Nothing outside this package knows the database.

A ``Function`` is an aggregate: it is read and written whole, so that a change is all there or not at all. Events of asynchronous
invocations live in a queue of their own. Every write returns only after it has reached the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

LATEST = "$LATEST"


@dataclass(frozen=True, slots=True)
class Version:
    """``$LATEST`` or one published version.

    ``config`` holds the members of the API's FunctionConfiguration that somebody chose or that have defaults, under their AWS
    names. ``code_sha256`` is hexadecimal and names the package as uploaded, ``code_size`` is that package's bytes.
    ``generation`` changes with every update, even one that changes nothing; ``fingerprint`` only with the content, and a
    published version carries the one its ``$LATEST`` had.
    """

    version: str
    config: Mapping[str, Any]
    code_sha256: str
    code_size: int
    revision_id: str
    last_modified_ms: int
    generation: str
    fingerprint: str
    preload: tuple[str, ...] = ()

    @property
    def ordinal(self) -> int:
        """Place among the function's versions: ``$LATEST`` first, then by number."""
        return 0 if self.version == LATEST else int(self.version)


@dataclass(frozen=True, slots=True)
class Function:
    """A function with all its versions. ``next_version`` is the number the next published version gets; none is reused."""

    account: str
    name: str
    created_ms: int
    next_version: int
    tags: Mapping[str, str]
    versions: Mapping[str, Version]

    @property
    def latest(self) -> Version:
        return self.versions[LATEST]


class Position(NamedTuple):
    """A place in a listing: the last item seen. Listings are ordered by name, then by ``ordinal``."""

    name: str
    ordinal: int


class Listed(NamedTuple):
    """One version in a listing, with the name of its function."""

    name: str
    version: Version


@dataclass(frozen=True, slots=True)
class Event:
    """One asynchronous invocation. Times are epoch milliseconds.

    ``request_id`` is the same for every attempt. ``failures`` counts attempts in which the function failed, ``refusals`` those
    in which it could not be run (throttled, or the platform's fault). ``due_ms`` is when the next attempt may start.
    """

    request_id: str
    account: str
    function: str
    qualifier: str | None
    payload: bytes = field(repr=False)
    first_ms: int
    due_ms: int
    failures: int = 0
    refusals: int = 0
    trace_id: str | None = None


class Backlog(NamedTuple):
    """How much waits in the queue: events not yet done, and when the oldest of them was accepted (None when there is none)."""

    depth: int
    oldest_ms: int | None


class FunctionStore(Protocol):
    """Functions by account and name. Reads block for a moment and may run in any thread; writes are awaited on the loop."""

    def get(self, account: str, name: str) -> Function | None: ...

    def everything(self) -> Iterator[Function]:
        """All functions of all accounts, by account and name."""
        ...

    def page(
        self, account: str, *, name: str | None, latest_only: bool, after: Position | None, limit: int
    ) -> list[Listed]:
        """At most ``limit`` versions after a position, of one function or (``name`` None) of the account."""
        ...

    def stored_bytes(self, account: str) -> int:
        """Sum of the package sizes of every version in the account."""
        ...

    async def save(self, before: Function | None, after: Function | None, now_ms: int) -> None:
        """Replace ``before`` by ``after``; None means it did not, or shall not, exist. ``now_ms``: when code became unused."""
        ...


class EventQueue(Protocol):
    """Durable asynchronous events. A claimed event belongs to its claimer until ``settle``, ``postpone`` or the end of the lease."""

    async def enqueue(self, event: Event) -> None:
        """Keep ``event``; it survives a crash once this returns."""
        ...

    async def claim(
        self, now_ms: int, lease_until_ms: int, limit: int, full: frozenset[tuple[str, str]]
    ) -> list[Event]:
        """At most ``limit`` due events, oldest due first, none of a function (account, name) in ``full``."""
        ...

    async def settle(self, request_id: str) -> None:
        """The event is done with, well or ill."""
        ...

    async def postpone(self, event: Event) -> None:
        """Give the event back with its new ``due_ms`` and counts."""
        ...

    async def release(self) -> int:
        """End all leases: their holder is gone. How many there were."""
        ...

    def next_due_ms(self, full: frozenset[tuple[str, str]]) -> int | None:
        """When the next event may start that nobody holds and whose function is not in ``full``; None when there is none."""
        ...

    def backlog(self) -> Backlog: ...


class CodeStore(Protocol):
    """Code packages by the SHA-256 (hexadecimal) of the uploaded bytes. All methods block."""

    def blob(self, sha256: str) -> Path:
        """Where the package as uploaded is, whether or not it exists."""
        ...

    def tree(self, sha256: str) -> Path:
        """Where the extracted package is, whether or not it exists."""
        ...

    def hold(self, sha256: str) -> AbstractContextManager[None]:
        """Keep the package from being collected, though nothing refers to it yet."""
        ...

    def add(self, sha256: str, data: bytes) -> None:
        """Store the package; it is on disk when this returns. Storing it again does nothing."""
        ...

    def scratch(self) -> Path:
        """A new empty directory on the same file system as the trees, for a tree being built."""
        ...

    def publish(self, sha256: str, scratch: Path) -> Path:
        """Make a finished scratch directory the package's tree, at once and durably; an existing tree stays."""
        ...

    def compiled(self, sha256: str, runtime: str) -> Path:
        """A marker file beside the tree: it exists when the tree holds bytecode for ``runtime``."""
        ...
