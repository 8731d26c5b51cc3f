"""Functions in VPCs and private servers beside them: routing and security groups as the kernel enforces them."""

from __future__ import annotations

import copy
import os
import signal
import socket
from typing import Any

import pytest

from engine.sandbox.spaces import MOST_CONNECTIONS
from tests.framework.host import require
from tests.framework.networks import Host, devices, settled
from tests.sandbox.rig import Failed, Rig
from tests.sandbox.test_network_nat import get

pytestmark = pytest.mark.root
ALL = {"protocol": -1, "from": -1, "to": -1, "cidrs": ["0.0.0.0/0"], "groups": []}
QUICK_S = 0.4


def tcp(low, high=None, cidrs=(), groups=()):
    return {"protocol": 6, "from": low, "to": high or low, "cidrs": list(cidrs), "groups": list(groups)}


def server(ip, host, subnet="subnet-a", groups=(), name=""):
    return {"subnet": subnet, "ip": ip, "groups": list(groups), "netns": host.name, "interface": "", "name": name}


def document(**servers):
    return {
        "cidrs": ["10.0.0.0/16"],
        "subnets": {"subnet-a": "10.0.1.0/24", "subnet-b": "10.0.2.0/28"},
        "groups": {
            "sg-client": {"in": [], "out": [ALL]},
            "sg-stranger": {"in": [], "out": [ALL]},
            "sg-mute": {"in": [ALL], "out": []},
            "sg-narrow": {"in": [], "out": [tcp(8000, 8010, ["10.0.1.10/32"]), tcp(5432, groups=["sg-db"])]},
            "sg-db": {"in": [tcp(5432, groups=["sg-client", "sg-narrow"])], "out": [ALL]},
            "sg-web": {"in": [tcp(80, cidrs=["10.0.2.0/28"])], "out": []},
        },
        "servers": servers,
    }


def place(group, *, subnets="subnet-a", vpc="vpc-1"):
    return f"{vpc}/{subnets}/{group}"


class VpcRig(Rig):
    """A broker with the VPC that most tests are about."""

    wanted: dict[str, Any]


@pytest.fixture(scope="module")
def servers():
    """A database that lets in by group, a web server that lets in one subnet, a server nobody filters."""
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as database, Host() as web, Host() as free:
        database.serve("database", 5432)
        database.serve("admin", 22)
        web.serve("web", 80)
        for port in (80, 8005, 8011):
            free.serve("free", port)
        yield database, web, free


@pytest.fixture(scope="module")
def rig(servers, tmp_path_factory):
    database, web, free = servers
    with VpcRig(tmp_path_factory.mktemp("vpc")) as rig:
        wanted = document(
            db=server("10.0.1.5", database, groups=["sg-db"], name="DB.internal"),
            web=server("10.0.2.5", web, subnet="subnet-b", groups=["sg-web"]),
            free=server("10.0.1.10", free),
        )
        assert rig.vpc("vpc-1", wanted) == {}
        rig.wanted = wanted
        yield rig


@pytest.fixture
def at(rig):
    """Makes instances somewhere; they are gone afterwards."""
    made = []

    def make(where):
        box = rig.instance(where=where)
        made.append(box)
        return box

    yield make
    for box in made:
        rig.end(box)


def answers(box, ip, port):
    try:
        return get(box, ip, port, QUICK_S)
    except Failed:
        return ""


def unreachable(box, ip, port):
    try:
        get(box, ip, port, QUICK_S)
    except Failed as e:
        return e.args[0] == "TimeoutError"
    return False


def test_a_group_reaches_the_database_another_does_not(at):
    client, stranger = at(place("sg-client")), at(place("sg-stranger"))
    assert get(client, "10.0.1.5", 5432) == "database for 10.0.1.254"
    assert unreachable(stranger, "10.0.1.5", 5432)
    assert unreachable(client, "10.0.1.5", 22)


