"""The platform's log lines: START, END, REPORT, INIT_START, INIT_REPORT, as text or JSON.

Fields are TAB-separated and a line ends with a TAB where AWS's does. Durations in milliseconds.
Source: docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-logformat.html and recorded lines.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.core.invocation import Outcome, Status

MIB = 1024 * 1024
# One line of AWS's JSON system log is shown at this level or a more severe one.
_LEVELS = {"DEBUG": 0, "INFO": 1, "WARN": 2}


def billed_ms(duration_ms: float, init_ms: float | None) -> int:
    """Billed duration: handler time and, since August 2025, on-demand init time, rounded up to a millisecond."""
    return math.ceil(round(duration_ms + (init_ms or 0.0), 6))


@dataclass(slots=True)
class Report:
    """What REPORT tells of one invocation. Not frozen: one is made per invocation, and frozen ones cost three times as much.
    ``max_memory_mib`` None when the host gives no way to measure it. ``shared``: others ran in the instance, so its memory and init are
    nobody's own. ``tenant``: whom the invocation was for, of a function that keeps its tenants apart.
    """

    request_id: str
    duration_ms: float
    memory_mib: int
    max_memory_mib: int | None
    init_ms: float | None
    outcome: Outcome
    restore_ms: float | None = None
    shared: bool = False
    tenant: str | None = None

    def text(self) -> str:
        """The REPORT line without newline."""
        used = "" if self.max_memory_mib is None else f"Max Memory Used: {self.max_memory_mib} MB\t"
        init = "" if self.init_ms is None else f"Init Duration: {self.init_ms:.2f} ms\t"
        if self.restore_ms is not None:
            init = f"Restore Duration: {self.restore_ms:.2f} ms\tBilled Restore Duration: {math.ceil(self.restore_ms)} ms\t"
        return (
            f"REPORT RequestId: {self.request_id}\tDuration: {self.duration_ms:.2f} ms\t"
            f"Billed Duration: {billed_ms(self.duration_ms, self.init_ms)} ms\tMemory Size: {self.memory_mib} MB\t{used}{init}"
            f"{self._failure()}"
        )

    def _failure(self) -> str:
        if not self.outcome.platform:
            return ""
        if self.outcome.status is Status.TIMEOUT:
            return "Status: timeout"
        return f"Status: error\tError Type: {self.outcome.error_type}"

    def json(self, at_ms: int) -> str:
        """The ``platform.report`` event."""
        metrics: dict[str, float | int] = {"durationMs": round(self.duration_ms, 3)}
        if not self.shared:
            self._add_environment(metrics)
        record: dict[str, object] = {"requestId": self.request_id, "metrics": metrics}
        return event(at_ms, "platform.report", {**record, **self._result()})

    def done(self, at_ms: int, produced: int) -> str:
        """The ``platform.runtimeDone`` event, which comes before; ``produced``: bytes of the answer."""
        latency = {"name": "responseLatency", "start": iso_ms(at_ms - int(self.duration_ms)), "durationMs": round(self.duration_ms, 3)}
        spans = [latency, {"name": "responseDuration", "start": iso_ms(at_ms), "durationMs": 0.0}]
        metrics = {"durationMs": round(self.duration_ms, 3), "producedBytes": 0 if self.outcome.platform else produced}
        record: dict[str, object] = {"requestId": self.request_id, "spans": spans, "metrics": metrics}
        return event(at_ms, "platform.runtimeDone", {**record, **self._result()})

    def _result(self) -> dict[str, object]:
        """How it ended, and whom it was for."""
        found: dict[str, object] = {"status": self.outcome.status.value if self.outcome.platform else "success"}
        if self.outcome.platform and self.outcome.status is not Status.TIMEOUT:
            found["errorType"] = self.outcome.error_type
        if self.tenant is not None:
            found["tenantId"] = self.tenant
        return found

    def _add_environment(self, metrics: dict[str, float | int]) -> None:
        """What the environment had and was billed."""
        metrics["billedDurationMs"] = billed_ms(self.duration_ms, self.init_ms)
        metrics["memorySizeMB"] = self.memory_mib
        if self.max_memory_mib is not None:
            metrics["maxMemoryUsedMB"] = self.max_memory_mib
        if self.init_ms is not None:
            metrics["initDurationMs"] = round(self.init_ms, 3)
        if self.restore_ms is not None:
            metrics["restoreDurationMs"] = round(self.restore_ms, 3)
            metrics["billedRestoreDurationMs"] = math.ceil(self.restore_ms)


def iso_ms(at_ms: int) -> str:
    """``2026-01-31T12:00:00.000Z``."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def event(at_ms: int, kind: str, record: dict[str, object]) -> str:
    """One platform event as a JSON line."""
    return json.dumps({"time": iso_ms(at_ms), "type": kind, "record": record}, separators=(",", ":"))


