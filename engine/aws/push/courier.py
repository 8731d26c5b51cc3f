"""Carries events from the embedded AWS to the engine, which puts them into its durable queue.

Theory of operation. Services that invoke asynchronously hand an event over and go on; one thread takes whatever waits, sends it in one request over
the control plane's Unix socket, and is told of each event whether it was accepted. It repeats a request that was not answered until it is, with the
same ids, by which the queue knows an event it has. What the engine refuses (no such function, or its policy does not let the service in) is said once on
stderr and told to whoever handed it over. Events that wait here are lost with the embedded AWS, whose state is in memory only.
"""

from __future__ import annotations

import http.client
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from engine import ids
from engine.aws.engine_connection import EngineConnection
from engine.core.push import PATH, Push, Verdict

MAX_BATCH = 64
MAX_BATCH_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
Refused = Callable[[Verdict], None]
_verdicts = msgspec.msgpack.Decoder(list[Verdict])


class Unreachable(Exception):
    """The engine did not answer."""


@dataclass(frozen=True, slots=True)
class _Item:
    push: Push
    refused: Refused | None


class Courier:
    """``path``: the control plane's socket. Its thread starts with the first event and ends with the process."""

    def __init__(self, path: str, pause: Callable[[float], None] = time.sleep) -> None:
        self._path = path
        self._pause = pause
        self._waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._said: set[str] = set()
        self._left = 0
        self._changed = threading.Condition()

    def send(
        self, function: str, payload: str, *, principal: str = "", source_arn: str = "", source_account: str = "", trace: str | None = None,
        refused: Refused | None = None,
    ) -> None:  # fmt: skip
        """Hand an event over. ``principal``: the service whose permission is checked, none for a caller with rights of its own."""
        push = Push(ids.request_id(), function, principal, source_arn, source_account, payload.encode(), trace)
        with self._changed:
            self._left += 1
        self._waiting.put(_Item(push, refused))
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Wait until everything handed over so far was accepted or refused; whether it was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._left == 0, timeout_s)

    def check(self, function: str, principal: str, source_arn: str, source_account: str) -> Verdict:
        """Whether an event would be accepted. Raises Unreachable."""
        asked = Push(ids.request_id(), function, principal, source_arn, source_account, None, None)
        try:
            return self._ask([asked])[0]
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise Unreachable(str(e)) from e

    def _work(self) -> None:
        held: _Item | None = None
        while True:
            batch = [held or self._waiting.get()]
            held = None
            size = len(batch[0].push.payload or b"")
            while len(batch) < MAX_BATCH:
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
                size += len(item.push.payload or b"")
                if size > MAX_BATCH_BYTES:
                    held = item
                    break
                batch.append(item)
            self._deliver(batch)
            with self._changed:
                self._left -= len(batch)
                self._changed.notify_all()

    def _deliver(self, batch: list[_Item]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                verdicts = self._ask([item.push for item in batch])
            except (OSError, http.client.HTTPException, ValueError):
                self._pause(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            break
        for item, verdict in zip(batch, verdicts, strict=True):
            if not verdict.accepted:
                self._complain(item.push, verdict)
                if item.refused is not None:
                    try:
                        item.refused(verdict)
                    except Exception as e:  # noqa: BLE001 - moto raises a class per service; the others' events must go on
                        _say(f"what {item.push.source_arn} could not deliver could not be kept either: {type(e).__name__}: {e}")

    def _ask(self, pushes: list[Push]) -> list[Verdict]:
        connection = EngineConnection(self._path, TIMEOUT_S)
        try:
            connection.request("POST", PATH, msgspec.msgpack.encode(pushes))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        verdicts = _verdicts.decode(body)
        if len(verdicts) != len(pushes):
            raise ValueError("an answer to something else")
        return verdicts

    def _complain(self, push: Push, verdict: Verdict) -> None:
        text = f"{push.source_arn or 'the embedded AWS'} did not reach {push.function}: {verdict.message}"
        if text not in self._said and len(self._said) < 1000:
            self._said.add(text)
            _say(text)


def _say(text: str) -> None:
    sys.stderr.write(f"embedded AWS: {text}\n")
    sys.stderr.flush()
