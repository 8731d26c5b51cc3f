"""One VPC on this host: a router in a namespace of its own, the ports of functions, and the private servers attached to it.

VPCs cannot reach each other because nothing leads from one namespace to another; two of them may use the same addresses. Everything between two
members of a VPC, also of one subnet, passes the router and its rules. ``apply`` compares what is with a document of what should be; the rule
set is replaced in one transaction, so a change of a group holds for running instances from then on, for new connections.
Sources: docs.aws.amazon.com/vpc/latest/userguide/{subnet-sizing,vpc-dns,vpc-security-groups}.html.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.sandbox import kernel, security_groups
from engine.sandbox.netlink import LOOPBACK, Netlink, address, blackhole, delete, has_route, move, no_address, route, up, veth
from engine.sandbox.spaces import Chunks, Gateway, Space

_NETNS = "/run/netns"
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$")
_MAC = bytes.fromhex("060000000003")
_MOST_ENDS = 1000
# Network, router, name server, one for later; and the last one, broadcast.
RESERVED_FIRST = 4


@dataclass
class _Port:
    """Functions of one subnet and set of groups."""

    gateway: Gateway
    ip: str
    groups: tuple[str, ...]


@dataclass
class _Server:
    """An attached server: which document made it, and the interface behind which it is. ``moved``: that is the host's own."""

    wish: dict[str, Any]
    interface: str
    index: int
    moved: bool


class SubnetFull(OSError):
    """No address of the subnets is left."""


