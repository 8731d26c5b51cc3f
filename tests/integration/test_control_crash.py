"""kill -9 at any moment leaves the old state or the new one, and what was acknowledged is there."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.config import load
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.queue import SqlEventQueue
from tests.framework.control import RUNTIMES
from tests.framework.engine import OWN_RUNTIME, ROLE, zip_of
from tests.framework.frame_server import until
from tests.framework.link_peer import LinkPeer
from tests.framework.postgres import Postgres

ACCOUNT = "000000000000"
# Writes states whose every row carries the same number, and says each number once it is committed.
WRITER = """
import asyncio, sys
from pathlib import Path
from engine.store.api import LATEST, Event, Function, Version
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.queue import SqlEventQueue

def state(n):
    def version(name):
        return Version(name, {"n": n}, f"{n:064x}", n, f"r{n}", n, f"g{n}", f"f{n}")
    names = [LATEST, *map(str, range(1, 30))]
    return Function("000000000000", "f", 1, n, {"n": str(n)}, {v: version(v) for v in names})

async def main():
    database = Database(Path(sys.argv[1]))
    store, queue = SqlFunctionStore(database), SqlEventQueue(database)
    before = store.get("000000000000", "f")
    n = before.next_version if before else 0
    while True:
        n += 1
        after = state(n)
        await asyncio.gather(
            store.save(before, after, n),
            queue.enqueue(Event(f"e{n}", "000000000000", "f", None, b"x" * 5000, n, n)),
        )
        before = after
        print(n, flush=True)

asyncio.run(main())
"""


def test_a_store_killed_while_it_writes_holds_whole_states(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    pause = random.Random(7)
    said: list[int] = []
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = iter(process.stdout)
        said.append(int(next(lines)))
        time.sleep(pause.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in lines if line.endswith("\n")]
        process.wait(10)
        process.stdout.close()
        database = Database(path)
        found = SqlFunctionStore(database).get(ACCOUNT, "f")
        assert found.next_version >= max(said)
        assert {v.code_size for v in found.versions.values()} == {found.next_version}
        assert {v.config["n"] for v in found.versions.values()} == {found.next_version}
        assert found.tags == {"n": str(found.next_version)}
        assert len(found.versions) == 30
        # A number of which only one of the two writes was committed was never said, and the next round goes on after it.
        assert [n for n in said if SqlEventQueue(database).find(f"e{n}") is None] == []
        database.close()


QUICK = ("change a function", "collect a package")
IN_POSTGRES = ("change a function", "delete a layer", "postpone an event", "deploy a package")


def killed_everywhere(*writes: str) -> dict[str, int]:
    """How often each write was killed; what it left was the old state or the new one every time."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.framework.crash", *writes],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout))


def test_a_kill_at_any_statement_or_file_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    counts = killed_everywhere(*QUICK)
    assert set(counts) == set(QUICK)
    assert min(counts.values()) >= 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_so_does_a_kill_in_every_other_write(tmp_path: Path) -> None:
    from tests.framework.crash import WRITES

    counts = killed_everywhere(*[name for name in WRITES if name not in QUICK])
    assert min(counts.values()) >= 5
    assert len(counts) + len(QUICK) == len(WRITES)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_so_does_a_kill_of_what_writes_to_postgres(postgres_server: Postgres) -> None:
    counts = killed_everywhere(f"postgres={postgres_server.sockets}", *IN_POSTGRES)
    assert set(counts) == set(IN_POSTGRES)
    # One statement and its commit, at least.
    assert min(counts.values()) >= 3


