"""The lower levels: unprivileged user namespaces, and plain processes; and every interpreter of this host at level full."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.sandbox.api import Cause, SpecialiseSpec
from engine.sandbox.interpreters import discover
from tests.framework import host
from tests.framework.networks import bare
from tests.sandbox.rig import Failed, Rig, alive, until
from tests.sandbox.test_isolation import apart

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("process"), "process") as rig:
        yield rig


def test_process_says_loudly_what_it_is(process):
    assert process.report.level == "process"
    assert process.report.network == "host"
    assert any("DOES NOT ISOLATE" in line for line in process.report.advice)
    assert process.report.mechanisms["mount namespace"].startswith("none")
    assert process.report.mechanisms["memory"] == "rlimit"


def test_process_runs_in_the_real_directory(process):
    code = process.code("app", {"app.py": ""})
    box = process.instance(code_dir=str(code))
    assert box.run("import os; result = os.getcwd()") == str(code)
    assert box.endpoint is None
    assert box.run("result = os.getpid()") == box.pid
    assert "NoNewPrivs:\t1" in box.run("result = open('/proc/self/status').read()")
    process.end(box)


def test_process_limits_memory_by_failing_allocations(process):
    box = process.instance(memory_mib=64)
    with pytest.raises(Failed) as e:
        box.run("x = b'x' * (200 << 20)")
    assert e.value.args[0] == "MemoryError"
    process.end(box)


def test_process_kills_descendants(process):
    box = process.instance()
    child = box.run("import os, time\npid = os.fork()\nif not pid:\n  os.setsid(); time.sleep(1000)\nresult = pid")
    assert alive(child)
    process.end(box)
    until(lambda: not alive(child), "the child is dead")


def test_process_reset_and_exit(process):
    box = process.instance()
    box.send("import sys; sys.exit(4)")
    cause = process.wait("worker_exited", box.id)[2]
    assert (cause.cause, cause.status) == (Cause.EXITED, 4)
    box.detach()
    process.link.reset(box.id)
    _, _, fds, pid = process.wait("worker_reset", box.id)
    box.attach(fds, pid)
    assert box.run("import os; result = os.getcwd()") == str(process.settings.data_dir / "code" / "empty")
    process.end(box)


def test_process_merges_layers_on_disk(process):
    from engine.sandbox.layers import opt_root

    layers = tuple(str(process.code(f"layer{n}", {"same": str(n), f"only{n}": ""})) for n in range(3))
    box = process.instance(layers=layers)
    box.run("pass")
    opt = opt_root(str(process.settings.data_dir), layers)
    assert sorted(os.listdir(opt)) == ["only0", "only1", "only2", "same"]
    assert (Path(opt) / "same").read_text() == "2"
    process.end(box)


_USER = """
import json, os, sys
sys.path[:0] = {path!r}
os.environ["HOME"] = {home!r}
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from pathlib import Path
from tests.sandbox.rig import Failed, Rig
out = {{}}
with Rig(Path({home!r}) / "data", {level!r}, interpreter="/usr/bin/python3", runtime={runtime!r}) as rig:
    out["report"] = [rig.report.level, rig.report.mechanisms, list(rig.report.advice)]
    code = rig.code("app", {{"here": ""}})
    layers = [str(rig.code("l%d" % n, {{"same": str(n)}})) for n in range(2)]
    box = rig.instance(code_dir=str(code), layers=tuple(layers), memory_mib=64)
    out["user"] = box.run("import os; result = [os.getuid(), os.getgid()]")
    out["cwd"] = box.run("result = [os.getcwd(), os.listdir('.'), open('/opt/same').read()]")
    out["root"] = box.run("result = os.listdir('/')")
    out["pids"] = box.run("result = sum(p.isdigit() for p in os.listdir('/proc'))")
    out["status"] = box.run("result = open('/proc/self/status').read()")
    out["apart"] = box.run("import os; result = [os.getpgrp(), os.getsid(0), os.getpid()]")
    out["net"] = box.run("result = open('/proc/net/dev').read().count(':')")
    for name, source in (("kill", "os.kill(1, 9)"), ("memory", "x = b'x' * (200 << 20)"), ("write", "open('/var/task/x', 'w')"),
                         ("environ", "open('/proc/1/environ').read()"), ("mem", "open('/proc/1/mem', 'rb').read(1)")):
        try:
            box.run(source)
        except Failed as e:
            out[name] = list(e.args)
    out["alive"] = box.run("result = 1")
    box.run("open('/tmp/kept', 'w').close()")
    box.send("os._exit(1)")
    rig.wait("worker_exited", box.id)
    box.detach()
    rig.link.reset(box.id)
    _, _, fds, pid = rig.wait("worker_reset", box.id)
    box.attach(fds, pid)
    out["reset"] = box.run("import os; result = os.listdir('/tmp')")
    rig.end(box)
print(json.dumps(out))
"""


_REFUSED = """
import json, os, sys
sys.path[:0] = {path!r}
os.environ["HOME"] = {home!r}
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from pathlib import Path
from engine.config import Settings
from engine.errors import SandboxUnavailable
from engine.sandbox.probe import probe
try:
    probe(Settings(data_dir=Path({home!r}), sandbox={level!r}))
except SandboxUnavailable as e:
    print(json.dumps(str(e)))
