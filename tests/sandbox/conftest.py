"""One broker per level for tests that leave it as they found it; lifecycle tests start their own."""

from __future__ import annotations

import pytest

from tests.sandbox.rig import Rig


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("full")) as rig:
        yield rig


@pytest.fixture
def box(full):
    """An instance of an empty function at level full."""
    made = full.instance()
    yield made
    if made in full.boxes:
        full.end(made)
