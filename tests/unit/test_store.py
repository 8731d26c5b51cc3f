"""The store: what is written stays, whole, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import sqlite3
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert, inspect, text
from sqlalchemy.exc import DBAPIError

from engine.clock import ManualClock
from engine.errors import ConfigurationError
from engine.store import engines, migrations, schema
from engine.store.api import LATEST, Alias, Attachment, Backlog, Event, EventSourceMapping, Function, Position, Version
from engine.store.code import DiskCodeStore
from engine.store.database import Database
from engine.store.flushes import Flushes
from engine.store.functions import SqlFunctionStore
from engine.store.mappings import SqlMappingStore
from engine.store.queue import SqlEventQueue
from engine.store.saving import version_row
from engine.store.writer import WriterClosed
from tests.framework.postgres import Postgres

ACCOUNT = "000000000000"
A, B, C = "a" * 64, "b" * 64, "c" * 64


def version(name: str = LATEST, code: str = A, size: int = 10, **config: Any) -> Version:
    return Version(name, config or {"Handler": "m.f"}, code, size, f"rev-{name}", 1_700_000_000_000, "g1", "f1", ("boto3",))


def function(name: str = "f", *versions: Version, account: str = ACCOUNT) -> Function:
    kept = versions or (version(),)
    return Function(account, name, 1, 1, {"team": "x"}, {v.version: v for v in kept})


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Every promise holds in both databases."""
    return tmp_path / "engine.db" if request.param == "sqlite" else request.getfixturevalue("postgres_server").schema()


@pytest.fixture
def database(where: Path | str) -> Any:
    opened = Database(where)
    yield opened
    opened.close()


def test_a_function_comes_back_as_it_was_saved(database: Database) -> None:
    store = SqlFunctionStore(database)
    saved = function("f", version(), version("1", B), version("2", B, 7, Handler="x.y"))
    asyncio.run(store.save(None, saved, 0))
    assert store.get(ACCOUNT, "f") == saved
    assert store.get(ACCOUNT, "g") is None
    assert store.get("111111111111", "f") is None
    assert list(store.everything()) == [saved]
    assert store.stored_bytes(ACCOUNT) == 27


def test_aliases_and_attached_documents_come_and_go_with_their_function(database: Database) -> None:
    store = SqlFunctionStore(database)
    live, beta = Alias("live", "1", "d", "r1", {"2": 0.25}), Alias("beta", LATEST, "", "r2")
    before = replace(
        function("f", version(), version("1"), version("2")),
        aliases={"live": live, "beta": beta},
        attached={Attachment("policy", "live"): {"a": [1]}, Attachment("policy"): {"b": 2}, Attachment("other", "1"): {}},
    )
    asyncio.run(store.save(None, before, 0))
    asyncio.run(store.save(None, function("g").attach("policy", "", {"g": 1}), 0))
    assert store.get(ACCOUNT, "f") == before
    assert [f.name for f in store.everything()] == ["f", "g"]
    assert next(iter(store.everything())) == before
    assert store.attached(ACCOUNT, "policy") == {("f", ""): {"b": 2}, ("f", "live"): {"a": [1]}, ("g", ""): {"g": 1}}
    assert store.attached("1" * 12, "policy") == {}
    assert store.count(ACCOUNT) == 2
    after = replace(before, aliases={"beta": replace(beta, description="new")}).attach("policy", "", {"b": 3}).attach("other", "1", None)
    asyncio.run(store.save(before, after, 1))
    assert store.get(ACCOUNT, "f") == after
    assert after.document("policy") == {"b": 3}
    assert after.document("other", "1") is None
    gone = after.without_qualifier("live").without_qualifier("1")
    assert set(gone.attached) == {Attachment("policy")}
    assert set(gone.versions) == {LATEST, "2"}
    asyncio.run(store.save(after, None, 2))
    assert store.attached(ACCOUNT, "policy") == {("g", ""): {"g": 1}}
    assert store.count(ACCOUNT) == 1


