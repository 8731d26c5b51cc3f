"""What follows from a runtime identifier."""

from __future__ import annotations

import pytest

from engine.core.runtimes import reserved_mib


@pytest.mark.parametrize(
    ("runtime", "mib"), [("nodejs20.x", 0), ("nodejs22.x", 0), ("nodejs24.x", 512), ("nodejs26.x", 512), ("python3.12", 0), ("provided.al2023", 0), ("nodejs", 0)]
)
def test_what_an_interpreter_maps_and_does_not_use(runtime: str, mib: int) -> None:
    assert reserved_mib(runtime) == mib
