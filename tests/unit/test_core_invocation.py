"""Every failure in AWS's words, and the lines of the log."""

from __future__ import annotations

import json
import math
import random
import signal

import pytest

from engine.core import invocation as inv
from engine.core import report
from engine.core.instance import LIVE, TRANSITIONS, Event, IllegalTransition, State, diagram, transition
from engine.core.model import AliasConfig

ID = "8f5e2c1a-0000-4000-8000-1234567890ab"


def test_timeout_payload() -> None:
    outcome = inv.timed_out(ID, 3)
    assert outcome.payload == (
        b'{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: ' + ID.encode() + b' Error: Task timed out after 3.00 seconds"}'
    )
    assert (outcome.status, outcome.function_error, outcome.platform) == (inv.Status.TIMEOUT, "Unhandled", True)


@pytest.mark.parametrize(
    ("signalled", "status", "oom", "error_type", "text"),
    [
        (False, 0, False, "Runtime.ExitError", "Runtime exited without providing a reason"),
        (False, 1, False, "Runtime.ExitError", "Runtime exited with error: exit status 1"),
        (False, 127, False, "Runtime.ExitError", "Runtime exited with error: exit status 127"),
        (True, signal.SIGKILL, False, "Runtime.ExitError", "Runtime exited with error: signal: killed"),
        (True, signal.SIGSEGV, False, "Runtime.ExitError", "Runtime exited with error: signal: segmentation fault"),
        (True, signal.SIGABRT, False, "Runtime.ExitError", "Runtime exited with error: signal: aborted"),
        (False, 0, True, "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"),
    ],
)
def test_exit_payloads(signalled: bool, status: int, oom: bool, error_type: str, text: str) -> None:
    outcome = inv.runtime_exited(ID, signalled=signalled, status=status, oom=oom)
    assert json.loads(outcome.payload) == {"errorType": error_type, "errorMessage": f"RequestId: {ID} Error: {text}"}
    assert outcome.function_error == "Unhandled"


def test_unnamed_signals_are_numbered() -> None:
    assert inv.exit_text(signalled=True, status=signal.SIGWINCH) == "Runtime exited with error: signal: signal 28"
    assert inv.exit_text(signalled=True, status=signal.SIGPROF) == "Runtime exited with error: signal: profiling timer expired"


@pytest.mark.parametrize("number", range(1, 128))
def test_every_signal_has_a_text(number: int) -> None:
    """Those of real time have no names in Python, which raised; and nobody heard of the worker's end."""
    assert inv.exit_text(signalled=True, status=number).startswith("Runtime exited with error: signal: ")


def test_too_large_payload_has_the_recorded_key_order() -> None:
    assert inv.response_too_large(6291556).payload == (
        b'{"errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes).",'
        b'"errorType":"Function.ResponseSizeTooLarge"}'
    )


def test_an_invocation_is_answered_once() -> None:
    one = inv.Invocation(ID, b"{}", 1.0)
    one.settle(inv.success(b"1"), 2.0)
    with pytest.raises(inv.AnsweredTwice, match=ID):
        one.settle(inv.success(b"2"), 3.0)
    assert one.outcome is not None
    assert one.outcome.payload == b"1"


def test_billing_rounds_up_and_includes_init() -> None:
    assert report.billed_ms(133.61, 80.0) == 214
    assert report.billed_ms(3016.78, 84.0) == 3101
    assert report.billed_ms(3000.0, None) == 3000


def test_report_line_of_a_cold_success_ends_with_a_tab() -> None:
    line = report.Report(ID, 12.344, 128, 36, 110.1, inv.success(b"")).text()
    assert line == (
        f"REPORT RequestId: {ID}\tDuration: 12.34 ms\tBilled Duration: 123 ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\t"
        "Init Duration: 110.10 ms\t"
    )


