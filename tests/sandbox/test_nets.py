"""Network namespaces go from sandbox to sandbox only when nobody has touched them, and show the next one nothing."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from engine.sandbox import kernel
from engine.sandbox.cgroups import Groups
from engine.sandbox.nets import AHEAD, Net, Nets
from engine.sandbox.packets import Packet
from engine.sandbox.peers import Loop
from engine.sandbox.witness import Witness, cookie
from tests.framework.host import require
from tests.sandbox.rig import Failed, Rig, until

WHERE = "import os\nresult = os.readlink('/proc/self/ns/net')"
COUNTERS = "result = [open('/proc/net/' + n).read() for n in ('dev', 'route', 'tcp', 'udp', 'unix', 'if_inet6')]"


@pytest.fixture(scope="module")
def witnessed():
    """Skips where this host cannot tell whether a namespace was used: then none is used again."""
    require("not root")
    groups = Groups()
    try:
        witness = groups.witness()
        if witness is None:
            pytest.skip("no cgroup v2 directory, or no programs for control groups, on this host")
        witness.close()
    finally:
        groups.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory, witnessed):
    with Rig(tmp_path_factory.mktemp("nets")) as made:
        next_place(made)
        until(lambda: held(made) >= AHEAD, "the first ones are made")
        yield made


def held(rig: Rig) -> int:
    """Network namespaces that the broker has descriptors of."""
    spaces = set()
    for fd in os.listdir(f"/proc/{rig.link.broker_pid}/fd"):
        with contextlib.suppress(OSError):
            spaces.add(os.readlink(f"/proc/{rig.link.broker_pid}/fd/{fd}"))
    return sum(1 for s in spaces if s.startswith("net:"))


def next_place(rig: Rig) -> str:
    """The network namespace that the next sandbox is in."""
    box = rig.instance()
    place = box.run(WHERE)
    rig.end(box)
    return str(place)


def test_one_that_nobody_used_is_used_again_and_looks_new(rig):
    first = rig.instance()
    place, seen = first.run(WHERE), first.run(COUNTERS)
    rig.end(first)
    second = rig.instance()
    assert (second.run(WHERE), second.run(COUNTERS)) == (place, seen)
    rig.end(second)


@pytest.mark.parametrize(
    "use",
    [
        "import socket\nsocket.socket().close()",
        "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\ns.bind(('::1', 0))",
        "import socket\nfrom contextlib import suppress\nwith suppress(OSError): socket.create_connection(('127.0.0.1', 1), 1)",
        "import subprocess, sys\nsubprocess.run(['/bin/bash', '-c', 'exec 3<>/dev/udp/127.0.0.1/9'], check=True)",
    ],
    ids=["tcp", "udp6", "refused", "child"],
)
def test_one_in_which_there_was_an_ip_socket_is_not(rig, use):
    box = rig.instance()
    place = box.run(WHERE)
    box.run(use)
    rig.end(box)
    assert next_place(rig) != place


def test_names_of_unix_sockets_end_with_their_sandbox(rig):
    box = rig.instance()
    place = box.run(WHERE)
    box.run("import socket\nkept = socket.socket(socket.AF_UNIX)\nkept.bind('\\0name')\nkept.listen()")
    rig.end(box)
    later = rig.instance()
    assert later.run(WHERE) == place
    with pytest.raises(Failed):
        later.run("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0name')")
    later.run("import socket\nsocket.socket(socket.AF_UNIX).bind('\\0name')")
    rig.end(later)


def test_a_fresh_worker_is_in_the_same_one_and_has_no_power_over_it(rig):
    box = rig.instance()
    place = box.run(WHERE)
    rig.link.reset(box.id)
    _, _, fds, pid = rig.wait("worker_reset", box.id)
    box.detach()
    box.attach(fds, pid)
    assert box.run(WHERE) == place
    with pytest.raises(Failed) as refused:
        box.run("open('/proc/sys/net/ipv4/ip_forward', 'w').write('1')")
    assert refused.value.errno in (13, 30)
    rig.end(box)


def test_the_endpoint_of_one_used_again_is_the_new_sandboxs(rig):
    for _ in range(2):
        box = rig.instance()
        assert box.endpoint is not None
        box.endpoint.settimeout(10)
        place = box.run(WHERE)
        box.run("import socket\nkept = socket.create_connection(('127.0.0.1', 4566), 10)\nkept.sendall(b'hello')")
        sock, _ = box.endpoint.accept()
        with sock:
            assert sock.recv(5) == b"hello"
        rig.end(box)
        assert next_place(rig) != place


def test_those_that_nobody_takes_are_given_up(rig):
    boxes = [rig.instance() for _ in range(AHEAD + 4)]
    for box in boxes:
        rig.end(box)
    until(lambda: held(rig) <= AHEAD, "no more are kept than are made ahead")


class _Maker:
    """Records what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[list[object]] = []

    def send(self, message: list[object], fds: list[int] | None = None) -> None:
        self.asked.append(message)


def _answer(number: int) -> Packet:
    listener = socket.socket()
    return Packet("net", [number], [os.open("/proc/self/ns/net", os.O_RDONLY), listener.detach(), os.open("/proc/self/net/sockstat", os.O_RDONLY)], 0)


def test_whoever_waits_is_served_first_and_told_when_there_is_none():
    maker = _Maker()
    nets = Nets(Loop(), maker, None)
    given: list[tuple[Net | None, str]] = []
    nets.take(lambda net, why: given.append((net, why)))
    assert maker.asked == [["net", n] for n in range(1, AHEAD + 2)]
    nets.on_packet(_answer(1))
    nets.take(lambda net, why: given.append((net, why)))
    nets.on_packet(Packet("no net", [2, "out of them"], [], 0))
    assert given[1] == (None, "out of them")
    net = given[0][0]
    assert net is not None
    # Without a witness nothing is known about it.
    nets.give_back(net, ended=True)
    assert maker.asked[-1] == ["drop", 1]
    nets.close()


def test_a_witness_sees_ip_sockets_below_its_directory_only(witnessed, tmp_path):
    groups = Groups()
    try:
        parent = next(p.parent for p in groups._places if p.version == 2)
        witness = Witness(parent)
        with socket.socket() as here:
            number = cookie(here)
        directory = os.path.join(parent, "seen")
        os.mkdir(directory)
        try:
            assert not witness.unused(number)
            assert witness.watch(number)
            socket.socket().close()
            assert witness.unused(number)
            for family, unused in ((socket.AF_UNIX, True), (socket.AF_INET, False)):
                pid = os.fork()
                if pid == 0:
                    with contextlib.suppress(OSError):
                        kernel.write_file(f"{directory}/cgroup.procs", b"0")
                        socket.socket(family)
                    os._exit(0)
                os.waitpid(pid, 0)
                assert witness.unused(number) == unused
            witness.forget(number)
            assert not witness.unused(number)
            assert not witness.watch(0)
        finally:
            until(lambda: not os.path.exists(directory) or _removed(directory), "the directory can be removed")
            witness.close()
    finally:
        groups.close()


def _removed(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except OSError:
        return False
    return True
