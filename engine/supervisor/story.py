"""What an invocation leaves in the log: START, the function's own lines, END and REPORT, in AWS's words and order.

Lines go to the function's log file and, when the caller asked for the tail, to the request. What costs is made when the log is
written, not while an invocation waits: START and END enter the log as small records that render themselves then.
"""

from __future__ import annotations

from engine.clock import Clock
from engine.core import report
from engine.core.invocation import Outcome, Status
from engine.core.model import VersionConfig
from engine.supervisor.instance import Instance
from engine.supervisor.logs import Renders
from engine.supervisor.request import Request

# Two clocks, read to the millisecond and added up in whole ones, differ by less than this.
_SKEW_MS = 5


def _not_before(instance: Instance, at_ms: int) -> int:
    """``at_ms``, or when its instance printed last: readers sort by time, and what is written later was later, be it a millisecond less."""
    printed_ms = instance.printed_ms
    return printed_ms if at_ms < printed_ms <= at_ms + _SKEW_MS else at_ms


class Started:
    """START, still to be written."""

    __slots__ = ("_at_ms", "_config", "_request_id", "_tenant")

    def __init__(self, config: VersionConfig, request_id: str, at_ms: int, tenant: str | None) -> None:
        self._config = config
        self._tenant = tenant
        self._request_id = request_id
        self._at_ms = at_ms

    def render(self) -> str | None:
        config = self._config
        if config.log_format != "JSON":
            return report.start_text(self._request_id, config.version)
        if not report.shown(config.system_log_level, "INFO"):
            return None
        return report.start_json(self._at_ms, self._request_id, config.version, self._tenant)


class Ended:
    """END and REPORT (and START, when nothing came between), still to be written.

    Memory is read then: a busy instance's peak is read once for many lines.
    """

    __slots__ = ("_at_ms", "_duration_ms", "_init_ms", "_instance", "_outcome", "_request", "_restore_ms")

    def __init__(
        self, instance: Instance, request: Request, duration_ms: float, init_ms: float | None, outcome: Outcome, at_ms: int, first_ms: int
    ) -> None:
        self._instance = instance
        # Only names and times are read later; the payload need not live that long.
        self._request = (request.request_id, -1 if request.start_logged else first_ms)
        self._duration_ms = duration_ms
        self._init_ms = init_ms
        self._restore_ms, instance.restore_ms = instance.restore_ms, None
        self._outcome = outcome
        self._at_ms = at_ms

    def lines(self) -> list[str]:
        """END and REPORT, in JSON runtimeDone and report; without what the function's log level hides."""
        instance, outcome = self._instance, self._outcome
        config = instance.version.config
        request_id = self._request[0]
        used = instance.peak_memory_mib(self._at_ms)
        told = report.Report(
            request_id, self._duration_ms, config.memory_mib, used, self._init_ms, outcome, self._restore_ms, instance.crew is not None,
            instance.version.tenant,
        )  # fmt: skip
        if config.log_format != "JSON":
            return [report.end_text(request_id), told.text()]
        shown = []
        if not told.shared and report.shown(config.system_log_level, "WARN" if outcome.platform else "DEBUG"):
            shown.append(told.done(self._at_ms, len(outcome.payload)))
        if report.shown(config.system_log_level, "WARN" if outcome.platform else "INFO"):
            shown.append(told.json(self._at_ms))
        return shown

    def render(self) -> str | None:
        instance = self._instance
        request_id, start_ms = self._request
        config = instance.version.config
        if start_ms >= 0 and config.log_format != "JSON":
            # By far the usual case: the function printed nothing.
            at = f"\n{self._at_ms}\t{instance.stream}\t"
            used = instance.peak_memory_mib(self._at_ms)
            told = report.Report(request_id, self._duration_ms, config.memory_mib, used, self._init_ms, self._outcome, self._restore_ms)
            return f"START RequestId: {request_id} Version: {config.version}{at}END RequestId: {request_id}{at}{told.text()}"
        rest = f"\n{self._at_ms}\t{instance.stream}\t".join(self.lines())
        if start_ms < 0:
            return rest or None
        start = Started(config, request_id, start_ms, instance.version.tenant).render()
        if start is None:
            return rest or None
        # Several log events in one record: the log writes time and stream of the first, the others bring their own.
        return f"{start}\n{self._at_ms}\t{instance.stream}\t{rest}" if rest else start


