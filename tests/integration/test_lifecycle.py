"""Start, restart, death: what must survive and what must not. Every test runs an engine of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError

from tests.framework.engine import OWN_RUNTIME, Engine, engine

ECHO = {"m.py": "def f(e, c):\n    return e\n"}
PLAIN = {"m.py": "import time\ndef f(e, c):\n    time.sleep(e.get('sleep', 0))\n    return e\n"}


def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Wait for a condition of another process."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def family(running: Engine) -> list[psutil.Process]:
    """Every process of an engine but the supervisor."""
    assert running.process is not None
    return psutil.Process(running.process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        # It may end between the two questions.
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def cgroups(brokers: set[int]) -> list[str]:
    """Control groups of the engines whose brokers have these process ids. Others come and go meanwhile."""
    names = {f"lambda-engine.{pid}." for pid in brokers}
    found = []
    for folder, below, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{folder}/{name}" for name in below if any(name.startswith(n) for n in names)]
    return found


def invoke(running: Engine, name: str, event: object) -> object:
    return json.loads(running.client().invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read())


def test_a_restart_keeps_functions_and_versions(tmp_path: Path) -> None:
    running = Engine(tmp_path / "data")
    try:
        running.start()
        running.deploy("kept", PLAIN, Environment={"Variables": {"AB": "c"}}, Publish=True)
        before = running.client().get_function(FunctionName="kept")["Configuration"]
        assert running.stop() == 0
        running.start()
        after = running.client().get_function(FunctionName="kept")["Configuration"]
        assert after == before
        assert invoke(running, "kept", {"x": 1}) == {"x": 1}
        assert invoke(running, "kept:1", {"x": 2}) == {"x": 2}
    finally:
        running.stop()


def test_invocations_go_on_while_the_control_plane_is_dead() -> None:
    with engine() as running:
        running.deploy("stable", PLAIN)
        invoke(running, "stable", {})
        control = running.state()["processes"]["control"]
        os.kill(control, signal.SIGKILL)
        for n in range(50):
            assert invoke(running, "stable", {"n": n}) == {"n": n}
        until(lambda: running.state()["processes"].get("control", control) != control, "a new control plane")
        assert running.client().get_function(FunctionName="stable")["Configuration"]["State"] == "Active"
        running.deploy("after", PLAIN)
        assert invoke(running, "after", {"y": 1}) == {"y": 1}


def test_nothing_survives_a_killed_supervisor_and_the_next_start_is_clean(tmp_path: Path) -> None:
    running = Engine(tmp_path / "data")
    try:
        running.start()
        running.deploy("killed", PLAIN, Timeout=60)
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(invoke, running, "killed", {"sleep": 30}) for _ in range(3)]
            until(lambda: running.state()["in_flight"] == 3, "three running invocations")
            processes = family(running)
            assert len(processes) > 5
            brokers = {running.state()["processes"]["broker"]}
            if running.state()["sandbox"]["mechanisms"]["memory"].startswith("cgroup"):
                assert cgroups(brokers)
            assert running.process is not None
            running.process.kill()
            running.process.wait()
            running.process = None
            for future in futures:
                assert future.exception(timeout=20) is not None
        until(lambda: not alive(processes), f"all gone but {alive(processes)}")
        running.start()
        assert invoke(running, "killed", {"again": 1}) == {"again": 1}
        brokers.add(running.state()["processes"]["broker"])
        assert running.stop() == 0
        until(lambda: not cgroups(brokers), "control groups are left")
    finally:
        running.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_survives_an_engine_that_ends_while_it_starts(tmp_path: Path, number: int) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("LAMBDA_ENGINE_")}
    argv = [sys.executable, "-m", "engine.cli.main", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as starting:
        assert starting.stdout is not None
        said = starting.stdout

        def has_control_plane() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                return any("control" in " ".join(child.cmdline()) for child in psutil.Process(starting.pid).children())
            return False

        # It is there, and still far from having loaded what it needs.
        until(has_control_plane, "a control plane has been started", 60)
        starting.send_signal(number)
        starting.wait(60)
        # Every process that it started holds the pipe.
        os.set_blocking(said.fileno(), False)
        until(lambda: said.read() == b"", "all of them have ended", 60)


def test_a_killed_zygote_or_broker_is_replaced_and_service_goes_on() -> None:
    with engine() as running:
        running.deploy("broker", PLAIN)
        invoke(running, "broker", {})

        def works() -> bool:
            try:
                return invoke(running, "broker", {"k": 1}) == {"k": 1}
            except ClientError:
                return False

        def kill(role: str) -> None:
            former = running.state()["processes"][role]
            os.kill(former, signal.SIGKILL)
            until(lambda: running.state()["processes"].get(role, former) != former, f"a new {role}")
            until(works, f"invocations after the end of {role}")

        kill(f"zygote {OWN_RUNTIME}")
        kill("broker")


def _killed_while_many_wait(running: Engine, then: Callable[[], object] = lambda: None) -> list[object]:
    """What invocations come to that wait for sandboxes while their zygote is killed; ``then`` is done just before."""
    zygote = running.state()["processes"][f"zygote {OWN_RUNTIME}"]
    # So that none of them gets its sandbox before.
    os.kill(zygote, signal.SIGSTOP)

    def ask(n: int) -> object:
        try:
            return invoke(running, "waits", n)
        except ClientError as e:
            return e.response["Error"]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, n) for n in range(12)]
        until(lambda: running.state()["in_flight"] == 12, "all of them wait")
        then()
        os.kill(zygote, signal.SIGKILL)
        return [answer.result(60) for answer in answers]


def test_who_waits_for_a_sandbox_when_the_zygote_is_killed_gets_one_from_its_successor() -> None:
    with engine(pool_size=0) as running:
        running.deploy("waits", ECHO)
        assert _killed_while_many_wait(running) == list(range(12))


def test_who_waits_is_told_when_a_killed_zygote_cannot_be_started_again(tmp_path: Path) -> None:
    broken, interpreter = tmp_path / "broken", tmp_path / "python"
    # By its name, for what an interpreter says of itself is what is started.
    interpreter.write_text(
        f'#!/bin/bash\ncase "$*" in *zygote*) test -e {broken} && exit 3;; esac\nexec -a {interpreter} {os.path.realpath(sys.executable)} "$@"\n'
    )
    interpreter.chmod(0o755)
    with engine(pool_size=0, runtimes={OWN_RUNTIME: str(interpreter)}) as running:
        running.deploy("waits", ECHO)
        answers = _killed_while_many_wait(running, broken.touch)
        why = "No execution environment can be started: the zygote ended (exit status 3)"
        assert answers == [{"Code": "ServiceException", "Message": why}] * 12
        broken.unlink()

        def works() -> bool:
            with contextlib.suppress(ClientError):
                return invoke(running, "waits", 7) == 7
            return False

        until(works, "it is tried again and again, and comes when it can", 60)


def test_sigterm_lets_what_runs_finish_and_takes_nothing_new() -> None:
    with engine(drain_s=20) as running:
        running.deploy("drain", PLAIN, Timeout=30)
        invoke(running, "drain", {})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(invoke, running, "drain", {"sleep": 1.5})
            until(lambda: running.state()["in_flight"] == 1, "a running invocation")
            assert running.process is not None
            running.process.send_signal(signal.SIGTERM)
            assert future.result(timeout=20) == {"sleep": 1.5}
        assert running.stop() == 0
        assert running.get("/livez")[0] == 0


def test_a_second_signal_does_not_wait() -> None:
    with engine(drain_s=60) as running:
        running.deploy("now", PLAIN, Timeout=60)
        invoke(running, "now", {})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(invoke, running, "now", {"sleep": 50})
            until(lambda: running.state()["in_flight"] == 1, "a running invocation")
            assert running.process is not None
            running.process.send_signal(signal.SIGTERM)
            until(lambda: running.get("/livez")[0] == 0, "the port is closed")
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
            assert future.exception(timeout=10) is not None


def test_two_engines_cannot_share_a_data_directory(tmp_path: Path) -> None:
    first, second = Engine(tmp_path / "data"), Engine(tmp_path / "data")
    second.log = tmp_path / "second.stderr"
    try:
        first.start()
        with pytest.raises(AssertionError, match="in use by another engine"):
            second.start()
    finally:
        first.stop()
        second.stop()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    first = Engine(tmp_path / "one")
    try:
        first.start()
        second = Engine(tmp_path / "two", port=int(first.url.rsplit(":", 1)[1]))
        with pytest.raises(AssertionError, match="cannot listen on"):
            second.start()
    finally:
        first.stop()


@pytest.mark.parametrize("level", ["user", "process"])
def test_lower_levels_run_functions_too(level: str) -> None:
    with engine(sandbox=level) as running:
        assert running.state()["sandbox"]["level"] == level
        running.deploy("lower", PLAIN)
        assert invoke(running, "lower", {"l": level}) == {"l": level}
