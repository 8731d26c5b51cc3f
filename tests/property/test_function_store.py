"""Memory in front of the database shows what the database holds, after any sequence of changes."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.store.api import LATEST, Alias, Attachment, Function, FunctionStore, Position, Version
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.memory import MemoryFunctionStore
from engine.store.writer import WriterClosed

ACCOUNTS = ("000000000000", "111111111111")
NAMES = ("a", "b", "c-1", "Z")
KEYS = st.sampled_from([LATEST, "1", "2", "10"])
VERSIONS = st.builds(
    Version,
    version=KEYS,
    config=st.fixed_dictionaries({"n": st.integers(0, 3)}),
    code_sha256=st.sampled_from(["a" * 64, "b" * 64, "c" * 64]),
    code_size=st.integers(1, 9),
    revision_id=st.sampled_from("rs"),
    last_modified_ms=st.integers(0, 2),
    generation=st.just("g"),
    fingerprint=st.just("f"),
)
ALIASES = st.builds(
    Alias,
    name=st.sampled_from(["live", "beta"]),
    version=KEYS,
    description=st.sampled_from(["", "d"]),
    revision_id=st.just("r"),
    weights=st.sampled_from([{}, {"2": 0.5}]),
)
DOCUMENTS = st.dictionaries(
    st.builds(Attachment, st.sampled_from(["policy", "concurrency"]), st.sampled_from(["", "live", "1"])),
    st.fixed_dictionaries({"n": st.integers(0, 2)}),
    max_size=3,
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, str, Function | None]:
    """What becomes of one function; None: it is deleted."""
    account, name = draw(st.sampled_from(ACCOUNTS)), draw(st.sampled_from(NAMES))
    if draw(st.integers(0, 3)) == 0:
        return account, name, None
    versions = {v.version: v for v in draw(st.lists(VERSIONS, max_size=3))}
    versions[LATEST] = replace(draw(VERSIONS), version=LATEST)
    aliases = {a.name: a for a in draw(st.lists(ALIASES, max_size=2))}
    tags = draw(st.sampled_from([{}, {"k": "v"}]))
    return account, name, Function(account, name, 1, draw(st.integers(1, 3)), tags, versions, aliases, draw(DOCUMENTS))


def view(store: FunctionStore) -> dict[str, Any]:
    """Everything a store can be asked."""
    positions = [None, Position("a", 0), Position("a", 1), Position("c-1", 2), Position("zz", 0)]
    seen: dict[str, Any] = {"everything": list(store.everything())}
    for account in ACCOUNTS:
        seen[account] = (
            store.count(account),
            store.stored_bytes(account),
            store.layer_bytes(account),
            [store.get(account, name) for name in NAMES],
            [store.attached(account, kind) for kind in ("policy", "concurrency")],
            [
                store.page(account, name=name, latest_only=latest_only, after=after, limit=limit)
                for name in (None, "a", "nobody")
                for latest_only in (True, False)
                for after in positions
                for limit in (1, 3, 50)
            ],
        )
    return seen


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(changes(), min_size=1, max_size=8))
def test_memory_and_database_agree_and_so_does_a_restart(sequence: list[tuple[str, str, Function | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "engine.db")
        durable = SqlFunctionStore(database)
        memory = MemoryFunctionStore(durable)
        expected: dict[tuple[str, str], Function] = {}

        async def play() -> None:
            for account, name, after in sequence:
                before = memory.get(account, name)
                assert before == expected.get((account, name))
                if before is None and after is None:
                    continue
                await memory.save(before, after, 7)
                if after is None:
                    del expected[account, name]
                else:
                    expected[account, name] = after

        try:
            asyncio.run(play())
            assert view(memory) == view(durable) == view(MemoryFunctionStore(durable))
            assert {(f.account, f.name): f for f in memory.everything()} == expected
        finally:
            database.close()


def test_a_write_that_fails_is_not_shown(tmp_path: Path) -> None:
    database = Database(tmp_path / "engine.db")
    memory = MemoryFunctionStore(SqlFunctionStore(database))
    database.close()
    made = Function("000000000000", "f", 1, 1, {}, {})
    with pytest.raises(WriterClosed):
        asyncio.run(memory.save(None, made, 0))
    assert memory.get("000000000000", "f") is None
    assert memory.count("000000000000") == 0
