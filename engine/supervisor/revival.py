"""Starts zygotes again that have ended after they were ready: the kernel may end one for want of memory, and everything of its runtime would fail from then on.

One that never was ready is left alone: what is wrong with its interpreter stays wrong. One that ends again and again is started ever more seldom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_FIRST_S, _MOST_S = 0.1, 30.0
# Whoever has lived for so long has not ended of what its predecessor did.
_STEADY_S = 10.0
# Callers wait for a successor that comes before this; for a later one they are told why there is none.
_PATIENCE_S = 1.0


class Revival:
    """``start`` orders the zygote of a key again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: Callable[[str], None]) -> None:
        self._loop = loop
        self._start = start
        self._ready_since: dict[str, float] = {}
        self._delays_s: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def ready(self, key: str) -> None:
        """It forks from now on."""
        self._ready_since[key] = self._loop.time()

    def ended(self, key: str) -> bool:
        """It has ended, or did not come to be ready. Whether a successor comes so soon that it is worth the wait."""
        since_s = self._ready_since.pop(key, None)
        before_s = self._delays_s.get(key)
        if since_s is None and before_s is None:
            return False
        steady = since_s is not None and self._loop.time() - since_s >= _STEADY_S
        delay_s = _FIRST_S if steady or before_s is None else min(2 * before_s, _MOST_S)
        self._delays_s[key] = delay_s
        if (timer := self._timers.get(key)) is not None:
            timer.cancel()
        self._timers[key] = self._loop.call_later(delay_s, self._begin, key)
        return delay_s < _PATIENCE_S

    def _begin(self, key: str) -> None:
        del self._timers[key]
        self._start(key)

    def close(self) -> None:
        """Start nothing any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
