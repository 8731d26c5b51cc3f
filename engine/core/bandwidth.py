"""How fast an answer in pieces may go: a bucket of bytes that starts full and fills again at the rate. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html (2 MB a second after the first 6 MB).
"""

from __future__ import annotations

BURST = 6 * 1024 * 1024
_MIB = 1024 * 1024


class Bucket:
    """One stream's. ``rate_mib_s``: MiB a second; ``now_s`` never goes back."""

    __slots__ = ("_at_s", "_left", "_rate")

    def __init__(self, rate_mib_s: float, now_s: float) -> None:
        self._rate = rate_mib_s * _MIB
        self._left = float(BURST)
        self._at_s = now_s

    def spend(self, size: int, now_s: float) -> float:
        """Count ``size`` bytes that go out now; seconds until more may follow. A piece bigger than what is left goes whole, and is waited for."""
        self._left = min(float(BURST), self._left + (now_s - self._at_s) * self._rate) - size
        self._at_s = now_s
        return max(0.0, -self._left / self._rate)
