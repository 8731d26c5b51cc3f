"""Workers that come about by one run of system calls are what those are that Python makes step by step."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.sandbox import calls, copier, holder, kernel, landlock, nest
from tests.framework.host import require

STATE = """
import os, re, resource
status = open('/proc/self/status').read()
wanted = ('Uid', 'Gid', 'Groups', 'Sig[BIC]', 'Cap', 'NoNewPrivs', 'Seccomp', 'Umask', 'NSsid')
result = {
    'status': [line for line in status.splitlines() if line.startswith(tuple(w for w in wanted if '[' not in w)) or re.match('Sig[BI]', line)],
    'limits': open('/proc/self/limits').read(),
    'oom': open('/proc/self/oom_score_adj').read(),
    'nice': os.nice(0),
    'mounts': [line.split(' - ')[0].split(' ', 3)[3] + line.split(' - ')[1] for line in open('/proc/self/mountinfo').read().splitlines()],
    'namespaces': {n: os.readlink('/proc/self/ns/' + n) for n in ('user', 'mnt', 'ipc', 'uts', 'net')},
    'groups': re.sub('h[0-9]+', 'h', open('/proc/self/cgroup').read()),
    'descriptors': {n: re.sub('[0-9]+', 'N', os.readlink('/proc/self/fd/' + n)) for n in map(str, range(100)) if os.path.lexists('/proc/self/fd/' + n)},
    'flags': {n: open('/proc/self/fdinfo/%d' % n).read().split('flags:')[1].split()[0] for n in range(4)},
    'host': os.uname().nodename,
    'leader': os.getpgid(0) == os.getpid(),
}
"""
FORBIDDEN = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
result = []
for try_it in (lambda: os.mkdir('/var/task/x'), lambda: open('/dev/full', 'r').read(0), lambda: os.mknod('/tmp/x', 0o20600, 0x103), lambda: os.setuid(0)):
    try: try_it(); result.append(0)
    except OSError as e: result.append(e.errno)
result.append(libc.unshare(0x10000000))
result.append(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None))
"""


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The helper, built as an installation builds it."""
    require("no C compiler")
    require("not x86-64")
    library = tmp_path / "_copy.so"
    source = Path(calls.__file__).with_name("_copy.c")
    flags = ["-O2", "-fPIC", "-shared", "-Wall", "-Werror", "-U_FORTIFY_SOURCE"]
    subprocess.run([shutil.which("cc") or "gcc", *flags, str(source), "-o", str(library)], check=True, timeout=100)
    monkeypatch.setattr(copier, "perform", ctypes.PyDLL(str(library)).perform)


def test_a_first_worker_is_like_a_fresh_one(full):
    """The first goes straight, where the helper is and its network is there already; one that takes its place goes step by step."""
    require("not root")
    box = full.instance()
    first, refused = box.run(STATE), box.run(FORBIDDEN)
    full.link.reset(box.id)
    _, _, fds, pid = full.wait("worker_reset", box.id)
    box.detach()
    box.attach(fds, pid)
    again = box.run(STATE)
    session = [line for line in first["status"] if line.startswith("NSsid")]
    assert session
    for state in (first, again):
        state["status"] = [line for line in state["status"] if not line.startswith("NSsid")]
    assert first == again
    assert box.run(FORBIDDEN) == refused
    full.end(box)


def test_what_is_laid_out_as_steps_can_be_told_in_plain_calls(compiled, tmp_path):
    require("no Landlock")
    read, write = os.pipe()
    steps = (
        kernel.Step("write", kernel.write_file, (str(tmp_path / "x"), b"text")),
        kernel.Step("session", os.setsid),
        kernel.NO_NEW_PRIVILEGES,
        kernel.Step("landlock", landlock.prepare((str(tmp_path),), ("/dev/null",))),
    )
    (tmp_path / "x").touch()
    run = calls.table([*calls.translated(steps), calls.call("say", "write", calls.OUTPUT, b"done", 4)])
    assert run is not None
    run.values[calls.OUTPUT.place] = write
    pid = os.fork()
    if pid == 0:
        try:
            run.run()
            (tmp_path / "x").write_text((tmp_path / "x").read_text() + " and more")
            with pytest.raises(PermissionError):
                (tmp_path.parent / "y").touch()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(read, 10) == b"done"
    assert (tmp_path / "x").read_text() == "text and more"
    os.close(read)
    os.close(write)


def test_a_call_that_fails_is_named_and_nothing_follows(compiled):
    run = calls.table(
        [calls.call("one that may", "close", -1, lax=True), calls.call("the step", "close", -1), calls.call("another", "close", calls.OUTPUT)]
    )
    assert run is not None
    read, write = os.pipe()
    run.values[calls.OUTPUT.place] = write
    with pytest.raises(OSError, match="the step: Bad file descriptor") as failed:
        run.run()
    assert failed.value.errno == errno.EBADF
    os.close(write)
    os.close(read)


def test_a_run_that_failed_in_the_fork_is_told_as_any_other(compiled):
    run = calls.table([calls.call("the step", "close", -1)])
    assert run is not None
    read, write = os.pipe()
    run.values[calls.CONTROL.place] = holder.GO
    pid = os.fork()
    if pid == 0:
        os.dup2(write, holder.GO)
        with pytest.raises(OSError, match="the step"):
            run.run()
        nest.arrive(None, run, 1, hurried=False)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert json.loads(os.read(read, 1000)) == ["failed", "build the sandbox", "the step: Bad file descriptor"]
    os.close(write)
    os.close(read)


def test_functions_of_the_helper_are_called_among_the_calls(compiled):
    getpid = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
    run = calls.table([calls.call("nothing", "close", -1, lax=True), calls.function("a function", getpid, calls.FOUND)])
    assert run is not None
    run.run()
    assert run.values[calls.FOUND.place] == os.getpid()


def test_whatever_else_is_left_to_python(monkeypatch):
    with pytest.raises(calls.Untranslatable):
        calls.translated([kernel.Step("other", print, ("x",))])
    with pytest.raises(calls.Untranslatable):
        calls.translated([kernel.Step("odd", os.setpriority, ([],))])
    monkeypatch.setattr(copier, "perform", None)
    assert calls.table([]) is None


def test_a_zygote_hardly_writes_to_its_memory_for_a_sandbox(full):
    """What it wrote to between two forks would be copied after each: a hundred pages and more when Python makes the sandbox, a handful when
    the helper does."""
    require("not root")
    require("no C compiler")
    require("not x86-64")
    # The first is made by Python, which learns from it what the others will bring.
    full.end(full.instance())
    zygote = full.link.zygote_pids[full.key]
    before, lives = _faults(zygote), 10
    for _ in range(lives):
        box = full.instance()
        assert box.run("result = 1") == 1
        full.end(box)
    assert _faults(zygote) - before < 40 * lives


def _faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


VISIT = """
import os, sys
from engine.sandbox import kernel
from engine.sandbox.visit import ShortVisit

kernel.unshare(kernel.CLONE_NEWNS)
data = os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY)
visit = ShortVisit(data, os.open("/proc/self/ns/mnt", os.O_RDONLY), kernel.MOUNT_ATTR_RDONLY)
here, fds = os.readlink("/proc/self/ns/mnt"), sorted(os.listdir("/proc/self/fd"))
done = [visit.bring(-1, path) for path in ("code", "missing", "../data/code", "out")]
assert (os.readlink("/proc/self/ns/mnt"), sorted(os.listdir("/proc/self/fd"))) == (here, fds)
print(done)
"""


def test_a_visit_that_does_not_work_out_changes_nothing(tmp_path):
    """Whoever makes it then step by step says why: no such sandbox, no such code, or code that is somewhere else."""
    require("not root")
    data = tmp_path / "data"
    (data / "code").mkdir(parents=True)
    (data / "out").symlink_to(tmp_path)
    done = subprocess.run([sys.executable, "-c", VISIT, str(data)], capture_output=True, text=True, check=False, timeout=100, cwd=Path(calls.__file__).parents[2])
    assert (done.stdout, done.stderr) == ("[False, False, False, False]\n", "")
