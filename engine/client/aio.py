"""The asyncio client: many calls in flight on one connection.

Theory of operation. A call is *waiting* until its bytes are handed to an open connection, then *in flight* until its RESULT. One
connector task exists while calls wait and no connection is open; it tries with growing pauses and gives each call up once that call
has waited ``connect_timeout_s``. When a connection breaks, calls in flight fail with ConnectionLost, since they may
have run; waiting ones stay and start a connector. Calls made in the same turn of the loop leave in one write.
"""

from __future__ import annotations

import asyncio
import os
import random
from types import TracebackType
from typing import Self, cast

from engine.client.address import Address, key_for, parse
from engine.client.errors import BadArgument, CallTimeout, ConnectionLost, ServerRefused, checked
from engine.errors import WireError
from engine.wire.dialogue import ClientDialogue, Refused
from engine.wire.messages import FLAG_DRY_RUN, FLAG_EVENT, FLAG_TAIL, Call, Result, encode_call_head

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
# Payloads from this size are not joined with their head: the copy costs more than a second buffer.
BIG = 32 * 1024
_IDS = 0xFFFFFFFF


class AsyncClient:
    """A client of one engine for one event loop; ``async with`` or ``close`` it.

    ``address`` is a socket path or host:port, ``access_key`` and ``secret_key`` are for TCP with authentication. A call waits at most
    ``connect_timeout_s`` for a connection. ``events``: its calls are attempts of asynchronous invocations, which have no request rate
    (believed on the engine's own socket only). Constructing connects nothing.
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        connect_timeout_s: float = 10.0,
        events: bool = False,
    ) -> None:
        self._flags = FLAG_EVENT if events else 0
        self._address = parse(address)
        self._key = key_for(self._address, access_key, secret_key)
        self._connect_timeout_s = connect_timeout_s
        self._link: _Link | None = None
        self._connector: asyncio.Task[None] | None = None
        self._waiting: dict[int, _Pending] = {}
        self._in_flight: dict[int, _Pending] = {}
        self._abandoned: set[int] = set()
        self._next_id = 0
        self._flushing = False
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls without an answer raise ConnectionLost. Idempotent."""
        self._closed = True
        if self._connector is not None:
            self._connector.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._fail_all("the client was closed")

    async def invoke(
        self,
        function: str,
        payload: bytes = b"{}",
        *,
        qualifier: str | None = None,
        request_id: str | None = None,
        client_context: str | None = None,
        trace_id: str | None = None,
        tenant_id: str | None = None,
        log_tail: bool = False,
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> Result:
        """Invoke and wait for the answer; ``timeout_s`` None waits as long as the function may run. ``tenant_id``: whom for, of a function
        that keeps its tenants apart.

        A function that fails is a Result with ``function_error`` set. Raises ApiError when the engine refuses the call,
        ConnectionLost, CallTimeout, ServerRefused and BadArgument.
        """
        if self._closed:
            raise ConnectionLost("the client is closed", sent=False)
        loop = asyncio.get_running_loop()
        call_id = self._new_id()
        flags = self._flags | (FLAG_TAIL if log_tail else 0) | (FLAG_DRY_RUN if dry_run else 0)
        try:
            head = encode_call_head(Call(call_id, function, qualifier, flags, request_id, client_context, trace_id, payload, tenant_id))
        except (WireError, UnicodeEncodeError) as e:
            raise BadArgument(str(e)) from e
        call = _Pending(loop.create_future(), head, payload, loop.time())
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._expire, call_id, timeout_s)
        self._waiting[call_id] = call
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        try:
            return checked(await call.answer)
        except asyncio.CancelledError:
            self._forget(call_id)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _new_id(self) -> int:
        call_id = self._next_id
        while call_id in self._in_flight or call_id in self._waiting or call_id in self._abandoned:
            call_id = (call_id + 1) & _IDS
        self._next_id = (call_id + 1) & _IDS
        return call_id

    def _flush(self) -> None:
        """Send everything that waits, or see to it that there will be a connection."""
        self._flushing = False
        if not self._waiting:
            return
        link = self._link
        if link is None:
            if self._connector is None and not self._closed:
                self._connector = asyncio.get_running_loop().create_task(self._connect())
            return
        if link.paused:
            return
        pieces: list[bytes] = []
        for call in self._waiting.values():
            if len(call.payload) < BIG:
                pieces.append(call.head + call.payload)
            else:
                pieces += (call.head, call.payload)
            # A retry is never made of a call in flight: its bytes are not needed any more.
            call.head = call.payload = b""
        self._in_flight.update(self._waiting)
        self._waiting.clear()
        if len(pieces) == 1:
            link.write(pieces[0])
        else:
            link.writelines(pieces)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_S
        try:
            while self._waiting and self._link is None:
                try:
                    self._link = await _open(self._address, self._key, self, self._connect_timeout_s)
                except ServerRefused as e:
                    self._fail_waiting(e)
                    return
                except OSError as e:
                    self._give_up_old(loop.time(), e)
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads clients, hides nothing
                    pause = min(pause * 2, LONGEST_PAUSE_S)
        finally:
            self._connector = None
        self._flush()

    def _give_up_old(self, now: float, error: OSError) -> None:
        for call_id, call in list(self._waiting.items()):
            if now - call.since >= self._connect_timeout_s:
                del self._waiting[call_id]
                _fail(call, ConnectionLost(f"no connection to {self._address}: {error}", sent=False))

    def _fail_waiting(self, error: ServerRefused) -> None:
        for call in self._waiting.values():
            _fail(call, error)
        self._waiting.clear()

    def _fail_all(self, why: str) -> None:
        for calls, sent in ((self._in_flight, True), (self._waiting, False)):
            for call in calls.values():
                _fail(call, ConnectionLost(why, sent=sent))
            calls.clear()

    def _expire(self, call_id: int, timeout_s: float) -> None:
        sent = call_id in self._in_flight
        call = self._forget(call_id)
        if call is not None:
            _fail(call, CallTimeout(f"no answer within {timeout_s} s", sent=sent))

    def _forget(self, call_id: int) -> _Pending | None:
        """Stop waiting for this call; its RESULT, if it was sent, will be dropped."""
        call = self._in_flight.pop(call_id, None)
        if call is not None:
            self._abandoned.add(call_id)
            return call
        return self._waiting.pop(call_id, None)

    def received(self, results: list[Result]) -> None:
        """Results from the link. Raises WireError for one that answers no call."""
        for result in results:
            call = self._in_flight.pop(result.call_id, None)
            if call is None:
                if result.call_id not in self._abandoned:
                    raise WireError(f"a RESULT for call {result.call_id}, which is not in flight")
                self._abandoned.discard(result.call_id)
            elif not call.answer.done():
                call.answer.set_result(result)

    def writable(self) -> None:
        """The link takes bytes again."""
        self._flush()

    def lost(self, link: _Link, why: str) -> None:
        """The link is gone."""
        if link is not self._link:
            return
        self._link = None
        self._abandoned.clear()
        for call in self._in_flight.values():
            _fail(call, ConnectionLost(f"connection to {self._address} lost: {why}; the function may have run", sent=True))
        self._in_flight.clear()
        self._flush()


