"""A holder's life at level full: specialise, the ways a worker ends, reset, kill."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from engine.sandbox import cgroups
from engine.sandbox.api import Cause, ExitCause, SpecialiseSpec
from engine.sandbox.group import cpu_used_s, limits
from tests.sandbox.rig import Failed, alive, until

pytestmark = pytest.mark.root


def _cause(full, box):
    return full.wait("worker_exited", box.id)[2]


def test_specialise_mounts_the_code_and_stands_in_it(full):
    box = full.instance(code_dir=str(full.code("app", {"app.py": "VALUE = 41", "data/x.txt": "hello"})), hostname="myhost")
    assert box.run("import os; result = [os.getcwd(), open('data/x.txt').read(), os.uname().nodename]") == ["/var/task", "hello", "myhost"]
    assert box.run("import sys; sys.path.insert(0, '/var/task'); import app; result = app.VALUE") == 41
    full.end(box)


def test_a_worker_waits_for_its_code(full):
    box = full.make()
    assert box.run("import os; result = [os.listdir('/var/task'), os.getcwd()]", wait=False) == [[], "/"]
    full.link.specialise(box.id, SpecialiseSpec(str(full.code("late", {"here": ""}))))
    assert box.run("result = os.listdir('/var/task')") == ["here"]
    full.end(box)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_layers_are_merged_into_opt_in_order(full, count):
    layers = [str(full.code(f"layer{n}", {"same.txt": str(n), f"python/only{n}.py": ""})) for n in range(count)]
    box = full.instance(layers=tuple(layers))
    if count == 0:
        assert box.run("import os; result = os.listdir('/opt')") == []
    else:
        assert box.run("import os; result = sorted(os.listdir('/opt/python'))") == [f"only{n}.py" for n in range(count)]
        assert box.run("result = open('/opt/same.txt').read()") == str(count - 1)
        with pytest.raises(Failed) as e:
            box.run("open('/opt/same.txt', 'w')")
        assert e.value.errno in (13, 30)
        assert box.run("result = os.listdir('/tmp')") == []
    full.end(box)


@pytest.mark.parametrize("path", ["/etc", "{data}/code/../../../etc", "{data}/code/none", "{data}/code/link", "code"])
def test_code_must_lie_under_the_data_directory(full, path):
    link = full.settings.data_dir / "code" / "link"
    if not link.is_symlink():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("/etc")
    box = full.make()
    full.link.specialise(box.id, SpecialiseSpec(path.format(data=full.settings.data_dir)))
    _, _, step, reason = full.wait("holder_failed", box.id)
    assert step == "open the code"
    assert reason
    full.wait("holder_gone", box.id)
    full.boxes.remove(box)
    box.close()


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import os; os._exit(0)", ExitCause(Cause.EXITED, 0)),
        ("import sys; sys.exit(3)", ExitCause(Cause.EXITED, 3)),
        ("import sys; sys.exit('no')", ExitCause(Cause.EXITED, 1)),
        ("raise KeyboardInterrupt", ExitCause(Cause.EXITED, 1)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ExitCause(Cause.SIGNALLED, signal.SIGSEGV)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ExitCause(Cause.SIGNALLED, signal.SIGKILL)),
        ("import ctypes; ctypes.string_at(0)", ExitCause(Cause.SIGNALLED, signal.SIGSEGV)),
    ],
)
def test_the_end_of_a_worker_has_a_cause(full, source, cause):
    box = full.instance()
    box.send(source)
    assert _cause(full, box) == cause
    full.end(box)


def test_exit_functions_run_and_output_is_flushed(full):
    box = full.instance()
    box.send("import atexit, sys; atexit.register(print, 'bye'); sys.exit(0)")
    assert _cause(full, box) == ExitCause(Cause.EXITED, 0)
    assert box.output() == b"bye\n"
    full.end(box)


def test_a_closed_channel_ends_the_worker(full):
    box = full.instance()
    box.run("pass")
    box.channel.shutdown(2)
    assert _cause(full, box) == ExitCause(Cause.EXITED, 0)
    full.end(box)


def test_what_a_worker_leaves_behind_is_killed(full):
    box = full.instance()
    source = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
os.wait()
result = [int(p) for p in os.listdir('/proc') if p.isdigit()]
"""
    assert len(box.run(source)) == 3
    strays = _members(box)
    assert len(strays) == 2
    box.send("import os; os._exit(0)")
    _cause(full, box)
    assert not _members(box)
    full.end(box)


