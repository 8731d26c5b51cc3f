"""Who keeps root's powers when root starts the engine: the keeper and the broker, nobody who reads what others send."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.framework import host
from tests.framework.engine import Engine, engine

pytestmark = pytest.mark.root

ROOT = Path(__file__).parent.parent.parent
NOBODY = 65534
NONE = "0000000000000000"


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {k: v.strip() for k, v in (line.split(":", 1) for line in lines)}


def until(condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


def assert_powerless(pid: int, uid: int = 0) -> None:
    seen = status(pid)
    assert {seen[k] for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {NONE}
    assert seen["NoNewPrivs"] == "1"
    assert set(seen["Uid"].split()) == {str(uid)}


def call(running: Engine, name: str) -> Any:
    return json.load(running.client().invoke(FunctionName=name, Payload=b"{}")["Payload"])


def test_only_the_broker_is_root_and_everything_can_be_started_again() -> None:
    with engine(pool_size=1) as running:
        running.deploy("here", {"m.py": "def f(e, c): return 'here'"})
        running.client("s3").create_bucket(Bucket="starts-the-embedded-aws")
        pids = running.state()["processes"]
        assert {"supervisor", "control", "broker", "embedded-aws"} <= set(pids)
        for role in ("supervisor", "control", "embedded-aws"):
            assert_powerless(pids[role])
        assert status(pids["broker"])["CapEff"] != NONE
        assert running.state()["sandbox"]["mechanisms"]["supervisor"].startswith("uid 0, no capabilities, writes below")

        os.kill(pids["control"], signal.SIGKILL)
        fresh = until(lambda: (p := running.state()["processes"].get("control")) not in (None, pids["control"]) and p, "control plane")
        assert_powerless(fresh)
        until(lambda: running.get("/readyz")[0] == 200, "ready")
        running.deploy("later", {"m.py": "def f(e, c): return 'later'"})
        assert call(running, "later") == "later"

        os.kill(pids["broker"], signal.SIGKILL)
        until(lambda: running.state()["processes"].get("broker") not in (None, pids["broker"]), "broker")
        assert running.state()["sandbox"]["level"] == "full"
        assert until(lambda: _tries(running, "here"), "an invocation") == "here"

        keeper = psutil.Process(running.state()["processes"]["broker"]).parent()
        assert keeper is not None
        assert running.process is not None
        keeper.kill()
        assert running.process.wait(60) == 1, "without its keeper the engine ends, for it could only get a lower level"
        assert "starting another one takes root's powers" in running.log.read_text()
        running.process = None


def _tries(running: Engine, name: str) -> Any:
    try:
        return call(running, name)
    except Exception:
        return None


RENOUNCE = """
import json, os, signal, subprocess, sys
from pathlib import Path
from engine.sandbox.renounce import renounce
data, outside, victim = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
told = renounce(data, [], [])
def attempt(call, *args):
    try: call(*args)
    except OSError as e: return e.errno
    return 0
print(json.dumps({
    'told': told,
    'inside': attempt(open, data / 'file', 'w'),
    'rename': attempt(os.rename, data / 'file', data / 'other'),
    'outside': attempt(open, outside + '/file', 'w'),
    'overwrite': attempt(open, outside + '/there', 'w'),
    'delete': attempt(os.unlink, outside + '/there'),
    'chown': attempt(os.chown, data / 'other', 1, 1),
    'mount': attempt(os.mknod, data / 'dev', 0o20666, os.makedev(1, 1)),
    'kill': attempt(os.kill, victim, signal.SIGTERM),
    'setuid': attempt(os.setuid, 12345),
    'child': subprocess.run(['/bin/sh', '-c', 'grep CapEff /proc/self/status; echo x > ' + outside + '/file'], capture_output=True, text=True).stdout,
    'again': renounce(data, [], []) if os.geteuid() else '',
}))
"""


def renounced(data: Path, outside: Path) -> dict[str, Any]:
    """What a process can still do after it has renounced."""
    outside.mkdir(exist_ok=True)
    outside.chmod(0o777)
    (outside / "there").touch()
    (outside / "there").chmod(0o666)
    with subprocess.Popen(["/bin/sleep", "100"]) as victim:
        try:
            packages = os.pathsep.join([str(ROOT), *(p for p in sys.path if "site-packages" in p)])
            done = subprocess.run(
                [sys.executable, "-c", RENOUNCE, str(data), str(outside), str(victim.pid)],
                capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": packages},
            )  # fmt: skip
            assert victim.poll() is None
        finally:
            victim.kill()
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_what_is_left_to_who_renounced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    seen = renounced(data, tmp_path / "outside")
    assert (seen["inside"], seen["rename"]) == (0, 0)
    assert {seen[k] for k in ("outside", "overwrite", "delete", "chown", "mount", "kill", "setuid")} <= {1, 13, 18}
    assert seen["child"].split() == ["CapEff:", NONE]
    assert not (tmp_path / "outside" / "file").exists()


def test_the_owner_of_the_data_directory_is_who_the_supervisor_becomes(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder != Path(tempfile.gettempdir()) and Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(folder.stat().st_mode | 0o055)
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    seen = renounced(data, tmp_path / "outside")
    assert seen["told"].startswith(f"uid {NOBODY}, no capabilities")
    assert seen["inside"] == 0
    assert seen["kill"] == 1
    assert seen["again"] is None


def test_who_could_not_work_as_that_owner_is_told_so(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    code = (
        "import sys; from pathlib import Path; from engine.sandbox.renounce import renounce\n"
        "try: renounce(Path(sys.argv[1]), [], [Path(sys.argv[2])])\nexcept Exception as e: print(type(e).__name__, e)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(data), str(closed)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("ConfigurationError ")
    assert "is closed to that user" in done.stdout


def test_threads_that_are_about_to_end_are_waited_for_and_no_others(tmp_path: Path) -> None:
    """What Python has joined may still be there for the kernel: an engine on a busy machine did not start for it."""
    code = (
        "import sys, threading, time, _thread; from pathlib import Path; from engine.sandbox.renounce import renounce\n"
        "data, stays = Path(sys.argv[1]), sys.argv[2] == 'stays'\n"
        "if stays: threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"
        "else: _thread.start_new_thread(time.sleep, (0.2,))\n"
        "try: print(renounce(data, [], []))\nexcept Exception as e: print(type(e).__name__, e)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code, str(tmp_path), kind], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for kind in ("ends", "stays")
    ]
    assert "no capabilities" in told[0]
    assert told[1].strip() == "ConfigurationError root's powers cannot be given up by one of 2 threads"


def test_an_engine_of_root_with_another_users_data_runs_as_that_user() -> None:
    host.require("no system Python of the engine's own version")
    with tempfile.TemporaryDirectory(prefix="le-") as folder:
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        running = Engine(data, uid=0, pool_size=1)
        Path(folder).chmod(0o755)
        os.chown(data, NOBODY, NOBODY)
        try:
            running.start()
            assert running.state()["sandbox"]["level"] == "full"
            pids = running.state()["processes"]
            for role in ("supervisor", "control"):
                assert_powerless(pids[role], NOBODY)
            running.deploy("owned", {"m.py": "import os\ndef f(e, c): return os.getuid()"})
            assert call(running, "owned") == 993
            assert {p.stat().st_uid for p in data.rglob("*.py")} == {NOBODY}
        finally:
            running.stop()
