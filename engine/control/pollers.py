"""Has event source mappings polled, and settles their states.

Theory of operation. One loop compares the stored mappings with what the polling process was last told, and tells it everything anew when
the two differ; a change of a mapping, a report, or time only wake it. The process is started when there is something to poll and again when
it ends. A mapping leaves its transitional state when the process reports that all its threads work by the stored revision,
or, if nothing is to be polled any more, that it has none: so ``Disabled`` means that the function is not called any more. All state is
in the store; a control plane that was killed goes on where the former one was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.config import Settings
from engine.control.event_source_rules import RESULT
from engine.control.event_sources import STABLE, WANTED, lock
from engine.control.plane import Plane
from engine.control.polled import source_of
from engine.core.restart import RestartPolicy
from engine.errors import AwsError, ServiceError
from engine.eventing.sources.orders import Checkpoint, Orders, Report, Source, line, read_report
from engine.store.api import EventSourceMapping

# Credentials are looked after at least this often.
LOOK_S = 30.0
GRACE_S = 4.0
PAUSE_AFTER_ERROR_S = 1.0
_MAX_LINE = 16 * 1024 * 1024
_log = logging.getLogger(__name__)


class Pollers:
    """Works while ``run`` does. ``counts``: by mapping, what became of messages since the process started, under AWS's metric names."""

    def __init__(self, plane: Plane, settings: Settings) -> None:
        self._plane = plane
        self._settings = settings
        self._policy = RestartPolicy()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._number = 0
        self._told: tuple[Source, ...] = ()
        self._report: Report | None = None
        self._ending = False
        self._complaints: dict[str, str] = {}

    def counts(self) -> dict[str, dict[str, int]]:
        """Figures of the last report."""
        report = self._report
        return {} if report is None else {mapping: standing.counts for mapping, standing in report.standings.items()}

    def ages_ms(self) -> dict[str, int]:
        """IteratorAge by mapping, of streams."""
        standings = {} if self._report is None else self._report.standings
        return {mapping: standing.age_ms for mapping, standing in standings.items() if standing.age_ms is not None}

    def lags(self) -> dict[str, int]:
        """OffsetLag by mapping, of topics."""
        standings = {} if self._report is None else self._report.standings
        return {mapping: standing.lag for mapping, standing in standings.items() if standing.lag is not None}

    async def run(self) -> None:
        """Until it is cancelled; then the process gets a moment to finish its batches."""
        try:
            while True:
                self._plane.mappings_changed.clear()
                try:
                    if self._plane.link.is_open:
                        await self._look()
                    else:
                        await self._plane.link.ready()
                        continue
                except ServiceError:
                    continue
                except Exception:  # noqa: BLE001 - a full disk must not end the loop
                    _log.exception("event source mappings could not be looked after")
                    await asyncio.sleep(PAUSE_AFTER_ERROR_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._plane.mappings_changed.wait()
        finally:
            await self._end()

    async def _look(self) -> None:
        mappings = await asyncio.to_thread(self._plane.mappings.everything)
        wanted = await self._wanted(mappings)
        if self._process is None and wanted:
            await self._start()
        if self._process is not None and (wanted != self._told or self._lost(wanted)):
            await self._tell(wanted)
        await self._settle(mappings, {source.mapping for source in wanted})
        await self._note_results(mappings)

    async def _wanted(self, mappings: list[EventSourceMapping]) -> tuple[Source, ...]:
        """What is to be polled. A mapping whose function is not there, or whose role cannot be assumed, is not."""
        found: list[Source] = []
        for mapping in mappings:
            if not mapping.document[WANTED]:
                continue
            try:
                found.append(await source_of(mapping, self._plane, self._settings))
            except AwsError as e:
                self._complain(mapping.mapping, str(e))
            else:
                self._complain(mapping.mapping, "")
        return tuple(found)

    def _lost(self, wanted: tuple[Source, ...]) -> bool:
        """Whether the process has read its orders and yet does not poll something: it was still ending the same mapping then."""
        report = self._report
        return report is not None and report.number == self._number and any(s.mapping not in report.standings for s in wanted)

    def _complain(self, mapping: str, problem: str) -> None:
        if problem and self._complaints.get(mapping) != problem:
            _log.warning("mapping %s is not polled: %s", mapping, problem)
        self._complaints[mapping] = problem

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "engine.eventing.sources.process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
        )
        self._told, self._report = (), None
        self._reader = asyncio.create_task(self._read(self._process))

    async def _tell(self, wanted: tuple[Source, ...]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        self._number += 1
        self._told = wanted
        engine = str(self._settings.run_dir() / "engine.sock")
        read = self._plane.mappings.checkpoints
        known = {s.mapping: await asyncio.to_thread(read, s.mapping) for s in wanted if s.stream is not None}
        checkpoints = msgspec.convert(known, dict[str, dict[str, Checkpoint]])
        orders = Orders(self._number, engine, self._settings.event_poll_s, wanted, checkpoints, self._settings.event_over_pull)
        with contextlib.suppress(ConnectionError):
            process.stdin.write(line(orders))
            await process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Take reports until the process ends, and have it started again then."""
        assert process.stdout is not None  # noqa: S101 - it was started with a pipe
        try:
            async for text in process.stdout:
                report = read_report(text)
                if report.checkpoints:
                    await self._plane.mappings.remember(msgspec.to_builtins(report.checkpoints))
                former, self._report = self._report, report
                if former is None or _stands(former) != _stands(self._report):
                    self._plane.mappings_changed.set()
        except (msgspec.DecodeError, ValueError) as e:
            _log.warning("the polling process reports what cannot be read: %s", e)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        status = await process.wait()
        if self._ending:
            return
        pause_s = self._policy.delay_s(self._plane.clock.monotonic())
        _log.warning("the process that polls event sources ended with %d; it is started again in %.0f s", status, pause_s)
        self._report = None
        await asyncio.sleep(pause_s)
        self._process = None
        self._plane.mappings_changed.set()

    async def _settle(self, mappings: list[EventSourceMapping], wanted: set[str]) -> None:
        for mapping in mappings:
            if mapping.document["State"] in STABLE or not self._arrived(mapping, wanted):
                continue
            async with lock(self._plane, mapping.mapping):
                current = await asyncio.to_thread(self._plane.mappings.get, mapping.mapping)
                if current is None or current.revision != mapping.revision:
                    continue
                if current.document["State"] == "Deleting":
                    await self._plane.mappings.delete(mapping.mapping)
                    self._complaints.pop(mapping.mapping, None)
                    continue
                state = "Enabled" if current.document[WANTED] else "Disabled"
                await self._plane.mappings.put(current._replace(document={**current.document, "State": state}))

    async def _note_results(self, mappings: list[EventSourceMapping]) -> None:
        """Keep the LastProcessingResult of sources that have one."""
        standings = {} if self._report is None else self._report.standings
        for mapping in mappings:
            standing = standings.get(mapping.mapping)
            result = standing.result if standing is not None else None
            if self._complaints.get(mapping.mapping):
                result = f"PROBLEM: {self._complaints[mapping.mapping]}"
            if result is None or RESULT not in mapping.document or mapping.document[RESULT] == result:
                continue
            async with lock(self._plane, mapping.mapping):
                current = await asyncio.to_thread(self._plane.mappings.get, mapping.mapping)
                if current is not None:
                    await self._plane.mappings.put(current._replace(document={**current.document, RESULT: result}))

    def _arrived(self, mapping: EventSourceMapping, wanted: set[str]) -> bool:
        """Whether what is polled is what is stored."""
        report = self._report
        if report is None:
            # Nothing is polled; if nothing is to be, that is how it shall be.
            return self._process is None and mapping.mapping not in wanted
        if report.number != self._number:
            return False
        standing = report.standings.get(mapping.mapping)
        if mapping.mapping in wanted:
            return standing is not None and standing.revision == mapping.revision
        return standing is None

    async def _end(self) -> None:
        self._ending = True
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            # Its last words say how far it came.
            done, _ = await asyncio.wait([asyncio.ensure_future(self._reader or process.wait())], timeout=GRACE_S)
            if not done:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._reader is not None:
            self._reader.cancel()


def _stands(report: Report) -> tuple[int, Mapping[str, Any]]:
    """A report without its figures, which change with every message."""
    return report.number, {mapping: (standing.revision, standing.result) for mapping, standing in report.standings.items()}
