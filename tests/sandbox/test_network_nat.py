"""The way out of functions without a VPC, on hosts that are network namespaces: nothing here sends a packet anywhere else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.errors import SandboxUnavailable
from engine.sandbox.nat import GUARD, Forwarding, interfaces
from engine.sandbox.netlink import Netlink
from engine.sandbox.spaces import MOST_CONNECTIONS, Chunks, Gateway, Space
from tests.framework import wait
from tests.framework.host import require
from tests.framework.networks import Host, devices, filter_tables, settled
from tests.sandbox.rig import Failed, Rig

GET = """
import socket
with socket.create_connection(({ip!r}, {port}), {timeout}) as s:
    s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    result = s.makefile().read().rpartition("\\n")[2]
"""

LISTEN = """
import fcntl, socket, struct
server = socket.create_server(("0.0.0.0", 8080))
result = socket.inet_ntoa(fcntl.ioctl(server, 0x8915, struct.pack("256s", b"eth0"))[20:24])  # SIOCGIFADDR
"""


def get(box, ip, port=80, timeout=20):
    return box.run(GET.format(ip=ip, port=port, timeout=timeout))


def forwarding() -> str:
    return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()


@pytest.fixture(scope="module")
def world():
    """A host, and the rest of the world as it sees it: a web server at two addresses, one of them where clouds keep credentials."""
    require("not root")
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as host, Host() as outside:
        host.join(outside, "203.0.113.2/24", "203.0.113.1/24")
        outside.ip("address", "add", "192.0.2.80/32", "dev", "lo")
        outside.ip("address", "add", "169.254.169.254/32", "dev", "lo")
        host.ip("route", "add", "default", "via", "203.0.113.1")
        outside.serve("outside", 80)
        host.serve("host", 81)
        yield host, outside


@pytest.fixture(scope="module")
def rig(world, tmp_path_factory):
    with world[0].inside(), Rig(tmp_path_factory.mktemp("nat"), network="auto") as rig:
        yield rig


@pytest.fixture
def box(rig):
    made = rig.instance()
    yield made
    rig.end(made)


def test_auto_is_nat_where_it_can_be_had(rig):
    assert rig.report.network == "nat"
    assert "NAT" in rig.report.mechanisms["network namespace"]


def test_the_outside_is_reached_under_the_hosts_address(box):
    assert get(box, "203.0.113.1") == "outside for 203.0.113.2"
    assert get(box, "192.0.2.80") == "outside for 203.0.113.2"


@pytest.mark.parametrize("ip", ["203.0.113.2", "198.18.0.1", "169.254.169.253", "127.0.0.1"])
def test_the_host_itself_is_not_reached_at_any_of_its_addresses(box, ip):
    with pytest.raises(Failed):
        get(box, ip, 81)


def test_the_credentials_of_the_cloud_are_not_reached(box):
    with pytest.raises(Failed):
        get(box, "169.254.169.254")


def test_functions_do_not_reach_each_other(rig, box):
    other = rig.instance()
    ip = other.run(LISTEN)
    with pytest.raises(Failed):
        get(box, ip, 8080)
    rig.end(other)


def test_one_function_cannot_fill_the_hosts_table_of_connections(rig, world, box):
    """Each of its packets to another port is a connection to remember, there and here, for half a minute."""
    host, _ = world
    box.run(f"""
import socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range({MOST_CONNECTIONS + 3000}):
    sender.sendto(b"x", ("203.0.113.1", 1024 + n))
