"""How many batches a second are taken from queues that are as quick as memory.

A backlog in the embedded SQS would be drained at ten thousand messages a second, and whatever else runs on the machine would wait for it. So all
threads together begin no more than so many batches a second, after a handful at once. Queues elsewhere are slower than that by themselves.
Every batch is in the way of a warm call or two, so there are no more of them than the promised 2,000 messages a second and a fifth need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BATCHES_PER_S, AT_ONCE = 240, 10


class Pace:
    """Threads share one; each asks before its batch."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken_until_s = 0.0

    def rest_s(self) -> float:
        """Seconds to wait before the next batch, which is counted by this."""
        with self._lock:
            now_s = self._clock()
            self._taken_until_s = max(self._taken_until_s, now_s - AT_ONCE / BATCHES_PER_S) + 1 / BATCHES_PER_S
            return max(0.0, self._taken_until_s - now_s)
