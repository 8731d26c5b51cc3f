"""One lane of a shard: the records of some keys, in order, and the batches made of them.

A lane is state only; ``engine.eventing.sources.shard`` guards it with the shard's lock. With ParallelizationFactor 1 it is the shard.
"""

from __future__ import annotations

import zlib
from collections import deque

from engine.eventing.sources.orders import Lane as Position
from engine.eventing.sources.records import Record, Window, fitting, window_start

# A record may become readable a moment after its time of arrival.
WINDOW_GRACE_S = 1


def lane_of(key: str, lanes: int) -> int:
    """The lane that keeps this key's order."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % lanes


class Lane:
    """``pending`` records wait for their batch; ``since_s`` (monotonic) the first of them; ``running``: a thread works here."""

    def __init__(self, position: Position, tumbling_s: int) -> None:
        self.pending: deque[Record] = deque()
        self.since_s = 0.0
        self.running = False
        self.after = position.after
        self.tumbling_s = tumbling_s
        self.window: Window | None = None
        if tumbling_s and position.window_s is not None:
            self.window = Window(position.window_s, position.state or {})

    def add(self, record: Record, now_s: float) -> None:
        if not self.pending:
            self.since_s = now_s
        self.pending.append(record)

    def has_done(self, record: Record) -> bool:
        """Whether the record was done with before a restart."""
        return self.after is not None and int(record.number) <= int(self.after)

    def cut(self, size: int, window_s: float, now_s: float, *, closing: bool) -> tuple[list[Record] | None, float]:
        """(a batch, which is taken out, or None, and after how many seconds there will be one)."""
        batch, full = fitting(self.pending, size, self.tumbling_s)
        left_s = self.since_s + window_s - now_s
        if not full and not closing and left_s > 0:
            return None, left_s
        for _ in batch:
            self.pending.popleft()
        # Those behind have waited since the batch began to be gathered, at most.
        return batch, 0.0

    def window_is_over(self, read_until_s: float, *, closing: bool) -> bool:
        """Whether no record of the open window can come any more; ``read_until_s`` (epoch): everything older was read."""
        if self.window is None:
            return False
        if self.pending:
            return window_start(self.pending[0], self.tumbling_s) != self.window.start_s
        return closing or read_until_s >= self.window.start_s + self.tumbling_s + WINDOW_GRACE_S

    def has_work(self, read_until_s: float, *, closing: bool) -> bool:
        return bool(self.pending) or self.window_is_over(read_until_s, closing=closing)

    def position(self, beyond: str | None) -> Position | None:
        """What to remember beyond the shard's own place ``beyond``; None when there is nothing."""
        ahead = self.after is not None and (beyond is None or int(self.after) > int(beyond))
        if not ahead and self.window is None:
            return None
        window_s, state = (None, None) if self.window is None else (self.window.start_s, dict(self.window.state))
        return Position(self.after if ahead else None, window_s, state)
