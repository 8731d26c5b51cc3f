"""The platform's events of one instance, as the Telemetry API tells them.

Durations are milliseconds with whole microseconds; what the supervisor logs as REPORT is measured there and may differ by the way between.
"""

from __future__ import annotations

import math
import time
from typing import Any, Optional

from runtime_bootstrap.agent.link import Invoke
from runtime_bootstrap.agent.telemetry import Telemetry, iso


def _ms(seconds: float) -> float:
    return int(seconds * 1_000_000) / 1000


class Chronicle:
    """Tells ``telemetry`` what happens, in AWS's order: init, then for each invocation start, runtimeDone, report."""

    def __init__(self, telemetry: Telemetry, init: "dict[str, Any]") -> None:
        self._telemetry = telemetry
        self._init = init
        self._kind = init.get("init_type") or "on-demand"
        # An init inside an invocation is one that has failed before.
        self._phase = "invoke" if init.get("request_id") else "init"
        self._began_s = time.monotonic()
        self._init_s: Optional[float] = None
        self._init_told = False
        self._invoke: Optional[Invoke] = None
        self._started_s = self._first_byte_s = self._answered_s = self._done_s = 0.0
        self._size = 0
        self._error_type: Optional[str] = None
        record: "dict[str, Any]" = {
            "initializationType": self._kind,
            "phase": self._phase,
            "functionName": init.get("function_name"),
            "functionVersion": init.get("function_version"),
            "instanceId": init.get("log_stream"),
            "instanceMaxMemory": int(init.get("memory_mb") or 0) * 1024 * 1024,
        }
        if "runtime_version" in init:
            record["runtimeVersion"], record["runtimeVersionArn"] = init["runtime_version"]
        telemetry.emit("platform.initStart", record)

    def initialised(self, status: str = "success", error_type: Optional[str] = None) -> None:
        """The runtime has initialised, or failed to; the first that is said counts."""
        if self._init_told:
            return
        self._init_told = True
        took_s = time.monotonic() - self._began_s
        outcome = {"status": status, **({"errorType": error_type} if error_type else {})}
        base = {"initializationType": self._kind, "phase": self._phase}
        self._telemetry.emit("platform.initRuntimeDone", {**base, **outcome})
        self._telemetry.emit("platform.initReport", {**base, "metrics": {"durationMs": _ms(took_s)}, **outcome})
        self._init_s = took_s if self._phase == "init" and status == "success" else None

    def started(self, invoke: Invoke) -> None:
        """An event came."""
        self._invoke = invoke
        self._started_s = time.monotonic()
        self._first_byte_s = self._answered_s = self._done_s = 0.0
        self._size, self._error_type = 0, None
        record = {"requestId": invoke.request_id, "version": self._init.get("function_version"), **self._about(invoke)}
        self._telemetry.emit("platform.start", record)

    @staticmethod
    def _about(invoke: Invoke) -> "dict[str, Any]":
        about: "dict[str, Any]" = {}
        if invoke.trace_id:
            about["tracing"] = {"type": "X-Amzn-Trace-Id", "value": invoke.trace_id}
        if invoke.tenant_id:
            about["tenantId"] = invoke.tenant_id
        return about

    def first_byte(self) -> None:
        """The answer begins."""
        self._first_byte_s = time.monotonic()

    def answered(self, size: int, error_type: Optional[str]) -> None:
        """The answer is complete."""
        self._answered_s = time.monotonic()
        self._size, self._error_type = size, error_type

    def done(self, status: str = "success", error_type: Optional[str] = None) -> None:
        """The runtime is through with the invocation. An error that the handler itself reported is a success of the runtime."""
        invoke = self._invoke
        if invoke is None or self._done_s:
            return
        now_s = self._done_s = time.monotonic()
        answered_s = self._answered_s or now_s
        first_s = self._first_byte_s or answered_s
        spans = [("responseLatency", self._started_s, first_s), ("responseDuration", first_s, answered_s), ("runtimeOverhead", answered_s, now_s)]
        wall_s = time.time() - now_s
        record: "dict[str, Any]" = {
            "requestId": invoke.request_id,
            "status": status,
            "metrics": {"durationMs": _ms(now_s - self._started_s), "producedBytes": self._size},
            "spans": [{"name": name, "start": iso(wall_s + a), "durationMs": _ms(b - a)} for name, a, b in spans],
            **({"errorType": error_type} if error_type else {}),
            **self._about(invoke),
        }
        self._telemetry.emit("platform.runtimeDone", record)
        self._status, self._failure = status, error_type

    def reported(self, max_memory_mib: int) -> None:
        """The invocation is over, extensions and all."""
        invoke = self._invoke
        if invoke is None:
            return
        self.done()
        self._invoke = None
        took_ms = _ms(time.monotonic() - self._started_s)
        metrics: "dict[str, Any]" = {
            "durationMs": took_ms,
            "billedDurationMs": math.ceil(took_ms + _ms(self._init_s or 0.0)),
            "memorySizeMB": int(self._init.get("memory_mb") or 0),
            "maxMemoryUsedMB": max_memory_mib,
        }
        if self._init_s is not None:
            metrics["initDurationMs"] = _ms(self._init_s)
            self._init_s = None
        record: "dict[str, Any]" = {"requestId": invoke.request_id, "status": self._status, "metrics": metrics, **self._about(invoke)}
        if self._failure:
            record["errorType"] = self._failure
        self._telemetry.emit("platform.report", record)


def peak_mib(pids: "list[int]") -> int:
    """Peak memory of processes together, in MiB rounded up."""
    total = 0
    for pid in pids:
        try:
            with open("/proc/%d/status" % pid, "rb") as f:
                for line in f:
                    if line.startswith(b"VmHWM:"):
                        total += int(line.split()[1])
                        break
        except (OSError, ValueError, IndexError):
            continue
    return -(-total // 1024)
