"""What the control plane keeps, as values, and the ports through which it is kept. Nothing outside this package knows the database.

A ``Function`` is an aggregate: it is read and written whole, so that a change is all there or not at all. Events of asynchronous
invocations live in a queue of their own. Every write returns only after it has reached the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

LATEST = "$LATEST"


@dataclass(frozen=True, slots=True)
class Version:
    """``$LATEST`` or one published version.

    ``config`` holds the members of the API's FunctionConfiguration that somebody chose or that have defaults, under their AWS
    names. ``code_sha256`` is hexadecimal and names the package as uploaded, ``code_size`` is that package's bytes.
    ``generation`` changes with every update, even one that changes nothing; ``fingerprint`` only with the content, and a
    published version carries the one its ``$LATEST`` had. ``layers``: the content (hexadecimal SHA-256) of each layer version in
    ``config["Layers"]``, which outlives the layer version itself.
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
    layers: tuple[str, ...] = ()

    @property
    def ordinal(self) -> int:
        """Place among the function's versions: ``$LATEST`` first, then by number."""
        return 0 if self.version == LATEST else int(self.version)


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for one version. ``weights`` are the shares (0 to 1) of invocations that other versions get; the rest is ``version``'s."""

    name: str
    version: str
    description: str
    revision_id: str
    weights: Mapping[str, float] = field(default_factory=dict)


