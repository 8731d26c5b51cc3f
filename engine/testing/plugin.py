"""pytest's side: fixtures and options. It imports nothing heavy before a test asks for an engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engine.testing.account import Account
    from engine.testing.server import Server


def pytest_addoption(parser: pytest.Parser) -> None:
    """``lambda_engine_settings``: the engine's settings, one ``name = value`` a line."""
    parser.addini("lambda_engine_settings", "Settings of the engine that tests run against, one 'name = value' a line.", type="linelist", default=[])


@pytest.fixture(scope="session")
def lambda_engine_server(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The engine of this session (with xdist: of this worker), started when the first test asks for it."""
    from engine.testing.server import running  # noqa: PLC0415 - a run without an engine shall not pay for it

    settings = {}
    for line in pytestconfig.getini("lambda_engine_settings"):
        name, _, value = line.partition("=")
        settings[name.strip()] = value.strip()
    with running(**settings) as server:
        yield server


@pytest.fixture
def lambda_engine(lambda_engine_server: Server) -> Iterator[Account]:
    """An account with nothing in it: no function, no queue, no bucket. What the test leaves is taken away before the next."""
    from engine.testing.account import Account  # noqa: PLC0415 - as above

    account = Account(lambda_engine_server)
    try:
        yield account
    finally:
        account.empty()
