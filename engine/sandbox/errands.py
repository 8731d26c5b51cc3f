"""Orders to the broker that can wait for a moment: they go along with the next one that cannot, for each packet wakes it anew.

Their order among each other and before what takes them along is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_MOST = 256


class Errands:
    """``push`` sends a packet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, push: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._push = push
        self._orders: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._soon = False

    def leave(self, order: bytes, within_s: float = 0.0) -> None:
        """Send it within a time, or at the end of this turn of the loop."""
        self._orders.append(order)
        if within_s:
            if self._timer is None:
                self._timer = self._loop.call_later(within_s, self.go)
        elif not self._soon:
            self._soon = True
            self._loop.call_soon(self._turn_over)

    def _turn_over(self) -> None:
        self._soon = False
        self.go()

    def taken_by(self, order: bytes) -> bytes:
        """The packet of what has waited and an ``order`` that leaves room for it."""
        if not self._orders:
            return order
        if len(self._orders) >= _MOST:
            self.go()
            return order
        self._orders.append(order)
        return self._packet()

    def go(self) -> None:
        """Send what has waited."""
        if self._orders:
            self._push(self._packet())

    def _packet(self) -> bytes:
        orders, self._orders = self._orders, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return orders[0] if len(orders) == 1 else b'["several",%b]' % b",".join(orders)

    def forget(self) -> None:
        """Who should have had them is gone."""
        self._orders.clear()