def _members(box):
    """Host processes of the sandbox, by its memory group."""
    with open(os.path.join(os.path.dirname(box.peak_file), "cgroup.procs")) as f:
        return f.read().split()


def _init_of(box):
    """The process 1 of the sandbox, as the host numbers it."""
    space = os.readlink(f"/proc/{box.pid}/ns/pid")
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != box.pid and os.readlink(f"/proc/{name}/ns/pid") == space:
                with open(f"/proc/{name}/comm") as f:
                    if f.read() == "sandbox-init\n":
                        return int(name)
    raise AssertionError("no init")


def test_what_is_made_ahead_weighs_no_more_than_a_small_function(full):
    mechanism = full.report.mechanisms["cpu"]
    if not mechanism.startswith("cgroup"):
        pytest.skip("no control group for CPU here")
    version = int(mechanism[-1])
    box = full.make()
    with open(f"/proc/{box.pid}/cgroup") as f:
        path = next(line.split(":", 2)[2].strip() for line in f if ("cpu" if version == 1 else "") in line.split(":")[1].split(","))
    ((name, made),) = limits("cpu", version, 0, 0, cgroups.MAKING_SHARES)
    ((_, own),) = limits("cpu", version, 0, 0, 600)
    with open(f"/sys/fs/cgroup{'/cpu' if version == 1 else ''}{path}/{name}") as f:
        assert f.read().strip() == made
        full.link.specialise(box.id, SpecialiseSpec(str(full.code("app", {"app.py": ""})), cpu_shares=600))
        box.run("pass")
        until(lambda: f.seek(0) == 0 and f.read().strip() == own, "it has its own weight")
    full.end(box)


def test_memory_over_the_limit_is_an_oom_kill(full):
    box = full.instance(memory_mib=64)
    assert box.run("result = len(b'x' * (20 << 20))") == 20 << 20
    box.send("x = b'x' * (200 << 20)")
    assert _cause(full, box) == ExitCause(Cause.OOM_KILLED, signal.SIGKILL)
    full.end(box)


def test_memory_of_subprocesses_counts(full):
    box = full.instance(memory_mib=64)
    box.send("import os, time; pid = os.fork()\nif not pid: x = b'x' * (200 << 20); time.sleep(100)\nos.wait(); time.sleep(100)")
    assert _cause(full, box).cause is Cause.OOM_KILLED
    full.end(box)


def test_files_in_tmp_are_not_memory(full):
    box = full.instance(memory_mib=64, tmp_mib=512)
    source = "f = open('/tmp/big', 'wb')\nfor n in range(200): f.write(b'x' * (1 << 20))\nf.close(); import os; result = os.path.getsize('/tmp/big')"
    assert box.run(source) == 200 << 20
    # Nor does having had files there raise what the function may hold (v2: a fraction of a second later, for the kernel does not tell).
    box.run("os.unlink('/tmp/big')")
    box.send("x = b'x' * (150 << 20); import time; time.sleep(60)")
    assert _cause(full, box).cause is Cause.OOM_KILLED
    full.end(box)


