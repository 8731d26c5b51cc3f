"""Asynchronous invocations on their way to the control plane, which keeps them: many per frame, answered when they are on the disk.

Theory of operation. What comes in while earlier events are being kept is gathered, so that the busier the engine is, the more events share a
frame and a commit. A batch that was sent stays here until its ACCEPTED: when the control plane ends before that, the next one is sent the batch
once more, under the same request ids, of which it keeps one each. Nobody waits for longer than ``wait_s``: who is refused then may have been kept
all the same, as with any request whose answer is lost. How much can wait here is bounded by who asks: a connection has one request at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from engine.arn import FunctionRef
from engine.errors import AwsError, ServiceError
from engine.ids import request_id
from engine.wire import messages

# Batches under way at once: one is being committed while the next one is on its way.
WINDOW = 2
MAX_EVENTS = 512
MAX_BYTES = 4 * 1024 * 1024
# A control plane that was killed imports for a second or two on a quiet machine, and much longer on a loaded one.
WAIT_S = 20.0
INTERNAL_ERROR = "An error occurred and the request cannot be processed."
# Request id, account, function, qualifier, trace header, payload, tenant.
Row = tuple[str, str, str, str | None, str, bytes, str | None]


class Accepting(Protocol):
    """Who sent an event. Exactly one of the two is called, once."""

    def accepted(self, request_id: str, trace: str) -> None: ...

    def refused(self, request_id: str, error: AwsError) -> None: ...


class _Batch:
    __slots__ = ("begun_s", "rows", "senders", "size")

    def __init__(self, begun_s: float) -> None:
        self.begun_s = begun_s
        self.rows: list[Row] = []
        self.senders: list[Accepting] = []
        self.size = 0

    @property
    def full(self) -> bool:
        return len(self.rows) >= MAX_EVENTS or self.size >= MAX_BYTES

    def answer(self, error: AwsError | None) -> None:
        for row, sender in zip(self.rows, self.senders, strict=True):
            if error is None:
                sender.accepted(row[0], row[4])
            else:
                sender.refused(row[0], error)


class EventLane:
    """For the supervisor's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wait_s: float = WAIT_S) -> None:
        self._loop = loop
        self._wait_s = wait_s
        self._send: Callable[[bytes], None] | None = None
        self._waiting: deque[_Batch] = deque()
        self._sent: dict[int, _Batch] = {}
        self._seq = 0
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None

    def put(self, ref: FunctionRef, payload: bytes, trace: str, tenant: str | None, sender: Accepting) -> None:
        """Have an event kept; its function exists and its payload is JSON."""
        waiting = self._waiting
        if not waiting or waiting[-1].full:
            waiting.append(_Batch(self._loop.time()))
        batch = waiting[-1]
        batch.rows.append((request_id(), ref.account, ref.name, ref.qualifier, trace, payload, tenant))
        batch.senders.append(sender)
        batch.size += len(payload)
        if not self._flushing:
            # Whatever else comes in this turn of the loop goes with it.
            self._flushing = True
            self._loop.call_soon(self._flush)
        if self._timer is None:
            self._timer = self._loop.call_later(self._wait_s, self._expire)

    def opened(self, send: Callable[[bytes], None]) -> None:
        """A control plane is there: what the former one did not confirm is its, first."""
        self._send = send
        self._waiting.extendleft(batch for _, batch in sorted(self._sent.items(), reverse=True))
        self._sent.clear()
        self._flush()

    def closed(self, send: Callable[[bytes], None]) -> None:
        """The control plane has gone. One that has been followed by another already is of no interest."""
        if self._send == send:
            self._send = None

    def settled(self, seq: int, problem: str | None) -> None:
        """A batch is on the disk, or could not be written."""
        batch = self._sent.pop(seq, None)
        if batch is not None:
            batch.answer(None if problem is None else ServiceError(INTERNAL_ERROR))
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        while self._send is not None and self._waiting and len(self._sent) < WINDOW:
            batch = self._waiting.popleft()
            self._seq += 1
            self._sent[self._seq] = batch
            self._send(messages.pack(messages.EVENTS, self._seq, batch.rows))

    def _expire(self) -> None:
        """Refuse what has waited for too long, and look again when the next would."""
        self._timer = None
        now_s = self._loop.time()
        late = [seq for seq, batch in self._sent.items() if now_s - batch.begun_s >= self._wait_s]
        batches = [self._sent.pop(seq) for seq in late]
        while self._waiting and now_s - self._waiting[0].begun_s >= self._wait_s:
            batches.append(self._waiting.popleft())
        for batch in batches:
            batch.answer(ServiceError(f"The event was not accepted: the control plane did not answer within {self._wait_s:g} s."))
        left = [batch.begun_s for batch in (*self._sent.values(), *self._waiting)]
        if left and self._timer is None:
            self._timer = self._loop.call_later(max(0.0, min(left) + self._wait_s - now_s), self._expire)
        self._flush()