"""


def _as_nobody(source, level):
    """Run the scenario as uid 65534, with the system's interpreter (root's home is closed to it)."""
    system = discover().get("python" + _system_version())
    if system is None or sys.version_info[:2] != tuple(int(n) for n in _system_version().split(".")):
        host.require("no system Python of the engine's own version")
    home = Path("/tmp") / f"lambda-engine-test-{os.getpid()}"
    home.mkdir()
    os.chown(home, 65534, 65534)
    path = [str(ROOT), *[p for p in sys.path if "site-packages" in p]]
    source = source.format(path=path, home=str(home), level=level, runtime=system.runtime)
    try:
        done = subprocess.run(["/usr/bin/python3", "-c", source], capture_output=True, text=True, timeout=60, cwd="/", check=False)
    finally:
        shutil.rmtree(home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.root
def test_a_level_that_cannot_be_had_is_an_error_with_a_fix():
    text = _as_nobody(_REFUSED, "full")
    # The fix depends on where this is: inside a container there is another one.
    assert text.startswith("sandbox level full is not available: privilege: not root; to fix it: ")


def _system_version() -> str:
    done = subprocess.run(["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@pytest.mark.root
@pytest.mark.parametrize("level", ["user", "auto"])
def test_user_isolates_without_root(level):
    seen = _as_nobody(_USER, level)
    chosen, mechanisms, advice = seen["report"]
    assert chosen == "user"
    assert mechanisms["user namespace"] == "one host id shared by all instances"
    assert any("full" in line for line in advice) == (level == "auto")
    assert seen["user"] == [993, 990]
    assert seen["cwd"] == ["/var/task", ["here"], "1"]
    assert "work" not in seen["root"]
    assert seen["pids"] == 2
    assert "CapEff:\t0000000000000000" in seen["status"]
    assert "Seccomp:\t2" in seen["status"]
    assert apart(seen["apart"], mechanisms)
    assert seen["net"] == len(bare())
    assert "kill" not in seen or seen["kill"][1] in (1, 3)
    assert seen["alive"] == 1
    assert seen["memory"][0] == "MemoryError"
    assert seen["write"][1] in (13, 30)
    assert seen["environ"][1] in (1, 13)
    assert seen["mem"][1] in (1, 13)
    assert seen["reset"] == ["kept"]


@pytest.mark.root
@pytest.mark.parametrize("runtime", sorted(discover()))
def test_every_interpreter_serves_at_level_full(tmp_path, runtime):
    with Rig(tmp_path, runtime=runtime) as rig:
        box = rig.instance(code_dir=str(rig.code("app", {"app.py": "X = 5"})), layers=tuple(str(rig.code(n, {n: ""})) for n in "ab"))
        assert box.run("import sys; sys.path.insert(0, '.'); import app; result = [app.X, *sys.version_info[:2]]") == [
            5, *(int(n) for n in runtime.removeprefix("python").split(".")),
        ]  # fmt: skip
        assert "Seccomp:\t2" in box.run("result = open('/proc/self/status').read()")
        assert box.run("import ssl, sqlite3, zlib, ctypes, json; result = 1") == 1


@pytest.mark.root
def test_network_host_shares_the_hosts(tmp_path):
    with Rig(tmp_path, network="host") as rig:
        assert rig.report.network == "host"
        box = rig.instance()
        assert box.endpoint is None
        import socket

        with socket.create_server(("127.0.0.1", 0)) as service:
            port = service.getsockname()[1]
            assert box.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); result = 1") == 1


@pytest.mark.root
def test_user_works_for_root_too(tmp_path):
    with Rig(tmp_path, "user") as rig:
        box = rig.instance()
        assert box.run("import os; result = [os.getuid(), os.getcwd()]") == [993, "/var/task"]
        box.send("os._exit(2)")
        assert rig.wait("worker_exited", box.id)[2].status == 2


def test_specialising_a_file_fails(process):
    box = process.make()
    process.link.specialise(box.id, SpecialiseSpec("/etc/hostname", memory_mib=128))
    # Level process has no mounts: the worker finds out when it tries to stand there.
    box.send("pass")
    cause = process.wait("worker_exited", box.id)[2]
    assert cause.status != 0
    process.link.kill(box.id)
    process.wait("holder_gone", box.id)
    process.boxes.remove(box)
    box.close()


@pytest.mark.root
def test_layers_are_refused_where_the_interpreter_lives(tmp_path):
    place = Path("/opt") / f"lambda-engine-test-{os.getpid()}"
    known = discover()
    host_python = known[min(known)]
    source = Path(host_python.prefixes[0])
    place.mkdir()
    try:
        # A bind in a mount namespace of the test's own stands for an installation.
        script = f'mount --bind {source} {place} && exec {sys.executable} -c "$1"'
        body = f"""
import sys
sys.path[:0] = {[str(ROOT), *[p for p in sys.path if "site-packages" in p]]!r}
from pathlib import Path
from tests.sandbox.rig import Rig
from engine.sandbox.api import SpecialiseSpec
with Rig(Path({str(tmp_path)!r}), interpreter={str(place / Path(host_python.path).relative_to(source))!r}, runtime={host_python.runtime!r}) as rig:
    assert rig.instance().run("import sys; result = sys.prefix") == {str(place)!r}
    box = rig.make()
    layer = str(rig.code("layer", {{"x": ""}}))
    rig.link.specialise(box.id, SpecialiseSpec(str(rig.code("empty", {{}})), layers=(layer,)))
    print(rig.wait("holder_failed", box.id)[3])
"""
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", body], capture_output=True, text=True, timeout=60, check=False)
    finally:
        place.rmdir()
    assert "installed under /opt" in done.stdout, done.stderr


@pytest.mark.root
def test_works_on_uvloop(tmp_path):
    import uvloop

    with Rig(tmp_path, loop=uvloop.new_event_loop()) as rig:
        box = rig.instance()
        assert box.run("result = 7") == 7
        rig.end(box)
