"""After thousands of starts, timeouts, crashes, memory kills and killed supervisors there is as much of everything as before.

The counts here are for a quick look. ``LAMBDA_ENGINE_LEAK_SCALE=1`` gives the full run: 10,000 cold starts, 1,000 timeouts, 1,000 crashes, 500
memory kills, 50 supervisors killed in the middle of a burst.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.sandbox import kernel
from engine.sandbox.netlink import DUMP, REQUEST, Message, Netlink
from engine.sandbox.nft import NETFILTER
from tests.framework.census import census, family
from tests.framework.engine import Engine
from tests.framework.networks import filter_tables

pytestmark = pytest.mark.root

SCALE = float(os.environ.get("LAMBDA_ENGINE_LEAK_SCALE", "0.01"))
COLD_STARTS, TIMEOUTS, CRASHES, MEMORY_KILLS = (max(2, int(n * SCALE)) for n in (10_000, 1_000, 1_000, 500))
SUPERVISORS = max(1, int(50 * SCALE))
SETTLE_S = 60.0
FUNCTIONS, ROOM = 12, 6
CODE = """
import os, time
def f(e, c):
    if e == 'late': time.sleep(60)
    if e == 'crash': os._exit(3)
    if e == 'child': os.system('sleep 1000 &')
    if e == 'memory':
        kept = []
        while True: kept.append(bytearray(b'x') * (8 << 20))
    return os.getpid()
"""


def namespaces(running: Engine) -> dict[str, Any]:
    """Distinct namespaces that the engine's processes are in or hold by a descriptor, and the network interfaces in them."""
    assert running.process is not None
    found: dict[str, set[str]] = {}
    nets: dict[str, str] = {}
    for process in [psutil.Process(running.process.pid), *family(running)]:
        for link in [*Path(f"/proc/{process.pid}/ns").glob("*"), *Path(f"/proc/{process.pid}/fd").glob("*")]:
            with contextlib.suppress(OSError):
                kind, _, rest = os.readlink(link).partition(":[")
                if rest and kind in ("mnt", "pid", "net", "user", "ipc", "uts", "cgroup"):
                    found.setdefault(kind, set()).add(rest)
                    if kind == "net":
                        nets[rest] = str(link)
    counts: dict[str, Any] = {f"{kind} namespaces": len(inodes) for kind, inodes in found.items()}
    own = os.readlink("/proc/self/ns/net").partition(":[")[2]
    inside = [link for inode, link in nets.items() if inode != own]
    counts["interfaces"] = sum(_lines(link, "cat", "/proc/net/dev") - 2 for link in inside)
    counts["packet filter"] = dict(sum((_filter(link) for link in inside), Counter()))
    return counts


def _filter(net: str) -> Counter[str]:
    """Tables, chains, rules and sets of a network namespace, none when it has gone. Members of sets come and go with connections."""
    found: Counter[str] = Counter()
    try:
        there = os.open(net, os.O_RDONLY)
    except OSError:
        return found
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        kernel.setns(there, kernel.CLONE_NEWNET)
        try:
            netlink = Netlink(NETFILTER)
        finally:
            kernel.setns(home, kernel.CLONE_NEWNET)
        for name, kind in (("tables", 1), ("chains", 4), ("rules", 7), ("sets", 10)):
            found[name] = sum(1 for _ in netlink.dump(Message(name, 10 << 8 | kind, REQUEST | DUMP, bytes(4))))
        netlink.close()
    finally:
        os.close(home)
        os.close(there)
    return found


def _lines(net: str, *command: str) -> int:
    """Lines a command prints inside a network namespace."""
    done = subprocess.run(["nsenter", f"--net={net}", *command], capture_output=True, text=True, check=False)
    return done.stdout.count("\n")


def everything(running: Engine) -> dict[str, Any]:
    counts = census(running) | namespaces(running)
    names: Counter[str] = Counter()
    for process in family(running):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "compileall" not in " ".join(process.cmdline()):
                names[process.name()] += 1
    return counts | {"process names": dict(names), "host interfaces": len(_host_interfaces(running)), "host tables": len(_host_tables(running))}


def _host_interfaces(running: Engine) -> list[str]:
    pids = {str(p.pid) for p in family(running)}
    return [n for n in os.listdir("/sys/class/net") if n.startswith("le-") and n.rsplit("-", 1)[-1] in pids]


def _host_tables(running: Engine) -> list[str]:
    pids = {str(p.pid) for p in family(running)}
    return [n for n in filter_tables() if n.startswith("lambda-engine-") and n.rsplit("-", 1)[-1] in pids]


