"""What an invocation leaves in the log: START, the function's own lines, END and REPORT, in AWS's words and order.

Lines go to the function's log file and, when the caller asked for the tail, to the request. Text that costs is made when the log is
written, not while an invocation waits.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.clock import Clock
from engine.core import report
from engine.core.invocation import Outcome, Status
from engine.supervisor.instance import Instance
from engine.supervisor.request import Request


class Story:
    """Writes the platform's and the function's lines."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def _emit(self, instance: Instance, request: Request | None, at_ms: int, text: str | Callable[[], str | None]) -> None:
        instance.version.function.log.write(at_ms, instance.stream, text)
        if request is not None and request.tail is not None:
            shown = text if isinstance(text, str) else text()
            if shown is not None:
                request.tail.append(shown)

    def started(self, request: Request, instance: Instance) -> None:
        config = instance.version.config
        if config.log_format != "JSON":
            request_id, version = request.request_id, config.version
            self._emit(instance, request, request.started_ms, lambda: report.start_text(request_id, version))
        elif report.shown(config.system_log_level, "INFO"):
            line = report.start_json(request.started_ms, request.request_id, config.version)
            self._emit(instance, request, request.started_ms, line)

    def printed(self, instance: Instance, text: str, at_ms: int) -> None:
        """A line of the function's own."""
        self._emit(instance, instance.current, at_ms, text)

    def ended(self, request: Request, instance: Instance, outcome: Outcome) -> None:
        """END and REPORT. Memory is read when the line is made: now for a tail, else when the log is written."""
        config = instance.version.config
        settled_s = request.settled_s or 0.0
        duration_ms = (settled_s - (request.started_s or settled_s)) * 1000
        if outcome.status is Status.TIMEOUT:
            duration_ms = config.timeout_s * 1000.0
        init_ms, instance.init_ms = instance.init_ms, None
        at_ms = self._clock.epoch_ms()
        if outcome.platform:
            instance.peak_memory_mib(at_ms)
        request_id = request.request_id

        def line() -> str | None:
            used = instance.peak_memory_mib(at_ms)
            told = report.Report(request_id, duration_ms, config.memory_mib, used, init_ms, outcome)
            return told.json(at_ms) if config.log_format == "JSON" else told.text()

        if config.log_format != "JSON":
            self._emit(instance, request, at_ms, lambda: report.end_text(request_id))
            self._emit(instance, request, at_ms, line)
        elif report.shown(config.system_log_level, "INFO" if not outcome.platform else "WARN"):
            self._emit(instance, request, at_ms, line)

    def init_failed(self, instance: Instance, phase: str, status: str, error_type: str | None, took_ms: float) -> None:
        """INIT_REPORT, which on-demand environments write only for failures."""
        at_ms = self._clock.epoch_ms()
        config = instance.version.config
        if config.log_format == "JSON":
            line = report.init_report_json(at_ms, took_ms, phase, status, error_type)
        else:
            line = report.init_report_text(took_ms, phase, status, error_type)
        self._emit(instance, instance.current, at_ms, line)
