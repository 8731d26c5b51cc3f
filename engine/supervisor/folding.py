"""Moves what invocations left to be counted into the histograms, before it piles up.

Theory of operation. An invocation only appends its figures, the first of a function since the last time its function's too. Several times a
second ``fold`` sees to those: looking through all of ten thousand functions would hold up invocations for longer than most of them take.
"""

from __future__ import annotations

from engine.core.stats import FunctionStats


class Folding:
    """``waiting``: statistics that have something ``pending``; whoever leaves the first figures there says so here."""

    def __init__(self) -> None:
        self.waiting: list[FunctionStats] = []

    def fold(self) -> None:
        """Cheap when nothing is to be done."""
        if self.waiting:
            waiting, self.waiting = self.waiting, []
            for stats in waiting:
                stats.fold()