def test_functions_with_the_same_subnet_and_groups_share_an_address(at):
    """As they share an interface on AWS; another set of groups has its own."""
    one, two, other = (at(place(group)) for group in ("sg-client", "sg-client", "sg-stranger"))
    assert get(one, "10.0.1.10") == get(two, "10.0.1.10") != get(other, "10.0.1.10")


def test_one_function_cannot_fill_the_routers_table_of_connections(at):
    flood, other = at(place("sg-client")), at(place("sg-client"))
    flood.run(f"""
import socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range({MOST_CONNECTIONS + 3000}):
    sender.sendto(b"x", ("10.0.1.10", 1024 + n))
""")
    assert unreachable(flood, "10.0.1.10", 80)
    assert get(other, "10.0.1.10", 80).startswith("free")


def test_a_server_lets_in_a_block(at):
    """What the receiver judges is the address that the sender has in the VPC."""
    inside, outside = at(place("sg-client", subnets="subnet-b")), at(place("sg-client"))
    assert get(inside, "10.0.2.5", 80) == "web for 10.0.2.14"
    assert unreachable(outside, "10.0.2.5", 80)


def test_what_a_group_may_send(at):
    narrow, mute = at(place("sg-narrow")), at(place("sg-mute"))
    assert get(narrow, "10.0.1.10", 8005).startswith("free")
    assert get(narrow, "10.0.1.5", 5432).startswith("database")
    assert unreachable(narrow, "10.0.1.10", 8011)
    assert unreachable(narrow, "10.0.1.10", 80)
    assert unreachable(mute, "10.0.1.10", 80)


def test_rules_of_several_groups_add_up(at):
    both = at(place("sg-mute,sg-narrow"))
    assert get(both, "10.0.1.10", 8005).startswith("free")
    assert unreachable(both, "10.0.1.10", 80)


def test_servers_reach_each_other_by_their_groups(servers):
    database, _, free = servers
    with database.inside(), socket.create_connection(("10.0.1.10", 80), 20) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"free for 10.0.1.5" in s.makefile("rb").read()
    with free.inside(), pytest.raises(OSError):
        socket.create_connection(("10.0.1.5", 5432), QUICK_S)


def test_nobody_connects_to_a_function(at, servers):
    box = at(place("sg-mute"))
    box.run("import socket; server = socket.create_server(('0.0.0.0', 8080))")
    own = box.run("""
import fcntl, struct
result = socket.inet_ntoa(fcntl.ioctl(server, 0x8915, struct.pack("256s", b"eth0"))[20:24])
""")
    _, _, free = servers
    for ip in ("10.0.1.254", own):
        with free.inside(), pytest.raises(OSError):
            socket.create_connection((ip, 8080), QUICK_S)
    for ip in ("10.0.1.254", own):
        assert unreachable(at(place("sg-client")), ip, 8080)


def test_vpcs_do_not_reach_each_other_even_with_the_same_addresses(rig, at, servers):
    with Host() as twin:
        twin.serve("twin", 5432)
        assert rig.vpc("vpc-2", document(db=server("10.0.1.5", twin))) == {}
        assert get(at(place("sg-client", vpc="vpc-2")), "10.0.1.5", 5432).startswith("twin")
        assert get(at(place("sg-client")), "10.0.1.5", 5432).startswith("database")
        assert unreachable(at(place("sg-client", vpc="vpc-2")), "10.0.1.10", 80)
    rig.vpc("vpc-2", None)


def test_nothing_but_the_vpc_is_reached(at):
    box = at(place("sg-client"))
    for ip in ("192.0.2.2", "169.254.169.254", "198.19.0.1"):
        with pytest.raises(Failed):
            get(box, ip, 80, QUICK_S)


