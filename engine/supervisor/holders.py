"""The stock of prepared sandboxes, per zygote and network: made ahead of need, handed out in microseconds, replenished off the critical path.

Level-triggered: ``_refill`` compares what there is and what is asked for with what should be, and orders the difference; events only
wake it. A request for a holder that is not there waits in line and is served by the next one made.

The key of a stock is its zygote's, followed by ``@`` and the network for functions in a VPC. Such stocks are smaller, are given up when no
version wants them (``retain``), and after a failure make holders only for whoever waits: what is wrong with a network stays wrong. So do all for a
while when the broker is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from engine.sandbox.api import NO_ROOM, HolderFds, Sandbox, ZygoteSpec
from engine.supervisor.revival import Revival

# Making many at once only makes each of them late: two cores build about five at a time without queueing in the kernel.
MAX_MAKING = 8
# For the stock, while nobody waits: warm invocations go on beside it, and a few at a time come between them least.
UNHURRIED = 2
# A holder that was taken is replaced soon after the cold start it serves is over (``settled``), or after this long if that takes more:
# making one costs about as much as the cold start itself, and on few cores it would be the first to suffer.
REFILL_DELAY_S = 0.1
# How long nothing is made for stock that the broker had no room for.
FULL_S = 5.0
# Holders kept per zygote and network: one network serves few functions, and there may be many.
NETWORK_SIZE = 2


@dataclass(slots=True)
class Holder:
    """A prepared sandbox with its waiting worker."""

    holder_id: int
    key: str
    fds: HolderFds
    pid: int


class _Stock:
    __slots__ = ("failed", "making", "network", "ordered", "paused", "ready", "spec", "template", "up", "wanted", "zygote_pid")

    def __init__(self, spec: ZygoteSpec, network: str = "", *, template: bool = False) -> None:
        self.spec = spec
        self.network = network
        self.paused = False
        # Its sandboxes are copies of a template, not forks of a zygote.
        self.template = template
        # Who waits for a sandbox that can itself become a template; never from stock.
        self.ordered: deque[Callable[[Holder | None, str], None]] = deque()
        self.ready: deque[Holder] = deque()
        self.making: set[int] = set()
        self.wanted: deque[Callable[[Holder | None, str], None]] = deque()
        self.zygote_pid: int | None = None
        self.failed: str | None = None
        # Orders go to a zygote that said it is ready; what is said to a broker that is not there is lost.
        self.up = False


class HolderPool:
    """All stocks. ``size`` holders are kept ready per zygote in use."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sandbox: Sandbox,
        size: int,
        spec_of: Callable[[str], ZygoteSpec | str],
    ) -> None:
        self._loop = loop
        self._sandbox = sandbox
        self._size = size
        self._spec_of = spec_of
        self._stocks: dict[str, _Stock] = {}
        self._by_id: dict[int, _Stock] = {}
        self._next_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self._revival = Revival(loop, self._start_again)
        self.closed = False
        self._orders: dict[int, tuple[_Stock, Callable[[Holder | None, str], None]]] = {}

    def use(self, key: str) -> _Stock:
        """Make sure that the zygote of ``key`` exists and the stock is kept."""
        stock = self._stocks.get(key)
        if stock is None:
            spec = self._spec_of(key)
            zygote, _, network = key.partition("@")
            if isinstance(spec, str):
                stock = _Stock(ZygoteSpec(zygote, zygote, ""), network)
                stock.failed = spec
            else:
                stock = _Stock(spec, network)
                sibling = next(self._of_zygote(spec.key), None)
                if sibling is None:
                    self._sandbox.add_zygote(spec)
                else:
                    stock.up, stock.zygote_pid, stock.failed = sibling.up, sibling.zygote_pid, sibling.failed
            self._stocks[key] = stock
            self._refill(stock)
        return stock

    def order(self, key: str, then: Callable[[Holder | None, str], None]) -> None:
        """As ``take``, for a sandbox whose worker can be copied: made for the occasion."""
        stock = self.use(key)
        if stock.failed is not None:
            then(None, stock.failed)
            return
        stock.ordered.append(then)
        self._make_ordered(stock)

    def _make_ordered(self, stock: _Stock) -> None:
        while stock.ordered and stock.up and not self.closed:
            self._next_id += 1
            self._orders[self._next_id] = (stock, stock.ordered.popleft())
            self._sandbox.make(self._next_id, stock.spec.key, stock.network, template=True)

    def use_template(self, key: str, holder_id: int) -> None:
        """Keep a stock of copies of the worker in this sandbox, which waits to be copied."""
        self._stocks[key] = _Stock(ZygoteSpec(key, key, ""), template=True)
        self._sandbox.declare_template(key, holder_id)

    def drop_template(self, key: str) -> None:
        """Its copies in stock go; whoever waits for one is told."""
        stock = self._stocks.pop(key, None)
        if stock is None:
            return
        self._sandbox.drop_template(key)
        for holder_id in [i for i, s in self._by_id.items() if s is stock]:
            del self._by_id[holder_id]
            self._sandbox.kill(holder_id)
        for holder in stock.ready:
            self._sandbox.kill(holder.holder_id)
            holder.fds.close()
        stock.ready.clear()
        stock.up = False
        wanted, stock.wanted = stock.wanted, deque()
        for then in wanted:
            then(None, "the template ended")

    def _of_zygote(self, zygote: str) -> Iterator[_Stock]:
        return (stock for stock in self._stocks.values() if stock.spec.key == zygote)

    def retain(self, wanted: Collection[str]) -> None:
        """Give up the stocks of networks that are not among the keys ``wanted``."""
        for key, stock in list(self._stocks.items()):
            if stock.network and key not in wanted and not stock.wanted and not stock.ordered:
                del self._stocks[key]
                # It may still be resting (``_unpause``).
                stock.up = False
                for holder_id in [h for h, s in self._by_id.items() if s is stock]:
                    del self._by_id[holder_id]
                    self._sandbox.kill(holder_id)
                for holder in stock.ready:
                    holder.fds.close()

    def take(self, key: str, then: Callable[[Holder | None, str], None]) -> None:
        """Call ``then(holder, "")`` now or when one is ready; ``then(None, reason)`` when none can be had."""
        stock = self._stocks.get(key) or self.use(key)
        if stock.failed is not None:
            then(None, stock.failed)
            return
        if stock.ready:
            holder = stock.ready.popleft()
            self._by_id.pop(holder.holder_id, None)
            then(holder, "")
            if self._timer is None and len(stock.ready) < min(self._size, stock.spec.most):
                self._timer = self._loop.call_later(REFILL_DELAY_S, self._refill_all)
            return
        stock.wanted.append(then)
        self._refill(stock)

    def settled(self) -> None:
        """A cold start is over and its answer has left: replace what it took."""
        if self._timer is not None:
            self._refill_stocks()

    def _refill_all(self) -> None:
        self._timer = None
        self._refill_stocks()

    def _refill_stocks(self) -> None:
        for stock in self._stocks.values():
            self._refill(stock)

    def _refill(self, stock: _Stock) -> None:
        if self.closed or not stock.up:
            return
        wanted, making = len(stock.wanted), len(stock.making)
        missing = wanted - len(stock.ready) - making
        if not stock.paused:
            missing += min(self._size, stock.spec.most, NETWORK_SIZE if stock.network else self._size)
        most = max(UNHURRIED, min(wanted, MAX_MAKING)) - making
        if missing <= 0 or most <= 0:
            return
        for _ in range(min(missing, most)):
            self._next_id += 1
            # Those made first go to those who wait.
            hurried = len(stock.making) < len(stock.wanted)
            stock.making.add(self._next_id)
            self._by_id[self._next_id] = stock
            self._sandbox.make(self._next_id, stock.spec.key, stock.network, hurried=hurried)

    def _start_again(self, zygote: str) -> None:
        stock = next(self._of_zygote(zygote), None)
        if stock is not None and not stock.up and not self.closed:
            self._sandbox.add_zygote(stock.spec)

    def zygote_ready(self, key: str, pid: int) -> None:
        for stock in list(self._of_zygote(key)):
            if not stock.template:
                self._revival.ready(key)
            stock.zygote_pid = pid
            stock.failed = None
            stock.up = True
            self._make_ordered(stock)
            self._refill(stock)

    def zygote_failed(self, key: str, reason: str) -> None:
        """Who is in line waits for its successor if that comes soon (``Revival``). Otherwise nobody can be served, and the next ``take`` is told the same
        until a zygote is ready again.
        """
        soon = self._revival.ended(key)
        for stock in list(self._of_zygote(key)):
            stock.failed = None if soon else reason
            stock.up = False
            stock.zygote_pid = None
            for holder_id in stock.making:
                self._by_id.pop(holder_id, None)
            stock.making.clear()
            for holder_id in [i for i, (s, _) in self._orders.items() if s is stock]:
                stock.ordered.append(self._orders.pop(holder_id)[1])
            if soon:
                continue
            wanted, stock.wanted = stock.wanted, deque()
            ordered, stock.ordered = stock.ordered, deque()
            for then in (*wanted, *ordered):
                then(None, reason)

    def holder_ready(self, holder: Holder) -> bool:
        """A holder was made; False when nobody ordered it (the caller kills it)."""
        order = self._orders.pop(holder.holder_id, None)
        if order is not None:
            order[1](holder, "")
            return True
        stock = self._by_id.get(holder.holder_id)
        if stock is None or self.closed:
            return False
        stock.making.discard(holder.holder_id)
        stock.paused = False
        if stock.wanted:
            del self._by_id[holder.holder_id]
            stock.wanted.popleft()(holder, "")
        else:
            stock.ready.append(holder)
        self._refill(stock)
        return True

    def holder_failed(self, holder_id: int, reason: str) -> None:
        """A holder could not be made: whoever is first in line is told, so that nobody waits for ever."""
        order = self._orders.pop(holder_id, None)
        if order is not None:
            order[1](None, reason)
            return
        stock = self._by_id.pop(holder_id, None)
        if stock is None:
            return
        stock.making.discard(holder_id)
        if reason.startswith(NO_ROOM) and not stock.paused:
            self._loop.call_later(FULL_S, self._unpause, stock)
            stock.paused = True
        stock.paused = stock.paused or bool(stock.network)
        if stock.wanted:
            stock.wanted.popleft()(None, reason)
        if self._timer is None:
            self._timer = self._loop.call_later(0.5, self._refill_all)

    def _unpause(self, stock: _Stock) -> None:
        stock.paused = False
        self._refill(stock)

    def gone(self, holder_id: int) -> None:
        """A holder that was never handed out ended."""
        stock = self._by_id.pop(holder_id, None)
        if stock is None:
            return
        stock.making.discard(holder_id)
        for holder in list(stock.ready):
            if holder.holder_id == holder_id:
                stock.ready.remove(holder)
                holder.fds.close()
        self._refill(stock)

    def reset(self) -> None:
        """The broker is lost and every holder with it. Its successor starts the zygotes again; orders follow when they are ready."""
        for stock in self._stocks.values():
            for holder in stock.ready:
                holder.fds.close()
            stock.ready.clear()
            stock.making.clear()
            stock.zygote_pid = None
            stock.up = False
        self._by_id.clear()
        for stock, then in self._orders.values():
            stock.ordered.append(then)
        self._orders.clear()
        for key in [k for k, s in self._stocks.items() if s.template]:
            del self._stocks[key]

    def close(self) -> None:
        """Close the descriptors of everything that was never handed out."""
        self.closed = True
        self._revival.close()
        if self._timer is not None:
            self._timer.cancel()
        for stock in self._stocks.values():
            for holder in stock.ready:
                holder.fds.close()
            stock.ready.clear()

    def counts(self) -> dict[str, dict[str, int]]:
        """Ready and making, per zygote."""
        return {k: {"ready": len(s.ready), "making": len(s.making)} for k, s in self._stocks.items()}

    def ready_anywhere(self) -> bool:
        """Whether a sandbox stands or, where none is kept in stock, can be made."""
        return any(s.ready or (self._size == 0 and s.up) for s in self._stocks.values())

    def failures(self) -> dict[str, str]:
        return {k: s.failed for k, s in self._stocks.items() if s.failed}

    def zygote_pids(self) -> dict[str, int]:
        return {s.spec.key: s.zygote_pid for s in self._stocks.values() if s.zygote_pid}
