"""The control plane's line to the supervisor: what can be invoked goes out, figures come back.

Theory of operation. One task keeps a connection. After each connect it says hello and replaces the supervisor's whole catalogue by a
snapshot of the store; only then is the link *open* and single changes go out. Whoever changes a function writes the store first and
pushes then, so a push lost with its connection is not lost: the next snapshot holds it. Therefore a push is tried again on the next
connection until its deadline, and applying it twice does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engine import turns
from engine.errors import ServiceError, WireError
from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.connection import CONTROL, CONTROL_LINK, Order, catalogue_event
from engine.wire.frames import MAX_CONTROL_FRAME, FrameDecoder

PUSH_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
# A supervisor that is starting listens in a moment, and everything waits for it; one that has ended takes this process along.
LONGEST_CONNECT_PAUSE_S = 0.04
# Entries in one message of a snapshot: few enough that an invocation beside it is not held up for more than a millisecond or two.
PIECE = 32
READ = 256 * 1024
Entry = Mapping[str, Any]
# Keeps the events of an EVENTS message; done when they are on the disk. Raises WireError for what is none.
TakeEvents = Callable[[list[Any]], asyncio.Future[None]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InstalledRuntime:
    """An installed runtime: absolute path of its interpreter and its full version."""

    interpreter: str
    version: str


@dataclass(frozen=True, slots=True)
class Hello:
    """What the supervisor says of itself when the link comes up.

    ``function_key`` is (access key id, secret, session token) that functions and the engine itself sign with.
    """

    runtimes: Mapping[str, InstalledRuntime]
    endpoint_url: str
    function_key: tuple[str, str, str]
    region: str
    account_id: str
    no_vpc: str = ""
    no_images: str = ""
    no_mounts: str = ""


class LinkRefused(ServiceError):
    """The supervisor would not apply a change; it keeps what it had. The writer of the change must take it back."""


class ControlLink:
    """Keeps the link from ``start`` to ``close``; for one event loop.

    ``snapshot`` returns the catalogue entries of everything stored; it may block and runs in a thread. ``on_hello`` is called on the
    loop at each connect, before the snapshot is taken. ``on_events``: who keeps the events that the supervisor accepts.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        snapshot: Callable[[], Iterable[Entry]],
        on_hello: Callable[[Hello], None] = lambda _hello: None,
        *,
        push_timeout_s: float = PUSH_TIMEOUT_S,
    ) -> None:
        self.on_events: TakeEvents | None = None
        self.hello: Hello | None = None
        self._path = os.fspath(path)
        self._snapshot = snapshot
        self._on_hello = on_hello
        self._push_timeout_s = push_timeout_s
        self._open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connection: _Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether the supervisor has the whole catalogue and takes changes."""
        return self._open.is_set()

    def start(self) -> None:
        """Connect and stay connected."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def ready(self, timeout_s: float | None = None) -> Hello:
        """What the supervisor said of itself, once the link is open.

        Raises ServiceError when it is not within ``timeout_s`` (None: the limit of a push).
        """
        if not self._open.is_set():
            limit = self._push_timeout_s if timeout_s is None else timeout_s
            try:
                async with asyncio.timeout(limit):
                    await self._open.wait()
            except TimeoutError:
                raise ServiceError(f"The supervisor could not be reached within {limit:g} s.") from None
        assert self.hello is not None  # noqa: S101 - an open link has been greeted
        return self.hello

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def put(self, entry: Entry) -> None:
        """Make the supervisor use this entry; returns once it does. Store it first.

        Raises LinkRefused when the supervisor will not have it, ServiceError when it cannot be reached in time (the next snapshot
        brings the change then).
        """
        await self._push("put", entry)

    async def delete(self, account: str, name: str) -> None:
        """Make the supervisor forget a function. Raises as ``put`` does."""
        await self._push("delete", {"account": account, "name": name})

    async def vpc(self, name: str, document: Mapping[str, Any] | None) -> str:
        """Have a VPC as the document says, or no longer; returns once it is. The answer has a line for each attachment that failed,
        ``id: reason``. Raises ServiceError when the supervisor cannot be reached in time (the next snapshot brings it then).
        """
        parts = await self._until_answered(lambda c: c.ask(m.CATALOGUE, "vpc", {"vpc": name, "document": document}))
        return str(parts[2] or "")

    async def query(self, what: str) -> Any:
        """The supervisor's answer, for example to ``stats``. Raises ServiceError when it does not come in time."""
        parts = await self._until_answered(lambda c: c.ask(m.QUERY, what))
        return msgspec.msgpack.decode(parts[2])

    async def _push(self, op: str, value: Entry) -> None:
        parts = await self._until_answered(lambda c: c.ask(m.CATALOGUE, op, value))
        if parts[2] is not None:
            raise LinkRefused(f"The supervisor refused the change: {parts[2]}")

    async def _until_answered(self, ask: Callable[[_Connection], asyncio.Future[list[Any]]]) -> list[Any]:
        try:
            async with asyncio.timeout(self._push_timeout_s):
                while True:
                    await self._open.wait()
                    connection = self._connection
                    if connection is not None:
                        with contextlib.suppress(ConnectionError):
                            return await ask(connection)
                    await asyncio.sleep(0)
        except TimeoutError:
            raise ServiceError(
                f"The supervisor did not answer within {self._push_timeout_s:g} s; a stored change takes effect when it does."
            ) from None

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except OSError:
                await asyncio.sleep(min(pause, LONGEST_CONNECT_PAUSE_S))
                pause = min(pause * 2, LONGEST_PAUSE_S)
                continue
            connection = _Connection(reader, writer, self.on_events)
            try:
                await self._serve(connection)
                pause = FIRST_PAUSE_S
            except (OSError, WireError, EOFError) as e:
                _log.warning("control link: %s", e)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            except Exception:  # noqa: BLE001 - whatever it was, the next try may do better
                _log.exception("control link: the snapshot failed; trying again")
                pause = LONGEST_PAUSE_S
            finally:
                self._open.clear()
                self._connection = None
                connection.close()
            await asyncio.sleep(pause)

    async def _serve(self, connection: _Connection) -> None:
        self.hello = _read_hello(await connection.greet())
        self._on_hello(self.hello)
        reading = asyncio.ensure_future(connection.read())
        try:
            replacing = asyncio.ensure_future(self._replace(connection))
            await asyncio.wait((reading, replacing), return_when=asyncio.FIRST_COMPLETED)
            if not replacing.done():
                replacing.cancel()
                await asyncio.wait((replacing,))
            if not reading.done():
                replacing.result()
                self._connection = connection
                self._open.set()
            await reading
        finally:
            reading.cancel()

    async def _replace(self, connection: _Connection) -> None:
        entries = await asyncio.to_thread(lambda: list(self._snapshot()))
        vpcs = [e for e in entries if "vpc" in e]
        functions = [e for e in entries if "vpc" not in e]
        acks = [connection.ask(m.CATALOGUE, "begin", None)]
        acks += [connection.ask(m.CATALOGUE, "vpc", e) for e in vpcs]
        for first in range(0, len(functions), PIECE):
            acks.append(connection.ask(m.CATALOGUE, "puts", functions[first : first + PIECE]))
            await connection.drain()
        acks.append(connection.ask(m.CATALOGUE, "commit", None))
        names = ("begin", *(e["vpc"] for e in vpcs), *["some functions"] * (len(acks) - len(vpcs) - 2), "commit")
        for name, parts in zip(names, await asyncio.gather(*acks), strict=True):
            if parts[2] is not None:
                # One function the supervisor will not have must not keep the others from running.
                _log.error("the supervisor refused %s in a snapshot: %s", name, parts[2])