""")
    with host.inside():
        assert int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()) <= MOST_CONNECTIONS + 500
    with pytest.raises(Failed):
        get(box, "203.0.113.1", timeout=2)
    other = rig.instance()
    assert get(other, "203.0.113.1") == "outside for 203.0.113.2"
    rig.end(other)


def test_nobody_outside_reaches_a_function(rig, world):
    box = rig.instance()
    ip = box.run(LISTEN)
    _, outside = world
    for target in (ip, "198.18.0.1"):
        outside.ip("route", "replace", f"{target}/32", "via", "203.0.113.2")
        with outside.inside(), pytest.raises(OSError):
            socket.create_connection((target, 8080), 1)
    rig.end(box)


def test_a_host_that_did_not_forward_still_does_not_but_lets_later_networks_be(tmp_path):
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as host, Host() as before, Host() as outside, Host() as later, host.inside():
        host.join(outside, "203.0.113.2/24", "203.0.113.1/24")
        host.join(before, "192.0.2.1/30", "192.0.2.2/30")
        outside.serve("outside", 80)
        with Rig(tmp_path, network="nat"):
            host.join(later, "192.0.2.5/30", "192.0.2.6/30")
            outside.ip("route", "add", "192.0.2.0/24", "via", "203.0.113.2")
            before.ip("route", "add", "default", "via", "192.0.2.1")
            later.ip("route", "add", "default", "via", "192.0.2.5")
            with before.inside(), pytest.raises(OSError):
                socket.create_connection(("203.0.113.1", 80), 1)
            with later.inside(), socket.create_connection(("203.0.113.1", 80), 20):
                pass


def nobody(apart: Sequence[str]) -> None:
    raise AssertionError(f"{apart} need not be kept apart")


def test_one_that_leaves_waits_for_one_that_is_just_coming(tmp_path):
    """Else the one that comes finds the switch on, takes it for the host's own, and is left without."""
    require("not root")
    require("no iproute2")
    with Host() as host, host.inside():
        leaving = Forwarding(tmp_path)
        leaving.enter()
        coming = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(coming, fcntl.LOCK_EX)
            leave = threading.Thread(target=leaving.leave, args=(nobody,))
            leave.start()
            inode = f":{os.fstat(coming).st_ino} "
            wait.until(lambda: any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()), "it waits")
            assert forwarding() == "1"
            assert len(list(tmp_path.iterdir())) == 1, "its note is there"
        finally:
            os.close(coming)
        leave.join(20)
        assert forwarding() == "0"
        assert not list(tmp_path.iterdir())


def killed(notes: Path) -> None:
    """What an engine leaves that was killed while it wanted forwarding."""
    engine = Forwarding(notes)
    engine.enter()
    os.close(engine._lock)
    engine._lock = -1


def test_who_was_killed_is_remembered_until_the_next_one_in_the_same_network(tmp_path):
    """An engine elsewhere, that shares nothing but the notes, once swept them away: the host stayed a router for good."""
    require("not root")
    require("no iproute2")
    with Host() as here, Host() as there:
        with here.inside():
            killed(tmp_path)
        with there.inside():
            another = Forwarding(tmp_path)
            another.enter()
            another.leave(nobody)
            assert forwarding() == "0"
        with here.inside():
            assert forwarding() == "1"
            following = Forwarding(tmp_path)
            following.enter()
            following.leave(nobody)
            assert forwarding() == "0"
        assert not list(tmp_path.iterdir())


def test_who_is_killed_while_it_leaves_is_remembered_too(tmp_path):
    """Its note went first, and networks were let together that the next engine took for the operator's doing."""
    require("not root")
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as host, Host() as before, Host() as later, host.inside():
        host.join(before, "192.0.2.1/30", "192.0.2.2/30")
        there = interfaces()
        leaving = Forwarding(tmp_path)
        assert leaving.enter() == there
        host.join(later, "192.0.2.5/30", "192.0.2.6/30")

        def end(_apart: Sequence[str]) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            leaving.leave(end)
        os.close(leaving._lock)
        following = Forwarding(tmp_path)
        assert following.enter() == there
        killed(tmp_path)
        kept: list[Sequence[str]] = []
        following.leave(kept.append)
        assert kept == [there], "another one was killed meanwhile"
        assert not list(tmp_path.iterdir())


def test_notes_of_networks_that_are_gone_are_not_kept(tmp_path):
    require("not root")
    require("no iproute2")
    with Host() as gone, gone.inside():
        killed(tmp_path)
    (left,) = tmp_path.iterdir()
    (tmp_path / "new.1").write_text("unfinished")
    with Host() as host, host.inside():
        last = Forwarding(tmp_path)
        # The namespace itself goes in the kernel's own time.
        settled(lambda: (last.enter(), last.leave(nobody), not left.exists())[2], "its note is gone", 90)
    assert not list(tmp_path.iterdir())


def connects(here: Host) -> bool:
    with here.inside():
        try:
            socket.create_connection(("203.0.113.1", 80), 1).close()
        except OSError:
            return False
    return True


