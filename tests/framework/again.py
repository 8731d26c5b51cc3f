"""``--again``: a test that fails runs once more, with engines, servers and files of its own making, and is listed as rerun.

A host that was held up for seconds is no finding; a test that is listed every other time is. The first run's failure is shown
either way. Everything that fixtures of any scope have made is taken down in between, so the second run finds nothing of the first.
"""

from __future__ import annotations

import pytest
from _pytest.runner import runtestprotocol


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--again", action="store_true", help="run a failed test once more, in fresh surroundings")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if not item.config.getoption("again"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if failed := [report for report in reports if report.failed]:
        end = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(None), "teardown")
        if end.excinfo is not None:
            failed.append(pytest.TestReport.from_item_and_call(item, end))
        for report in failed:
            report.outcome = "rerun"  # type: ignore[assignment]  # what the terminal counts by; pytest knows three of its own
            item.ihook.pytest_runtest_logreport(report=report)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    return ("rerun", "R", "RERUN") if report.outcome == "rerun" else None  # type: ignore[comparison-overlap]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not (first := terminalreporter.stats.get("rerun")):
        return
    terminalreporter.section("failed at first")
    for report in first:
        terminalreporter.line(f"RERUN {report.nodeid} ({report.when})")
        terminalreporter.line(report.longreprtext)
