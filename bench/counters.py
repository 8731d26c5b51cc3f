"""What the kernel counts of processes: time on a processor, time waited for one, and how often it was taken away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Count(NamedTuple):
    """Sums over the threads of some processes: milliseconds on a processor and milliseconds in which they could have been on one but waited
    (``/proc/PID/task/*/schedstat``), times that they got one, and times that it was taken from them (``status``).
    """

    cpu_ms: float = 0.0
    waited_ms: float = 0.0
    turns: int = 0
    displaced: int = 0

    def since(self, then: Count) -> Count:
        """What has been added since."""
        return Count(self.cpu_ms - then.cpu_ms, self.waited_ms - then.waited_ms, self.turns - then.turns, self.displaced - then.displaced)

    def plus(self, other: Count) -> Count:
        """Both together."""
        return Count(self.cpu_ms + other.cpu_ms, self.waited_ms + other.waited_ms, self.turns + other.turns, self.displaced + other.displaced)


def count(pids: Iterable[int]) -> Count:
    """All threads that there are now of these processes. What has ended, and what cannot be read, counts for nothing."""
    total = Count()
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                ran, waited, got = (int(word) for word in (task / "schedstat").read_text(encoding="ascii").split())
                status = (task / "status").read_text(encoding="utf-8", errors="replace")
            except (OSError, ValueError):
                continue
            displaced = status.rpartition("nonvoluntary_ctxt_switches:")[2].split()
            total = total.plus(Count(ran / 1e6, waited / 1e6, got, int(displaced[0]) if displaced else 0))
    return total


def counts(groups: Mapping[str, Iterable[int]]) -> dict[str, Count]:
    """``count`` of each group."""
    return {name: count(pids) for name, pids in groups.items()}
