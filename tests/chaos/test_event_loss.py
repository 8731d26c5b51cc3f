"""What got a 202 runs: processes of the engine are killed in the midst of a load, and every accepted id is looked for among those that ran.

The counts here are for a quick look. ``LAMBDA_ENGINE_EVENT_LOSS=1`` gives the full run: 100 kills, at least 100,000 events. Functions report to a server of
this test's over the host's loopback, which outlives everything that is killed.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import threading
import time
from typing import Any

import pytest

from tests.framework import inside, wait
from tests.framework.collector import CODE, Collector
from tests.framework.engine import Engine, engine

FULL = bool(os.environ.get("LAMBDA_ENGINE_EVENT_LOSS"))
KILLS, EVENTS = (100, 100_000) if FULL else (3, 600)
SENDERS = 8
BETWEEN_S = 0.7
TIMEOUT_S = 1800 if FULL else 110
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * TIMEOUT_S)]
class Senders:
    """Send events until enough were accepted; an event without an answer is another one's turn."""

    def __init__(self, running: Engine, port: int, count: int) -> None:
        self.accepted: list[str] = []
        self.failures = 0
        self._running = running
        body = b'{"port":%d}' % port
        self._request = (
            b"POST /2015-03-31/functions/reports/invocations HTTP/1.1\r\nHost: engine\r\nX-Amz-Invocation-Type: Event\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        self._count = count
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        return len(self.accepted) >= self._count

    def went_on(self, before: int) -> bool:
        """Whether more than ``before`` were accepted, or enough."""
        return len(self.accepted) > before or self.done

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def _send(self) -> None:
        connection: socket.socket | None = None
        while not self.done:
            try:
                if connection is None:
                    # Another one after each start of the engine.
                    connection = socket.create_connection(("127.0.0.1", int(self._running.url.rpartition(":")[2])), 10)
                connection.sendall(self._request)
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = connection.recv(4096)
                    if not piece:
                        raise ConnectionError
                    head += piece
                if not head.startswith(b"HTTP/1.1 202"):
                    raise ConnectionError
                found = re.search(rb"x-amzn-requestid: ([0-9a-f-]{36})", head, re.IGNORECASE)
                assert found is not None
                self.accepted.append(found[1].decode())
            except OSError:
                self.failures += 1
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.01)
        if connection is not None:
            connection.close()


def kill(running: Engine, turn: int) -> None:
    """Turn by turn: the control plane, a worker, the whole engine."""
    if turn % 3 == 2:
        running.stop(signal.SIGKILL)
        running.start()
        return
    state: dict[str, Any] = running.state()
    pids = [state["processes"].get("control")] if turn % 3 == 0 else [i["pid"] for i in state["instances"] if i["pid"]]
    for pid in pids[:1]:
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _account_of(running: Engine, missing: set[str]) -> str:
    """Where events are that were accepted and did not run."""
    _, queue = inside.ask(running, "GET", "/_engine/events?limit=10000")
    queued = [event for event in queue["events"] if event["id"] in missing]
    given_up = [line for line in running.log.read_text().splitlines() if any(one in line for one in missing)]
    state = running.state()
    return (
        f"{len(missing)} accepted events did not run: {len(queued)} are in the queue: {queued[:3]}; the log knows: {given_up[:5]}; "
        f"in flight {state['in_flight']}, instances {[(i['state'], i['invocations']) for i in state['instances']][:20]}"
    )


def test_nothing_accepted_is_lost() -> None:
    collector = Collector()
    with engine(network="host", async_retry_base_s=0.2, pool_size=4) as running:
        running.deploy("reports", {"m.py": CODE}, Timeout=30)
        senders = Senders(running, collector.port, EVENTS)
        turn = 0
        while turn < KILLS:
            # Something is under way at each kill: accepted since the former one, and still being sent.
            wait.until(functools.partial(senders.went_on, len(senders.accepted)), "an accepted event", 120)
            kill(running, turn)
            turn += 1
            time.sleep(BETWEEN_S if FULL else 0.1)
        senders.join()
        accepted = set(senders.accepted)
        assert len(accepted) == len(senders.accepted), "every event has an id of its own"
        deadline_s = time.monotonic() + TIMEOUT_S
        while missing := accepted - collector.runs.keys():
            if time.monotonic() > deadline_s:
                raise AssertionError(_account_of(running, missing))
            time.sleep(0.05)
        print(
            f"{KILLS} kills, {len(accepted)} accepted, 0 lost, {len(collector.runs.keys() - accepted)} ran without a 202 that was seen, "
            f"{sum(n - 1 for n in collector.runs.values())} runs more than one"
        )
    collector.close()
