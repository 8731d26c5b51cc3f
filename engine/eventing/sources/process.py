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
from typing import Any, Protocol

import msgspec
import setproctitle

from engine.aws.clients import AwsClients
from engine.client import Client
from engine.eventing.sources import kafka, orders, rabbitmq
from engine.eventing.sources.brokers import BrokerPoller
from engine.eventing.sources.direct_queue import DirectQueues
from engine.eventing.sources.orders import Checkpoint, Orders, Report, Source, Standing
from engine.eventing.sources.pace import Pace
from engine.eventing.sources.sqs import MAX_CONCURRENCY, QueuePoller
from engine.eventing.sources.streams import StreamPoller
from engine.telemetry import logs

REPORT_S = 0.2
GRACE_S = 2.0
PR_SET_PDEATHSIG = 1
# Below functions: whoever invokes something waits for it, and a queue does not mind.
NICENESS = 15
# More than the longest poll takes.
READ_TIMEOUT_S = 60


class Poller(Protocol):
    """What polls one mapping."""

    @property
    def result(self) -> str | None: ...

    @property
    def age_ms(self) -> int | None: ...

    @property
    def lag(self) -> int | None: ...

    def start(self) -> None: ...

    def update(self, source: Source) -> None: ...

    def stop(self) -> None: ...

    @property
    def stopping(self) -> bool: ...

    @property
    def revision(self) -> int | None: ...

    def counts(self) -> dict[str, int]: ...

    def take_checkpoints(self) -> dict[str, Checkpoint | None]: ...


class Pollers:
    """What is polled, made to be what the last orders said. Only the main thread changes it, only the reporter's reads it besides."""

    def __init__(self) -> None:
        self._number = 0
        self._engine: Client | None = None
        self._pollers: dict[str, Poller] = {}
        self._clients: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._pace = Pace()

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
                    poller = self._pollers[mapping] = self._made(source, given, self._engine)
                    poller.start()
                elif not poller.stopping:
                    poller.update(source)
            self._number = given.number
            with self._making:
                # Session credentials are replaced every hour.
                named = {_key(source) for source in given.sources}
                self._clients = {key: client for key, client in self._clients.items() if key[:-1] in named}

    def _made(self, source: Source, given: Orders, engine: Client) -> Poller:
        if source.broker is not None:
            return BrokerPoller(source, engine, self._connect, kafka.opened if source.broker.kind == "kafka" else rabbitmq.opened)
        if source.stream is None:
            return QueuePoller(source, given.poll_s, engine, self._queues, None if source.direct is None else self._pace, over_pull=given.over_pull)
        return StreamPoller(source, engine, self._connect, given.checkpoints.get(source.mapping, {}))

    def _queues(self, source: Source) -> Any:
        client = self._connect(source, "sqs")
        return client if source.direct is None else DirectQueues(source.direct, source.region, client)

    def _connect(self, source: Source, service: str) -> Any:
        """A client of the source's region with its credentials. Making one costs tens of milliseconds, and boto3 wants one at a time."""
        key = (*_key(source), service)
        with self._making:
            found = self._clients.get(key)
            if found is None:
                aws = AwsClients(source.endpoint, source.region, source.credentials)
                found = aws.client(service, max_pool_connections=MAX_CONCURRENCY, read_timeout=READ_TIMEOUT_S)
                self._clients[key] = found
            return found

    def report(self) -> Report:
        """How things stand; pollers without threads are forgotten. Checkpoints are in it once."""
        with self._lock:
            standings: dict[str, Standing] = {}
            checkpoints: dict[str, dict[str, Checkpoint | None]] = {}
            for mapping, poller in list(self._pollers.items()):
                revision = poller.revision
                if changed := poller.take_checkpoints():
                    checkpoints[mapping] = changed
                if revision is None:
                    del self._pollers[mapping]
                    continue
                seen = -1 if poller.stopping else revision
                standings[mapping] = Standing(seen, poller.counts(), poller.result, poller.age_ms, poller.lag)
            return Report(self._number, standings, checkpoints)

    def stop(self, grace_s: float) -> None:
        """Poll no more and give running batches a moment; what does not end comes back to its queue."""
        with self._lock:
            for poller in self._pollers.values():
                poller.stop()
        until_s = time.monotonic() + grace_s
        while time.monotonic() < until_s and any(poller.revision is not None for poller in list(self._pollers.values())):
            time.sleep(0.02)


def _key(source: Source) -> tuple[Any, ...]:
    return source.endpoint, source.region, source.credentials


class Reporter:
    """Writes a report whenever it differs from the last one."""

    def __init__(self, pollers: Pollers) -> None:
        self._pollers = pollers
        self._former: Report | None = None
        self._lock = threading.Lock()

    def run(self) -> None:
        while self.tell():
            time.sleep(REPORT_S)

    def tell(self) -> bool:
        """False when nobody reads any more."""
        with self._lock:
            current = self._pollers.report()
            if current == self._former and not current.checkpoints:
                return True
            try:
                sys.stdout.buffer.write(orders.line(current))
                sys.stdout.buffer.flush()
            except OSError:
                return False
            self._former = current
            return True


def main() -> int:
    """Poll until stdin ends; the exit status."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    setproctitle.setproctitle("lambda-engine: event source pollers")
    os.nice(NICENESS)
    logs.configure(os.environ.get("LAMBDA_ENGINE_LOG_LEVEL", "info"))
    # The whole group gets the terminal's interrupt; the control plane says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pollers = Pollers()
    reporter = Reporter(pollers)
    threading.Thread(target=reporter.run, name="reports", daemon=True).start()
    for text in sys.stdin.buffer:
        try:
            pollers.follow(orders.read_orders(text))
        except msgspec.DecodeError as e:
            print(f"lambda-engine: pollers: orders that cannot be read: {e}", file=sys.stderr)  # noqa: T201 - the end of this process
            return 2
    pollers.stop(GRACE_S)
    reporter.tell()
    # Threads in a long poll would hold the interpreter back until their answer comes.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
