"""Nothing outlives its owner: zygotes, brokers and supervisors that die take everything below with them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import Settings
from engine.errors import SandboxUnavailable
from engine.sandbox import cgroups
from engine.sandbox.api import SpecialiseSpec, ZygoteSpec
from engine.sandbox.interpreters import discover
from engine.sandbox.probe import probe
from tests.sandbox.rig import Rig, alive, until

pytestmark = pytest.mark.root
ROOT = Path(__file__).parent.parent.parent
# The broker's helpers: who makes networks and who answers names in them.
NETWORK = 2


def _groups(owner: int) -> list[str]:
    """Control group directories of a broker."""
    found = []
    for base, _, _ in os.walk("/sys/fs/cgroup"):
        if f"/lambda-engine.{owner}." in base:
            found.append(base)
    return found


def _below(pid: int) -> set[int]:
    """A process and its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as f:
                    parents[int(name)] = int(f.read().rsplit(b")", 1)[1].split()[1])
            except OSError:
                continue
    found, level = {pid}, {pid}
    while level:
        level = {p for p, parent in parents.items() if parent in level}
        found |= level
    return found


def _alone(rig):
    """Processes without any sandbox: broker, network and zygote, and on v1 the broker's helper for memory marks."""
    return 2 + NETWORK + (rig.report.mechanisms["memory"] == "cgroup v1")


def _all_dead(pids):
    return lambda: not any(alive(p) for p in pids)


def _mounts():
    """What is mounted on the host, apart from what other tests mount in directories of their own meanwhile."""
    with open("/proc/self/mountinfo") as f:
        return {line for line in f if "/run/netns" not in line and "/le-" not in line}


def test_close_ends_everything(tmp_path):
    fds_before = set(os.listdir("/proc/self/fd"))
    mounts_before = _mounts()
    with Rig(tmp_path) as rig:
        boxes = [rig.instance() for _ in range(3)]
        rig.make()
        boxes[0].run("import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(1000)")
        boxes[1].run("pass")
        broker = rig.link.broker_pid
        # Bytecode may still be being compiled: that child ends by itself.
        until(lambda: len(_below(broker)) == _alone(rig) + 4 * 2 + 1, "broker, zygote, four sandboxes of two and a stray")
        processes = _below(broker)
        assert _groups(broker)
    assert not any(alive(p) for p in processes)
    assert not _groups(broker)
    assert _mounts() <= mounts_before
    assert set(os.listdir("/proc/self/fd")) <= fds_before


def test_a_hundred_lives_leave_no_descriptor_behind(tmp_path):
    with Rig(tmp_path) as rig:
        broker = rig.link.broker_pid
        zygote = rig.link.zygote_pids[rig.key]

        def live() -> None:
            box = rig.instance(layers=(str(rig.code("layer", {"x": ""})),))
            box.send("import os; os._exit(1)")
            rig.wait("worker_exited", box.id)
            box.detach()
            rig.link.reset(box.id)
            _, _, fds, pid = rig.wait("worker_reset", box.id)
            box.attach(fds, pid)
            rig.end(box)

        def count() -> list[int]:
            return [*(len(os.listdir(f"/proc/{p}/fd")) for p in (broker, zygote)), len(_groups(broker)), len(_below(broker))]

        live()
        until(lambda: len(_below(broker)) == _alone(rig), "broker and zygote alone")
        # With what the first life left for another: that goes when nobody takes it, so there may be less afterwards.
        before = count()
        for _ in range(25):
            live()
        until(lambda: all(now <= was for now, was in zip(count(), before, strict=True)), f"back to {before}")


_SHORT_OF_DESCRIPTORS = """
import os, resource, sys
sys.path.insert(0, {root!r})
from types import SimpleNamespace
from engine.sandbox.holders import Holders
from engine.sandbox.record import Holder
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
highest = os.open("/dev/null", os.O_RDONLY)
while True:
    try:
        highest = os.open("/dev/null", os.O_RDONLY)
    except OSError:
        break
full = []
for room in range(5):
    for n in range(room):
        os.close(highest - n)
    holder = Holder(1, SimpleNamespace())
    try:
        for fd in Holders._connect(holder):
            os.close(fd)
    except OSError:
        pass
    holder.close_fds()
    for n in range(room):
        os.open("/dev/null", os.O_RDONLY)
    try:
        os.close(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        full.append(room)
print(full)
"""


