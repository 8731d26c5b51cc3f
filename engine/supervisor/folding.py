"""Moves what invocations left to be counted into the histograms, before it piles up.

Theory of operation. An invocation only appends its figures. Several times a second ``fold`` looks at the functions that had some the
last time, and at the next few of all the others: looking at each of ten thousand every time would hold up invocations for longer than
most of them take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from engine.supervisor.catalogue import Function

LOOKED_AT = 2_000


class Folding:
    """``functions`` gives all there are, by account."""

    def __init__(self, functions: Callable[[], list[tuple[str, Function]]]) -> None:
        self._functions = functions
        self._round: Iterator[tuple[str, Function]] = iter(())
        self._busy: set[Function] = set()

    def fold(self) -> None:
        """Cheap when nothing is to be done."""
        others = [function for _, function in islice(self._round, LOOKED_AT)]
        if len(others) < LOOKED_AT:
            self._round = iter(self._functions())
        self._busy = {function for function in (*self._busy, *others) if function.stats.pending}
        for function in self._busy:
            function.stats.fold()
