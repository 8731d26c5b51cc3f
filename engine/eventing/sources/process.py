"""The process that polls: ``python -m engine.eventing.sources.process``, a child of the control plane.

Orders come down stdin, reports go up stdout; the end of stdin is the end of the control plane, and with it of this process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

import msgspec
import setproctitle

from engine.aws.clients import AwsClients
from engine.client import Client
from engine.eventing.sources import orders
from engine.eventing.sources.orders import Orders, Report, Source, Standing
from engine.eventing.sources.sqs import MAX_CONCURRENCY, QueuePoller
from engine.telemetry import logs

REPORT_S = 0.2
GRACE_S = 2.0
PR_SET_PDEATHSIG = 1
# More than the longest poll takes.
READ_TIMEOUT_S = 60


class Pollers:
    """What is polled, made to be what the last orders said. Only the main thread changes it, only the reporter's reads it besides."""

    def __init__(self) -> None:
        self._number = 0
        self._engine: Client | None = None
        self._pollers: dict[str, QueuePoller] = {}
        self._clients: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()

    def follow(self, given: Orders) -> None:
        """Start, change and stop pollers."""
        with self._lock:
            if self._engine is None:
                self._engine = Client(given.engine, keep=MAX_CONCURRENCY)
            wanted = {source.mapping: source for source in given.sources}
            for mapping, running in self._pollers.items():
                if mapping not in wanted:
                    running.stop()
            for mapping, source in wanted.items():
                poller = self._pollers.get(mapping)
                # One that is still stopping finishes its batch alone; the report after that has it started again.
                if poller is None:
                    poller = self._pollers[mapping] = QueuePoller(source, given.poll_s, self._engine, self._connect)
                    poller.start()
                elif not poller.stopping:
                    poller.update(source)
            self._number = given.number
            with self._making:
                # Session credentials are replaced every hour.
                named = {_key(source) for source in given.sources}
                self._clients = {key: client for key, client in self._clients.items() if key in named}

    def _connect(self, source: Source) -> Any:
        """A client of the queue's region with the source's credentials. Making one costs tens of milliseconds, and boto3 wants one at a time."""
        key = _key(source)
        with self._making:
            found = self._clients.get(key)
            if found is None:
                aws = AwsClients(source.endpoint, _region(source), source.credentials)
                found = aws.client("sqs", max_pool_connections=MAX_CONCURRENCY, read_timeout=READ_TIMEOUT_S)
                self._clients[key] = found
            return found

    def report(self) -> Report:
        """How things stand; pollers without threads are forgotten."""
        with self._lock:
            standings: dict[str, Standing] = {}
            for mapping, poller in list(self._pollers.items()):
                revision = poller.revision
                if revision is None:
                    del self._pollers[mapping]
                else:
                    standings[mapping] = Standing(-1 if poller.stopping else revision, poller.counts())
            return Report(self._number, standings)

    def stop(self, grace_s: float) -> None:
        """Poll no more and give running batches a moment; what does not end comes back to its queue."""
        with self._lock:
            for poller in self._pollers.values():
                poller.stop()
        until_s = time.monotonic() + grace_s
        while time.monotonic() < until_s and any(poller.revision is not None for poller in list(self._pollers.values())):
            time.sleep(0.02)


def _region(source: Source) -> str:
    return source.queue.split(":")[3]


def _key(source: Source) -> tuple[Any, ...]:
    return source.endpoint, _region(source), source.credentials


def _tell(pollers: Pollers) -> None:
    """Write a report whenever it differs from the last one."""
    former: Report | None = None
    while True:
        current = pollers.report()
        if current != former:
            try:
                sys.stdout.buffer.write(orders.line(current))
                sys.stdout.buffer.flush()
            except OSError:
                return
            former = current
        time.sleep(REPORT_S)


def main() -> int:
    """Poll until stdin ends; the exit status."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    setproctitle.setproctitle("lambda-engine: event source pollers")
    logs.configure(os.environ.get("LAMBDA_ENGINE_LOG_LEVEL", "info"))
    # The whole group gets the terminal's interrupt; the control plane says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pollers = Pollers()
    threading.Thread(target=_tell, args=(pollers,), name="reports", daemon=True).start()
    for text in sys.stdin.buffer:
        try:
            pollers.follow(orders.read_orders(text))
        except msgspec.DecodeError as e:
            print(f"lambda-engine: pollers: orders that cannot be read: {e}", file=sys.stderr)  # noqa: T201 - the end of this process
            return 2
    pollers.stop(GRACE_S)
    sys.stdout.flush()
    # Threads in a long poll would hold the interpreter back until their answer comes.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