def test_a_change_of_rules_holds_for_running_instances(rig, at):
    box = at(place("sg-stranger"))
    box.run("import socket; s = socket.create_connection(('10.0.1.10', 80), 20)")
    closed = copy.deepcopy(rig.wanted)
    closed["groups"]["sg-stranger"]["out"] = []
    rig.vpc("vpc-1", closed)
    assert unreachable(box, "10.0.1.10", 80)
    assert box.run("result = s.makefile().read(12)") == "HTTP/1.0 200", "a connection that was let through goes on"
    opened = copy.deepcopy(rig.wanted)
    opened["groups"]["sg-db"]["in"].append(tcp(5432, groups=["sg-stranger"]))
    rig.vpc("vpc-1", opened)
    assert get(box, "10.0.1.5", 5432).startswith("database")
    rig.vpc("vpc-1", rig.wanted)
    assert unreachable(box, "10.0.1.5", 5432)


def test_a_group_that_is_gone_allows_nothing(rig, at):
    box = at(place("sg-stranger"))
    less = copy.deepcopy(rig.wanted)
    del less["groups"]["sg-stranger"]
    rig.vpc("vpc-1", less)
    assert unreachable(box, "10.0.1.10", 80)
    rig.vpc("vpc-1", rig.wanted)
    assert get(box, "10.0.1.10", 80).startswith("free")


def test_names_of_servers(at):
    box = at(place("sg-client"))
    assert box.run("import socket; result = socket.gethostbyname('db.internal')") == "10.0.1.5"


def test_the_next_subnet_is_taken_in_turn(at):
    seen = {get(at(place("sg-client", subnets="subnet-a,subnet-b")), "10.0.1.10").split()[-1] for _ in range(4)}
    assert seen == {"10.0.1.254", "10.0.2.14"}


def test_every_function_may_have_a_group_of_its_own(rig):
    """As generators of templates do it: each pair of subnet and groups is a segment of its own. The 65th once found no addresses."""
    groups = {f"sg-{n}": {"in": [], "out": [ALL]} for n in range(70)}
    rig.vpc("vpc-many", {**document(), "groups": groups, "servers": {}})
    for name in groups:
        rig.end(rig.make(place(name, vpc="vpc-many")))
    rig.vpc("vpc-many", None)


def test_a_subnet_without_addresses_is_said_to_be_full(rig):
    names = [f"sg-{n}" for n in range(20)]
    wanted = document()
    wanted["groups"] = {name: {"in": [], "out": []} for name in names}
    rig.vpc("vpc-3", wanted)
    for n, name in enumerate(names):
        holder = rig.next_id()
        rig.link.make(holder, rig.key, place(name, subnets="subnet-b", vpc="vpc-3"))
        if n < 11:  # of 16, four are reserved at the beginning and one at the end
            _, _, fds, *_ = rig.wait("holder_ready", holder)
            fds.close()
        else:
            assert rig.wait("holder_failed", holder)[3] == "subnet subnet-b has no free address"
            break
        rig.link.kill(holder)
        rig.wait("holder_gone", holder)
    rig.vpc("vpc-3", None)


def test_addresses_of_groups_that_are_gone_are_had_again(rig):
    """As when a stack with a group is made and deleted, over and over: there are eleven addresses."""
    for n in range(30):
        name = f"sg-{n}"
        rig.vpc("vpc-4", {**document(), "groups": {name: {"in": [], "out": [ALL]}}, "servers": {}})
        rig.end(rig.make(place(name, subnets="subnet-b", vpc="vpc-4")))
    still = rig.instance(where=place(name, subnets="subnet-b", vpc="vpc-4"))
    rig.vpc("vpc-4", {**document(), "groups": {}, "servers": {}})
    assert "eth0" in still.run("import socket; result = [name for _, name in socket.if_nameindex()]"), "it is left its interface"
    rig.end(still)
    rig.vpc("vpc-4", None)


