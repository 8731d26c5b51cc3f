"""Freezing stops everything in a sandbox, thawing lets it go on, and what is frozen can still be ended."""

from __future__ import annotations

import os
import signal
import time

import pytest

from engine.sandbox.api import Cause, ExitCause
from tests.sandbox.rig import Rig, alive, until

# A thread of the worker and a process of its own count in files.
_COUNTERS = """
import os, threading, time
def count(path):
    n = 0
    while True:
        n += 1
        with open(path + '.new', 'w') as f: f.write(str(n))
        os.rename(path + '.new', path)
        time.sleep(0.005)
if os.fork() == 0: count('/tmp/process')
threading.Thread(target=count, args=('/tmp/thread',), daemon=True).start()
"""
_READ = "result = [int(open('/tmp/' + n).read()) if os.path.exists('/tmp/' + n) else 0 for n in ('thread', 'process')]"


@pytest.fixture(params=["full", "user", "process"])
def rig(request, tmp_path):
    if request.param != "process" and os.geteuid() != 0:
        pytest.skip("not root")
    with Rig(tmp_path, request.param) as made:
        yield made


def _busy(rig):
    box = rig.instance()
    place = rig.settings.data_dir / "tmp"
    place.mkdir()
    # At level process /tmp is the host's.
    box.run(_COUNTERS if rig.report.level != "process" else _COUNTERS.replace("'/tmp/", f"'{place}/"))
    read = _READ if rig.report.level != "process" else _READ.replace("'/tmp/'", f"'{place}/'")
    _wait_for(box, read, [2, 2])
    return box, read


def _wait_for(box, read, more):
    end = time.monotonic() + 20
    while not all(seen >= wanted for seen, wanted in zip(box.run(read), more, strict=True)):
        assert time.monotonic() < end, "the counters stand still"
        time.sleep(0.01)


def test_frozen_is_frozen_and_thawed_goes_on(rig):
    box, read = _busy(rig)
    assert rig.report.mechanisms["freeze"].startswith(("cgroup", "signals"))
    box.freezer.freeze()
    rig.turn(0.2)  # let the order arrive where it goes through the broker
    used = _cpu_ticks(rig, box)
    time.sleep(0.3)
    assert _cpu_ticks(rig, box) == used
    box.send(read)
    box.channel.settimeout(0.2)
    with pytest.raises(TimeoutError):
        box.channel.recv(1)
    box.channel.settimeout(20)
    box.freezer.thaw()
    rig.turn(0.01)
    seen = box._line()["result"]
    _wait_for(box, read, [n + 3 for n in seen])
    rig.end(box)


def _cpu_ticks(rig, box):
    """CPU time of the worker and its children so far."""
    total = 0
    for pid in (box.pid, *_children(box.pid)):
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


def test_the_frozen_can_be_killed(rig):
    box, _ = _busy(rig)
    pids = [box.pid, *_children(box.pid)]
    box.freezer.freeze()
    rig.turn(0.1)
    rig.end(box)
    until(lambda: not any(alive(p) for p in pids), "everything is gone")


def test_a_worker_killed_while_frozen_is_reported(rig):
    box, _ = _busy(rig)
    box.freezer.freeze()
    rig.turn(0.1)
    os.kill(box.pid, signal.SIGKILL)
    box.freezer.thaw()
    assert rig.wait("worker_exited", box.id)[2] == ExitCause(Cause.SIGNALLED, signal.SIGKILL)
    rig.end(box)


@pytest.mark.root
def test_the_frozen_do_not_outlive_a_killed_broker(tmp_path):
    with Rig(tmp_path) as rig:
        box, _ = _busy(rig)
        pids = [box.pid, *_children(box.pid)]
        box.freezer.freeze()
        os.kill(rig.link.broker_pid, signal.SIGKILL)
        rig.wait("broker_lost")
        rig.wait("zygote_ready", rig.key)
        until(lambda: not any(alive(p) for p in pids), "everything is gone")
