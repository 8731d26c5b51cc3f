"""Ten thousand functions in the store: the engine starts with them, lists them and runs any of them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from tests.framework.engine import Engine

COUNT = 10_000


async def fill(path: Path) -> None:
    """Copies of the only function there is, until there are COUNT."""
    with contextlib.closing(Database(path)) as database:
        store = SqlFunctionStore(database)
        (function,) = store.everything()
        for first in range(1, COUNT, 500):
            copies = [replace(function, name=f"many-{n}") for n in range(first, min(first + 500, COUNT))]
            await asyncio.gather(*(store.save(None, copy, 0) for copy in copies))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_engine_starts_with_ten_thousand_functions(tmp_path: Path) -> None:
    running = Engine(tmp_path / "data", sandbox="process")
    running.start()
    try:
        running.deploy("many-0", {"m.py": "def f(e, c): return c.invoked_function_arn\n"}, Publish=True)
        running.client().create_alias(FunctionName="many-0", Name="live", FunctionVersion="1")
        assert running.stop() == 0
        asyncio.run(fill(tmp_path / "data" / "engine.db"))
        running.start(timeout_s=120)
        client = running.client()
        assert len(running.state()["functions"]) == COUNT
        answer = client.invoke(FunctionName="many-7777:live")
        assert answer["ExecutedVersion"] == "1"
        assert answer["Payload"].read().endswith(b':function:many-7777:live"')
        names = [f["FunctionName"] for page in client.get_paginator("list_functions").paginate() for f in page["Functions"]]
        assert len(names) == len(set(names)) == COUNT
        assert names == sorted(names)
        usage = client.get_account_settings()["AccountUsage"]
        assert usage["FunctionCount"] == COUNT
        client.delete_function(FunctionName="many-7777")
        assert client.get_account_settings()["AccountUsage"]["FunctionCount"] == COUNT - 1
    finally:
        running.stop()
