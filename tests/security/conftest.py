"""The attack suite runs against one engine per level; after every attempt engine and victim must be as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.framework.engine import engine
from tests.security.siege import Siege


@pytest.fixture(scope="session")
def fortress() -> Iterator[Siege]:
    """An engine at level full with its default limits."""
    with engine(sandbox="full", pool_size=4, cpu_quota=True) as running:
        yield Siege(running)


@pytest.fixture
def siege(fortress: Siege) -> Iterator[Siege]:
    """The engine under attack; nobody else may notice."""
    yield fortress
    fortress.unharmed()