def test_what_lacks_descriptors_leaves_none_behind():
    program = [sys.executable, "-c", _SHORT_OF_DESCRIPTORS.format(root=str(Path(__file__).parents[2]))]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "[0, 1, 2, 3, 4]\n", done.stderr


def test_a_zygote_that_dies_takes_its_sandboxes_and_can_be_added_again(tmp_path):
    with Rig(tmp_path) as rig:
        box, empty = rig.instance(), rig.make()
        box.run("pass")
        zygote = rig.link.zygote_pids[rig.key]
        below = _below(zygote)
        os.kill(zygote, signal.SIGKILL)
        for b in (box, empty):
            rig.wait("holder_gone", b.id)
        assert "signal 9" in rig.wait("zygote_failed", rig.key)[2]
        until(_all_dead(below), "its sandboxes are dead")
        assert rig.key not in rig.link.zygote_pids
        rig.link.add_zygote(rig.spec)
        rig.wait("zygote_ready", rig.key)
        assert rig.instance().run("result = 1") == 1


# An init that has not begun yet when its zygote is killed: it neither asks to die with it nor does anything else.
_LATE = """
import os, signal, sys
sys.path.insert(0, {root!r})
from engine.sandbox import init, kernel
def late(flags):
    pid, pidfd = kernel.clone3(flags)
    while pid == 0:
        signal.pause()
    {then}
    return pid, pidfd
init.spawner = lambda: late
"""


def test_what_a_zygote_was_making_when_it_was_killed_goes_too(tmp_path):
    """Nobody has been told of that sandbox, and its init does not die with its parent."""
    known = discover()
    runtime = next(iter(known))
    python = known[runtime].path
    late = tmp_path / "late.py"
    late.write_text(_LATE.format(root=str(ROOT), then="os.kill(os.getpid(), signal.SIGKILL)"))
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\ncase "$5" in *zygote*) exec {python} -I -S -B -c "exec(open(\'{late}\').read()); $5";; esac\nexec {python} "$@"\n')
    wrapper.chmod(0o755)
    with Rig(tmp_path / "data", interpreter=str(wrapper), runtime=runtime) as rig:
        broker = rig.link.broker_pid
        # Bytecode may still be being compiled: that child ends by itself.
        until(lambda: len(_below(broker)) == _alone(rig), "broker, helpers and zygote")
        rig.link.make(1, rig.key)
        assert "signal 9" in rig.wait("zygote_failed", rig.key)[2]
        rig.wait("holder_gone", 1)
        until(lambda: len(_below(broker)) == _alone(rig) - 1, "the broker and its helpers alone")