@pytest.mark.parametrize("how", ["stop", pytest.param("kill", marks=pytest.mark.slow)])
def test_who_came_meanwhile_keeps_the_forwarding_and_who_was_there_stays_apart(tmp_path, how):
    """A container engine that finds the switch on relies on it; nobody else may gain a router by that."""
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as host, Host() as before, Host() as outside, Host() as later, host.inside():
        host.join(outside, "203.0.113.2/24", "203.0.113.1/24")
        host.join(before, "192.0.2.1/30", "192.0.2.2/30")
        outside.serve("outside", 80)
        outside.ip("route", "add", "192.0.2.0/24", "via", "203.0.113.2")
        before.ip("route", "add", "default", "via", "192.0.2.1")
        with Rig(tmp_path, network="nat") as rig:
            host.join(later, "192.0.2.5/30", "192.0.2.6/30")
            later.ip("route", "add", "default", "via", "192.0.2.5")
            if how == "kill":
                end_by_force(rig)
        settled(lambda: not [d for d in devices() if d.startswith("le-nat-")], "the engine's end is gone")
        if how == "stop":
            assert (connects(before), connects(later), forwarding(), filter_tables()) == (False, True, "1", {GUARD})
        with Rig(tmp_path / "next", network="nat"):
            assert (connects(before), connects(later)) == (False, True)
        assert (connects(before), connects(later), forwarding(), filter_tables()) == (False, True, "1", {GUARD})


QUERY = "00070100000100000000000004686f737404746573740000010001"
BY_CONNECTION = f"""
import socket
with socket.create_connection(("169.254.169.253", 53), 20) as s:
    s.sendall(bytes.fromhex("{len(QUERY) // 2:04x}{QUERY}"))
    result = s.makefile("rb").read().hex()
"""


def test_names_are_resolved_by_the_hosts_resolver(world, box):
    """The resolver that the host names, here on its loopback, is asked from the host; the function talks to it through the engine's."""
    with answering(world[0]):
        assert box.run("import socket; result = socket.gethostbyname('example.test')") == "192.0.2.80"
        # Over TCP, as after an answer that did not fit.
        assert box.run(BY_CONNECTION).endswith(socket.inet_aton("192.0.2.80").hex())


def test_one_function_cannot_keep_names_from_the_others(rig, world, box):
    """It asks what is never answered, and holds as many connections as it gets; another one still finds a name, and by a connection too."""
    with answering(world[0], but=b"host"):
        box.run(f"""
import socket, threading, time
def ask():
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        asking.sendto(bytes.fromhex("{QUERY}"), ("169.254.169.253", 53))
        time.sleep(0.002)
def hold():
    while True:
        with socket.create_connection(("169.254.169.253", 53)) as held:
            held.sendall(bytes(1))
            held.recv(1)
        time.sleep(0.2)
for what in (ask, *(hold,) * 80):
    threading.Thread(target=what, daemon=True).start()
time.sleep(2)
""")
        other = rig.instance()
        assert other.run("import socket; result = socket.gethostbyname('example.test')") == "192.0.2.80"
        assert other.run(BY_CONNECTION).endswith(socket.inet_aton("192.0.2.80").hex())
        rig.end(other)


@contextlib.contextmanager
def answering(host: Host, but: bytes = b"no such name") -> Iterator[None]:
    """The host has a resolver, which answers everything, but not datagrams with these bytes in them."""
    upstream = _upstream(Path("/etc/resolv.conf"))
    if upstream != "127.0.0.1":
        host.ip("address", "replace", f"{upstream}/32", "dev", "lo")
    with host.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((upstream, 53))
        stream = socket.create_server((upstream, 53))
    ended = threading.Event()
    threads = [threading.Thread(target=_answer, args=(server, but, ended)), threading.Thread(target=_answer_stream, args=(stream, ended))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        server.close()
        stream.close()


def _upstream(path: Path) -> str:
    words = [line.split() for line in path.read_text().splitlines()]
    found = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and ":" not in w[1]]
    return found[0] if found else "127.0.0.1"


def _answer(server: socket.socket, but: bytes, ended: threading.Event) -> None:
    server.settimeout(0.05)
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            message, sender = server.recvfrom(4096)
            if but not in message:
                server.sendto(_reply(message), sender)


