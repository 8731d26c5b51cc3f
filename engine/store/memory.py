"""Every function in memory, in front of the database.

Theory of operation. One process writes the database, and all its writes go through here: they are on the disk before memory shows
them, so what is read is what a restart would find. Reads cost a look into a dictionary and never wait; the control plane reads a
function for every request and lists all of them at its start anyway. ``save`` must be called on one event loop; reads may come from
any thread, since each takes its reference or its copy in one step.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from engine.store.api import LATEST, Function, FunctionStore, Listed, Position


class _Account:
    """What is kept of one account. ``names`` are sorted."""

    __slots__ = ("functions", "names", "stored_bytes")

    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self.names: list[str] = []
        self.stored_bytes = 0


class MemoryFunctionStore:
    """``FunctionStore`` that reads from memory and writes to another one, from which it is filled when made. Making it blocks."""

    def __init__(self, durable: FunctionStore) -> None:
        self._durable = durable
        self._accounts: dict[str, _Account] = {}
        for function in durable.everything():
            self._put(function)

    def get(self, account: str, name: str) -> Function | None:
        found = self._accounts.get(account)
        return None if found is None else found.functions.get(name)

    def everything(self) -> Iterator[Function]:
        for account in sorted(self._accounts):
            yield from self._in_order(account)

    def page(self, account: str, *, name: str | None, latest_only: bool, after: Position | None, limit: int) -> list[Listed]:
        function = None if name is None else self.get(account, name)
        functions: Iterable[Function]
        if name is not None:
            functions = () if function is None else (function,)
        else:
            functions = self._in_order(account, None if after is None else after.name)
        start = Position("", -1) if after is None else after
        listed = (
            Listed(f.name, version)
            for f in functions
            for version in ((f.latest,) if latest_only else _ordered(f))
            if (f.name, version.ordinal) > start
        )
        return list(islice(listed, limit))

    def stored_bytes(self, account: str) -> int:
        found = self._accounts.get(account)
        return (0 if found is None else found.stored_bytes) + self.layer_bytes(account)

    def layer_bytes(self, account: str) -> int:
        return self._durable.layer_bytes(account)

    def known_layer_bytes(self, account: str) -> int | None:
        return self._durable.known_layer_bytes(account)

    def count(self, account: str) -> int:
        found = self._accounts.get(account)
        return 0 if found is None else len(found.functions)

    def attached(self, account: str, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
        return {
            (f.name, key.qualifier): dict(document)
            for f in self._in_order(account)
            for key, document in sorted(f.attached.items())
            if key.kind == kind
        }

    async def save(self, before: Function | None, after: Function | None, now_ms: int) -> None:
        await self._durable.save(before, after, now_ms)
        if after is not None:
            self._put(after)
        elif before is not None:
            self._remove(before)

    def _in_order(self, account: str, first: str | None = None) -> Iterator[Function]:
        """The account's functions by name, from ``first`` on; those deleted meanwhile are left out."""
        found = self._accounts.get(account)
        if found is None:
            return
        names: Sequence[str] = found.names[0 if first is None else bisect_left(found.names, first) :]
        for name in names:
            function = found.functions.get(name)
            if function is not None:
                yield function

    def _put(self, function: Function) -> None:
        account = self._accounts.setdefault(function.account, _Account())
        former = account.functions.get(function.name)
        account.functions[function.name] = function
        if former is None:
            insort(account.names, function.name)
        account.stored_bytes += _size(function) - (0 if former is None else _size(former))

    def _remove(self, function: Function) -> None:
        account = self._accounts[function.account]
        former = account.functions.pop(function.name, None)
        if former is not None:
            del account.names[bisect_right(account.names, function.name) - 1]
            account.stored_bytes -= _size(former)


def _size(function: Function) -> int:
    return sum(v.code_size for v in function.versions.values())


def _ordered(function: Function) -> list[Any]:
    """``$LATEST``, then the others by number."""
    return [function.versions[LATEST], *sorted((v for k, v in function.versions.items() if k != LATEST), key=lambda v: v.ordinal)]
