"""What the engine's own processes use, read with psutil."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """Figures of one process; None where the system does not let us read them (another user's process)."""

    role: str
    pid: int
    rss_bytes: int | None
    cpu_s: float | None
    fds: int | None
    threads: int | None
    started_epoch_s: float | None


def sample(pids: Mapping[str, int]) -> list[ProcessSample]:
    """Figures of each process in ``{role: pid}``; one that is gone is left out. Blocks for file reads in /proc."""
    samples = []
    for role, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            samples.append(_sample(role, psutil.Process(pid)))
    return samples


def _sample(role: str, process: psutil.Process) -> ProcessSample:
    rss = cpu = fds = threads = started = None
    with process.oneshot():
        with suppress(psutil.AccessDenied):
            rss = process.memory_info().rss
        with suppress(psutil.AccessDenied):
            times = process.cpu_times()
            cpu = times.user + times.system
        with suppress(psutil.AccessDenied):
            fds = process.num_fds()
        with suppress(psutil.AccessDenied):
            threads = process.num_threads()
        with suppress(psutil.AccessDenied):
            started = process.create_time()
    return ProcessSample(role, process.pid, rss, cpu, fds, threads, started)
