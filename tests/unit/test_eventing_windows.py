"""How many attempts of a function may be under way: decisions in virtual time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.eventing.windows import FIRST_PAUSE_MS, LEAST, LONGEST_PAUSE_MS, YOUNG, YOUNG_MS, Windows

KEY, OTHER = ("1", "f"), ("1", "g")


class Attempts:
    """Attempts of one function that are under way; they began so long ago that none is young."""

    def __init__(self, windows: Windows, key: tuple[str, str] = KEY) -> None:
        self._windows = windows
        self._key = key
        self._numbers: list[int] = []

    def begin(self, count: int, now_ms: int = -YOUNG_MS) -> None:
        self._numbers += [self._windows.began(self._key, now_ms) for _ in range(count)]

    def end(self, count: int = 1) -> None:
        for _ in range(count):
            self._windows.ended(self._key, self._numbers.pop())

    def run(self, count: int = 1) -> None:
        for _ in range(count):
            self.end()
            self._windows.ran(self._key)

    def refuse(self, count: int, now_ms: int) -> None:
        for _ in range(count):
            self.end()
            self._windows.refused(self._key, now_ms)


def test_without_throttles_there_is_room_for_the_most() -> None:
    windows = Windows(10)
    attempts = Attempts(windows)
    attempts.begin(9)
    assert windows.full(0) == frozenset()
    attempts.begin(1)
    assert windows.full(0) == {KEY}
    attempts.end()
    assert windows.full(0) == frozenset()
    assert windows.next_ms(0) is None


def test_only_so_many_begin_at_a_time() -> None:
    windows = Windows(1000)
    attempts, other = Attempts(windows), Attempts(windows, OTHER)
    attempts.begin(YOUNG - 1, 1000)
    other.begin(1, 1000)
    assert windows.full(1010) == frozenset()
    attempts.begin(1, 1010)
    assert windows.full(1010) == {KEY}
    assert windows.next_ms(1010) == 1000 + YOUNG_MS
    # Who ends makes room at once, who goes on makes it in a while.
    attempts.end()
    assert windows.full(1010) == frozenset()
    attempts.begin(1, 1010)
    assert windows.full(1000 + YOUNG_MS) == frozenset()
    assert windows.next_ms(1000 + YOUNG_MS) is None
    attempts.begin(2 * YOUNG, 2000)
    assert windows.full(2000) == {KEY}
    # The clock is put back: that is no reason to stop.
    assert windows.next_ms(500) == 500 + YOUNG_MS
    attempts.end(3 * YOUNG)
    other.end()
    assert windows.full(500) == frozenset()
    assert windows.next_ms(500) is None


def test_throttles_leave_what_runs_and_pause_the_rest() -> None:
    windows = Windows(100)
    attempts = Attempts(windows)
    attempts.begin(50)
    Attempts(windows, OTHER).begin(1)
    attempts.refuse(40, 1000)
    assert windows.full(1000) == {KEY}
    assert windows.next_ms(1000) == 1000 + FIRST_PAUSE_MS
    # Ten run: no more than that.
    assert windows.full(1000 + FIRST_PAUSE_MS) == {KEY}
    attempts.run()
    assert windows.full(1000 + FIRST_PAUSE_MS) == frozenset()


def test_pauses_double_up_to_a_limit_and_end_with_a_run() -> None:
    windows, now_ms, pauses = Windows(100), 0, []
    attempts = Attempts(windows)
    for _ in range(12):
        attempts.begin(LEAST)
        attempts.refuse(LEAST, now_ms)
        pauses.append((windows.next_ms(now_ms) or 0) - now_ms)
        now_ms += pauses[-1]
        assert windows.full(now_ms) == frozenset(), "something is tried after each pause"
    assert pauses[:4] == [FIRST_PAUSE_MS, 2 * FIRST_PAUSE_MS, 4 * FIRST_PAUSE_MS, 8 * FIRST_PAUSE_MS]
    assert pauses[-1] == LONGEST_PAUSE_MS
    attempts.begin(2)
    attempts.run()
    attempts.refuse(1, now_ms)
    assert windows.next_ms(now_ms) == now_ms + FIRST_PAUSE_MS


@given(st.integers(LEAST, 400), st.integers(1, 50))
def test_a_function_that_takes_everything_is_given_everything_again(most: int, throttles: int) -> None:
    windows = Windows(most)
    attempts = Attempts(windows)
    attempts.begin(throttles)
    attempts.refuse(throttles, 0)
    for _ in range(8 * most):
        attempts.begin(1)
        attempts.run()
    attempts.begin(most - 1)
    assert windows.full(10**6) == frozenset()
    attempts.begin(1)
    assert windows.full(10**6) == {KEY}
