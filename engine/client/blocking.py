"""The blocking client: one call per connection at a time, connections kept for the next call.

Threads may share a client: each call takes a kept connection or opens one, so as many calls run at once as threads call.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from types import TracebackType
from typing import Self

from engine.client.address import key_for, parse
from engine.client.aio import BIG, FIRST_PAUSE_S, LONGEST_PAUSE_S
from engine.client.errors import BadArgument, CallTimeout, ConnectionLost, ServerRefused, checked
from engine.errors import WireError
from engine.wire.dialogue import ClientDialogue, Refused
from engine.wire.messages import FLAG_DRY_RUN, FLAG_TAIL, Call, Result, encode_call_head

_SMALL_READ = 64 * 1024
_BIG_READ = 1024 * 1024


class Client:
    """A client of one engine; use it in ``with`` or ``close`` it.

    Arguments as for AsyncClient. At most ``keep`` idle connections are kept.
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        access_key: str | None = None,
        secret_key: str | None = None,
        connect_timeout_s: float = 10.0,
        keep: int = 64,
    ) -> None:
        self._address = parse(address)
        self._key = key_for(self._address, access_key, secret_key)
        self._connect_timeout_s = connect_timeout_s
        self._keep = keep
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close kept connections; a call running in another thread ends first. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def invoke(
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
        """As AsyncClient.invoke. A call is never repeated once a byte of it may have left."""
        flags = (FLAG_TAIL if log_tail else 0) | (FLAG_DRY_RUN if dry_run else 0)
        call = Call(0, function, qualifier, flags, request_id, client_context, trace_id, payload, tenant_id)
        try:
            head = encode_call_head(call)
        except (WireError, UnicodeEncodeError) as e:
            raise BadArgument(str(e)) from e
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        connection = self._take(deadline)
        try:
            result = connection.call(head, payload, deadline)
        except TimeoutError:
            connection.close()
            raise CallTimeout(f"no answer within {timeout_s} s", sent=True) from None
        except (OSError, WireError) as e:
            connection.close()
            raise ConnectionLost(f"connection to {self._address} lost: {e}; the function may have run", sent=True) from e
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return checked(result)

    def _take(self, deadline: float | None) -> _Connection:
        while True:
            with self._lock:
                if self._closed:
                    raise ConnectionLost("the client is closed", sent=False)
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect(deadline)
            if connection.is_quiet():
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < self._keep:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self, deadline: float | None) -> _Connection:
        """A new connection, tried with growing pauses. Raises ConnectionLost, CallTimeout, ServerRefused; nothing was sent."""
        give_up = time.monotonic() + self._connect_timeout_s
        until = give_up if deadline is None else min(give_up, deadline)
        pause = FIRST_PAUSE_S
        while True:
            try:
                return _Connection(self._address.path, (self._address.host, self._address.port), self._key, until)
            except OSError as e:
                error: OSError = e
            except WireError as e:
                text = str(e) if isinstance(e, Refused) else f"no engine answers at {self._address}: {e}"
                raise ServerRefused(text) from e
            left = until - time.monotonic()
            if left <= 0:
                if deadline is not None and deadline <= give_up:
                    raise CallTimeout(f"no connection to {self._address} in time: {error}", sent=False) from error
                raise ConnectionLost(f"no connection to {self._address}: {error}", sent=False) from error
            time.sleep(min(left, pause * random.uniform(0.5, 1.0)))  # noqa: S311 - spreads clients, hides nothing
            pause = min(pause * 2, LONGEST_PAUSE_S)


class _Connection:
    """One open connection with at most one call on it. Raises OSError or WireError; then it must be closed."""

    def __init__(
        self, path: str | None, endpoint: tuple[str, int], key: tuple[str, str] | None, until: float
    ) -> None:
        self._dialogue = ClientDialogue(key)
        self._sock = _dial(path, endpoint, until)
        try:
            self._greet(key, until)
        except BaseException:
            self._sock.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)

    def _greet(self, key: tuple[str, str] | None, until: float) -> None:
        self._sock.sendall(self._dialogue.opening())
        while not self._dialogue.is_open:
            try:
                self._read(until, _SMALL_READ)
            except TimeoutError:
                if key is None:
                    raise
                raise Refused("the server did not ask for a key: leave access_key out when authentication is off there") from None
            reply = self._dialogue.take_reply()
            if reply:
                self._sock.sendall(reply)

    def call(self, head: bytes, payload: bytes, deadline: float | None) -> Result:
        if deadline is None:
            self._sock.settimeout(None)
        else:
            self._sock.settimeout(_left(deadline))
        if len(payload) < BIG:
            self._sock.sendall(head + payload)
        else:
            self._sock.sendall(head)
            self._sock.sendall(payload)
        size = _SMALL_READ
        while True:
            results = self._read(deadline, size)
            if results:
                if len(results) != 1 or results[0].call_id != 0:
                    raise WireError("a RESULT that answers no call")
                return results[0]
            size = _BIG_READ

    def _read(self, until: float | None, size: int) -> list[Result]:
        if until is not None:
            self._sock.settimeout(_left(until))
        data = self._sock.recv(size)
        if not data:
            raise ConnectionResetError("the server closed it")
        return self._dialogue.receive(data)

    def is_quiet(self) -> bool:
        """Whether the kept connection is still open and owes nothing: a server that went away has made it readable."""
        return not self._poll.poll(0)

    def close(self) -> None:
        self._sock.close()


def _dial(path: str | None, endpoint: tuple[str, int], until: float) -> socket.socket:
    if path is None:
        sock = socket.create_connection(endpoint, timeout=_left(until))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left(until))
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _left(deadline: float) -> float:
    """Seconds to ``deadline``. Raises TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
