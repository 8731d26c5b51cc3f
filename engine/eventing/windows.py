"""How many attempts of each function may be under way at once. Pure.

Of attempts that have just begun, a few dozen: a quick function works a backlog off with as many instances, and for a slow one as many more begin
every moment. Fewer when the function was throttled, more again as it takes what it is given.

A backlog of a function that has no concurrency left would otherwise be tried over and over, a write for each, in the way of events that could run.
So a throttle takes a function back to what it was running, and lets it have one more only after a pause, which doubles with every throttle in a row. Each
success makes room for an eighth of an attempt more, which doubles what is under way in some eight rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[str, str]
# So many attempts of a function may be younger than this.
YOUNG, YOUNG_MS = 32, 50
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 100, 5_000
# What is tried at least, after each pause: the next one of a queue may be another qualifier's, with concurrency of its own.
LEAST = 4
GROWTH = 0.125


@dataclass(slots=True)
class _Window:
    size: float
    paused_until_ms: int = 0
    throttles: int = 0


class Windows:
    """``most`` is what a function may have that was not throttled lately. Keys are (account, name)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: dict[Key, int] = {}
        # When attempts began, by their numbers; in order.
        self._young: dict[Key, dict[int, int]] = {}
        self._number = 0
        self._narrowed: dict[Key, _Window] = {}

    def began(self, key: Key, now_ms: int) -> int:
        """An attempt is under way; its number."""
        self._under_way[key] = self._under_way.get(key, 0) + 1
        self._number += 1
        self._young.setdefault(key, {})[self._number] = now_ms
        return self._number

    def ended(self, key: Key, number: int) -> None:
        """It is over, whatever came of it."""
        young = self._young.get(key)
        if young is not None:
            young.pop(number, None)
            if not young:
                del self._young[key]
        count = self._under_way[key] - 1
        if count:
            self._under_way[key] = count
        else:
            del self._under_way[key]

    def refused(self, key: Key, now_ms: int) -> None:
        """An attempt, which has ended, did not reach the function."""
        window = self._narrowed.get(key)
        if window is None:
            window = self._narrowed[key] = _Window(0)
        window.size = max(LEAST, self._under_way.get(key, 0))
        if now_ms >= window.paused_until_ms:
            # Those that were under way together count as one.
            window.paused_until_ms = now_ms + min(FIRST_PAUSE_MS << min(window.throttles, 10), LONGEST_PAUSE_MS)
            window.throttles += 1

    def ran(self, key: Key) -> None:
        """The function was run."""
        window = self._narrowed.get(key)
        if window is not None:
            window.throttles = 0
            window.size += GROWTH
            if window.size >= self._most:
                del self._narrowed[key]

    def full(self, now_ms: int) -> frozenset[Key]:
        """Functions of which no further attempt may begin."""
        found = {key for key, count in self._under_way.items() if count >= self._most}
        found.update(key for key in list(self._young) if self._first_young_ms(key, now_ms) is not None)
        found.update(key for key, window in self._narrowed.items() if now_ms < window.paused_until_ms or self._under_way.get(key, 0) >= window.size)
        return frozenset(found)

    def next_ms(self, now_ms: int) -> int | None:
        """When time alone makes room for the next attempt of a function; None when it will not."""
        times = [w.paused_until_ms for w in self._narrowed.values() if w.paused_until_ms > now_ms]
        times += [at_ms + YOUNG_MS for key in list(self._young) if (at_ms := self._first_young_ms(key, now_ms)) is not None]
        return min(times, default=None)

    def _first_young_ms(self, key: Key, now_ms: int) -> int | None:
        """When the oldest of too many young attempts began; None when they are not too many."""
        young = self._young[key]
        while young:
            number, at_ms = next(iter(young.items()))
            if now_ms - YOUNG_MS < at_ms:
                # A clock that is put back makes nothing young for ever.
                return min(at_ms, now_ms) if len(young) >= YOUNG else None
            del young[number]
        del self._young[key]
        return None
