"""Backups of stores that are being written, and what is restored from them."""

from __future__ import annotations

import asyncio
import io
import json
import stat
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from engine.errors import ConfigurationError
from engine.store.api import LATEST
from engine.store.backup import backup, restore
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.layers import SqlLayerStore
from engine.store.migrations import SCHEMA_VERSION
from engine.store.queue import SqlEventQueue
from tests.framework.crash import ACCOUNT, EVENT, LAYER, ONE, PACKAGE, Stores
from tests.framework.engine import Engine, zip_of


def filled(folder: Path) -> Stores:
    """A store with something of everything, and packages behind it."""
    folder.mkdir()
    stores = Stores(folder)

    async def fill() -> None:
        sha256 = stores.packages.unpack(PACKAGE)
        versions = {k: replace(v, code_sha256=sha256, layers=(sha256,) * len(v.layers)) for k, v in ONE.versions.items()}
        await stores.functions.save(None, replace(ONE, versions=versions), 1)
        await stores.layers.publish(replace(LAYER, code_sha256=sha256))
        await stores.queue.enqueue(replace(EVENT, payload=bytes(range(256))))
        await stores.queue.enqueue(replace(EVENT, request_id="e2", trace_id="t", qualifier="live"))

    asyncio.run(fill())
    return stores


