"""When to restart a child process that ended: at once, later, or not at all.

More than ``intensity`` ends within ``period_s`` seconds means that restarting does not help; the answer is then a pause
that doubles up to ``max_pause_s``, never an end: a control plane that cannot start must not take the data plane with it.
"""

from __future__ import annotations

from collections import deque


class RestartPolicy:
    """One child's history. Time is an argument (monotonic seconds)."""

    def __init__(self, intensity: int = 3, period_s: float = 10.0, max_pause_s: float = 30.0) -> None:
        self.intensity = intensity
        self.period_s = period_s
        self.max_pause_s = max_pause_s
        self._ends: deque[float] = deque()
        self._pause_s = 0.0

    def delay_s(self, now_s: float) -> float:
        """The child has just ended: seconds to wait before the next start."""
        while self._ends and now_s - self._ends[0] > self.period_s:
            self._ends.popleft()
        self._ends.append(now_s)
        if len(self._ends) <= self.intensity:
            self._pause_s = 0.0
            return 0.0
        self._pause_s = min(self.max_pause_s, max(1.0, self._pause_s * 2))
        return self._pause_s