class _Connection:
    """One connection: numbers questions and matches answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_events: TakeEvents | None = None) -> None:
        self._on_events = on_events
        self._reader = reader
        self._writer = writer
        self._order = Order(CONTROL_LINK, CONTROL)
        self._decoder = FrameDecoder(MAX_CONTROL_FRAME)
        self._frames: list[bytes] = []
        self._asked: dict[int, asyncio.Future[list[Any]]] = {}
        self._seq = 0
        self._lost = False

    async def greet(self) -> dict[str, Any]:
        self._order.sent(m.CLIENT_HELLO)
        self._writer.write(m.pack(m.CLIENT_HELLO, m.VERSION, {"role": "control"}))
        while not self._frames:
            self._frames = self._decoder.feed(await self._piece())
        _, version, about = shapes.read(self._frames.pop(0), m.SERVER_HELLO)
        self._order.received(m.SERVER_HELLO)
        if "error" in about:
            raise WireError(f"the supervisor refused the link: {about['error']}")
        if version != m.VERSION:
            raise WireError(f"the supervisor speaks protocol version {version}, this control plane {m.VERSION}")
        return dict(about)

    def ask(self, kind: int, what: str, *value: Any) -> asyncio.Future[list[Any]]:
        """Send a question; the future has the answer's elements, or ConnectionError when the connection ends before it."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._lost:
            future.set_exception(ConnectionResetError("the control link is down"))
            return future
        self._order.sent(catalogue_event(what) if kind == m.CATALOGUE else kind)
        self._seq += 1
        self._asked[self._seq] = future
        self._writer.write(m.pack(kind, self._seq, what, *value))
        turns.give_way()
        return future

    async def drain(self) -> None:
        await self._writer.drain()

    async def read(self) -> None:
        """Match answers until the supervisor closes. Raises OSError and WireError."""
        while True:
            frames, self._frames = self._frames, []
            for body in frames:
                parts = shapes.read(body, m.ACK, m.ANSWER, m.EVENTS)
                self._order.received(parts[0])
                if parts[0] == m.EVENTS:
                    self._keep(parts[1], parts[2])
                    continue
                future = self._asked.pop(parts[1], None)
                if future is None:
                    raise WireError(f"the supervisor answered question {parts[1]}, which was not asked")
                if not future.done():
                    future.set_result(parts)
            self._frames = self._decoder.feed(await self._piece())

    def _keep(self, seq: int, events: list[Any]) -> None:
        if self._on_events is None:
            raise WireError("nobody keeps events here")
        self._on_events(events).add_done_callback(functools.partial(self._kept, seq))

    def _kept(self, seq: int, done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            _log.error("accepted events could not be written: %s", error)
        if not self._lost and not done.cancelled():
            self._order.sent(m.ACCEPTED)
            self._writer.write(m.pack(m.ACCEPTED, seq, None if error is None else f"{type(error).__name__}: {error}"))

    async def _piece(self) -> bytes:
        data = await self._reader.read(READ)
        turns.give_way()
        if not data:
            raise EOFError("the supervisor closed the link")
        return data

    def close(self) -> None:
        self._lost = True
        self._writer.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the control link broke"))
                future.exception()
        self._asked.clear()


def _read_hello(about: Mapping[str, Any]) -> Hello:
    try:
        key = about["function_key"]
        return Hello(
            {str(k): InstalledRuntime(str(v["interpreter"]), str(v["version"])) for k, v in about["runtimes"].items()},
            str(about["endpoint_url"]),
            (str(key[0]), str(key[1]), str(key[2])),
            str(about["region"]),
            str(about["account_id"]),
            str(about.get("no_vpc", "")),
            str(about.get("no_images", "")),
            str(about.get("no_mounts", "")),
        )
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise WireError(f"the supervisor's hello is not usable: {type(e).__name__}: {e}") from e
