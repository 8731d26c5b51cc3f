"""What every scenario is given: where to work, how long to measure, how to get an engine, and what the machine is."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import native
from bench.engine import Engine, attached, started

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


@dataclass
class Context:
    """``quick`` measures for a moment only. ``cpus`` are what every process of the run is pinned to, None for free. ``runtime`` is what functions
    run on where a scenario does not say, empty for the version of this interpreter.
    """

    work: Path
    quick: bool = False
    cpus: tuple[int, ...] | None = None
    endpoint: str | None = None
    binary_endpoint: str | None = None
    signed_endpoint: str | None = None
    native_binary: Path | None = None
    runtime: str = ""

    @property
    def seconds(self) -> float:
        """How long one steady case is measured."""
        return 1.5 if self.quick else 5.0

    def say(self, text: str) -> None:
        """Progress, for people."""
        print(f"  {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def engine(self, *, auth: bool = False, **settings: object) -> Iterator[Engine]:
        """An engine; with an endpoint given, that one (whose settings are its own), cleaned of our functions afterwards."""
        endpoint = self.signed_endpoint if auth else self.endpoint
        if self.endpoint is None:
            with started(self.work, auth=auth, **settings) as running:
                running.runtime = self.runtime
                self._check_pinning(running)
                yield running
                self._check_pinning(running)
            return
        if endpoint is None:
            raise RuntimeError("this case needs an engine with authentication on: give --signed-endpoint")
        running = attached(endpoint, self.binary_endpoint, auth=auth)
        running.runtime = self.runtime
        try:
            yield running
        finally:
            running.clean()

    def _check_pinning(self, running: Engine) -> None:
        """Raises RuntimeError when a process of the engine runs elsewhere than the rest of the run."""
        if self.cpus is None:
            return
        for process in running.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if set(process.cpu_affinity() or ()) != set(self.cpus):
                    raise RuntimeError(f"process {process.pid} ({process.name()}) has left the CPUs of this run")

    def limit(self) -> Path:
        """The compiled C program. Raises RuntimeError when there is no compiler."""
        if self.native_binary is None:
            self.native_binary = native.build(self.work)
        return self.native_binary


def machine(cpus: tuple[int, ...] | None, niceness: int = 0) -> dict[str, Any]:
    """What the numbers depend on."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    pinning = "not pinned" if cpus is None else f"every process on CPU {','.join(map(str, cpus))}"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "pinning": pinning + (f", niceness {niceness}" if niceness else ""),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "revision": revision,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
    }