def test_event_source_mappings_are_kept_whole(database: Database) -> None:
    store = SqlMappingStore(database)
    one = EventSourceMapping("u1", ACCOUNT, 1, {"State": "Creating", "Filters": [1]}, {"a": "b"})
    other = EventSourceMapping("u0", "1" * 12, 1, {}, {})
    for mapping in (one, other):
        asyncio.run(store.put(mapping))
    assert store.everything() == [other, one]
    changed = one._replace(revision=2, document={"State": "Enabled"})
    asyncio.run(store.put(changed))
    assert store.get("u1") == changed
    asyncio.run(store.delete("u1"))
    assert store.get("u1") is None
    assert store.everything() == [other]


def test_checkpoints_live_as_long_as_their_mapping(database: Database) -> None:
    store = SqlMappingStore(database)
    asyncio.run(store.put(EventSourceMapping("u", ACCOUNT, 1, {}, {})))
    asyncio.run(store.remember({"u": {"s1": {"after": "1"}, "s2": {"ended": True}}, "nobody": {"s1": {"after": "1"}}}))
    asyncio.run(store.remember({"u": {"s1": {"after": "2"}, "s2": None, "s3": None}}))
    assert store.checkpoints("u") == {"s1": {"after": "2"}}
    assert store.checkpoints("nobody") == {}
    asyncio.run(store.put(EventSourceMapping("u", ACCOUNT, 2, {}, {})))
    assert store.checkpoints("u") == {"s1": {"after": "2"}}
    asyncio.run(store.delete("u"))
    assert store.checkpoints("u") == {}


def test_saving_a_function_twice_as_new_changes_nothing(database: Database) -> None:
    store = SqlFunctionStore(database)
    first = function()
    asyncio.run(store.save(None, first, 0))
    with pytest.raises(Exception, match=r"(?i)unique"):
        asyncio.run(store.save(None, function("f", version(code=B)), 0))
    assert store.get(ACCOUNT, "f") == first
    with pytest.raises(ValueError, match="neither"):
        asyncio.run(store.save(None, None, 0))


def test_a_change_replaces_only_the_versions_that_differ(database: Database) -> None:
    store = SqlFunctionStore(database)
    before = function("f", version(), version("1", B))
    after = replace(
        before, next_version=3, tags={}, versions={LATEST: version(code=C), "2": version("2", C)}
    )
    asyncio.run(store.save(None, before, 0))
    asyncio.run(store.save(before, after, 5))
    assert store.get(ACCOUNT, "f") == after
    asyncio.run(store.save(after, None, 6))
    assert store.get(ACCOUNT, "f") is None
    assert list(store.everything()) == []


def test_pages_run_by_name_then_version_and_continue_after_a_position(database: Database) -> None:
    store = SqlFunctionStore(database)

    async def fill() -> None:
        for name in ("c", "a", "b"):
            await store.save(None, function(name, version(), *(version(str(n)) for n in range(1, 12))), 0)
        await store.save(None, function("z", account="1" * 12), 0)

    asyncio.run(fill())
    latest = store.page(ACCOUNT, name=None, latest_only=True, after=None, limit=2)
    assert [(x.name, x.version.version) for x in latest] == [("a", LATEST), ("b", LATEST)]
    rest = store.page(ACCOUNT, name=None, latest_only=True, after=Position("b", 0), limit=2)
    assert [x.name for x in rest] == ["c"]
    of_b = store.page(ACCOUNT, name="b", latest_only=False, after=Position("b", 8), limit=50)
    assert [x.version.version for x in of_b] == ["9", "10", "11"]
    everything = store.page(ACCOUNT, name=None, latest_only=False, after=None, limit=100)
    assert len(everything) == 36
    assert everything[1].version.version == "1"


