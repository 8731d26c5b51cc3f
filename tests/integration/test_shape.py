"""The shape of an execution environment is what its MemorySize says: CPU share, memory, files, processes; and idle ones stand still."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.engine import Engine, engine
from tests.framework.wait import until

pytestmark = pytest.mark.root

PERIOD_US = 20_000
BURN = """
import os, time
def f(e, c):
    if not e: return 1
    end = time.monotonic() + e
    for _ in range(2):
        if os.fork() == 0:
            while time.monotonic() < end: pass
            os._exit(0)
    while time.monotonic() < end: pass
    for _ in range(2): os.wait()
"""
GROW = """
import mmap, os, time
kept = []
def f(e, c):
    how, mib = e
    if how == 'tmp':
        with open('/tmp/big', 'wb') as out:
            for _ in range(mib): out.write(b'x' * (1 << 20))
        return os.path.getsize('/tmp/big')
    if how == 'file':
        with open('/tmp/small', 'wb') as out: out.write(b'x' * (1 << 20))
        kept.append(b'x' * (mib << 20))
        while True: kept.append(b'x' * (1 << 20)); time.sleep(0.05)
    if how == 'child' and os.fork() == 0: how = 'heap'
    if how == 'child': os.wait(); time.sleep(60)
    while True:
        if how == 'heap': kept.append(b'x' * (1 << 20))
        else:
            m = mmap.mmap(-1, 1 << 20); kept.append(m)
            for page in range(0, 1 << 20, 4096): m[page] = 1
