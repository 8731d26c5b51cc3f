"""Counters and histograms of the live state. Plain numbers: rendering is somebody else's work."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Protocol

# Seconds. Fine where the engine itself works (0.1-10 ms), coarse up to Lambda's 900 s.
BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
)  # fmt: skip


class Histogram:
    """Counts per bucket (one more than bounds, for the rest) and the sum in seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum_s += seconds


class Tally(Protocol):
    """What somebody counts on the side, in the same buckets."""

    def pour(self, histograms: tuple[Histogram, Histogram, Histogram]) -> None:
        """Add it to the histograms of queue, invoke and overhead, and begin anew."""


class FunctionStats:
    """What happened to one function since the supervisor started."""

    __slots__ = (
        "cold_starts", "cpu_s", "error", "errors", "init", "invoke", "overhead", "pending", "provisioned", "queue", "recursions", "spillover",
        "success", "tally", "throttles", "timeout", "urls",
    )  # fmt: skip

    def __init__(self) -> None:
        self.success = 0
        self.error = 0
        self.timeout = 0
        self.cpu_s = 0.0
        # Ran on a provisioned instance; ran on demand though the version has provisioned ones.
        self.provisioned = 0
        self.spillover = 0
        # Invocations dropped because they would have gone on with a loop.
        self.recursions = 0
        # (queue, invoke, overhead) seconds of finished invocations, not yet in the histograms: `fold` does many at once.
        self.pending: list[tuple[float, float, float]] = []
        self.tally: Tally | None = None
        self.errors: dict[str, int] = {}
        self.throttles: dict[str, int] = {}
        self.cold_starts: dict[str, int] = {}
        # Requests to the function's URLs by class of status: 2xx and so on.
        self.urls: dict[str, int] = {}
        self.queue = Histogram()
        self.init = Histogram()
        self.invoke = Histogram()
        self.overhead = Histogram()

    def fold(self) -> None:
        """Move ``pending`` and ``tally`` into the histograms."""
        if self.tally is not None:
            self.tally.pour((self.queue, self.invoke, self.overhead))
        pending, self.pending = self.pending, []
        queue, invoke, overhead = self.queue.counts, self.invoke.counts, self.overhead.counts
        queue_s = invoke_s = overhead_s = 0.0
        for q, i, o in pending:
            queue[bisect_left(BOUNDS, q)] += 1
            invoke[bisect_left(BOUNDS, i)] += 1
            overhead[bisect_left(BOUNDS, o)] += 1
            queue_s += q
            invoke_s += i
            overhead_s += o
        self.queue.sum_s += queue_s
        self.invoke.sum_s += invoke_s
        self.overhead.sum_s += overhead_s

    def count_error(self, error_type: str) -> None:
        """Count a failed invocation by type; a function that invents types cannot grow the table without bound."""
        if error_type not in self.errors and len(self.errors) >= 64:
            error_type = "__other__"
        self.errors[error_type] = self.errors.get(error_type, 0) + 1

    def count_throttle(self, reason: str) -> None:
        self.throttles[reason] = self.throttles.get(reason, 0) + 1

    def count_cold_start(self, kind: str) -> None:
        self.cold_starts[kind] = self.cold_starts.get(kind, 0) + 1

    def count_url(self, status: int) -> None:
        kind = f"{status // 100}xx"
        self.urls[kind] = self.urls.get(kind, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """The numbers in the shape the metrics page reads."""
        self.fold()
        return {
            "invocations": {"success": self.success, "error": self.error, "timeout": self.timeout},
            "errors": dict(self.errors),
            "throttles": dict(self.throttles),
            "provisioned": {"provisioned": self.provisioned, "spillover": self.spillover},
            "cold_starts": dict(self.cold_starts),
            "urls": dict(self.urls),
            "recursions": self.recursions,
            "cpu_s": self.cpu_s,
            "phases": {
                name: [list(h.counts), h.sum_s]
                for name, h in (
                    ("queue", self.queue),
                    ("init", self.init),
                    ("invoke", self.invoke),
                    ("overhead", self.overhead),
                )
            },
        }
