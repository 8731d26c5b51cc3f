"""When zygotes that have ended are started again."""

from __future__ import annotations

from typing import Any

from engine.supervisor.revival import _FIRST_S, _MOST_S, _STEADY_S, Revival


class TurnedLoop:
    """A loop whose time the test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[tuple[float, Any, tuple[Any, ...], Handle]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Any, *args: Any) -> Any:
        handle = Handle()
        self.timers.append((self.now_s + delay_s, call, args, handle))
        return handle

    def turn(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now_s]
        self.timers = [timer for timer in self.timers if timer[0] > self.now_s]
        for _, call, args, handle in due:
            if not handle.cancelled:
                call(*args)


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def revival() -> tuple[Revival, TurnedLoop, list[str]]:
    loop = TurnedLoop()
    started: list[str] = []
    return Revival(loop, started.append), loop, started  # type: ignore[arg-type]


def test_one_that_never_was_ready_is_left_alone() -> None:
    zygotes, loop, started = revival()
    assert not zygotes.ended("p")
    loop.turn(1000)
    assert started == []


def test_one_that_was_ready_comes_again_soon() -> None:
    zygotes, loop, started = revival()
    zygotes.ready("p")
    assert zygotes.ended("p"), "worth the wait"
    assert started == []
    loop.turn(_FIRST_S)
    assert started == ["p"]


def test_one_that_ends_again_and_again_comes_ever_more_seldom_but_comes() -> None:
    zygotes, loop, started = revival()
    zygotes.ready("p")
    waits, worth = [], []
    for n in range(12):
        # Some of its successors do not even come to be ready.
        if n % 2:
            zygotes.ready("p")
        worth.append(zygotes.ended("p"))
        before_s, had = loop.now_s, len(started)
        while len(started) == had:
            loop.turn(_FIRST_S / 4)
        waits.append(round(loop.now_s - before_s, 1))
    assert waits[:4] == [_FIRST_S, 2 * _FIRST_S, 4 * _FIRST_S, 8 * _FIRST_S]
    assert waits[-1] == _MOST_S
    assert worth == [True] * 4 + [False] * 8
    zygotes.ready("p")
    loop.turn(_STEADY_S)
    assert zygotes.ended("p"), "that was another matter"


def test_nothing_is_started_at_the_end() -> None:
    zygotes, loop, started = revival()
    zygotes.ready("p")
    zygotes.ended("p")
    zygotes.close()
    loop.turn(1000)
    assert started == []