def init_start_text(version: str, arn: str, *, restored: bool) -> str:
    """INIT_START: which interpreter a new environment of a managed runtime gets. ``version`` is ``python:3.12.4``, ``arn`` its name.
    RESTORE_START for one that is restored from a snapshot.
    """
    return f"{'RESTORE_START' if restored else 'INIT_START'} Runtime Version: {version}\tRuntime Version ARN: {arn}"


class InitStarted:
    """What ``init_start_text`` says, as the event ``platform.initStart`` or ``platform.restoreStart``, still to be written."""

    __slots__ = ("_about", "_arn", "_at_ms", "_level", "_restored", "_version")

    def __init__(self, at_ms: int, version: str, arn: str, about: dict[str, object], *, level: str | None, restored: bool = False) -> None:
        self._restored = restored
        self._at_ms = at_ms
        self._version = version
        self._arn = arn
        self._about = about
        self._level = level

    def render(self) -> str | None:
        if not shown(self._level, "INFO"):
            return None
        if self._restored:
            named = {k: v for k, v in self._about.items() if k != "initializationType"}
            return event(
                self._at_ms, "platform.restoreStart", {"runtimeVersion": self._version, "runtimeVersionArn": self._arn, **named}
            )
        record = {"phase": "init", "runtimeVersion": self._version, "runtimeVersionArn": self._arn, **self._about}
        return event(self._at_ms, "platform.initStart", record)


def start_text(request_id: str, version: str) -> str:
    return f"START RequestId: {request_id} Version: {version}"


def end_text(request_id: str) -> str:
    return f"END RequestId: {request_id}"


def start_json(at_ms: int, request_id: str, version: str, tenant: str | None = None) -> str:
    whom = {} if tenant is None else {"tenantId": tenant}
    return event(at_ms, "platform.start", {"requestId": request_id, "version": version, **whom})


def init_report_text(duration_ms: float, phase: str, status: str, error_type: str | None) -> str:
    """INIT_REPORT, written when an on-demand init failed or timed out, always for the other kinds. ``phase`` is ``init`` or ``invoke``."""
    tail = f"\tError Type: {error_type}" if error_type else ""
    return f"INIT_REPORT Init Duration: {duration_ms:.2f} ms\tPhase: {phase}\tStatus: {status}{tail}"


def init_report_json(
    at_ms: int, duration_ms: float, phase: str, status: str, error_type: str | None, kind: str = "on-demand"
) -> str:
    record = {**_init_result(phase, status, error_type, kind), "metrics": {"durationMs": round(duration_ms, 3)}}
    return event(at_ms, "platform.initReport", record)


def init_done_json(at_ms: int, phase: str, status: str, error_type: str | None, kind: str) -> str:
    """The ``platform.initRuntimeDone`` event, which comes before ``platform.initReport``."""
    return event(at_ms, "platform.initRuntimeDone", _init_result(phase, status, error_type, kind))


def _init_result(phase: str, status: str, error_type: str | None, kind: str) -> dict[str, object]:
    found: dict[str, object] = {"initializationType": kind, "phase": phase, "status": status}
    return {**found, "errorType": error_type} if error_type else found


def restore_report_text(duration_ms: float, status: str, error_type: str | None) -> str:
    """RESTORE_REPORT, written for every restored instance."""
    tail = "" if status == "success" else f"\tStatus: {status}"
    return f"RESTORE_REPORT Restore Duration: {duration_ms:.2f} ms{tail}" + (f"\tError Type: {error_type}" if error_type else "")


def restore_report_json(at_ms: int, duration_ms: float, status: str, error_type: str | None) -> str:
    record: dict[str, object] = {"status": status, "metrics": {"durationMs": round(duration_ms, 3)}}
    if error_type:
        record["errorType"] = error_type
    return event(at_ms, "platform.restoreReport", record)


def shown(level: str | None, at: str) -> bool:
    """Whether a JSON system line of severity ``at`` is written when the function's SystemLogLevel is ``level``."""
    return _LEVELS[at] >= _LEVELS.get(level or "INFO", 1)


def init_error_type(reported: str) -> str:
    """The error type that INIT_REPORT prints: only the platform's own categories pass, a bare class name is Runtime.Unknown."""
    return reported if reported.startswith(("Runtime.", "Function.", "Extension.")) else "Runtime.Unknown"
