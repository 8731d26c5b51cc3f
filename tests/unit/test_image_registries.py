"""When a function of an image that is fetched may be shown as Active."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.control import image_registries
from engine.control.image_registries import ImageRegistries

DIGEST = "d" * 64


def test_an_image_is_on_its_way_until_those_who_run_it_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pulled(*_words: str, failing: str) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(image_registries, "work_apart", pulled)
    seen: dict[str, bool] = {}

    async def fetched() -> None:
        async def take(_path: Path, _uri: str) -> None:
            # The store has it before this returns.
            seen["taken"] = registries.telling(DIGEST)

        async def arrived() -> None:
            seen["told"] = registries.telling(DIGEST)

        registries = ImageRegistries({}, tmp_path, take)
        await registries.fetch("host/app:1", "http://host/app:1", DIGEST, arrived)
        seen["after"] = registries.telling(DIGEST)

    asyncio.run(fetched())
    assert seen == {"taken": True, "told": True, "after": False}
    assert list(tmp_path.iterdir()) == []
