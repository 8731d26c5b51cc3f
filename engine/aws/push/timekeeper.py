"""When schedules are due, by a clock whose hands can be turned.

Theory of operation. One thread compares what is scheduled with the time and sleeps until the next is due or it is woken; what is scheduled is read
anew each time, so a change needs no more than a wake-up. A schedule that this has not seen before, or that was changed, begins now. What came due while the
process could not run (a laptop asleep) for longer than LATE_S is left out. ``advance`` turns the hands: what comes due meanwhile runs in order, each at
its own time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from engine.core.schedules import Schedule

LONGEST_SLEEP_S = 3600.0
LATE_S = 60.0
MAX_RUNS = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """Something scheduled. ``key`` names it with everything that, when changed, makes it another. ``run(due_s)`` has it done.

    ``begin_s`` is what rates are counted from and before which nothing is due, None: when it is first seen; ``immediately``: a rate's first time is ``begin_s``
    itself. Nothing is due after ``end_s``.
    """

    key: tuple[Any, ...]
    schedule: Schedule
    run: Callable[[int], None]
    begin_s: float | None = None
    end_s: float | None = None
    immediately: bool = False


@dataclass(slots=True)
class _Known:
    anchor_s: float
    due_s: int | None


class Timekeeper:
    """``sources`` give what is scheduled now; add to them before ``start``."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.sources: list[Callable[[], Iterable[Entry]]] = []
        self._now = now
        self._ahead_s = 0.0
        self._known: dict[tuple[Any, ...], _Known] = {}
        self._turn = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def now(self) -> float:
        """Seconds since 1970, by this clock."""
        return self._now() + self._ahead_s

    def start(self) -> None:
        """Begin, in a thread that ends with the process. Idempotent."""
        with self._turn:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="timekeeper", daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Something may have been scheduled."""
        self._wake.set()

    def advance(self, seconds: float) -> int:
        """Turn the hands forward and run what comes due on the way; how many runs that were.

        Raises ValueError for less than nothing and for what would be more than MAX_RUNS runs (the hands then stand where that was noticed).
        """
        if not seconds >= 0:
            raise ValueError("time does not go back")
        with self._turn:
            until_s = self.now() + seconds
            runs = 0
            while (found := self._next()) is not None and found[0] <= until_s:
                due_s, entry = found
                self._ahead_s = max(self._ahead_s, due_s - self._now())
                self._run(entry, due_s)
                runs += 1
                if runs >= MAX_RUNS:
                    raise ValueError(f"more than {MAX_RUNS} runs come due in {seconds:g} s")
            self._ahead_s = max(self._ahead_s, until_s - self._now())
        self.wake()
        return runs

    def look(self) -> float:
        """Run what is due; seconds until the next."""
        with self._turn:
            while (found := self._next()) is not None:
                due_s, entry = found
                now_s = self.now()
                if due_s > now_s:
                    return min(due_s - now_s, LONGEST_SLEEP_S)
                if now_s - due_s > LATE_S:
                    known = self._known[entry.key]
                    known.due_s = entry.schedule.after(now_s - LATE_S, known.anchor_s)
                else:
                    self._run(entry, due_s)
            return LONGEST_SLEEP_S

    def _next(self) -> tuple[int, Entry] | None:
        """What is due first."""
        now_s = self.now()
        first: tuple[int, Entry] | None = None
        seen = set()
        for source in self.sources:
            for entry in source():
                seen.add(entry.key)
                known = self._known.get(entry.key)
                if known is None:
                    known = self._known[entry.key] = _begun(entry, now_s)
                due_s = known.due_s
                if due_s is not None and (entry.end_s is None or due_s <= entry.end_s) and (first is None or due_s < first[0]):
                    first = due_s, entry
        for gone in self._known.keys() - seen:
            del self._known[gone]
        return first

    def _run(self, entry: Entry, due_s: int) -> None:
        known = self._known[entry.key]
        known.due_s = entry.schedule.after(due_s, known.anchor_s)
        try:
            entry.run(due_s)
        except Exception as e:  # noqa: BLE001 - moto raises a class per service; other schedules must go on
            sys.stderr.write(f"embedded AWS: {entry.key[0]} could not be run: {type(e).__name__}: {e}\n")

    def _work(self) -> None:
        while True:
            self._wake.clear()
            try:
                sleep_s = self.look()
            except Exception as e:  # noqa: BLE001 - a change in the midst of reading; the next look may do better
                sys.stderr.write(f"embedded AWS: schedules could not be looked at: {type(e).__name__}: {e}\n")
                sleep_s = 1.0
            self._wake.wait(sleep_s)


def _begun(entry: Entry, now_s: float) -> _Known:
    anchor_s = now_s if entry.begin_s is None else entry.begin_s
    if entry.immediately and anchor_s >= now_s - LATE_S:
        return _Known(anchor_s, int(anchor_s))
    # A moment before it begins, so that what is due just then is not missed.
    return _Known(anchor_s, entry.schedule.after(max(now_s, anchor_s - 1) if entry.begin_s is not None else now_s, anchor_s))
