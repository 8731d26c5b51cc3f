"""How a function changes: one change at a time, stored, then told to the supervisor, then answered.

Theory of operation. A handler takes the function's lock, reads it, computes its new state, and gives both to ``apply``. The store
commits first, so a crash at any point leaves the old state or the new one, and the snapshot at the next connect is the new
one's. If the supervisor refuses an entry the former state is written back. If it cannot be reached the caller gets an error, the
change stays stored, and it is pushed again until it arrives.
"""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakValueDictionary

from engine import turns
from engine.clock import Clock
from engine.control.catalogue import Catalogue
from engine.control.link import ControlLink, LinkRefused
from engine.errors import ServiceError
from engine.store.api import Function, FunctionStore

_log = logging.getLogger(__name__)
_Key = tuple[str, str]


class Changes:
    """The only way from a handler to the store and the supervisor. For one event loop."""

    def __init__(self, store: FunctionStore, catalogue: Catalogue, link: ControlLink, clock: Clock) -> None:
        self._store = store
        self._catalogue = catalogue
        self._link = link
        self._clock = clock
        self._locks: WeakValueDictionary[_Key, asyncio.Lock] = WeakValueDictionary()
        self._unsent: set[_Key] = set()
        self._sender: asyncio.Task[None] | None = None

    def lock(self, account: str, name: str) -> asyncio.Lock:
        """Held while one function is read, changed and applied."""
        turns.give_way()
        lock = self._locks.get((account, name))
        if lock is None:
            lock = self._locks[account, name] = asyncio.Lock()
        return lock

    def account_lock(self, account: str) -> asyncio.Lock:
        """Held while what the account's functions have together is read and changed. Take it before a function's lock."""
        return self.lock(account, "")

    async def apply(self, before: Function | None, after: Function | None) -> None:
        """Replace ``before`` by ``after`` everywhere; None means that it did not, or shall not, exist.

        Raises ServiceError: a LinkRefused leaves the former state, any other one means that the change is stored and on its way.
        """
        function = after or before
        assert function is not None  # noqa: S101 - one of the two states is a state
        key = (function.account, function.name)
        turns.give_way()
        await self._store.save(before, after, self._clock.epoch_ms())
        turns.give_way()
        self._remember(key, after)
        try:
            await self._push(key)
        except LinkRefused:
            await self._store.save(after, before, self._clock.epoch_ms())
            self._remember(key, before)
            raise
        except ServiceError:
            self._send_later(key)
            raise

    async def refresh(self, account: str, name: str) -> None:
        """Tell the supervisor again what a function is: something beside it has changed that its entry shows."""
        async with self.lock(account, name):
            function = self._store.get(account, name)
            if function is None:
                return
            self._remember((account, name), function)
            try:
                await self._push((account, name))
            except LinkRefused:
                _log.exception("the supervisor refuses function %s of account %s", name, account)
            except ServiceError:
                self._send_later((account, name))

    async def close(self) -> None:
        """Stop pushing; what is stored reaches the supervisor with the next snapshot. Idempotent."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
            await asyncio.wait([sender])

    def _remember(self, key: _Key, function: Function | None) -> None:
        if function is None:
            self._catalogue.remove(*key)
        else:
            self._catalogue.put(function)

    async def _push(self, key: _Key) -> None:
        entry = self._catalogue.entry(*key)
        if entry is None:
            await self._link.delete(*key)
        else:
            await self._link.put(entry)

    def _send_later(self, key: _Key) -> None:
        self._unsent.add(key)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while self._unsent:
            key = next(iter(self._unsent))
            try:
                await self._push(key)
            except LinkRefused:
                _log.exception("the supervisor refuses function %s of account %s, which is stored", key[1], key[0])
            except ServiceError:
                continue
            self._unsent.discard(key)