def test_functions_have_the_addresses_that_the_document_gives_and_servers_have_them_after(rig):
    def given(**ports):
        names = {"one": "subnet-b/sg-client", "two": "subnet-b/sg-stranger"}
        return {"ports": {names[k]: {"ip": ip} for k, ip in ports.items()}}

    client = place("sg-client", subnets="subnet-b", vpc="vpc-5")
    with Host() as host, Host() as late:
        host.serve("host", 80)
        late.serve("late", 80)
        wanted = document(host=server("10.0.1.10", host))
        rig.vpc("vpc-5", wanted | given(one="10.0.2.9"))
        box = rig.instance(where=client)
        assert get(box, "10.0.1.10") == "host for 10.0.2.9"
        holder = rig.next_id()
        rig.link.make(holder, rig.key, place("sg-stranger", subnets="subnet-b", vpc="vpc-5"))
        assert rig.wait("holder_failed", holder)[3] == "subnet subnet-b has no free address"
        rig.vpc("vpc-5", wanted | given(one="10.0.2.8", two="10.0.2.9"))
        assert get(box, "10.0.1.10") == "host for 10.0.2.9", "while it lives"
        rig.end(box)
        wanted["servers"]["late"] = server("10.0.2.9", late, "subnet-b")
        assert rig.vpc("vpc-5", wanted | given(one="10.0.2.8")) == {}
        again = rig.instance(where=client)
        assert get(again, "10.0.1.10") == "host for 10.0.2.8"
        assert get(again, "10.0.2.9") == "late for 10.0.2.8"
        rig.end(again)
    rig.vpc("vpc-5", None)


@pytest.mark.parametrize("where", ["vpc-9/subnet-a/sg-client", "vpc-1/subnet-z/sg-client", "vpc-1/subnet-a/sg-z"])
def test_what_is_not_known_is_refused(rig, where):
    holder = rig.next_id()
    rig.link.make(holder, rig.key, where)
    _, _, step, reason = rig.wait("holder_failed", holder)
    assert step == "network"
    assert "not known" in reason
    rig.wait("holder_gone", holder)


def test_attachments_that_cannot_be(rig, at):
    get(at(place("sg-client")), "10.0.1.10")
    wanted = copy.deepcopy(rig.wanted)
    wanted["servers"] |= {
        "nowhere": rig.wanted["servers"]["db"] | {"ip": "10.0.1.6", "netns": "le-no-such"},
        "outside": rig.wanted["servers"]["db"] | {"ip": "10.0.1.7", "netns": "../x"},
        "home": rig.wanted["servers"]["db"] | {"ip": "10.0.1.9", "netns": "", "interface": "lo"},
        "no interface": rig.wanted["servers"]["db"] | {"ip": "10.0.1.8", "netns": "", "interface": "le-none"},
        "taken": rig.wanted["servers"]["db"] | {"ip": "10.0.1.254"},
    }
    problems = rig.vpc("vpc-1", wanted)
    assert problems == {
        "nowhere": "there is no network namespace le-no-such (ip netns list): No such file or directory",
        "outside": "'../x' is not a name of a network namespace",
        "home": "lo cannot be moved out of the host's network namespace: Invalid argument",
        "no interface": "there is no interface le-none (ip link)",
        "taken": "10.0.1.254 is the address under which functions appear in this subnet: choose another",
    }
    rig.vpc("vpc-1", rig.wanted)


def test_detach_leaves_the_servers_namespace_as_it_was(rig, at):
    with Host() as late:
        late.serve("late", 80)
        with late.inside():
            before = devices()
        wanted = copy.deepcopy(rig.wanted)
        wanted["servers"]["late"] = server("10.0.1.20", late)
        rig.vpc("vpc-1", wanted)
        assert get(at(place("sg-client")), "10.0.1.20").startswith("late")
        rig.vpc("vpc-1", rig.wanted)
        with late.inside():
            assert devices() == before
        assert unreachable(at(place("sg-client")), "10.0.1.20", 80)


def test_a_server_that_went_away_is_reached_again_when_it_is_back(rig, at):
    with Host() as host:
        host.serve("first", 80)
        wanted = copy.deepcopy(rig.wanted)
        wanted["servers"]["late"] = server("10.0.1.33", host)
        assert rig.vpc("vpc-1", wanted) == {}
        box = at(place("sg-client"))
        assert get(box, "10.0.1.33").startswith("first")
    # What is left of it may refuse for a moment.
    settled(lambda: unreachable(box, "10.0.1.33", 80), "its namespace has gone", 60)
    with host:
        host.serve("second", 80)
        settled(lambda: answers(box, "10.0.1.33", 80), "it is attached again", 60)
        assert get(box, "10.0.1.33").startswith("second")
    rig.vpc("vpc-1", rig.wanted)