class ControlProcess:
    """A real control plane process; a scripted supervisor must be listening."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = load(data_dir=data_dir)
        self.path = self.settings.run_dir() / "http.sock"
        env = {k: v for k, v in os.environ.items() if not k.startswith("LAMBDA_ENGINE_")}
        env["LAMBDA_ENGINE_DATA_DIR"] = str(data_dir)
        self.process = subprocess.Popen([sys.executable, "-m", "engine.control_app"], env=env)

    def request(self, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(str(self.path))
            connection.request(method, path, None if document is None else json.dumps(document))
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if body else None
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return self.request("GET", "/_engine/version")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def create(control: ControlProcess, name: str) -> int:
    document = {
        "FunctionName": name,
        "Role": ROLE,
        "Runtime": OWN_RUNTIME,
        "Handler": "m.f",
        "Code": {"ZipFile": base64.b64encode(zip_of({"m.py": f"# {name}\n" * 50})).decode()},
    }
    return control.request("POST", "/2015-03-31/functions", document)[0]


@pytest.fixture
def peer(tmp_path: Path) -> Any:
    run_dir = load(data_dir=tmp_path).run_dir()
    run_dir.mkdir(parents=True, mode=0o700)
    with LinkPeer(run_dir / "control.sock", RUNTIMES) as running:
        yield running


def test_a_control_plane_killed_while_it_deploys_comes_back_with_whole_functions(tmp_path: Path, peer: LinkPeer) -> None:
    made: set[str] = set()
    pause = random.Random(11)
    for life in range(2):
        control = ControlProcess(tmp_path)
        try:
            until(control.answers, 30)
            until(lambda: peer.catalogue is not None and made <= {name for _, name in peer.catalogue}, 30)
            for name in sorted(made):
                assert control.request("GET", f"/2015-03-31/functions/{name}")[1]["Configuration"]["State"] == "Active"
            for account, name in list(peer.catalogue):
                entry = peer.catalogue[account, name]["versions"]["$LATEST"]
                assert entry["state"] == "Active"
                assert (Path(entry["code_dir"]) / "m.py").read_text().startswith(f"# {name}\n")

            def deploy(control: ControlProcess = control, life: int = life) -> None:
                for n in range(1000):
                    try:
                        if create(control, f"f-{life}-{n}") == 201:
                            made.add(f"f-{life}-{n}")
                    except (OSError, http.client.HTTPException):
                        return

            thread = threading.Thread(target=deploy)
            had = len(made)
            thread.start()
            until(lambda had=had: len(made) > had, 30)  # type: ignore[misc]
            time.sleep(pause.uniform(0.0, 0.3))
        finally:
            control.kill()
        thread.join(20)
    known = {p.name.partition(".")[0] for p in (tmp_path / "blobs").iterdir()}
    control = ControlProcess(tmp_path)
    try:
        until(control.answers, 30)
        listed = set()
        marker = ""
        while marker is not None:
            page = control.request("GET", f"/2015-03-31/functions/?Marker={marker}")[1]
            listed |= {f["FunctionName"] for f in page["Functions"]}
            marker = page.get("NextMarker")
        assert made <= listed
        trees = {p.name for p in (tmp_path / "code").iterdir() if p.is_dir()}
        assert len(trees) == len(listed), (trees, known)
    finally:
        control.kill()


def test_sigterm_ends_it_cleanly_and_at_once(tmp_path: Path, peer: LinkPeer) -> None:
    control = ControlProcess(tmp_path)
    try:
        until(control.answers, 30)
        assert create(control, "f") == 201
        control.process.terminate()
        assert control.process.wait(10) == 0
    finally:
        control.kill()


def test_it_ends_when_its_parent_is_killed(tmp_path: Path, peer: LinkPeer) -> None:
    env = {**os.environ, "LAMBDA_ENGINE_DATA_DIR": str(tmp_path)}
    source = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-m', 'engine.control_app']); print(p.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", source], env=env, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until(lambda: peer.catalogue is not None, 30)
    parent.kill()
    parent.wait(5)
    parent.stdout.close()

    def gone() -> bool:
        try:
            return "(" in (stat := Path(f"/proc/{child}/stat").read_text()) and stat.rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    until(gone, 10)


def test_a_database_of_a_newer_engine_is_refused_in_words(tmp_path: Path, peer: LinkPeer) -> None:
    database = Database(tmp_path / "engine.db")
    database.writer.submit(lambda c: c.exec_driver_sql("UPDATE meta SET value = '99'").close()).result(5)
    database.close()
    env = {**os.environ, "LAMBDA_ENGINE_DATA_DIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-m", "engine.control_app"], check=False, env=env, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert "was written by a newer engine" in ended.stderr
