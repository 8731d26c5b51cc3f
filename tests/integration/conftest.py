"""One engine for the tests that only use it; tests that stop or kill one start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.framework.engine import Engine, engine


@pytest.fixture(scope="session")
def shared() -> Iterator[Engine]:
    """A ready engine with its defaults. Functions must have names of their own per test."""
    with engine(pool_size=4) as running:
        yield running