class Vpc:
    """The router of one VPC."""

    def __init__(self) -> None:
        self.space = Space()
        # On AWS nobody answers for an address that nobody has.
        self.space.routes.ask([blackhole()])
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._chunks = Chunks()
        self._document: dict[str, Any] = {"cidrs": [], "subnets": {}, "groups": {}, "servers": {}}
        self._ports: dict[tuple[str, tuple[str, ...]], _Port] = {}
        self._servers: dict[str, _Server] = {}
        # Wanted servers whose namespace or interface is not there, or not free yet.
        self._absent: set[str] = set()
        self._local: set[str] = set()
        self._turn = itertools.count()
        self._numbers = itertools.count(1)
        self._closed = False

    # What should be.

    def apply(self, document: dict[str, Any]) -> dict[str, str]:
        """Make it so. Attachments that cannot be had are answered with the reason, by their id; anything else raises OSError."""
        self._document = document
        for key, port in list(self._ports.items()):
            if not self._wanted(key, port):
                self._give_up(key)
        for ip in (self.resolver, *(str(_nth(cidr, 1)) for cidr in document["subnets"].values())):
            self._be(ip)
        problems: dict[str, str] = {}
        wishes = document["servers"]
        for name in [n for n, s in self._servers.items() if wishes.get(n) != s.wish]:
            self._detach(name)
        self._absent &= wishes.keys()
        for name in wishes:
            if name not in self._servers and (problem := self._try(name)):
                problems[name] = problem
        self._filter()
        return problems

    def tend(self) -> list[str]:
        """Take note of servers whose namespace or interface has gone, and attach them when it is there again: a server may be started anew. What
        has happened, in words.
        """
        if not (self._servers or self._absent):
            return []
        with self.space.inside():
            there = {name for _, name in socket.if_nameindex()}
        gone = {name: server for name, server in self._servers.items() if server.interface not in there}
        for name in gone:
            del self._servers[name]
        # A document that could not be applied to its end may have taken servers away that are still known here.
        wishes = self._document["servers"]
        back = [name for name in sorted(self._absent & wishes.keys()) if not self._try(name)]
        self._absent.update(gone.keys() & wishes.keys())
        if gone or back:
            self._filter()
        said = [f"attached server {name} has gone: {_behind(server.wish)} is not there any more" for name, server in gone.items()]
        return said + [f"attached server {name} is there again: {_behind(wishes[name])}" for name in back]

    def _try(self, name: str) -> str:
        """Attach a wanted server; why that cannot be done, or an empty text."""
        self._absent.discard(name)
        try:
            self._servers[name] = self._attach(self._document["servers"][name])
        except OSError as e:
            # There soon, or in its way what a killed engine left and the kernel is just taking apart.
            if e.errno in (errno.ENOENT, errno.ENODEV, errno.EEXIST):
                self._absent.add(name)
            return e.strerror or str(e)
        return ""

    @property
    def resolver(self) -> str:
        """The VPC's own address of the name server."""
        return str(_nth(self._document["cidrs"][0], 2))

    def _be(self, ip: str) -> None:
        """Have the router answer at this address."""
        if ip not in self._local:
            self.space.routes.ask([address(LOOPBACK, socket.inet_aton(ip))])
            self._local.add(ip)

    def _filter(self) -> None:
        ports = [security_groups.Member(p.gateway.name, p.ip, p.groups) for p in self._ports.values()]
        servers = [
            security_groups.Member(s.interface, str(s.wish["ip"]), tuple(s.wish["groups"])) for s in self._servers.values()
        ]
        known = self._document["groups"]
        gone = {g for member in (*ports, *servers) for g in member.groups} - known.keys()
        groups = known | {name: {"in": [], "out": []} for name in gone}
        self.space.packets.put(security_groups.table(groups, ports, servers, [self.resolver]))

    @property
    def names(self) -> dict[str, str]:
        """Host names of servers, to address."""
        return {str(s.wish["name"]).lower(): str(s.wish["ip"]) for s in self._servers.values() if s.wish.get("name")}

    # Functions.

    def connect(self, subnets: tuple[str, ...], groups: tuple[str, ...], pidfd: int) -> tuple[Gateway, bytes]:
        """Give a sandbox its interface in the next of the subnets that has room. Raises OSError, SubnetFull when none has."""
        full: SubnetFull | None = None
        first = next(self._turn)
        for n in range(len(subnets)):
            try:
                port = self._port(subnets[(first + n) % len(subnets)], groups)
            except SubnetFull as e:
                full = e
                continue
            return port.gateway, port.gateway.connect(pidfd)
        raise full or OSError(errno.EINVAL, "no subnet was named")

    def try_port(self, subnet: str, groups: tuple[str, ...]) -> None:
        """Make what functions of this subnet and these groups need. Raises OSError when the kernel refuses."""
        self._port(subnet, groups)

    def _port(self, subnet: str, groups: tuple[str, ...]) -> _Port:
        port = self._ports.get((subnet, groups))
        if port is None:
            if self._unknown(subnet, groups):
                raise OSError(errno.ENOENT, f"subnet {subnet} or a security group of {', '.join(groups)} is not known any more")
            ip = self._address(subnet, groups)
            gateway = Gateway(self.space, self._chunks, f"gw{next(self._numbers)}")
            self._be(ip)
            port = self._ports[subnet, groups] = _Port(gateway, ip, groups)
            self._filter()
        return port

    def _wanted(self, key: tuple[str, tuple[str, ...]], port: _Port) -> bool:
        """Whether it may stay: somebody is behind it, or somebody may come."""
        if port.gateway.used:
            return True
        given = self._document.get("ports")
        return not self._unknown(*key) and (given is None or given.get(_name(*key), {}).get("ip") == port.ip)

    def _give_up(self, key: tuple[str, tuple[str, ...]]) -> None:
        """Its address is another's to have."""
        port = self._ports.pop(key)
        port.gateway.close()
        self._local.discard(port.ip)
        self.space.routes.ask([no_address(LOOPBACK, socket.inet_aton(port.ip))])

    def release(self, gateway: Gateway, ip: bytes) -> None:
        """A sandbox that was given ``ip`` on this gateway has ended. Raises OSError."""
        gateway.release(ip)
        if self._closed or gateway.used:
            return
        gone = [key for key, port in self._ports.items() if port.gateway is gateway and not self._wanted(key, port)]
        for key in gone:
            self._give_up(key)
        if gone:
            self._filter()

    def _unknown(self, subnet: str, groups: tuple[str, ...]) -> bool:
        return subnet not in self._document["subnets"] or not self._document["groups"].keys() >= set(groups)

    def _address(self, subnet: str, groups: tuple[str, ...]) -> str:
        """Raises SubnetFull."""
        given = self._document.get("ports")
        if given is None:
            return self._free_address(subnet)
        ip = given.get(_name(subnet, groups), {}).get("ip")
        if ip is None or ip in {p.ip for p in self._ports.values()}:
            raise SubnetFull(errno.EADDRNOTAVAIL, f"subnet {subnet} has no free address")
        return str(ip)

    def _free_address(self, subnet: str) -> str:
        """From the end of the subnet: operators number their servers from its beginning."""
        taken = {p.ip for p in self._ports.values()} | {str(s["ip"]) for s in self._document["servers"].values()}
        block = ipaddress.IPv4Network(self._document["subnets"][subnet])
        for offset in range(block.num_addresses - 2, RESERVED_FIRST - 1, -1):
            ip = str(block[offset])
            if ip not in taken:
                return ip
        raise SubnetFull(errno.EADDRNOTAVAIL, f"subnet {subnet} has no free address")

    # Servers.

    def _attach(self, wish: dict[str, Any]) -> _Server:
        """Raises OSError with a sentence for the operator."""
        ip = str(wish["ip"])
        if ip in {p.ip for p in self._ports.values()}:
            raise OSError(errno.EADDRINUSE, f"{ip} is the address under which functions appear in this subnet: choose another")
        interface, index, moved = self._move_in(wish) if wish.get("interface") else self._lead_into(wish)
        self.space.routes.ask([route(index, socket.inet_aton(ip), 32)])
        return _Server(wish, interface, index, moved)

    def _lead_into(self, wish: Mapping[str, Any]) -> tuple[str, int, bool]:
        """A pair into a named namespace, with the server's address on the far end and the VPC behind it."""
        name, ip = str(wish["netns"]), socket.inet_aton(str(wish["ip"]))
        if not _NAME.match(name):
            raise OSError(errno.EINVAL, f"{name!r} is not a name of a network namespace")
        try:
            there = os.open(f"{_NETNS}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as e:
            raise OSError(e.errno, f"there is no network namespace {name} (ip netns list): {os.strerror(e.errno or 0)}") from e
        number = next(self._numbers)
        near, index = f"server{number}", self.space.next_index()
        try:
            if not any(s.wish.get("netns") == name for s in self._servers.values()):
                self._check_routes(there)
            far = self._pair(near, index, there)
            try:
                self._settle_in(there, far, ip, number)
            except OSError:
                # It may be tried again and again.
                with contextlib.suppress(OSError):
                    self.space.routes.ask([delete(index)])
                raise
        finally:
            os.close(there)
        return near, index, False

    def _pair(self, near: str, index: int, there: int) -> str:
        """Make it; the name of the far end, which other VPCs and other engines may have led into the same namespace before."""
        for number in range(1, _MOST_ENDS):
            with contextlib.suppress(FileExistsError):
                self.space.routes.ask([veth(near, index, _MAC, f"vpc{number}", peer_mac=_MAC, peer_ns=there)])
                return f"vpc{number}"
        raise OSError(errno.EEXIST, f"the namespace has {_MOST_ENDS - 1} interfaces of VPCs already")

    @contextlib.contextmanager
    def _routes_of(self, there: int) -> Iterator[Netlink]:
        with self.space.visit(there):
            routes = Netlink()
        with contextlib.closing(routes):
            yield routes

    def _check_routes(self, there: int) -> None:
        """Raises OSError where the VPC's addresses are somebody else's already."""
        with self._routes_of(there) as routes:
            for block in map(ipaddress.IPv4Network, self._document["cidrs"]):
                if has_route(routes, block.network_address.packed, block.prefixlen):
                    raise OSError(errno.EEXIST, f"the namespace has a route to {block} already: it would be in two networks with the same addresses")

    def _settle_in(self, there: int, name: str, ip: bytes, metric: int) -> None:
        """Each end in a namespace has routes of its own, so that any may go before the others."""
        with self.space.visit(there):
            index = socket.if_nametoindex(name)
        with self._routes_of(there) as routes:
            routes.ask([up(index, arp=False), address(index, ip)])
            for block in map(ipaddress.IPv4Network, self._document["cidrs"]):
                routes.ask([route(index, block.network_address.packed, block.prefixlen, metric=metric)])

    def _move_in(self, wish: Mapping[str, Any]) -> tuple[str, int, bool]:
        """An interface of the host's, with the server behind it, becomes the router's; the router answers there for the whole VPC."""
        name = str(wish["interface"])
        try:
            index = socket.if_nametoindex(name)
        except OSError as e:
            raise OSError(errno.ENODEV, f"there is no interface {name} (ip link)") from e
        with contextlib.closing(Netlink()) as home:
            try:
                home.ask([move(index, self.space.fd)])
            except OSError as e:
                raise OSError(e.errno, f"{name} cannot be moved out of the host's network namespace: {os.strerror(e.errno or 0)}") from e
        with self.space.inside():
            index = socket.if_nametoindex(name)
            kernel.write_file(f"/proc/sys/net/ipv4/conf/{name}/proxy_arp", b"1")
        self.space.routes.ask([up(index)])
        return name, index, True

    def _detach(self, name: str) -> None:
        server = self._servers.pop(name)
        try:
            self.space.routes.ask([move(server.index, self._home) if server.moved else delete(server.index)])
        except OSError as e:
            if e.errno != errno.ENODEV:  # its namespace is gone, and the pair with it
                raise

    def close(self) -> None:
        """The end of the VPC; interfaces of the host's go back."""
        for name in [n for n, s in self._servers.items() if s.moved]:
            self._detach(name)
        self._closed = True
        self.space.close()
        os.close(self._home)


def _name(subnet: str, groups: tuple[str, ...]) -> str:
    """How a document names a port."""
    return f"{subnet}/{','.join(groups)}"


def _behind(wish: Mapping[str, Any]) -> str:
    return f"network namespace {wish['netns']}" if wish["netns"] else f"interface {wish['interface']}"


def _nth(cidr: str, offset: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Network(cidr)[offset]