def test_a_memory_limit_holds_where_the_control_groups_were_somebody_elses(full):
    """The threshold that watches over it goes on with them if it is the same, and is set anew if not."""
    for before_mib in (64, 96):
        used = full.instance(memory_mib=before_mib, tmp_mib=512)
        # Long enough for it to be set, most of the time.
        assert used.run("import time; time.sleep(0.2); result = len(b'x' * (20 << 20))") == 20 << 20
        full.end(used)
        box = full.instance(memory_mib=64, tmp_mib=512)
        assert box.run("import time; time.sleep(0.1); result = len(b'x' * (20 << 20))") == 20 << 20
        box.send("x = b'x' * (150 << 20)")
        assert _cause(full, box) == ExitCause(Cause.OOM_KILLED, signal.SIGKILL)
        full.end(box)


def test_the_peak_is_readable(full):
    box = full.instance()
    box.run("x = b'x' * (40 << 20); del x")
    with open(box.peak_file) as f:
        assert 40 << 20 < int(f.read()) < 80 << 20
    full.end(box)


def test_processes_are_limited(full):
    box = full.instance(pids=20)
    source = """
import os, time
children = []
try:
    while len(children) < 50:
        pid = os.fork()
        if not pid:
            time.sleep(100)
        children.append(pid)
except BlockingIOError:
    pass
result = len(children)
for pid in children: os.kill(pid, 9)
"""
    assert box.run(source) == 19
    full.end(box)


def test_reset_gives_a_fresh_worker_and_keeps_tmp(full):
    box = full.instance(code_dir=str(full.code("kept", {"here": ""})))
    box.run("import os; open('/tmp/kept', 'w').write('x'); counter = 1; first = os.getpid()")
    first = box.run("result = first")
    box.send("os._exit(1)")
    _cause(full, box)
    box.detach()
    full.link.reset(box.id)
    _, _, fds, pid = full.wait("worker_reset", box.id)
    assert fds.endpoint == -1
    box.attach(fds, pid)
    assert box.run("import os; result = [os.listdir('/tmp'), 'counter' in globals(), os.listdir('.')]") == [["kept"], False, ["here"]]
    assert box.run("result = os.getpid()") != first
    status = box.run("result = open('/proc/self/status').read()")
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    full.end(box)


def test_reset_kills_a_living_worker_first(full):
    box = full.instance()
    box.run("import os, time\nif os.fork() == 0: time.sleep(1000)")
    full.link.reset(box.id)
    assert _cause(full, box) == ExitCause(Cause.SIGNALLED, signal.SIGKILL)
    box.detach()
    _, _, fds, pid = full.wait("worker_reset", box.id)
    box.attach(fds, pid)
    assert _members(box) == [str(pid)]
    full.end(box)


def test_memory_is_limited_again_after_an_oom_and_a_reset(full):
    box = full.instance(memory_mib=64)
    for _ in range(2):
        box.send("x = b'x' * (200 << 20)")
        assert _cause(full, box).cause is Cause.OOM_KILLED
        box.detach()
        full.link.reset(box.id)
        _, _, fds, pid = full.wait("worker_reset", box.id)
        box.attach(fds, pid)
        assert box.run("result = len(b'x' * (10 << 20))") == 10 << 20
    full.end(box)


def test_kill_leaves_nothing(full):
    box = full.instance()
    box.run("import os, time\nfor _ in range(3):\n  if os.fork() == 0: time.sleep(1000)")
    members = [int(p) for p in _members(box)]
    assert len(members) == 4
    init = _init_of(box)
    directory = os.path.dirname(box.peak_file)
    full.end(box)
    assert not any(alive(p) for p in [init, *members])
    # The next sandbox may have its control groups; after a second without one nobody has.
    until(lambda: not os.path.exists(directory), "its control groups are gone")
    assert not [e for e in full.events if e[1] == box.id]


