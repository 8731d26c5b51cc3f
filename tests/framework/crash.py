"""Kills a process that writes to a store at every statement it sends and at every file it touches, one after the other.

``python -m tests.framework.crash [postgres=SOCKETS] [WRITE...]`` is single-threaded and forks a child per kill: the child opens the store, runs one write and kills itself
at the n-th point; the parent then opens what is left and compares it with the state before and the state after. Prints the number of kills
per write as JSON, or ends with the first state that is neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import event, select

from engine.clock import ManualClock
from engine.control.packages import Packages
from engine.store.api import LATEST, Alias, Attachment, Event, Function, LayerVersion, Version
from engine.store.code import DiskCodeStore
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.layers import SqlLayerStore
from engine.store.queue import SqlEventQueue
from engine.store.schema import metadata
from tests.framework.engine import zip_of
from tests.framework.postgres import Postgres

ACCOUNT = "000000000000"
PACKAGE = zip_of({"m.py": "x = 1", "lib/n.py": "y = 2"})
Dump = dict[str, Any]


class Stores:
    """Everything that writes, on one database and one directory. ``url``: of a schema in PostgreSQL, in place of a file in the directory."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.database = Database(url or folder / "engine.db")
        self.functions = SqlFunctionStore(self.database)
        self.layers = SqlLayerStore(self.database)
        self.queue = SqlEventQueue(self.database)
        self.clock = ManualClock()
        self.code = DiskCodeStore(self.database, folder, self.clock)
        self.packages = Packages(self.code)

    def dump(self) -> Dump:
        """Every row, and which packages are there: a tree counts by what is in it."""
        with self.database.reading.connect() as connection:
            rows: Dump = {
                t.name: sorted(repr(tuple(row)) for row in connection.execute(select(t))) for t in metadata.sorted_tables if t.name != "meta"
            }
        for path in (self.code.blob("x").parent, self.code.tree("x").parent):
            rows[path.name] = sorted(f"{p.relative_to(path)}:{p.stat().st_size}" for p in path.rglob("*") if p.is_file())
        return rows


def _version(name: str, n: int, *, layers: bool = False) -> Version:
    config = {"n": n, "Layers": [{"Arn": "l", "CodeSize": 5}]} if layers else {"n": n}
    return Version(name, config, f"{n:064x}", n, f"r{n}", n, f"g{n}", f"f{n}", (), ("e" * 64,) if layers else ())


ONE = Function(
    ACCOUNT, "f", 1, 3, {"a": "b"}, {LATEST: _version(LATEST, 1, layers=True), "1": _version("1", 1), "2": _version("2", 2, layers=True)},
    {"live": Alias("live", "1", "d", "r", {"2": 0.5})}, {Attachment("policy"): {"Statement": []}, Attachment("url", "live"): {"UrlId": "u"}},
)  # fmt: skip
TWO = replace(ONE, versions={LATEST: _version(LATEST, 3), "1": ONE.versions["1"]}, aliases={}, attached={Attachment("policy"): {"S": 1}})
LAYER = LayerVersion(ACCOUNT, "l", 0, "", None, ("arm64",), None, "e" * 64, 5, 1, "r")
EVENT = Event("e1", ACCOUNT, "f", None, b"x" * 100, 1, 1)


async def _deploy(stores: Stores) -> None:
    """A package on disk and the version that refers to it, as the control plane does it."""
    sha256 = stores.packages.unpack(PACKAGE)
    version = replace(_version(LATEST, 9), code_sha256=sha256, code_size=len(PACKAGE))
    await stores.functions.save(None, Function(ACCOUNT, "deployed", 1, 1, {}, {LATEST: version}), 1)


async def _forget(stores: Stores) -> None:
    """The package's last user goes and its time is over: its files and its row follow."""
    stores.clock.advance(10_000)
    await asyncio.to_thread(stores.code.collect)


async def _undeploy(stores: Stores) -> None:
    await _deploy(stores)
    function = stores.functions.get(ACCOUNT, "deployed")
    await stores.functions.save(function, None, 1)


async def _nothing(_stores: Stores) -> None: ...


async def _claim(stores: Stores) -> None:
    await stores.queue.claim(5, 100, 10, frozenset())


def _policy(layer: LayerVersion | None) -> LayerVersion:
    assert layer is not None
    return replace(layer, policy=({"Sid": "s"},), revision_id="r2")