def test_report_line_of_failures_names_them() -> None:
    timeout = report.Report(ID, 3000.0, 128, 36, None, inv.timed_out(ID, 3)).text()
    assert timeout.endswith("Max Memory Used: 36 MB\tStatus: timeout")
    crashed = report.Report(ID, 5.0, 128, None, None, inv.runtime_exited(ID, signalled=False, status=1, oom=False)).text()
    assert crashed.endswith("Memory Size: 128 MB\tStatus: error\tError Type: Runtime.ExitError")
    handled = report.Report(ID, 5.0, 128, 30, None, inv.handler_error("ValueError", b"{}")).text()
    assert handled.endswith("Max Memory Used: 30 MB\t")


def test_json_report() -> None:
    told = json.loads(report.Report(ID, 3.4, 128, 36, 110.5, inv.success(b"")).json(1735689600123))
    assert told == {
        "time": "2025-01-01T00:00:00.123Z",
        "type": "platform.report",
        "record": {
            "requestId": ID,
            "metrics": {"durationMs": 3.4, "billedDurationMs": 114, "memorySizeMB": 128, "maxMemoryUsedMB": 36, "initDurationMs": 110.5},
            "status": "success",
        },
    }
    failed = json.loads(report.Report(ID, 3.4, 128, None, None, inv.runtime_exited(ID, signalled=False, status=1, oom=False)).json(0))
    assert failed["record"]["status"] == "error"
    assert failed["record"]["errorType"] == "Runtime.ExitError"


def test_init_report_lines() -> None:
    assert report.init_report_text(1882.55, "init", "error", "Runtime.Unknown") == (
        "INIT_REPORT Init Duration: 1882.55 ms\tPhase: init\tStatus: error\tError Type: Runtime.Unknown"
    )
    assert report.init_report_text(10000.0, "init", "timeout", None).endswith("Phase: init\tStatus: timeout")
    assert report.init_error_type("ValueError") == "Runtime.Unknown"
    assert report.init_error_type("Runtime.ImportModuleError") == "Runtime.ImportModuleError"
    assert json.loads(report.init_report_json(0, 1.5, "invoke", "error", "Runtime.Unknown"))["record"]["phase"] == "invoke"


def test_system_log_levels() -> None:
    assert report.shown(None, "INFO")
    assert not report.shown("WARN", "INFO")
    assert report.shown("DEBUG", "INFO")


def test_the_instance_table_allows_only_its_rows() -> None:
    for state in State:
        for event in Event:
            if (state, event) in TRANSITIONS:
                assert transition(state, event) is TRANSITIONS[state, event]
            else:
                with pytest.raises(IllegalTransition, match=state):
                    transition(state, event)


def test_every_live_state_can_end_and_gone_is_final() -> None:
    for state in LIVE:
        assert transition(transition(state, Event.RETIRE), Event.GONE) is State.GONE
    assert not [row for row in TRANSITIONS if row[0] is State.GONE]
    assert "starting --> initialising: worker_ready" in diagram()


def test_alias_weights_divide_the_unit_interval() -> None:
    alias = AliasConfig("live", "1", (("2", 0.1), ("3", 0.2)))
    assert [alias.choose(d) for d in (0.0, 0.09, 0.1, 0.29, 0.31, 0.99)] == ["2", "2", "3", "3", "1", "1"]
    assert AliasConfig("live", "1").choose(0.0) == "1"


def test_ninety_to_ten_over_ten_thousand_is_within_three_deviations() -> None:
    """Of a hundred loads of 10,000 the mean is within a tenth of what one may be off, and one in four hundred would be beyond three."""
    alias = AliasConfig("live", "1", (("2", 0.1),))
    deviation = math.sqrt(10_000 * 0.1 * 0.9)
    seen = []
    for seed in range(100):
        draw = random.Random(seed).random
        seen.append(sum(alias.choose(draw()) == "2" for _ in range(10_000)))
    assert abs(seen[0] - 1000) <= 3 * deviation
    assert sum(abs(n - 1000) > 3 * deviation for n in seen) <= 2
    assert abs(sum(seen) / len(seen) - 1000) <= 0.3 * deviation
