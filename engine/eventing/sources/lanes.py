"""Runs what a source gives in lanes: in order within a lane, the lanes beside each other.

Theory of operation. One thread reads and puts each message into its lane; a lane has a thread of its own, which gathers a batch, has it delivered, and
gathers the next only then. Who reads is told which lane is full, so that it can hold that one and the others go on, and which has room again. The first
delivery that raises ends all of it: who reads is told at the next ``put`` or ``freed``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

# A lane is held with so many batches in it, or so many bytes.
FULL_BATCHES, FULL_BYTES = 2, 12 * 1024 * 1024


class Sized(Protocol):
    """What lanes carry."""

    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=Sized)


class Lanes(Generic[T]):
    """``deliver`` is given a batch, in the lane's thread, and returns when it is done with. ``put`` and ``freed`` are for one thread."""

    def __init__(self, batch_size: int, window_s: float, max_bytes: int, deliver: Callable[[Sequence[T]], None]) -> None:
        self._batch_size = batch_size
        self._window_s = window_s
        self._max_bytes = max_bytes
        self._deliver = deliver
        self._changed = threading.Condition()
        self._waiting: dict[int, deque[T]] = {}
        self._bytes: dict[int, int] = {}
        self._full: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._error: Exception | None = None
        self._stopped = False

    def put(self, lane: int, item: T) -> bool:
        """Whether the lane has become full with it. Raises what a delivery raised."""
        self._check()
        with self._changed:
            if lane not in self._waiting:
                self._waiting[lane], self._bytes[lane] = deque(), 0
                thread = threading.Thread(target=self._work, args=(lane,), name=f"lane-{lane}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._waiting[lane].append(item)
            self._bytes[lane] += item.size
            self._changed.notify_all()
            if lane in self._full or not self._is_full(lane):
                return False
            self._full.add(lane)
            return True

    def freed(self) -> list[int]:
        """The lanes that were full and have room again. Raises what a delivery raised."""
        self._check()
        with self._changed:
            free = [lane for lane in self._full if not self._is_full(lane)]
            self._full.difference_update(free)
        return free

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Deliver nothing more, and wait for the deliveries under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _is_full(self, lane: int) -> bool:
        return len(self._waiting[lane]) >= FULL_BATCHES * self._batch_size or self._bytes[lane] >= FULL_BYTES

    def _work(self, lane: int) -> None:
        try:
            while (batch := self._gather(lane)) is not None:
                self._deliver(batch)
        except Exception as e:  # noqa: BLE001 - whatever it is, who reads raises it
            with self._changed:
                self._error = self._error or e
                self._stopped = True
                self._changed.notify_all()

    def _gather(self, lane: int) -> list[T] | None:
        """The lane's next batch; None when all of it has ended."""
        waiting, size = self._waiting[lane], 0
        batch: list[T] = []
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or waiting)
            until_s = time.monotonic() + self._window_s
            while not self._stopped and len(batch) < self._batch_size:
                if not waiting:
                    left_s = until_s - time.monotonic()
                    if left_s <= 0 or not self._changed.wait(left_s):
                        break
                    continue
                if batch and size + waiting[0].size > self._max_bytes:
                    break
                item = waiting.popleft()
                self._bytes[lane] -= item.size
                size += item.size
                batch.append(item)
            return None if self._stopped else batch