def test_the_database_is_private_and_survives_being_reopened(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    first = Database(path)
    asyncio.run(SqlFunctionStore(first).save(None, function(), 0))
    secret = first.secret("links")
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    first.close()
    first.close()
    again = Database(path)
    assert SqlFunctionStore(again).get(ACCOUNT, "f") == function()
    assert again.secret("links") == secret
    assert again.secret("others") != secret
    again.close()


def test_migrations_make_the_tables_the_code_uses(tmp_path: Path) -> None:
    Database(tmp_path / "migrated.db").close()
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    migrated = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    schema.metadata.create_all(declared)

    def shape(engine: Any) -> dict[str, Any]:
        seen = inspect(engine)
        return {
            name: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in seen.get_columns(name)],
                seen.get_pk_constraint(name)["constrained_columns"],
                sorted((i["name"], tuple(i["column_names"])) for i in seen.get_indexes(name)),
            )
            for name in seen.get_table_names()
        }

    assert shape(migrated) == shape(declared)
    declared.dispose()
    migrated.dispose()


def test_a_newer_schema_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(ConfigurationError, match=rf"engine\.db was written by a newer engine: its schema is 99.*{migrations.SCHEMA_VERSION}"):
        Database(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("99",)


def test_a_step_that_fails_leaves_the_former_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "engine.db"
    Database(path).close()
    steps = (*migrations._STEPS, ("CREATE TABLE extra (x INTEGER)", "CREATE TABLE nonsense ("))
    monkeypatch.setattr(migrations, "_STEPS", steps)
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", len(steps))
    with pytest.raises(ConfigurationError, match="cannot open the database"):
        Database(path)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    path.write_bytes(b"this is a letter to my aunt, not a database" * 100)
    with pytest.raises(ConfigurationError, match="cannot open the database"):
        Database(path)
    with pytest.raises(ConfigurationError, match="No such file"):
        Database(tmp_path / "missing" / "engine.db")


def test_waiting_writes_share_one_commit(database: Database) -> None:
    writer = database.writer
    gate = threading.Event()
    writer.submit(lambda c: c.execute(text("CREATE TABLE t (x INTEGER UNIQUE)")).close()).result(5)
    blocked = writer.submit(lambda _c: gate.wait(5))

    def insert_row(i: int) -> Any:
        return writer.submit(lambda c: c.execute(text("INSERT INTO t VALUES (:i)"), {"i": i}).rowcount)

    waiting = [insert_row(n % 30) for n in range(31)]
    before = writer.commits
    gate.set()
    assert blocked.result(5)
    assert [f.result(5) for f in waiting[:30]] == [1] * 30
    with pytest.raises(Exception, match=r"(?i)unique"):
        waiting[30].result(5)
    assert writer.commits - before <= 2
    with database.reading.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar_one() == 30


def test_the_writer_lets_others_go_first_between_statements(where: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr("os.sched_yield", lambda: given.append(threading.current_thread().name), raising=False)
    # One that is held up gives way less often, and this machine may hold it up.
    monkeypatch.setattr("engine.turns.LONG_PAUSE_NS", 10**18)
    monkeypatch.setattr("engine.turns.PIECE_NS", 0)
    database = Database(where)
    try:
        given.clear()
        database.writer.submit(lambda c: [c.execute(text("SELECT 1")).close() for _ in range(7)]).result(30)
    finally:
        database.close()

    assert given.count("writer") >= 7 + 2, "and before and after the transaction"


def test_changes_that_share_a_commit_need_no_file_beside_the_database(tmp_path: Path) -> None:
    """Deleting functions several at a time failed where the process may not write to the directory for temporary files."""
    database = Database(tmp_path / "engine.db")
    store = SqlFunctionStore(database)
    made = [function(f"f{n}", version(), version("1", text="x" * 2000)) for n in range(60)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        for one in made:
            await store.save(None, one, 0)
        gate = threading.Event()
        blocked = database.writer.submit(lambda _c: gate.wait(5))
        waiting = asyncio.gather(*(store.save(one, None, 1) for one in made), return_exceptions=True)
        await asyncio.sleep(0)
        # No new file can be opened; those that are open stay usable.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            gate.set()
            outcomes = await waiting
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert blocked.result(5)
        assert outcomes == [None] * 60

    asyncio.run(scenario())
    assert list(store.everything()) == []
    database.close()


def test_a_job_that_raises_undoes_its_own_statements_only(database: Database) -> None:
    writer = database.writer
    writer.submit(lambda c: c.execute(text("CREATE TABLE t (x INTEGER)")).close()).result(5)
    gate = threading.Event()
    writer.submit(lambda _c: gate.wait(5))

    def half(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        raise RuntimeError("half way")

    bad = writer.submit(half)
    good = writer.submit(lambda c: c.execute(text("INSERT INTO t VALUES (2)")).close())
    gate.set()
    good.result(5)
    with pytest.raises(RuntimeError, match="half way"):
        bad.result(5)
    with database.reading.connect() as connection:
        assert connection.execute(text("SELECT x FROM t")).scalars().all() == [2]


def test_a_commit_that_fails_fails_every_write_in_it(database: Database) -> None:
    writer = database.writer
    gate = threading.Event()
    writer.submit(lambda _c: gate.wait(5))

    def orphan(connection: Connection) -> None:
        # Checked at the commit only: a version of a function that does not exist.
        if connection.dialect.name == "sqlite":
            connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        else:
            connection.execute(text("ALTER TABLE versions ALTER CONSTRAINT versions_account_name_fkey DEFERRABLE INITIALLY DEFERRED"))
        connection.execute(insert(schema.versions).values(**version_row(function("nobody"), version())))

    jobs = [writer.submit(orphan), writer.submit(lambda c: c.execute(insert(schema.meta).values(key="k", value="v")).close())]
    gate.set()
    for job in jobs:
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            job.result(10)
    assert writer.submit(lambda c: c.execute(text("SELECT count(*) FROM meta WHERE key = 'k'")).scalar_one()).result(5) == 0


def test_a_closed_writer_finishes_what_it_has_and_refuses_more(database: Database) -> None:
    gate = threading.Event()
    database.writer.submit(lambda _c: gate.wait(5))
    queued = database.writer.submit(lambda _c: "done")
    gate.set()
    database.writer.close()
    assert queued.result(0) == "done"
    with pytest.raises(WriterClosed):
        database.writer.submit(lambda _c: None).result(0)


def event(n: int, **changes: Any) -> Event:
    base = Event(f"id-{n}", ACCOUNT, "f", None, b"{}", 1000 + n, 1000 + n)
    return replace(base, **changes)


def test_events_are_claimed_when_due_oldest_first_and_once(database: Database) -> None:
    queue = SqlEventQueue(database)

    async def scenario() -> None:
        for n in (3, 1, 2):
            await queue.enqueue(event(n))
        await queue.enqueue(event(9, due_ms=5000, qualifier="1", trace_id="Root=1", payload=b"\x00\xff"))
        assert queue.backlog() == Backlog(4, 1001)
        assert queue.next_due_ms(frozenset()) == 1001
        assert await queue.claim(1000, 2000, 10, frozenset()) == []
        assert [e.request_id for e in await queue.claim(1003, 2000, 2, frozenset())] == ["id-1", "id-2"]
        assert [e.request_id for e in await queue.claim(1003, 2000, 2, frozenset())] == ["id-3"]
        assert queue.next_due_ms(frozenset()) == 5000
        assert await queue.claim(5000, 6000, 10, frozenset({(ACCOUNT, "f")})) == []
        assert queue.next_due_ms(frozenset({(ACCOUNT, "f")})) is None
        last = await queue.claim(5000, 6000, 1, frozenset({(ACCOUNT, "other")}))
        assert [e.request_id for e in last] == ["id-1"]  # its lease of 2000 is over

    asyncio.run(scenario())


def test_settled_events_are_gone_and_postponed_ones_wait(database: Database) -> None:
    queue = SqlEventQueue(database)

    async def scenario() -> None:
        await queue.enqueue(event(1))
        await queue.enqueue(event(2))
        first, second = await queue.claim(2000, 9000, 10, frozenset())
        await queue.settle(first.request_id)
        await queue.postpone(replace(second, due_ms=4000, failures=1, refusals=2))
        assert await queue.claim(3999, 9000, 10, frozenset()) == []
        assert await queue.claim(4000, 9000, 10, frozenset()) == [replace(second, due_ms=4000, failures=1, refusals=2)]
        assert await queue.claim(8999, 9999, 10, frozenset()) == []
        assert await queue.release(10_000) == 1
        assert len(await queue.claim(4000, 9000, 10, frozenset())) == 1
        await queue.settle("id-2")
        assert queue.backlog() == Backlog(0, None)
        await asyncio.gather(*(queue.enqueue(event(n)) for n in (5, 6, 5)))
        await queue.enqueue(event(5))
        assert queue.backlog().depth == 2
        await queue.release(10)
        assert {e.first_ms for e in await queue.claim(10, 9000, 10, frozenset())} <= {10, event(5).first_ms}, "nothing is due later than it was"
        assert [(s.event.request_id, s.held) for s in queue.listed("000000000000", None, 10)] == [("id-5", True), ("id-6", True)]
        assert queue.listed("000000000000", "other", 10) == []
        assert queue.find("id-6") is not None
        assert queue.find("id-7") is None
        assert await queue.hasten(["id-5"], 5) == 0, "it is held"
        await queue.postpone(replace(event(5), due_ms=90_000))
        assert await queue.hasten(["id-5", "id-7"], 5) == 1
        assert queue.next_due_ms(frozenset()) == 5
        assert await queue.drop(["id-5", "id-6", "id-7"]) == 2
        assert queue.backlog().depth == 0

    asyncio.run(scenario())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def code(database: Database, tmp_path: Path, clock: ManualClock) -> DiskCodeStore:
    return DiskCodeStore(database, tmp_path, clock, grace_s=100.0)


def put(code: DiskCodeStore, sha256: str) -> None:
    code.add(sha256, b"zip")
    scratch = code.scratch()
    (scratch / "m.py").write_text("x = 1")
    code.publish(sha256, scratch)
    code.compiled(sha256, "python3.12").touch()


def test_code_goes_a_grace_time_after_its_last_user(database: Database, code: DiskCodeStore, clock: ManualClock) -> None:
    store = SqlFunctionStore(database)
    one, two = function("one", version(code=A)), function("two", version(code=A), version("1", B))
    for sha256 in (A, B):
        put(code, sha256)

    async def scenario() -> None:
        await store.save(None, one, clock.epoch_ms())
        await store.save(None, two, clock.epoch_ms())
        await store.save(one, None, clock.epoch_ms())
        clock.advance(1000)
        assert code.collect() == []
        await store.save(two, replace(two, versions={LATEST: version(code=B)}), clock.epoch_ms())
        clock.advance(99)
        assert code.collect() == []
        clock.advance(1)
        assert code.collect() == [A]
        assert not code.blob(A).exists()
        assert not code.tree(A).exists()
        assert not code.compiled(A, "python3.12").exists()
        assert code.tree(B).is_dir()
        assert code.blob(B).is_file()
        clock.advance(1000)
        assert code.collect() == []

    asyncio.run(scenario())


def test_code_that_is_held_or_used_again_is_not_collected(database: Database, code: DiskCodeStore, clock: ManualClock) -> None:
    store = SqlFunctionStore(database)
    put(code, A)

    async def scenario() -> None:
        await store.save(None, function(), clock.epoch_ms())
        await store.save(function(), None, clock.epoch_ms())
        clock.advance(1000)
        with code.hold(A):
            assert code.collect() == []
            await store.save(None, function(), clock.epoch_ms())
        assert code.collect() == []
        assert code.tree(A).is_dir()

    asyncio.run(scenario())


def test_only_what_nothing_ever_referred_to_is_discarded(database: Database, code: DiskCodeStore) -> None:
    for sha256 in (A, B):
        put(code, sha256)
    code.mentions(B, "asks").touch()
    asyncio.run(SqlFunctionStore(database).save(None, function(), 0))
    assert not code.discard(A)
    with code.hold(B):
        assert not code.discard(B)
    assert code.tree(B).is_dir()
    assert code.discard(B)
    left = [path.name for folder in (code.blob(A).parent, code.tree(A).parent) for path in folder.iterdir()]
    assert left
    assert all(name.startswith(A) for name in left)


def test_the_sweep_removes_what_no_row_knows(database: Database, code: DiskCodeStore) -> None:
    for sha256 in (A, B):
        put(code, sha256)
    asyncio.run(SqlFunctionStore(database).save(None, function(), 0))
    scratch = code.scratch()
    assert code.sweep() == 4
    assert not scratch.exists()
    assert not code.tree(B).exists()
    assert not code.compiled(B, "python3.12").exists()
    assert code.tree(A).is_dir()
    assert code.compiled(A, "python3.12").exists()


def test_adding_or_publishing_the_same_package_twice_keeps_the_first(code: DiskCodeStore) -> None:
    put(code, A)
    code.add(A, b"other")
    assert code.blob(A).read_bytes() == b"zip"
    scratch = code.scratch()
    (scratch / "m.py").write_text("x = 2")
    assert code.publish(A, scratch) == code.tree(A)
    assert (code.tree(A) / "m.py").read_text() == "x = 1"
    assert not scratch.exists()


def test_publishing_with_the_upload_keeps_both_or_neither(code: DiskCodeStore, tmp_path: Path) -> None:
    scratch = code.scratch()
    assert code.publish(A, scratch, b"zip") == code.tree(A)
    assert code.blob(A).read_bytes() == b"zip"
    another = code.scratch()
    with pytest.raises(TypeError):
        code.publish(B, another, "not bytes")  # type: ignore[arg-type]
    assert not code.blob(B).exists()
    assert not code.tree(B).exists()
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == [f"{A}.zip"]


def test_flushes_are_shared_and_none_relies_on_one_that_had_begun_before() -> None:
    count = itertools.count()
    begun: list[int] = []

    def flush(_path: Path) -> None:
        begun.append(next(count))
        time.sleep(0.002)

    flushes = Flushes(flush)

    def some(_n: int) -> bool:
        covered = True
        for _ in range(25):
            came = next(count)
            flushes.flush(Path())
            covered &= any(came < at for at in list(begun))
        return covered

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(some, range(8)))
    assert len(begun) < 200


def test_a_flush_that_fails_is_done_over_by_whoever_waits_for_it() -> None:
    failing, waiting = threading.Event(), threading.Event()
    calls = []

    def flush(path: Path) -> None:
        calls.append(path)
        if path == Path("first"):
            failing.set()
            waiting.wait(20)
            raise OSError("no disk")

    flushes = Flushes(flush)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flushes.flush, Path("first"))
        failing.wait(20)
        second = pool.submit(flushes.flush, Path("second"))
        waiting.set()
        with pytest.raises(OSError, match="no disk"):
            first.result(20)
        second.result(20)
    assert calls == [Path("first"), Path("second")]


def test_a_blob_that_cannot_be_written_leaves_no_remains(code: DiskCodeStore, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        code.add(A, "not bytes")  # type: ignore[arg-type]
    assert list((tmp_path / "blobs").iterdir()) == []


def test_a_postgres_schema_has_one_engine_keeps_its_rows_and_refuses_newer_ones(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres_server.schema()
    first = Database(url)
    asyncio.run(SqlFunctionStore(first).save(None, function(), 0))
    key = first.secret("k")
    monkeypatch.setattr(engines, "BUSY_S", 0.2)
    with pytest.raises(ConfigurationError, match="another engine uses this PostgreSQL schema"):
        Database(url)
    Database(postgres_server.schema()).close()
    first.close()
    second = Database(url)
    assert SqlFunctionStore(second).get(ACCOUNT, "f") == function()
    assert second.secret("k") == key
    with second.reading.connect() as connection, pytest.raises(DBAPIError, match="read-only"):
        connection.execute(text("DELETE FROM functions"))
    second.writer.submit(lambda c: c.execute(text("UPDATE meta SET value = '99' WHERE key = 'schema_version'")).close()).result()
    second.close()
    with pytest.raises(ConfigurationError, match=r"was written by a newer engine: its schema is 99"):
        Database(url)


def test_a_lost_connection_to_postgres_is_made_again_with_its_lock(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres_server.schema()
    database = Database(url)
    store = SqlFunctionStore(database)
    asyncio.run(store.save(None, function(), 0))
    postgres_server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
    asyncio.run(store.save(function(), function("f", version(size=11)), 0))
    assert store.get(ACCOUNT, "f").latest.code_size == 11
    monkeypatch.setattr(engines, "BUSY_S", 0.1)
    with pytest.raises(ConfigurationError, match="another engine uses this PostgreSQL schema"):
        Database(url)
    database.close()


def test_names_are_ordered_as_python_orders_them(database: Database) -> None:
    store = SqlFunctionStore(database)
    names = ["B", "a", "a-b", "a_b", "ab", "Z9"]
    for name in names:
        asyncio.run(store.save(None, function(name), 0))
    assert [item.name for item in store.page(ACCOUNT, name=None, latest_only=True, after=None, limit=10)] == sorted(names)
    assert [f.name for f in store.everything()] == sorted(names)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://u:secret@h/d", "begins with mysql://; only postgresql://"),
        ("nonsense", "is not a URL"),
        ("postgresql://u:secret@127.0.0.1:1/d", r"cannot open the database postgresql\+psycopg://u:\*\*\*@127.0.0.1:1/d"),
    ],
)
def test_a_database_that_cannot_be_had_is_named_without_its_password(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'lambda-engine\[postgres\]'"):
        Database("postgresql://h/d")


def test_a_backlog_of_one_function_is_not_in_the_way_of_another(database: Database) -> None:
    async def scenario() -> None:
        queue = SqlEventQueue(database)
        await queue.enqueue_all([replace(event(n), function="big", due_ms=n) for n in range(1000)])
        await queue.enqueue(replace(event(5000), function="small", due_ms=5000))
        full = frozenset({(ACCOUNT, "big")})
        assert queue.next_due_ms(full) == 5000
        assert [e.function for e in await queue.claim(9999, 20_000, 10, full)] == ["small"]
        assert queue.next_due_ms(full) is None
        first = await queue.claim(9999, 20_000, 10, frozenset())
        assert [e.due_ms for e in first] == list(range(10))
        assert queue.next_due_ms(frozenset()) == 10
        await queue.postpone(replace(first[0], due_ms=3))
        assert queue.next_due_ms(frozenset()) == 3
        assert [e.request_id for e in await queue.claim(9999, 20_000, 1, frozenset())] == [first[0].request_id]
        # Leases that were not given back end by themselves, also those of a queue that is gone.
        again = SqlEventQueue(database)
        assert len(await again.claim(20_000, 40_000, 2000, frozenset())) == 1001
        assert await again.claim(39_999, 50_000, 10, frozenset()) == []
        assert len(await again.claim(40_000, 50_000, 10, frozenset())) == 10

    asyncio.run(scenario())


def test_what_is_put_in_while_others_are_taken_is_found(database: Database) -> None:
    async def scenario() -> None:
        queue = SqlEventQueue(database)
        taken: list[str] = []
        for n in range(0, 200, 4):
            puts = [queue.enqueue(replace(event(n + k), function=f"f{k % 3}", due_ms=1000)) for k in range(4)]
            claims = queue.claim(2000, 90_000, 3, frozenset())
            for found in await asyncio.gather(puts[0], claims, *puts[1:]):
                taken += [e.request_id for e in found or ()]
        while found := await queue.claim(2000, 90_000, 3, frozenset()):
            taken += [e.request_id for e in found]
        assert len(taken) == len(set(taken)) == 200

    asyncio.run(scenario())


def test_what_is_hastened_while_others_are_taken_is_due(database: Database) -> None:
    async def scenario() -> None:
        await SqlEventQueue(database).enqueue_all([replace(event(1), due_ms=9000), replace(event(2), due_ms=1000)])
        for first in range(2):
            queue = SqlEventQueue(database)
            work = [queue.claim(1000, 2000, 1, frozenset()), queue.hasten(["id-1"], 1000)]
            await asyncio.gather(*(work if first == 0 else reversed(work)))
            assert queue.next_due_ms(frozenset()) == 1000
            await queue.release(1000)
            await queue.postpone(replace(event(1), due_ms=9000))

    asyncio.run(scenario())
