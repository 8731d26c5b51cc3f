"""Rules for the whole suite: in CI a test that could run does run; tests marked ``root`` skip only without root."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.framework import host
from tests.framework.postgres import Postgres, postgres

pytest_plugins = ["tests.framework.again"]

# Half of the usual number of examples; `make test-all`, by `--hypothesis-profile=default`, tries them all.
settings.register_profile("quick", parent=settings.default, max_examples=50)
settings.load_profile("quick")

# A shell has what it starts in the background ignore SIGINT, and so would everything that tests start in order to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)

_unexplained: list[str] = []


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and not host.lacking(_reason(report)):
        _unexplained.append(f"{report.nodeid}: {_reason(report)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root"):
        host.require("not root")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") and _unexplained and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("CI") and _unexplained:
        terminalreporter.section("skipped in CI although this host could run them", red=True, bold=True)
        for line in _unexplained:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL, started when the first test asks for it."""
    host.require("no PostgreSQL")
    with postgres() as running:
        yield running