class _Pending:
    """A call without an answer; ``head`` and ``payload`` are kept only until they are sent."""

    __slots__ = ("answer", "head", "payload", "since")

    def __init__(self, answer: asyncio.Future[Result], head: bytes, payload: bytes, since: float) -> None:
        self.answer = answer
        self.head = head
        self.payload = payload
        self.since = since


def _fail(call: _Pending, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)


async def _open(address: Address, key: tuple[str, str] | None, owner: AsyncClient, timeout_s: float) -> _Link:
    """A connection whose handshake is done. Raises OSError when it may work later, ServerRefused when it will not."""
    loop = asyncio.get_running_loop()
    link = _Link(owner, key, loop.create_future())
    try:
        async with asyncio.timeout(timeout_s):
            if address.path is not None:
                await loop.create_unix_connection(lambda: link, address.path)
            else:
                await loop.create_connection(lambda: link, address.host, address.port)
            await link.opened
    except TimeoutError:
        link.close()
        if key is not None and link.connected:
            raise ServerRefused(
                f"{address} did not ask for a key: leave access_key out when authentication is off there"
            ) from None
        raise
    except BaseException:
        link.close()
        raise
    if link.gone:
        raise ConnectionResetError("closed right after the handshake")
    return link


class _Link(asyncio.Protocol):
    """One connection, from connecting to lost."""

    def __init__(self, owner: AsyncClient, key: tuple[str, str] | None, opened: asyncio.Future[None]) -> None:
        self._owner = owner
        self._dialogue = ClientDialogue(key)
        self._transport: asyncio.Transport | None = None
        self._why = "the server closed it"
        self.opened = opened
        self.connected = False
        self.paused = False
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What asyncio promises for a stream; uvloop's transports do not inherit from it.
        stream = cast("asyncio.Transport", transport)
        self._transport = stream
        self.connected = True
        self.write = stream.write
        self.writelines = stream.writelines
        opening = self._dialogue.opening()
        if opening:
            stream.write(opening)

    def data_received(self, data: bytes) -> None:
        dialogue = self._dialogue
        try:
            if dialogue.is_open:
                self._owner.received(dialogue.receive(data))
                return
            results = dialogue.receive(data)
            reply = dialogue.take_reply()
            if reply:
                self.write(reply)
            if dialogue.is_open and not self.opened.done():
                self.opened.set_result(None)
            if results:
                self._owner.received(results)
        except WireError as e:
            self._broken(e)

    def _broken(self, error: WireError) -> None:
        self._why = str(error)
        if not self.opened.done():
            text = str(error) if isinstance(error, Refused) else f"no engine answers there: {error}"
            self.opened.set_exception(ServerRefused(text))
        self.close()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._owner.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if exc is not None:
            self._why = str(exc)
        if not self.opened.done():
            self.opened.set_exception(ConnectionResetError(f"closed during the handshake: {self._why}"))
        self._owner.lost(self, self._why)

    def close(self) -> None:
        """Drop the connection at once. Idempotent."""
        if self.opened.done() and not self.opened.cancelled():
            self.opened.exception()  # seen, so that the loop does not report it
        if self._transport is not None:
            self._transport.abort()