def contents(database: Database) -> tuple[Any, ...]:
    events = asyncio.run(SqlEventQueue(database).claim(10, 20, 10, frozenset()))
    return (
        list(SqlFunctionStore(database).everything()), list(SqlLayerStore(database).everything(ACCOUNT)),
        sorted(events, key=lambda e: e.request_id), database.secret("k"),
    )  # fmt: skip


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
def test_what_was_backed_up_is_restored_to_either_database(tmp_path: Path, target: str, request: pytest.FixtureRequest) -> None:
    stores = filled(tmp_path / "old")
    stores.database.secret("k")
    file = tmp_path / "b.tar"
    done = backup(tmp_path / "old" / "engine.db", tmp_path / "old", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (done.manifest.rows["functions"], done.manifest.blobs, done.manifest.schema) == (1, 1, SCHEMA_VERSION)
    new = tmp_path / "new"
    where: Path | str = new / "engine.db"
    if target == "postgres":
        where = request.getfixturevalue("postgres_server").schema()
    restore(file, where, new)
    database = Database(where)
    assert contents(database) == contents(stores.database)
    assert (new / "blobs" / f"{ONE.latest.code_sha256}.zip").exists() is False
    sha256 = next(iter(SqlFunctionStore(database).everything())).latest.code_sha256
    assert (new / "blobs" / f"{sha256}.zip").read_bytes() == PACKAGE
    if target == "postgres":
        database.writer.submit(lambda c: c.execute(text("CREATE TABLE somebody_elses (x INTEGER)")).close()).result()
        again = tmp_path / "back.tar"
        assert backup(where, new, again).manifest.rows == done.manifest.rows
        database.close()
        with pytest.raises(ConfigurationError, match="holds a store already"):
            restore(file, where, tmp_path / "third")
    else:
        database.close()
        with pytest.raises(ConfigurationError, match="there is a store at"):
            restore(file, where, new)
    stores.database.close()


def test_a_backup_is_one_moment_of_a_store_that_is_being_written(tmp_path: Path) -> None:
    stores = filled(tmp_path / "old")
    before = stores.functions.get(ACCOUNT, "f")
    stop = threading.Event()

    async def write() -> None:
        n, state = 0, before
        while not stop.is_set():
            n += 1
            after = replace(
                state, next_version=n + 10, tags={"n": str(n)}, versions={k: replace(v, code_size=n) for k, v in state.versions.items()}
            )
            await stores.functions.save(state, after, n)
            state = after

    writer = threading.Thread(target=lambda: asyncio.run(write()))
    writer.start()
    try:
        numbers = []
        for n in range(6):
            file = tmp_path / f"{n}.tar"
            backup(tmp_path / "old" / "engine.db", tmp_path / "old", file)
            restore(file, tmp_path / f"new{n}" / "engine.db", tmp_path / f"new{n}")
            database = Database(tmp_path / f"new{n}" / "engine.db")
            found = SqlFunctionStore(database).get(ACCOUNT, "f")
            database.close()
            sizes = {v.code_size for v in found.versions.values()}
            if found.tags != {"a": "b"}:
                assert sizes == {int(found.tags["n"])}, "every row is of the same moment"
                assert found.next_version == int(found.tags["n"]) + 10
                numbers.append(found.next_version)
    finally:
        stop.set()
        writer.join(20)
        stores.database.close()
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1, "it was written meanwhile"


def altered(source: Path, target: Path, name: str, content: bytes | None) -> Path:
    """A copy of a backup with one member replaced, or left out."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = old.extractfile(member).read()
            if member.name == name:
                if content is None:
                    continue
                data = content
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return target


def test_damaged_foreign_and_newer_backups_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    stores = filled(tmp_path / "old")
    sha256 = stores.functions.get(ACCOUNT, "f").latest.code_sha256
    stores.database.close()
    good = tmp_path / "b.tar"
    manifest = backup(tmp_path / "old" / "engine.db", tmp_path / "old", good).manifest
    with tarfile.open(good) as archive:
        document = json.loads(archive.extractfile("manifest.json").read())
    changes = {
        "newer": ("manifest.json", json.dumps({**document, "schema": 99}).encode(), "written by a newer engine: its schema is 99"),
        "format": ("manifest.json", json.dumps({**document, "format": 2}).encode(), "newer engine"),
        "no manifest": ("manifest.json", None, "not a backup"),
        "nonsense": ("manifest.json", b"[]", "not a backup"),
        "blob": (f"blobs/{sha256}.zip", b"other", "does not have the content"),
        "no blob": (f"blobs/{sha256}.zip", None, "0 of 1 packages"),
        "rows": ("rows/aliases.jsonl", b"", "aliases has 0 of 1 rows"),
        "json": ("rows/aliases.jsonl", b"{", "damaged"),
    }
    for n, (label, (name, content, words)) in enumerate(changes.items()):
        bad = altered(good, tmp_path / f"bad{n}.tar", name, content)
        with pytest.raises(ConfigurationError, match=words):
            restore(bad, tmp_path / f"r{n}" / "engine.db", tmp_path / f"r{n}")
        assert not list((tmp_path / f"r{n}").glob("*.db")) if (tmp_path / f"r{n}").exists() else True, label
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(ConfigurationError, match="cannot restore"):
        restore(tmp_path / "text", tmp_path / "t" / "engine.db", tmp_path / "t")
    with pytest.raises(ConfigurationError, match="exists already"):
        backup(tmp_path / "old" / "engine.db", tmp_path / "old", good)
    with pytest.raises(ConfigurationError, match="there is no store"):
        backup(tmp_path / "nowhere" / "engine.db", tmp_path / "nowhere", tmp_path / "x.tar")
    (tmp_path / "old" / "blobs" / f"{sha256}.zip").unlink()
    with pytest.raises(ConfigurationError, match="it was lost"):
        backup(tmp_path / "old" / "engine.db", tmp_path / "old", tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()
    assert manifest.rows["versions"] == len(ONE.versions)
    assert LATEST in ONE.versions


def cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("lambda-engine"))
    return subprocess.run([program, *arguments], env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True, timeout=60, check=False)


def test_a_running_engine_is_backed_up_and_another_one_goes_on_from_there(shared: Engine, tmp_path: Path) -> None:
    client = shared.client()
    layer = client.publish_layer_version(LayerName="backed-up", Content={"ZipFile": zip_of({"python/backed.py": "X = 'kept'"})})
    code = {"m.py": "import backed\ndef f(e, c): return backed.X\n"}
    shared.deploy("backed-up", code, Layers=[layer["LayerVersionArn"]], Publish=True)
    file = tmp_path / "b.tar"
    done = cli("backup", str(file), "--data-dir", str(shared.data_dir), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["functions"] >= 1
    running = cli("restore", str(file), "--data-dir", str(shared.data_dir))
    assert running.returncode == 1
    assert "is in use by another engine" in running.stderr
    new = tmp_path / "new"
    restored = cli("restore", str(file), "--data-dir", str(new))
    assert restored.returncode == 0, restored.stderr
    assert "functions" in restored.stderr
    other = Engine(new, pool_size=1)
    try:
        other.start()
        assert other.client().invoke(FunctionName="backed-up", Qualifier="1")["Payload"].read() == b'"kept"'
        assert other.client().get_layer_version_by_arn(Arn=layer["LayerVersionArn"])["Version"] == layer["Version"]
    finally:
        other.stop()