Step = Callable[[Stores], Awaitable[Any]]
# What is there before, and the write that is killed: nothing else than the state before or after may be left, not even a file.
WRITES: dict[str, tuple[Step, Step]] = {
    "create a function": (_nothing, lambda s: s.functions.save(None, ONE, 1)),
    "change a function": (lambda s: s.functions.save(None, ONE, 1), lambda s: s.functions.save(ONE, TWO, 2)),
    "delete a function": (lambda s: s.functions.save(None, ONE, 1), lambda s: s.functions.save(ONE, None, 2)),
    "publish a layer": (_nothing, lambda s: s.layers.publish(LAYER)),
    "publish it again": (lambda s: s.layers.publish(LAYER), lambda s: s.layers.publish(LAYER)),
    "share a layer": (lambda s: s.layers.publish(LAYER), lambda s: s.layers.amend(ACCOUNT, "l", 1, _policy)),
    "delete a layer": (lambda s: s.layers.publish(LAYER), lambda s: s.layers.delete(ACCOUNT, "l", 1, 2)),
    "queue an event": (_nothing, lambda s: s.queue.enqueue(EVENT)),
    "claim an event": (lambda s: s.queue.enqueue(EVENT), _claim),
    "postpone an event": (lambda s: s.queue.enqueue(EVENT), lambda s: s.queue.postpone(replace(EVENT, due_ms=9, failures=1))),
    "settle an event": (lambda s: s.queue.enqueue(EVENT), lambda s: s.queue.settle("e1")),
    "deploy a package": (_nothing, _deploy),
    "collect a package": (_undeploy, _forget),
}
_FILES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.symlink", "shutil.rmtree")


class Killer:
    """Counts points and kills this process at number ``at``; 0 only counts."""

    def __init__(self, at: int) -> None:
        self.at, self.seen, self.armed = at, 0, False

    def point(self, *_: Any) -> None:
        if self.armed:
            self.seen += 1
            if self.seen == self.at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, stores: Stores) -> None:
        engine = stores.database._writing
        event.listen(engine, "before_cursor_execute", self.point)
        event.listen(engine, "after_cursor_execute", self.point)
        event.listen(engine, "commit", self.point)

        def audit(name: str, arguments: tuple[Any, ...]) -> None:
            if name in _FILES and "engine.db" not in repr(arguments):
                self.point()

        sys.addaudithook(audit)


def _prepare(folder: Path, steps: list[Step], url: str | None) -> Dump:
    stores = Stores(folder, url)
    for step in steps:
        asyncio.run(_awaited(step, stores))
    dump = stores.dump()
    stores.database.close()
    return dump


async def _awaited(step: Step, stores: Stores) -> None:
    await step(stores)


def _child(folder: Path, url: str | None, write: Step, at: int, acknowledged: int) -> None:
    stores = Stores(folder, url)
    killer = Killer(at)
    killer.watch(stores)
    killer.armed = True
    asyncio.run(_awaited(write, stores))
    killer.armed = False
    os.write(acknowledged, b"1")
    os._exit(0)


def _recovered(folder: Path, url: str | None) -> Dump:
    """What a start finds and makes of it."""
    stores = Stores(folder, url)
    stores.code.sweep()
    dump = stores.dump()
    stores.database.close()
    return dump


def kill_everywhere(root: Path, name: str, before_step: Step, write: Step, server: Postgres | None = None) -> int:
    """The number of points at which the write was killed. Raises AssertionError for a state that is neither old nor new."""
    start = root / "start"
    start.mkdir()
    url = None if server is None else server.schema()
    before = _prepare(start, [before_step], url)
    full = root / "full"
    shutil.copytree(start, full)
    after = _prepare(full, [write], url)
    assert before != after, name
    at = 0
    while True:
        at += 1
        folder = root / "run"
        if server is None:
            shutil.copytree(start, folder)
        else:
            # A schema is not copied as a directory is: it is made anew.
            folder.mkdir()
            url = server.schema()
            assert _prepare(folder, [before_step], url) == before
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _child(folder, url, write, at, write_end)
            finally:
                os._exit(3)
        os.close(write_end)
        acknowledged = os.read(read_end, 1) == b"1"
        os.close(read_end)
        status = os.waitpid(pid, 0)[1]
        left = _recovered(folder, url)
        shutil.rmtree(folder)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0 and acknowledged and left == after, f"{name}: it failed without being killed: {left}"
            return at - 1
        assert left == after or (left == before and not acknowledged), f"{name}, killed at {at}: {left}\nbefore: {before}\nafter: {after}"


def main() -> None:
    counts = {}
    names = sys.argv[1:]
    server = Postgres(names.pop(0).removeprefix("postgres=")) if names and names[0].startswith("postgres=") else None
    for name in names or WRITES:
        before, write = WRITES[name]
        with tempfile.TemporaryDirectory(prefix="crash-") as root:
            counts[name] = kill_everywhere(Path(root), name, before, write, server)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