def settled(running: Engine, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """What there is once it no longer changes, or equals ``like``."""
    deadline_s = time.monotonic() + SETTLE_S
    last, since_s = everything(running), time.monotonic()
    while time.monotonic() < deadline_s:
        time.sleep(0.2)
        now = everything(running)
        if now != last:
            last, since_s = now, time.monotonic()
        if not now["instances"] and not now["zombies"] and (now | like == now if like is not None else time.monotonic() - since_s > 1.5):
            break
    return last


def difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs, one line per figure."""
    lines = []
    for key in sorted({**before, **after}):
        one, two = before.get(key), after.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            lines += [f"{key}: {line}" for line in difference(one, two)]
        elif one != two:
            lines.append(f"{key}: {one} -> {two}")
    return lines


class Load:
    """Functions that take each other's room: with few instances allowed, nearly every invocation is a cold start."""

    def __init__(self, running: Engine) -> None:
        self._client = running.client()
        self.outcomes: Counter[str] = Counter()
        for n in range(FUNCTIONS):
            running.deploy(f"leak-{n}", {"m.py": CODE}, Timeout=1 if n == 0 else 30)

    def call(self, n: int, what: str) -> None:
        try:
            answer = self._client.invoke(FunctionName=f"leak-{n}", Payload=json.dumps(what))
            document = json.loads(answer["Payload"].read())
            self.outcomes[document["errorType"] if "FunctionError" in answer else "success"] += 1
        except Exception as e:
            self.outcomes[type(e).__name__] += 1

    def run(self, cold: int, late: int, crashes: int, memory: int) -> None:
        jobs = [(1 + n % (FUNCTIONS - 1), "child" if n % 7 == 0 else "ok") for n in range(cold)]
        jobs += [(0, "late")] * late + [(1, "crash")] * crashes + [(2, "memory")] * memory
        with ThreadPoolExecutor(ROOM) as pool:
            list(pool.map(lambda job: self.call(*job), jobs))


def start(data: Path) -> Engine:
    return Engine(data, pool_size=2, max_instances=ROOM, keep_alive_s=1.0, log_file_mib=1024).start()


@pytest.mark.timeout(120 + 3600 * SCALE * 4)
def test_nothing_is_left_of_what_came_and_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    running = start(tmp_path / "data")
    try:
        load = Load(running)
        load.run(FUNCTIONS * 2, 1, 1, 1)
        before = settled(running)
        load.outcomes.clear()
        load.run(COLD_STARTS, TIMEOUTS, CRASHES, MEMORY_KILLS)
        after = settled(running, before)
        lines = difference(before, after)
        assert not lines, "\n".join(lines)
        assert load.outcomes["success"] >= COLD_STARTS * 0.99, load.outcomes
        assert load.outcomes["Sandbox.Timedout"] == TIMEOUTS
        assert load.outcomes["Runtime.ExitError"] == CRASHES
        assert load.outcomes["Runtime.OutOfMemory"] == MEMORY_KILLS
    finally:
        running.stop()


@pytest.mark.slow
@pytest.mark.timeout(120 + 3600 * SCALE)
def test_nothing_is_left_of_killed_supervisors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    running = start(tmp_path / "data")
    try:
        Load(running).run(FUNCTIONS, 0, 0, 0)
        # A control plane that has just started has fewer files open than one that has worked for a while.
        before = settled(running)
        before.pop("control descriptors")
        for _ in range(SUPERVISORS):
            _kill_in_a_burst(running)
            running = start(tmp_path / "data")
        Load.run(_again(running), FUNCTIONS, 0, 0, 0)
        after = settled(running, before)
        lines = difference(before, {k: v for k, v in after.items() if k in before})
        assert not lines, "\n".join(lines)
    finally:
        running.stop()


def _again(running: Engine) -> Load:
    load = Load.__new__(Load)
    load._client, load.outcomes = running.client(), Counter()
    return load


def _kill_in_a_burst(running: Engine) -> None:
    """SIGKILL while invocations run; everything the engine had made must go by itself, but for control groups that its successor sweeps."""
    assert running.process is not None
    relatives = family(running)
    links = _host_interfaces(running)
    load = _again(running)
    with ThreadPoolExecutor(ROOM) as pool:
        calls = [pool.submit(load.call, 1 + n % (FUNCTIONS - 1), "child") for n in range(ROOM * 4)]
        while not any(call.done() for call in calls):
            time.sleep(0.01)
        relatives += family(running)
        running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    running.process = None
    _, alive = psutil.wait_procs(relatives, timeout=SETTLE_S)
    assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    end = time.monotonic() + SETTLE_S
    while set(links) & set(os.listdir("/sys/class/net")):
        assert time.monotonic() < end, links
        time.sleep(0.05)