def test_control_groups_that_go_on_to_the_next_sandbox_tell_nothing_of_the_last(full):
    """Where the kernel's counters can be reset they are used again: with neither use, limits, quota nor frozenness of whoever had them."""
    kept = full.report.mechanisms["memory"] == "cgroup v1"
    for _ in range(20):
        used = full.instance(memory_mib=256, cpu_quota_us=2000, pids=50, cpu_shares=300)
        used.run("x = b'x' * (60 << 20); del x")
        full.link.initialised(used.id)
        used.freezer.freeze()
        full.end(used)
        # Nothing of it may be in the way of a larger one, and a smaller one gets less again.
        for memory_mib in (512, 128):
            box = full.make()
            again = box.peak_file == used.peak_file
            full.link.specialise(box.id, SpecialiseSpec(str(full.code("app", {"app.py": ""})), memory_mib=memory_mib))
            assert box.run("result = sum(range(10))") == 45
            with open(box.peak_file) as f:
                assert int(f.read()) < 40 << 20
            assert 0 < cpu_used_s(box.cpu_file) - box.cpu_before_s < 20
            if again:
                assert box.cpu_before_s > 0
                _assert_limits(full, box, memory_mib)
            full.end(box)
        if again or not kept:
            break
    assert again is kept


def _assert_limits(full, box, memory_mib):
    """v1: the memory limit is its own, and there is no quota."""
    directory = os.path.dirname(box.peak_file)
    with open(f"{directory}/memory.limit_in_bytes") as f:
        until(lambda: f.seek(0) == 0 and memory_mib << 20 < int(f.read()) < (memory_mib + 600) << 20, "its own memory limit")
    if full.report.mechanisms["cpu quota"] != "cgroup v1":
        return
    with open(f"/proc/{box.pid}/cgroup") as f:
        path = next(line.split(":", 2)[2].strip() for line in f if "cpu" in line.split(":")[1].split(","))
    with open(f"/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us") as f:
        assert f.read() == "-1\n"


def test_kill_before_it_is_ready_ends_in_gone_alone(full):
    ids = [full.next_id() for _ in range(20)]
    for holder_id in ids:
        full.link.make(holder_id, full.key)
    for holder_id in ids:
        full.link.kill(holder_id)
    for holder_id in ids:
        full.wait("holder_gone", holder_id)
        for event in [e for e in full.events if e[1] == holder_id]:
            # A few were ready before the kill reached the broker.
            assert event[0] == "holder_ready"
            event[2].close()
            full.events.remove(event)


def test_calls_on_the_gone_are_ignored(full):
    box = full.instance()
    box.run("pass")
    full.end(box)
    for call in (full.link.kill, full.link.reset):
        call(box.id)
    full.link.specialise(box.id, SpecialiseSpec(str(full.code("empty", {}))))
    for _ in range(10_000):
        # In one turn: more than a packet has room for.
        full.link.kill(box.id)
    full.end(full.instance())
    assert not [e for e in full.events if e[1] == box.id]


def test_an_unknown_zygote_fails_the_holder(full):
    holder_id = full.next_id()
    full.link.make(holder_id, "python2.7")
    assert "python2.7" in full.wait("holder_failed", holder_id)[3]
    full.wait("holder_gone", holder_id)


def test_a_hundred_at_once(full):
    ids = [full.next_id() for _ in range(100)]
    for holder_id in ids:
        full.link.make(holder_id, full.key)
    ready = [full.wait("holder_ready", holder_id) for holder_id in ids]
    assert len({event[3] for event in ready}) == 100
    for event in ready:
        full.link.kill(event[1])
        event[2].close()
    for holder_id in ids:
        full.wait("holder_gone", holder_id)


def test_an_init_that_dies_by_itself_is_reported(full):
    box = full.instance()
    box.run("pass")
    init = _init_of(box)
    os.kill(init, signal.SIGKILL)
    assert _cause(full, box) == ExitCause(Cause.SIGNALLED, signal.SIGKILL)
    full.wait("holder_gone", box.id)
    full.boxes.remove(box)
    box.close()
    until(lambda: not alive(init), "the init is reaped")
