"""One invocation, from admission to its single answer, and every way it can fail with AWS's own words.

Payload texts: execution-plane facts recorded from the service; error types as the runtime agent names them
(``Sandbox.Timedout``, ``Runtime.ExitError``, ``Function.ResponseSizeTooLarge``).
"""

from __future__ import annotations

import json
import signal as _signal
from enum import StrEnum

from engine.errors import EngineError


class Status(StrEnum):
    """How an invocation ended, as metrics count it and telemetry names it."""

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"


class Outcome:
    """What the function made of the event. ``payload`` goes to the caller untouched. Treat as immutable.

    ``error_type`` is None on success; ``platform`` marks failures that the platform, not the runtime, reports: only those
    appear in the REPORT line. A plain slotted class: a frozen dataclass costs three times as much to make, once per invocation.
    """

    __slots__ = ("error_type", "payload", "platform", "status")

    def __init__(self, status: Status, payload: bytes, error_type: str | None = None, *, platform: bool = False) -> None:
        self.status = status
        self.payload = payload
        self.error_type = error_type
        self.platform = platform

    @property
    def function_error(self) -> str | None:
        """The ``X-Amz-Function-Error`` value; always ``Unhandled`` in current AWS."""
        return None if self.status is Status.SUCCESS else "Unhandled"


class AnsweredTwice(EngineError):
    """The engine's own bug: an invocation was settled a second time."""


class Invocation:
    """An admitted request. Times are monotonic seconds; ``started_s`` is when an instance got it (until then, when it came)."""

    __slots__ = ("outcome", "payload", "received_s", "request_id", "settled_s", "started_s")

    def __init__(self, request_id: str, payload: bytes, received_s: float) -> None:
        self.request_id = request_id
        self.payload = payload
        self.received_s = received_s
        self.started_s = received_s
        self.settled_s: float | None = None
        self.outcome: Outcome | None = None

    def settle(self, outcome: Outcome, now_s: float) -> None:
        """Record the one answer. Raises AnsweredTwice."""
        if self.outcome is not None:
            raise AnsweredTwice(f"invocation {self.request_id} was already answered with {self.outcome.status}")
        self.outcome = outcome
        self.settled_s = now_s


def _document(error_type: str, message: str) -> bytes:
    return json.dumps({"errorType": error_type, "errorMessage": message}, separators=(",", ":")).encode()


def success(payload: bytes) -> Outcome:
    return Outcome(Status.SUCCESS, payload)


def handler_error(error_type: str, payload: bytes) -> Outcome:
    """The runtime reported that the handler failed; its document goes to the caller as it is."""
    return Outcome(Status.ERROR, payload, error_type)


# What the agent in the sandbox reports itself: the runtime did not.
_PLATFORM_TYPES = frozenset(
    ("Runtime.ExitError", "Runtime.InvalidEntrypoint", "Runtime.TruncatedResponse", "Runtime.InvalidResponseModeHeader")
)


def reported_error(error_type: str, payload: bytes) -> Outcome:
    """As ``handler_error``, for workers that also report what the platform found: a lost extension, a response cut short."""
    platform = error_type in _PLATFORM_TYPES or error_type.startswith("Extension.")
    return Outcome(Status.ERROR, payload, error_type, platform=platform)


def timed_out(request_id: str, timeout_s: float) -> Outcome:
    message = f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
    return Outcome(Status.TIMEOUT, _document("Sandbox.Timedout", message), "Sandbox.Timedout", platform=True)


def response_too_large(limit: int) -> Outcome:
    """The response was over ``limit`` bytes. Key order and text as recorded."""
    message = f"Response payload size exceeded maximum allowed payload size ({limit} bytes)."
    body = json.dumps({"errorMessage": message, "errorType": "Function.ResponseSizeTooLarge"}, separators=(",", ":"))
    return Outcome(Status.ERROR, body.encode(), "Function.ResponseSizeTooLarge", platform=True)


# Go's names for signals, which AWS's agent prints; Python's differ.
SIGNAL_NAMES: dict[int, str] = {
    _signal.SIGHUP: "hangup",
    _signal.SIGINT: "interrupt",
    _signal.SIGQUIT: "quit",
    _signal.SIGILL: "illegal instruction",
    _signal.SIGTRAP: "trace/breakpoint trap",
    _signal.SIGABRT: "aborted",
    _signal.SIGBUS: "bus error",
    _signal.SIGFPE: "floating point exception",
    _signal.SIGKILL: "killed",
    _signal.SIGUSR1: "user defined signal 1",
    _signal.SIGSEGV: "segmentation fault",
    _signal.SIGUSR2: "user defined signal 2",
    _signal.SIGPIPE: "broken pipe",
    _signal.SIGALRM: "alarm clock",
    _signal.SIGTERM: "terminated",
    16: "stack fault",
    _signal.SIGXCPU: "CPU time limit exceeded",
    _signal.SIGXFSZ: "file size limit exceeded",
    _signal.SIGVTALRM: "virtual timer expired",
    _signal.SIGPROF: "profiling timer expired",
    _signal.SIGIO: "I/O possible",
    30: "power failure",
    _signal.SIGSYS: "bad system call",
}


def exit_text(*, signalled: bool, status: int) -> str:
    """``Runtime exited ...`` for an exit code or a signal number."""
    if signalled:
        return f"Runtime exited with error: signal: {SIGNAL_NAMES.get(status, f'signal {status}')}"
    if status == 0:
        return "Runtime exited without providing a reason"
    return f"Runtime exited with error: exit status {status}"


def runtime_exited(request_id: str, *, signalled: bool, status: int, oom: bool) -> Outcome:
    """The worker process ended before it answered.

    An out-of-memory kill carries ``Runtime.OutOfMemory`` in metrics and REPORT; the payload's type is the newer of the two that
    AWS has been seen to send.
    """
    error_type = "Runtime.OutOfMemory" if oom else "Runtime.ExitError"
    text = exit_text(signalled=signalled or oom, status=_signal.SIGKILL if oom else status)
    body = _document(error_type, f"RequestId: {request_id} Error: {text}")
    return Outcome(Status.ERROR, body, error_type, platform=True)


def protocol_violation(request_id: str) -> Outcome:
    """The worker sent something that is not the protocol; its instance has been ended."""
    body = _document("Runtime.Unknown", f"RequestId: {request_id} Error: Runtime broke the invocation protocol")
    return Outcome(Status.ERROR, body, "Runtime.Unknown", platform=True)


def sandbox_failure(request_id: str, reason: str) -> Outcome:
    """The platform's own fault; ``reason`` is for the operator and carries no secret."""
    body = _document("Sandbox.Failure", f"RequestId: {request_id} Error: {reason}")
    return Outcome(Status.ERROR, body, "Sandbox.Failure", platform=True)
