"""The attack suite runs against one engine per level; after every attempt engine and victim must be as before.

Level ``user`` is an engine that an ordinary user started. There, tests marked ``full_only`` have nothing to show: they are about limits that
need control groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework import host
from tests.framework.engine import engine
from tests.security.siege import Siege

ORDINARY_USER = 65534
QUICK = "test_reach"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fortress" not in metafunc.fixturenames:
        return
    levels: list[Any] = ["full"]
    if not metafunc.definition.get_closest_marker("full_only"):
        slow = () if metafunc.module.__name__.endswith(QUICK) else (pytest.mark.slow,)
        levels.append(pytest.param("user", marks=slow))
    metafunc.parametrize("fortress", levels, indirect=True, scope="session")


@pytest.fixture(scope="session")
def fortress(request: pytest.FixtureRequest) -> Iterator[Siege]:
    """An engine at the level with its default limits."""
    uid = None
    if request.param == "user":
        host.require("no system Python of the engine's own version")
        uid = ORDINARY_USER
    with engine(sandbox=request.param, pool_size=4, cpu_quota=True, uid=uid) as running:
        assert running.state()["sandbox"]["level"] == request.param
        yield Siege(running)


@pytest.fixture
def siege(fortress: Siege) -> Iterator[Siege]:
    """The engine under attack; nobody else may notice."""
    yield fortress
    fortress.unharmed()