def _reply(message: bytes) -> bytes:
    end = message.index(b"\0", 12) + 5
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton("192.0.2.80")
    return message[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0) + message[12:end] + record


def _answer_stream(server: socket.socket, ended: threading.Event) -> None:
    server.settimeout(0.05)
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(20)
                reply = _reply(connection.recv(4096)[2:])
                connection.sendall(struct.pack(">H", len(reply)) + reply)


def end_by_force(rig: Rig) -> None:
    """The keeper is what the supervisor started; killed with its broker it cannot start another one."""
    assert rig.link._process is not None
    os.kill(rig.link._process.pid, signal.SIGKILL)
    # It dies with its keeper, perhaps before it is its turn here.
    with contextlib.suppress(ProcessLookupError):
        os.kill(rig.link.broker_pid, signal.SIGKILL)
    rig.wait("broker_lost")
    rig.link._closing = True


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_host_is_as_it_was_after_a_stop_and_after_a_kill(tmp_path, how):
    require("not root")
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as fresh, fresh.inside():
        before = devices()
        assert forwarding() == "0"
        rig = Rig(tmp_path, network="nat")
        with rig:
            rig.instance()
            assert forwarding() == "1"
            assert devices() != before
            assert [name.split("-")[:2] for name in filter_tables()] == [["lambda", "engine"]]
            if how == "kill":
                end_by_force(rig)
        settled(lambda: devices() == before, "the interfaces are gone")
        settled(lambda: filter_tables() == set(), "the rules are gone")
        if how == "kill":
            # The switch has no owner but a note: the next engine puts it right, here by starting without a need for it and ending.
            with Rig(tmp_path / "next", network="nat"):
                pass
        assert forwarding() == "0"


def _status(pid: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def test_who_makes_networks_and_who_reads_names_have_no_more_powers_than_that(rig):
    (network,) = _below(str(rig.link.broker_pid), "lambda-network")
    (names,) = _below(network, "lambda-names")
    kept = 1 << 10 | 1 << 12 | 1 << 19 | 1 << 21
    assert (int(_status(network)["CapEff"], 16), int(_status(network)["CapBnd"], 16)) == (kept, 0)
    assert _status(network)["NoNewPrivs"] == "1"
    assert (int(_status(names)["CapEff"], 16), _status(names)["Uid"].split()[0]) == (0, "65534")


def _below(pid: str, name: str) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [p for p in children if Path(f"/proc/{p}/comm").read_text().strip() == name]


def test_a_host_that_forwards_goes_on_forwarding(tmp_path):
    require("not root")
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as host, host.inside():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        with Rig(tmp_path, network="nat"):
            pass
        assert forwarding() == "1"


def test_interfaces_that_the_kernel_puts_into_every_namespace_are_not_in_the_way():
    """Where tunnels are loaded or built in each new one has theirs, numbered from the loopback's on."""
    require("not root")
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as host, Host() as box, contextlib.ExitStack() as ends:
        if "\n2: " not in box.ip("link"):
            box.ip("link", "add", "name", "first", "index", "2", "type", "veth", "peer", "name", "far", "netns", host.name)
        with host.inside():
            space = Space()
            ends.callback(space.close)
        with box.inside():
            routes = Netlink()
            ends.callback(routes.close)
        there = os.open(f"/run/netns/{box.name}", os.O_RDONLY)
        ends.callback(os.close, there)
        Gateway(space, Chunks(), "gw").join(there, routes)
        assert "198.19." in box.ip("-4", "address", "show", "dev", "eth0")


@pytest.mark.slow
def test_the_network_process_is_replaced_with_its_broker(world, tmp_path):
    with world[0].inside(), Rig(tmp_path, network="nat") as rig:
        broker = rig.link.broker_pid
        (network,) = _below(str(broker), "lambda-network")
        os.kill(int(network), signal.SIGKILL)
        rig.wait("broker_lost")
        rig.wait("zygote_ready", rig.key)
        assert get(rig.instance(), "192.0.2.80") == "outside for 203.0.113.2"


@pytest.mark.parametrize("level", ["user", "process"])
def test_nat_asked_for_by_name_is_had_or_refused(tmp_path, level):
    require("not root")
    with pytest.raises(SandboxUnavailable, match=f"network=nat needs sandbox level full, this is level {level}"), Rig(tmp_path, level, network="nat"):
        pass