def test_a_server_with_two_addresses_keeps_one_when_the_other_goes(rig, at):
    with Host() as twice, Host() as other:
        twice.serve("twice", 80)
        other.serve("other", 80)
        with twice.inside():
            before = devices()
        one, two = server("10.0.1.31", twice), server("10.0.1.32", twice)
        for kept, ip in (("one", "10.0.1.31"), ("two", "10.0.1.32")):
            wanted = copy.deepcopy(rig.wanted)
            wanted["servers"] |= {"one": one, "two": two}
            assert rig.vpc("vpc-1", wanted) == {}
            box = at(place("sg-client"))
            assert [get(box, "10.0.1.31"), get(box, "10.0.1.32")] == ["twice for 10.0.1.254"] * 2
            wanted["servers"] = rig.wanted["servers"] | {kept: wanted["servers"][kept]}
            assert rig.vpc("vpc-1", wanted) == {}
            assert get(box, ip) == "twice for 10.0.1.254"
        # The other VPC has the same block: what goes there would go to either.
        reason = "the namespace has a route to 10.0.0.0/16 already: it would be in two networks with the same addresses"
        assert rig.vpc("vpc-6", document(twin=server("10.0.1.5", twice), other=server("10.0.1.6", other))) == {"twin": reason}
        assert get(box, ip) == "twice for 10.0.1.254"
        there = at(place("sg-client", vpc="vpc-6"))
        assert get(there, "10.0.1.6").startswith("other")
        rig.vpc("vpc-1", rig.wanted)
        settled(lambda: answers(there, "10.0.1.5", 80), "it has its turn where the other network has gone", 60)
        rig.vpc("vpc-6", None)
        with twice.inside():
            settled(lambda: devices() == before, "nothing is left", 60)


def test_a_server_behind_an_interface_of_the_hosts(tmp_path, servers):
    """The interface is the router's while it is attached and comes back; the server asks by ARP for everybody in its subnet."""
    with Host() as host, Host() as machine, host.inside():
        host.ip("link", "add", "tap0", "type", "veth", "peer", "name", "eth0", "netns", machine.name)
        machine.ip("address", "add", "10.0.1.30/24", "dev", "eth0")
        machine.ip("link", "set", "eth0", "up")
        machine.serve("machine", 80)
        before = devices()
        with Rig(tmp_path) as rig:
            wanted = document(m=server("10.0.1.30", machine) | {"netns": "", "interface": "tap0"}, free=server("10.0.1.10", servers[2]))
            # The free server is attached to the other rig's VPC of the same number range too: each has its own interface to it.
            wanted["servers"].pop("free")
            assert rig.vpc("vpc-1", wanted) == {}
            assert "tap0" not in devices()
            box = rig.instance(where=place("sg-client"))
            assert get(box, "10.0.1.30") == "machine for 10.0.1.254"
            rig.vpc("vpc-1", document())
            assert devices() == before
            rig.vpc("vpc-1", wanted)
        assert devices() == before, "a stop gives it back"


def test_nothing_is_left_when_the_broker_is_killed_and_its_successor_has_it_all_again(tmp_path):
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as host, Host() as there, host.inside():
        there.serve("there", 80)
        with there.inside():
            before = devices()
        with Rig(tmp_path) as rig:
            rig.vpc("vpc-1", document(s=server("10.0.1.5", there)))
            assert get(rig.instance(where=place("sg-client")), "10.0.1.5").startswith("there")
            os.kill(rig.link.broker_pid, signal.SIGKILL)
            rig.wait("broker_lost")
            rig.wait("zygote_ready", rig.key)
            assert get(rig.instance(where=place("sg-client")), "10.0.1.5").startswith("there")
        with there.inside():
            settled(lambda: devices() == before, "the interface in the server's namespace is gone")