"""


@pytest.fixture(scope="module")
def shaped() -> Iterator[Engine]:
    """An engine with CPU quotas, as it is by default."""
    with engine(cpu_quota=True, pool_size=2, freeze_after_s=0.1) as running:
        yield running


def instance_of(running: Engine, name: str) -> dict[str, Any]:
    (found,) = [i for i in running.state()["instances"] if i["function"] == name]
    return dict(found)


def groups_of(pid: int) -> list[Path]:
    """Control group directories of a process, wherever they are mounted."""
    paths = {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
    roots = [Path("/sys/fs/cgroup"), *(p for p in Path("/sys/fs/cgroup").iterdir() if p.is_dir())]
    return [d for root in roots for path in paths if "lambda-engine" in path and (d := root / path.lstrip("/")).is_dir()]


def cpu_figures(groups: list[Path]) -> tuple[int, int, float]:
    """(quota periods that have passed, of which throttled, microseconds of CPU used), all read within one period."""
    while True:
        before = _figures(groups)
        after = _figures(groups)
        if before["nr_periods"] == after["nr_periods"]:
            return int(before["nr_periods"]), int(before["nr_throttled"]), before["usage_usec"]


def _figures(groups: list[Path]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for directory in groups:
        if (directory / "cpu.stat").exists():
            figures.update((k, int(v)) for k, v in (line.split() for line in (directory / "cpu.stat").read_text().splitlines()))
        if (directory / "cpuacct.usage").exists():
            figures["usage_usec"] = int((directory / "cpuacct.usage").read_text()) / 1000
    return figures


def quota_us(groups: list[Path]) -> float:
    """Microseconds of CPU per PERIOD_US that the group was told to give."""
    for directory in groups:
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text().split()
            return float("inf") if quota == "max" else int(quota) * PERIOD_US / int(period)
        if (directory / "cpu.cfs_quota_us").exists():
            return int((directory / "cpu.cfs_quota_us").read_text()) * PERIOD_US / int((directory / "cpu.cfs_period_us").read_text())
    raise AssertionError(f"no quota in {groups}")


@contextlib.contextmanager
def burning(client: Any, name: str) -> Iterator[None]:
    """The function uses all the CPU it gets, in one invocation after another."""
    over = threading.Event()

    def burn() -> None:
        while not over.is_set():
            client.invoke(FunctionName=name, Payload=b"2")

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


SLOW = pytest.mark.slow


@pytest.mark.parametrize("memory", [128, pytest.param(443, marks=SLOW), 885, pytest.param(1769, marks=SLOW), 3008])
def test_cpu_time_is_proportional_to_memory(shaped: Engine, memory: int) -> None:
    """Over a second or two it never got five percent more than it bought, and where its quota was what stopped it, no five percent less.

    Periods in which the host had less to give say nothing about the quota, and a host that was held up itself counts periods that it has
    not given: so a window of time must come in which it gave what it owed. The largest two want more than a busy or a small host has; there
    the quota as the kernel has it must do.
    """
    name = f"burn-{memory}"
    shaped.deploy(name, {"m.py": BURN}, MemorySize=memory, Timeout=60)
    client = shaped.client()
    client.invoke(FunctionName=name, Payload=b"0")
    groups = groups_of(instance_of(shaped, name)["pid"])
    bought_us = PERIOD_US * memory / 1769
    # Written when the init phase is over, which nobody waits for.
    until(lambda: quota_us(groups) == pytest.approx(bought_us, rel=0.001), "the quota is what was bought")
    # What is left over at either end of a window is a quota, and what a processor overdraws before its next tick (4 ms at 250 Hz): a
    # window has to be long beside that, and the smallest function buys little in one.
    window, patience_s = (300, 60) if memory == 128 else (100, 40) if memory <= 885 else (50, 6)
    end = time.monotonic() + patience_s
    reads, most, least = [cpu_figures(groups)], 0.0, 0.0
    with burning(client, name):
        while not least >= 0.95 and time.monotonic() < end:
            time.sleep(0.05)
            now = cpu_figures(groups)
            for before in reads:
                periods, throttled, used_us = (b - a for a, b in zip(before, now, strict=True))
                if periods >= window:
                    most = max(most, used_us / periods / bought_us)
                if throttled >= window:
                    least = max(least, used_us / throttled / bought_us)
            reads.append(now)
    told = f"at most {most:.3f} and where it was stopped {least:.3f} of {bought_us:.0f} µs in each of {reads[-1][0] - reads[0][0]} periods"
    assert most <= 1.05, told
    assert least >= 0.95 or (memory > 885 and least == 0), told


def test_init_runs_at_full_speed(shaped: Engine) -> None:
    code = (
        "import time\nstart = time.monotonic()\nwhile time.process_time() < 0.3: pass\ntook = time.monotonic() - start\n"
        "def f(e, c): return [took, time.process_time()]\n"
    )
    shaped.deploy("full-speed", {"m.py": code}, MemorySize=128, Timeout=60)
    took, used = json.load(shaped.client().invoke(FunctionName="full-speed")["Payload"])
    periods, _, _ = cpu_figures(groups_of(instance_of(shaped, "full-speed")["pid"]))
    # A fourteenth of a core would have needed 200 periods; they are counted only while there is a quota.
    assert used >= 0.3
    assert periods < 100, f"{periods} periods, {took} s"


@pytest.mark.parametrize(("how", "memory"), [("heap", 128), *(pytest.param(*p, marks=SLOW) for p in (("mmap", 128), ("child", 256), ("heap", 512)))])
def test_memory_is_what_was_configured(shaped: Engine, how: str, memory: int) -> None:
    """A watch kills it, who has to get a processor first: where the host lets that wait, the function takes five MiB more in each period of its
    quota. So it is killed where it should be, or in one of three runs.
    """
    peaks: list[float] = []
    while len(peaks) < 3 and (not peaks or peaks[-1] > 1.05 * memory):
        # Another one each time: the errors counted below are this function's.
        name = f"grow-{how}-{memory}-{uuid.uuid4().hex[:6]}"
        shaped.deploy(name, {"m.py": GROW}, MemorySize=memory, Timeout=60)
        client = shaped.client()
        answer = client.invoke(FunctionName=name, Payload=json.dumps([how, 0]), LogType="Tail")
        document = json.load(answer["Payload"])
        assert answer["FunctionError"] == "Unhandled"
        request_id = answer["ResponseMetadata"]["RequestId"]
        assert document == {
            "errorType": "Runtime.OutOfMemory",
            "errorMessage": f"RequestId: {request_id} Error: Runtime exited with error: signal: killed",
        }
        peaks.append(instance_of(shaped, name)["memory_bytes"] / (1 << 20))
        metrics = shaped.get("/metrics")[1].decode()
        assert re.search(rf'errors_total{{error_type="Runtime.OutOfMemory",function="{name}"}} 1', metrics)
    assert 0.95 * memory <= peaks[-1] <= 1.05 * memory, f"killed at {peaks} MiB"


def test_a_small_file_in_tmp_does_not_let_slow_growth_pass_the_limit(shaped: Engine) -> None:
    name = f"grow-file-{uuid.uuid4().hex[:6]}"
    shaped.deploy(name, {"m.py": GROW}, MemorySize=128, Timeout=60, EphemeralStorage={"Size": 10240})
    answer = shaped.client().invoke(FunctionName=name, Payload=json.dumps(["file", 100]))
    assert json.load(answer["Payload"])["errorType"] == "Runtime.OutOfMemory"
    peak = instance_of(shaped, name)["memory_bytes"] / (1 << 20) - 1
    assert 0.95 * 128 <= peak <= 1.05 * 128, f"killed at {peak:.1f} MiB"


def test_files_in_tmp_do_not_count_as_memory(shaped: Engine) -> None:
    shaped.deploy("grow-tmp", {"m.py": GROW}, MemorySize=128, Timeout=60)
    answer = shaped.client().invoke(FunctionName="grow-tmp", Payload=json.dumps(["tmp", 300]))
    assert json.load(answer["Payload"]) == 300 << 20


def test_cpu_time_is_counted(shaped: Engine) -> None:
    code = "import time\ndef f(e, c):\n    end = time.process_time() + 0.2\n    while time.process_time() < end: pass\n"
    shaped.deploy("count-cpu", {"m.py": code}, MemorySize=1769, Timeout=60)
    for _ in range(2):
        shaped.client().invoke(FunctionName="count-cpu")
    seconds = re.search(r'function_cpu_seconds_total{function="count-cpu"} ([\d.]+)', shaped.get("/metrics")[1].decode())
    assert seconds
    assert 0.4 <= float(seconds[1]) <= 0.8
    assert instance_of(shaped, "count-cpu")["cpu_s"] >= 0.4


def test_an_idle_instance_stands_still_and_a_busy_one_does_not(shaped: Engine) -> None:
    code = (
        "import threading, time\nbeats = []\n"
        "def beat():\n    while True:\n        beats.append(time.monotonic())\n        time.sleep(0.01)\n"
        "threading.Thread(target=beat, daemon=True).start()\n"
        "def f(e, c):\n    time.sleep(e)\n    return [b for b in beats[-400:]], time.monotonic()\n"
    )
    shaped.deploy("beats", {"m.py": code}, MemorySize=1769, Timeout=60)
    client = shaped.client()
    json.load(client.invoke(FunctionName="beats", Payload=b"0")["Payload"])
    until(lambda: instance_of(shaped, "beats")["frozen"], "it is frozen")
    time.sleep(0.5)
    beats, now = json.load(client.invoke(FunctionName="beats", Payload=b"0.3")["Payload"])
    gap, at = max((b - a, b) for a, b in itertools.pairwise(beats))
    assert gap >= 0.5, "the thread ran on while the instance was idle"
    assert len([b for b in beats if b >= at]) >= 3, "the thread goes on during an invocation"
    assert now - at < 20


@pytest.mark.parametrize(("kind", "limit"), [("RequestResponse", 6_291_456), ("Event", 1_048_576)])
def test_a_request_may_have_its_limit_and_not_one_byte_more(shaped: Engine, kind: str, limit: int) -> None:
    name = f"sized-{kind}"
    shaped.deploy(name, {"m.py": "def f(e, c): return len(e)"}, MemorySize=1769, Timeout=60)
    client = shaped.client()
    answer = client.invoke(FunctionName=name, InvocationType=kind, Payload=b'"' + b"x" * (limit - 2) + b'"')
    assert answer["StatusCode"] == (202 if kind == "Event" else 200)
    if kind == "RequestResponse":
        assert json.load(answer["Payload"]) == limit - 2
    with pytest.raises(ClientError, match=f"Request must be smaller than {limit} bytes for the InvokeFunction operation"):
        client.invoke(FunctionName=name, InvocationType=kind, Payload=b'"' + b"x" * (limit - 1) + b'"')