def test_trying_a_level_out_ends_although_an_init_of_the_trial_had_not_begun(tmp_path):
    source = _LATE.format(root=str(ROOT), then="") + f"""
from engine.sandbox import holder, levels
kernel.become_subreaper()
config = {{"network": "isolated", "mountpoint": {str(tmp_path)!r}}}
print(levels._attempt("full", config, levels._landlock()[0]), holder.children_of(os.getpid()))
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None []\n", done.stderr


def test_a_zygote_that_cannot_start_says_why(tmp_path):
    bootstrap = tmp_path / "bootstrap" / "runtime_bootstrap"
    (bootstrap / "python").mkdir(parents=True)
    (bootstrap / "python" / "worker.py").write_text("raise RuntimeError('broken on purpose')")
    with pytest.raises(AssertionError, match="broken on purpose"):
        Rig(tmp_path / "data", bootstrap=bootstrap).__enter__()


def test_an_interpreter_that_is_none_fails_its_zygote(full):
    full.link.add_zygote(ZygoteSpec("nothing", "python3.12", "/bin/true"))
    assert "/bin/true" in full.wait("zygote_failed", "nothing")[2]


def test_a_lost_broker_is_replaced_and_its_leftovers_swept(tmp_path):
    with Rig(tmp_path) as rig:
        box = rig.instance()
        box.run("import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(1000)")
        old = rig.link.broker_pid
        below = _below(old)
        os.kill(old, signal.SIGKILL)
        rig.link.make(900, rig.key)
        assert "signal 9" in rig.wait("broker_lost")[1]
        until(_all_dead(below), "all processes of the old broker are dead")
        rig.wait("zygote_ready", rig.key)
        assert not [e for e in rig.events if e[1] == 900]
        assert rig.link.broker_pid not in (None, old)
        assert not _groups(old)
        assert rig.instance().run("result = 2") == 2


def test_a_lost_keeper_is_replaced_too(tmp_path):
    with Rig(tmp_path) as rig:
        box = rig.instance()
        box.run("pass")
        old = rig.link.broker_pid
        below = _below(old)
        with open(f"/proc/{old}/stat", "rb") as f:
            keeper = int(f.read().rsplit(b")", 1)[1].split()[1])
        os.kill(keeper, signal.SIGKILL)
        until(_all_dead(below), "all processes of the old broker are dead")
        # The first of these finds out, before anybody has heard of it; the second must not wait for the next broker.
        rig.link.kill(box.id)
        rig.link.reset(box.id)
        rig.wait("broker_lost")
        rig.wait("zygote_ready", rig.key)
        assert rig.instance().run("result = 2") == 2


def test_the_end_of_the_supervisor_ends_everything(tmp_path):
    source = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.sandbox.rig import Rig
rig = Rig(Path({str(tmp_path)!r})).__enter__()
rig.instance().run("pass")
print(json.dumps([rig.link.broker_pid, "cgroup v1" in rig.report.mechanisms["memory"]]), flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    broker, helped = json.loads(process.stdout.readline())
    until(lambda: len(_below(broker)) == 4 + NETWORK + helped, "broker, zygote, init and worker, and on v1 the broker's helper")
    below = _below(broker)
    process.kill()
    process.communicate()
    until(_all_dead(below), "the broker and everything below it are dead")
    assert not _groups(broker)


def test_the_sweep_leaves_living_owners_alone(tmp_path):
    with Rig(tmp_path) as rig:
        box = rig.instance()
        broker = rig.link.broker_pid
        before = sorted(_groups(broker))
        assert before
        # Same number, another start: what a reused process number looks like.
        own = os.stat("/proc/self/ns/pid").st_ino
        trunks = [os.path.dirname(path) for path in before if path.count("lambda-engine") and not re.search("/(h[0-9]+|quota|sockets)$", path)]
        for trunk in trunks:
            os.makedirs(f"{trunk}/lambda-engine.{broker}.1.{own}/h1")
        cgroups.sweep()
        assert sorted(_groups(broker)) == before
        assert box.run("result = 3") == 3


def test_the_sweep_leaves_the_owners_of_other_pid_namespaces_alone(tmp_path):
    """As from inside a container that sees the host's groups: no process number there means what it means here."""
    with Rig(tmp_path) as rig:
        box = rig.instance()
        before = sorted(_groups(rig.link.broker_pid))
        source = f"import sys; sys.path[:0] = {sys.path!r}\nfrom engine.sandbox import cgroups\nprint(cgroups.sweep())"
        inside = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, "-c", source]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "[]\n", (done.returncode, done.stderr)
        assert sorted(_groups(rig.link.broker_pid)) == before
        assert box.run("result = 3") == 3


def test_probe_reports_without_leaving_anything(tmp_path):
    groups = {name for name in os.listdir("/sys/fs/cgroup") if name.startswith("lambda-engine")}
    report = probe(Settings(data_dir=tmp_path / "none", sandbox="full"))
    assert report.level == "full"
    assert report.mechanisms["pid namespace"] == "own, per instance"
    assert report.mechanisms["seccomp"].startswith("filter of")
    assert not (tmp_path / "none").exists()
    assert {name for name in os.listdir("/sys/fs/cgroup") if name.startswith("lambda-engine")} <= groups


def test_a_second_close_and_calls_after_it_do_nothing(tmp_path):
    with Rig(tmp_path) as rig:
        pass
    rig.link.make(1, rig.key)
    rig.link.specialise(1, SpecialiseSpec("/x"))
    assert rig.link.broker_pid is None


def test_the_report_needs_a_start(tmp_path):
    rig = Rig(tmp_path)
    with pytest.raises(SandboxUnavailable):
        _ = rig.link.report
    rig.loop.close()
