"""Time as a dependency: production reads the system clocks, tests turn the hands themselves."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks the engine needs.

    ``monotonic`` measures durations (seconds, never goes back); ``epoch_ms`` names moments
    (milliseconds since 1970, may jump when the host's clock is set).
    """

    def monotonic(self) -> float: ...

    def epoch_ms(self) -> int: ...


class SystemClock:
    """The host's clocks."""

    # The C function itself: a Python wrapper would cost more than the reading, several times per invocation.
    monotonic = staticmethod(time.monotonic)

    def epoch_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ShiftedClock(SystemClock):
    """The host's clocks, of which the one that names moments can be put forward: what happens hours later is then seen at once."""

    def __init__(self) -> None:
        self._ahead_ms = 0

    def epoch_ms(self) -> int:
        return super().epoch_ms() + self._ahead_ms

    def advance(self, seconds: float) -> None:
        """Put it forward by ``seconds``; raises ValueError when asked to go back."""
        if not seconds >= 0:
            raise ValueError(f"a clock does not go back: advance({seconds})")
        self._ahead_ms += round(seconds * 1000)


class ManualClock:
    """A clock that moves only when ``advance`` is called; both readings move together."""

    def __init__(self, monotonic_s: float = 1_000.0, epoch_ms: int = 1_700_000_000_000) -> None:
        self._monotonic_s = monotonic_s
        self._epoch_ms = epoch_ms

    def monotonic(self) -> float:
        return self._monotonic_s

    def epoch_ms(self) -> int:
        return self._epoch_ms

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``; raises ValueError when asked to go back."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back: advance({seconds})")
        self._monotonic_s += seconds
        self._epoch_ms += round(seconds * 1000)
