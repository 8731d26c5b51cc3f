"""Templates: copies of a worker in sandboxes of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.sandbox.api import Cause, SpecialiseSpec
from tests.framework.host import require
from tests.sandbox.rig import Box, Failed, Rig, alive, until

# In a template: forget the compiled part, if it is there. The program is in memory only.
WITHOUT = 'type(copies)._fork_there = None; type(copies).wait_for_copy.__globals__["_copy_into"] = None'


@pytest.fixture(scope="module", params=["full", "user", "full without the compiled part"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    level, _, more = request.param.partition(" ")
    if level == "full":
        require("not root")
    with Rig(tmp_path_factory.mktemp("templates"), level) as running:
        running.compiled = not more
        yield running


def template(rig: Rig, source: str = "", key: str = "t") -> Box:
    box = rig.make(template=True)
    rig.link.specialise(box.id, SpecialiseSpec(str(rig.code("copied", {"m.py": "X = 1"}))))
    box.run(f"import os, ssl\n{source}\n{'' if rig.compiled else WITHOUT}\nTEMPLATE = True")
    rig.link.declare_template(key, box.id)
    rig.wait("zygote_ready", key)
    return box


def test_a_copy_has_the_memory_and_nothing_else(rig: Rig) -> None:
    parent = template(rig, "VALUE = [os.getpid()]; open('/tmp/mine', 'w').write('x')")
    one, two = rig.make(key="t"), rig.make(key="t")
    for n, box in enumerate((one, two)):
        rig.link.specialise(box.id, SpecialiseSpec(str(rig.code("copied", {})), hostname=f"copy{n}", tmp_mib=600))
    until(lambda: one.run("import socket; result = socket.gethostname()") == "copy0", "the first copy is specialised")
    assert one.run("result = VALUE != [os.getpid()]")
    assert one.run("open('/tmp/mine', 'a').write('y'); open('/tmp/one', 'w').close(); result = sorted(os.listdir('/tmp'))") == ["mine", "one"]
    assert two.run("result = os.listdir('/tmp'), open('/tmp/mine').read()") == [["mine"], "x"], "each has what the template's init wrote, to itself"
    assert two.run("result = open('/var/task/m.py').read()") == "X = 1"
    assert two.run("result = os.getcwd()") == "/var/task"
    # Its own processes, init and itself, and not the template nor the other copy.
    assert one.run("result = len([p for p in os.listdir('/proc') if p.isdigit()])") == 2
    pids = [box.run("result = os.getpid()") for box in (one, two)]
    assert len(set(pids)) == 2
    assert one.run("result = ssl.RAND_bytes(8).hex()") != two.run("result = ssl.RAND_bytes(8).hex()")
    assert one.run("VALUE.append(1); result = len(VALUE)") == 2
    assert two.run("result = len(VALUE)") == 1
    status = one.run("result = open('/proc/self/status').read()")
    assert "CapEff:\t0000000000000000" in status
    assert "CapPrm:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    # What was the template's channel is at its end.
    assert one.run("result = os.read(3, 1).hex()") == ""
    for box in (one, two):
        rig.end(box)
    rig.link.drop_template("t")
    rig.wait("zygote_failed", "t")
    rig.wait("holder_gone", parent.id)


@pytest.mark.parametrize(
    "attempt",
    [
        "import ctypes; fd = os.open('/proc/1/ns/mnt', os.O_RDONLY)\nif ctypes.CDLL(None, use_errno=True).setns(fd, 0): raise PermissionError",
        "import ctypes; result = 1 / (1 + ctypes.CDLL(None).unshare(0x10000000))",
        "open('/var/task/m.py', 'w')",
        "open('/etc/passwd', 'w')",
        "os.chroot('/tmp')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    ],
)
def test_a_copy_is_fenced_in(rig: Rig, attempt: str) -> None:
    parent = template(rig, key="fenced")
    box = rig.make(key="fenced")
    rig.link.specialise(box.id, SpecialiseSpec(str(rig.code("copied", {}))))
    with pytest.raises(Failed):
        box.run(attempt)
    rig.link.drop_template("fenced")
    rig.wait("zygote_failed", "fenced")
    assert box.run("result = 1") == 1, "a copy outlives its template"
    rig.end(box)
    rig.wait("holder_gone", parent.id)


def test_ends_are_told_apart(rig: Rig) -> None:
    parent = template(rig, key="ends")
    boxes = [rig.make(key="ends") for _ in range(3)]
    for box in boxes:
        rig.link.specialise(box.id, SpecialiseSpec(str(rig.code("copied", {}))))
    boxes[0].send("os._exit(7)")
    assert rig.wait("worker_exited", boxes[0].id)[2].status == 7
    boxes[1].send("os.kill(os.getpid(), 9)")
    cause = rig.wait("worker_exited", boxes[1].id)[2]
    assert (cause.cause, cause.status) == (Cause.SIGNALLED, 9)
    assert boxes[2].run("result = 1") == 1
    for box in boxes:
        rig.end(box)
    assert alive(parent.pid)
    rig.link.kill(parent.id)
    rig.wait("zygote_failed", "ends")
    rig.wait("holder_gone", parent.id)


def test_the_end_of_the_whole_sandbox_is_the_end_of_its_copies(rig: Rig) -> None:
    parent = template(rig, key="whole")
    box = rig.make(key="whole")
    rig.link.kill(parent.id)
    rig.wait("zygote_failed", "whole")
    rig.wait("holder_gone", box.id)
    rig.wait("holder_gone", parent.id)


def test_connections_of_the_template_are_dead_in_copies(rig: Rig) -> None:
    template(rig, "import socket\nL = socket.create_server(('127.0.0.1', 0))\nA = socket.create_connection(L.getsockname())\nresult = copies.findings(3)", key="sockets")
    box = rig.make(key="sockets")
    assert box.run("result = A.recv(1).hex()") == ""
    with pytest.raises(Failed):
        box.run("A.send(b'x')")
    rig.end(box)
    rig.link.drop_template("sockets")
    rig.wait("zygote_failed", "sockets")


def test_findings_name_threads_and_sockets(rig: Rig) -> None:
    box = rig.make(template=True)
    rig.link.specialise(box.id, SpecialiseSpec(str(rig.code("copied", {}))))
    assert box.run("result = copies.findings(3)") == [1, []]
    source = "import threading, socket\nE = threading.Event(); threading.Thread(target=E.wait, daemon=True).start(); S = socket.socket()\n"
    threads, sockets = box.run(source + "result = copies.findings(3)")
    assert threads == 2
    assert len(sockets) == 1
    rig.end(box)