class Story:
    """Writes the platform's and the function's lines."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def _emit(self, instance: Instance, request: Request | None, at_ms: int, text: str | Renders) -> None:
        instance.version.log.write(at_ms, instance.stream, text)
        if request is not None and request.tail is not None:
            shown = text if isinstance(text, str) else text.render()
            if shown is not None:
                request.tail.append(shown)

    def started(self, request: Request, instance: Instance) -> None:
        at_ms = _not_before(instance, request.started_ms)
        request.start_logged = True
        self._emit(instance, request, at_ms, Started(instance.version.config, request.request_id, at_ms, instance.version.tenant))

    def printed(self, instance: Instance, text: str, at_ms: int, request: Request | None = None) -> None:
        """A line of the function's own; of ``request``, where the instance runs several."""
        request = request or instance.current
        if request is not None and not request.start_logged:
            self.started(request, instance)
        instance.printed_ms = at_ms
        if "\n" in text:
            instance.version.log.write(at_ms, instance.stream, text.replace("\n", "\r"))
            if request is not None and request.tail is not None:
                request.tail.append(text)
        else:
            self._emit(instance, request, at_ms, text)

    def ended(self, request: Request, instance: Instance, outcome: Outcome, settled_s: float) -> None:
        """END and REPORT."""
        if request.tail is not None and not request.start_logged:
            self.started(request, instance)
        if outcome.status is Status.TIMEOUT:
            duration_ms = instance.version.config.timeout_s * 1000.0
        else:
            duration_ms = (settled_s - request.started_s) * 1000
        init_ms, instance.init_ms = instance.init_ms, None
        at_ms = request.started_ms + int((settled_s - request.started_s) * 1000)
        at_ms = _not_before(instance, at_ms)
        if outcome.platform:
            instance.peak_memory_mib(at_ms)  # while there still is something to measure
        first_ms = at_ms if request.start_logged else _not_before(instance, request.started_ms)
        ended = Ended(instance, request, duration_ms, init_ms, outcome, at_ms, first_ms)
        instance.printed_ms = at_ms
        instance.version.log.write(first_ms, instance.stream, ended)
        if request.tail is not None:
            request.tail.extend(ended.lines())

    def init_over(self, instance: Instance, phase: str, status: str, error_type: str | None, took_ms: float) -> None:
        """INIT_REPORT, which on-demand environments write only for failures, but for JSON at the level DEBUG."""
        if instance.current is not None and not instance.current.start_logged:
            self.started(instance.current, instance)
        at_ms = instance.printed_ms = _not_before(instance, self._clock.epoch_ms())
        config = instance.version.config
        json = config.log_format == "JSON"
        level = "WARN" if status != "success" else "DEBUG" if instance.kind == "on-demand" and not instance.restored else "INFO"
        if json and not instance.restored and report.shown(config.system_log_level, "DEBUG" if status == "success" else "WARN"):
            self._emit(instance, instance.current, at_ms, report.init_done_json(at_ms, phase, status, error_type, instance.kind))
        if json and not report.shown(config.system_log_level, level):
            return
        if instance.restored:
            made = (took_ms, status, error_type)
            line = report.restore_report_json(at_ms, *made) if json else report.restore_report_text(*made)
        elif json:
            line = report.init_report_json(at_ms, took_ms, phase, status, error_type, instance.kind)
        else:
            line = report.init_report_text(took_ms, phase, status, error_type)
        self._emit(instance, instance.current, at_ms, line)
