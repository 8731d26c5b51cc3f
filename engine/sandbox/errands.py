"""Orders to the broker that can wait for a moment: they go along with the next one that cannot, for each packet wakes it anew.

Their order among each other and before what takes them along is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.sandbox import packets

# Bytes of orders that a packet has room for beside what says that there are several. A longer one would be cut, and end the broker with all its sandboxes.
_MOST = packets.MAX_PACKET - len(b'["several",]')


class Errands:
    """``push`` sends a packet."""

    def __init__(self, loop: asyncio.AbstractEventLoop, push: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._push = push
        self._orders: list[bytes] = []
        # With a comma behind each.
        self._size = 0
        self._soon = False

    def leave(self, order: bytes) -> None:
        """Send it at the end of this turn of the loop, if not before."""
        self._add(order)
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._turn_over)

    def _turn_over(self) -> None:
        self._soon = False
        self.go()

    def taken_by(self, order: bytes) -> bytes:
        """The packet of an ``order`` and what has waited, as far as there is room for both."""
        if not self._orders:
            return order
        self._add(order)
        return self._packet()

    def _add(self, order: bytes) -> None:
        size = len(order) + 1
        if self._size + size > _MOST:
            self.go()
        self._orders.append(order)
        self._size += size

    def go(self) -> None:
        """Send what has waited."""
        if self._orders:
            self._push(self._packet())

    def _packet(self) -> bytes:
        orders, self._orders = self._orders, []
        self._size = 0
        return orders[0] if len(orders) == 1 else b'["several",%b]' % b",".join(orders)

    def forget(self) -> None:
        """Who should have had them is gone."""
        self._orders.clear()
        self._size = 0