class Attachment(NamedTuple):
    """Names a document attached to a function, one of its versions or one of its aliases: what is not part of a version's
    configuration and not copied when one is published. ``qualifier`` is empty for the function itself.
    """

    kind: str
    qualifier: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """A function with all that hangs on it. ``next_version`` is the number the next published version gets; none is reused.

    ``attached`` has documents as the resource modules of ``engine.control`` define them, each kind in one of them.
    """

    account: str
    name: str
    created_ms: int
    next_version: int
    tags: Mapping[str, str]
    versions: Mapping[str, Version]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    attached: Mapping[Attachment, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def latest(self) -> Version:
        return self.versions[LATEST]

    def document(self, kind: str, qualifier: str = "") -> Mapping[str, Any] | None:
        """What is attached under this kind, or None."""
        return self.attached.get(Attachment(kind, qualifier))

    def attach(self, kind: str, qualifier: str, document: Mapping[str, Any] | None) -> Function:
        """This function with another document of the kind; None takes the document away."""
        attached = dict(self.attached)
        if document is None:
            attached.pop(Attachment(kind, qualifier), None)
        else:
            attached[Attachment(kind, qualifier)] = document
        return replace(self, attached=attached)

    def without_qualifier(self, qualifier: str) -> Function:
        """This function without a version or alias, and without what was attached to it."""
        return replace(
            self,
            versions={k: v for k, v in self.versions.items() if k != qualifier},
            aliases={k: a for k, a in self.aliases.items() if k != qualifier},
            attached={k: d for k, d in self.attached.items() if k.qualifier != qualifier},
        )


@dataclass(frozen=True, slots=True)
class LayerVersion:
    """One version of a layer: immutable but for its policy, whose changes renew ``revision_id``.

    ``runtimes`` and ``architectures`` are None when its publisher named none. ``policy`` holds statements as the API shows them.
    ``version`` is 0 until the store has numbered it.
    """

    account: str
    name: str
    version: int
    description: str
    runtimes: tuple[str, ...] | None
    architectures: tuple[str, ...] | None
    license_info: str | None
    code_sha256: str
    code_size: int
    created_ms: int
    revision_id: str
    policy: tuple[Mapping[str, Any], ...] = ()


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
    tenant: str | None = None


class Backlog(NamedTuple):
    """How much waits in the queue: events not yet done, and when the oldest of them was accepted (None when there is none)."""

    depth: int
    oldest_ms: int | None


class Queued(NamedTuple):
    """An event in the queue; ``held``: it is being run."""

    event: Event
    held: bool


class FunctionStore(Protocol):
    """Functions by account and name. Reads may come from any thread; writes are awaited on the loop. What the control plane is given
    answers from memory (``memory``); only ``stored_bytes`` and ``layer_bytes`` may block for a moment.
    """

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
        """Sum of the package sizes of every function version and layer version in the account."""
        ...

    def layer_bytes(self, account: str) -> int:
        """The part of ``stored_bytes`` that layers have."""
        ...

    def known_layer_bytes(self, account: str) -> int | None:
        """``layer_bytes`` if they were summed up since a layer changed; never blocks."""
        ...

    def count(self, account: str) -> int:
        """How many functions the account has."""
        ...

    def attached(self, account: str, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Every document of a kind in the account, by (function name, qualifier), in that order."""
        ...

    async def save(self, before: Function | None, after: Function | None, now_ms: int) -> None:
        """Replace ``before`` by ``after``; None means it did not, or shall not, exist. ``now_ms``: when code became unused."""
        ...


class CodeSigningConfig(NamedTuple):
    """A code signing configuration: the members of the API's document under their AWS names, and its tags."""

    account: str
    config_id: str
    document: Mapping[str, Any]
    tags: Mapping[str, str]


class SigningStore(Protocol):
    """Code signing configurations by account and id."""

    def get(self, account: str, config_id: str) -> CodeSigningConfig | None: ...

    def everything(self, account: str) -> list[CodeSigningConfig]:
        """All of the account, by id."""
        ...

    async def put(self, config: CodeSigningConfig) -> None:
        """Add or replace."""
        ...

    async def delete(self, account: str, config_id: str) -> None: ...


class EventSourceMapping(NamedTuple):
    """An event source mapping: the members of the API's document under their AWS names, and its tags.

    ``revision`` is another one with every change that matters to whoever polls the source.
    """

    mapping: str
    account: str
    revision: int
    document: Mapping[str, Any]
    tags: Mapping[str, str]


class MappingStore(Protocol):
    """Event source mappings by UUID. Reads block for a moment and may run in any thread; writes are awaited."""

    def get(self, mapping: str) -> EventSourceMapping | None: ...

    def everything(self) -> list[EventSourceMapping]:
        """All of them, by UUID."""
        ...

    async def put(self, mapping: EventSourceMapping) -> None:
        """Add or replace."""
        ...

    async def delete(self, mapping: str) -> None:
        """With its checkpoints."""
        ...

    def checkpoints(self, mapping: str) -> dict[str, Mapping[str, Any]]:
        """By shard, how far the mapping is."""
        ...

    async def remember(self, changes: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> None:
        """Replace checkpoints by mapping and shard; None takes one away. Those of mappings that are not there are left out."""
        ...


class LayerStore(Protocol):
    """Layer versions by account, name and number. Reads block for a moment and may run in any thread; writes are awaited."""

    def get(self, account: str, name: str, version: int) -> LayerVersion | None: ...

    def everything(self, account: str, name: str | None = None) -> Iterator[LayerVersion]:
        """All layer versions of the account or of one layer, by name, the newest first."""
        ...

    async def publish(self, layer: LayerVersion) -> LayerVersion:
        """Keep ``layer`` under the next number of its name; no number is given twice, whatever was deleted."""
        ...

    async def amend(
        self, account: str, name: str, version: int, change: Callable[[LayerVersion | None], LayerVersion]
    ) -> LayerVersion:
        """Replace the policy and revision of a layer version by what ``change`` makes of it; what ``change`` raises undoes all."""
        ...

    async def delete(self, account: str, name: str, version: int, now_ms: int) -> None:
        """Forget a layer version; unknown ones are ignored. Functions that have it keep its content."""
        ...


class EventQueue(Protocol):
    """Durable asynchronous events. A claimed event belongs to its claimer until ``settle``, ``postpone`` or the end of the lease."""

    async def enqueue(self, event: Event) -> None:
        """Keep ``event``; it survives a crash once this returns. One whose id is there already is there already."""
        ...

    def enqueue_all(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """As ``enqueue``, for many: done when all of them are kept."""
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

    async def release(self, now_ms: int) -> int:
        """End all leases: their holder is gone. How many there were. What was accepted at a later time than now (the clock was put back)
        counts as accepted now, and what is due stays as far ahead.
        """
        ...

    def listed(self, account: str | None, function: str | None, limit: int) -> list[Queued]:
        """What is in the queue, oldest first: of an account and a function, or (None) of all."""
        ...

    def find(self, request_id: str) -> Queued | None: ...

    async def hasten(self, request_ids: Sequence[str], now_ms: int) -> int:
        """Make events due now, unless they are being run; how many did."""
        ...

    async def drop(self, request_ids: Sequence[str]) -> int:
        """Forget events; how many were there. One that is being run ends, and is not run again."""
        ...

    def next_due_ms(self, full: frozenset[tuple[str, str]]) -> int | None:
        """When the next event may start that nobody holds and whose function is not in ``full``, or some time before; None when there is none."""
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

    def present(self) -> frozenset[str]:
        """Names of the trees and markers that exist."""
        ...

    def hold(self, sha256: str) -> AbstractContextManager[None]:
        """Keep the package from being collected, though nothing refers to it yet."""
        ...

    def discard(self, sha256: str) -> bool:
        """Remove what is on the disk of a package that nothing has ever referred to and nobody holds; whether it was such a one."""
        ...

    def add(self, sha256: str, data: bytes) -> None:
        """Store the package; it is on disk when this returns. Storing it again does nothing."""
        ...

    def scratch(self) -> Path:
        """A new empty directory on the same file system as the trees, for a tree being built."""
        ...

    def publish(self, sha256: str, scratch: Path, data: bytes | None = None) -> Path:
        """Make a finished scratch directory the package's tree, at once and durably; an existing tree stays. ``data``: the upload, to be
        stored as ``add`` does.
        """
        ...

    def compiled(self, sha256: str, runtime: str) -> Path:
        """A marker file beside the tree: it exists when the tree holds bytecode for ``runtime``."""
        ...

    def mentions(self, sha256: str, what: str) -> Path:
        """A marker file beside the tree: it exists when ``what`` was found in its code."""
        ...
