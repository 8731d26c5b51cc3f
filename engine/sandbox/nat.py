"""The way out for functions without a VPC: their own router in a namespace, behind an interface and a rule set of the host's.

What the host lends: the pair ``le-nat-PID``, a route to one address of 198.18.0.0/24, forwarding, and the table ``lambda-engine-PID``.
The pair goes with the namespace behind it and the table with the socket that made it, so a killed engine leaves neither. Only
forwarding is a switch that nobody owns: where it was off, the engine's table keeps it off between the networks that the host had then; a note in
``/run`` names who asked and those networks. The last to leave, or the next to start, turns it off again, unless the host has got other
networks meanwhile: they may be somebody's who found the switch on and relies on it. Then it stays on, and a table without an owner
goes on keeping the former networks apart.

Functions reach what the host routes to, but nothing of the host itself (on any of its addresses), not each other, and no link-local
address: the credentials that clouds hand out at 169.254.169.254 are the host's, not theirs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.sandbox import kernel, nft
from engine.sandbox.netlink import Netlink, address, route, up, veth
from engine.sandbox.nft import Table
from engine.sandbox.spaces import MOST_CONNECTIONS, RESOLVER, Chunks, Gateway, Space
from engine.sandbox.witness import cookie

PREFIX = "le-nat-"
# Table of what stays kept apart when the last engine has ended but others need the switch.
GUARD = "lambda-engine-guard"
_NOTES = Path("/run/lambda-engine/forwarding")
_SWITCH = "/proc/sys/net/ipv4/ip_forward"
_MAC = bytes.fromhex("060000000002")
_UPLINK = "up"
_GATEWAY = "gw0"
_ALL = "0.0.0.0/0"


class Nat:
    """Outbound network of all functions without a VPC."""

    def __init__(self, notes: Path = _NOTES) -> None:
        """Raises OSError naming the step that this host does not allow."""
        self._forwarding = Forwarding(notes)
        self._host_routes = Netlink()
        self._host_packets = nft.Filter()
        self.space = Space()
        self._interface = f"{PREFIX}{os.getpid()}"
        try:
            self._connect_host()
            self.gateway = Gateway(self.space, Chunks(), _GATEWAY)
            self.space.packets.put(self._inner_rules())
        except BaseException:
            self.close()
            raise

    def _connect_host(self) -> None:
        pair = veth(self._interface, 0, _MAC, _UPLINK, peer_mac=_MAC, peer_ns=self.space.fd)
        self._host_routes.ask([pair])
        index = socket.if_nametoindex(self._interface)
        ip = self._claim(index)
        apart = self._forwarding.enter()
        kernel.write_file(f"/proc/sys/net/ipv4/conf/{self._interface}/forwarding", b"1")
        with contextlib.suppress(FileNotFoundError):
            kernel.write_file(f"/proc/sys/net/ipv6/conf/{self._interface}/disable_ipv6", b"1")
        self._host_packets.put(self._host_rules(socket.inet_ntoa(ip), apart))
        with self.space.inside():
            # The kernel numbers this end by itself: after its own, where tunnels are loaded or built in.
            outward = socket.if_nametoindex(_UPLINK)
        self.space.routes.ask([up(outward, arp=False), address(outward, ip), route(outward, bytes(4), 0)])

    def _claim(self, index: int) -> bytes:
        """An address no other engine on this host uses; its route is the claim."""
        for last in range(1, 255):
            ip = bytes([198, 18, 0, last])
            try:
                self._host_routes.ask([route(index, ip, 32, exclusive=True)])
            except FileExistsError:
                continue
            return ip
        raise OSError(errno.EADDRNOTAVAIL, "every address of 198.18.0.0/24 is taken")

    def _host_rules(self, ip: str, apart: Sequence[str]) -> Table:
        table = Table(f"lambda-engine-{os.getpid()}", owned=True)
        table.base("input", nft.INPUT)
        table.rule("input", nft.incoming(self._interface), nft.reject())
        table.base("postrouting", nft.POSTROUTING, nft.SOURCE_NAT, kind="nat")
        table.rule("postrouting", nft.source(ip), nft.outgoing(self._interface, but=True), nft.masquerade())
        table.base("forward", nft.FORWARD)
        table.rule("forward", nft.outgoing(self._interface), nft.known(), nft.accept())
        table.rule("forward", nft.outgoing(self._interface), nft.drop())
        _keep_apart(table, apart)
        return table

    def _inner_rules(self) -> Table:
        table = Table("lambda")
        table.base("input", nft.INPUT, policy_drop=True)
        table.rule("input", nft.known(), nft.accept())
        for protocol in ("udp", "tcp"):
            table.rule("input", nft.destination(str(RESOLVER)), nft.protocol(nft.PROTOCOLS[protocol]), nft.ports(53, 53), nft.accept())
        table.rule("input", nft.incoming(_GATEWAY), nft.reject())
        table.base("forward", nft.FORWARD, policy_drop=True)
        table.rule("forward", nft.known(), nft.accept())
        table.rule("forward", nft.destination("169.254.0.0/16"), nft.reject())
        # Every connection has a place in the host's table of connections, which is full at some hundred thousand.
        table.meter("connections")
        table.rule("forward", nft.incoming(_GATEWAY), nft.source_over("connections", MOST_CONNECTIONS), nft.reject())
        table.rule("forward", nft.incoming(_GATEWAY), nft.outgoing(_UPLINK), nft.accept())
        table.rule("forward", nft.incoming(_GATEWAY), nft.reject())
        table.base("postrouting", nft.POSTROUTING, nft.SOURCE_NAT, kind="nat")
        table.rule("postrouting", nft.outgoing(_UPLINK), nft.masquerade())
        return table

    def advice(self) -> list[str]:
        """What else on this host may stand in the way."""
        found = ", ".join(self._host_packets.dropping_chains())
        if not found:
            return []
        return [
            f"the host's firewall ({found}) discards forwarded packets unless told otherwise, so functions may get no outbound network; "
            f"allow interfaces called {PREFIX}*, e.g.: iptables -I FORWARD -i {PREFIX}+ -j ACCEPT; iptables -I FORWARD -o {PREFIX}+ "
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        ]

    def close(self) -> None:
        """Give everything back."""
        # Before the engine's own table goes: at no moment is the host a router between them.
        self._forwarding.leave(self._guard)
        self._host_packets.close()
        self._host_routes.close()
        self.space.close()

    def _guard(self, apart: Sequence[str]) -> None:
        table = Table(GUARD)
        table.base("forward", nft.FORWARD)
        _keep_apart(table, apart)
        self._host_packets.put(table)


def _keep_apart(table: Table, names: Sequence[str]) -> None:
    """Between these interfaces nothing is forwarded. What came later, such as a container engine's or a hypervisor's networks, which want
    forwarding themselves, is none of our business.
    """
    if not names:
        return
    table.chain("between")
    for name in names:
        table.rule("forward", nft.incoming(name), nft.jump("between"))
        table.rule("between", nft.outgoing(name), nft.drop())


class Forwarding:
    """The host's switch for forwarding IPv4, shared by every engine on it: on while one of them wants it, unless it was on before."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # The first number tells whether the namespace is still there, the second never comes again.
            self._mark = f"{os.stat('/proc/self/ns/net').st_ino}.{cookie(sock)}."
        self._own = notes / f"{self._mark}{os.getpid()}.{secrets.token_hex(4)}"
        self._lock = -1
        self._apart: list[str] = []

    def enter(self) -> list[str]:
        """Switch it on. The interfaces between which packets must go on being refused, for an engine, not the operator, has done so; else none."""
        with self._alone():
            return self._enter()

    def _enter(self) -> list[str]:
        left = self._sweep()
        on = _read(_SWITCH) == "1"
        others = [_names(note) for note in self._others()] or ([left] if left else [])
        if on and not others:
            return []
        # What came after the first of us is not ours to keep apart.
        self._apart = others[0] if on else interfaces()
        # Locked while we live: the kernel lets go of it when we die, however we do. Whole when others see it.
        unfinished = self._own.with_name(f"new.{os.getpid()}")
        self._lock = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, "\n".join(self._apart).encode())
        unfinished.replace(self._own)
        kernel.write_file(_SWITCH, b"1")
        return self._apart

    def leave(self, guard: Callable[[Sequence[str]], None]) -> None:
        """No longer wanted here. ``guard`` is called with the interfaces to be kept apart from now on, where it must stay on nevertheless. Idempotent.

        The note goes last: whoever is killed in here leaves it to the next engine.
        """
        if self._lock < 0:
            return
        with self._alone():
            others = self._others()
            abandoned = [note for note in others if _abandoned(note)]
            if len(abandoned) == len(others):
                if set(interfaces()) - set(self._apart):
                    guard(self._apart)
                else:
                    kernel.write_file(_SWITCH, b"0")
            for note in (*abandoned, self._own):
                note.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other engine looks at the notes or turns the switch meanwhile: one that leaves would switch off what one that comes takes for given."""
        self._notes.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._notes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _others(self) -> list[Path]:
        return [p for p in self._notes.glob(f"{self._mark}*") if p != self._own]

    def _sweep(self) -> list[str]:
        """Forget who was killed. When nobody is left, forwarding is as it was before them, or what they kept apart is returned.

        Who was killed in another network namespace is the business of the next one there: only it can turn that switch.
        """
        left: list[str] = []
        ours = self._others()
        elsewhere = [note for note in self._notes.iterdir() if note not in ours and note != self._own and _abandoned(note)]
        for note in [note for note in ours if _abandoned(note)]:
            left = _names(note)
            note.unlink(missing_ok=True)
        if elsewhere:
            there = _namespaces()
            for note in elsewhere:
                if note.name.partition(".")[0] not in there:
                    note.unlink(missing_ok=True)
        if not ours or self._others():
            return []
        if set(interfaces()) - set(left):
            return left
        kernel.write_file(_SWITCH, b"0")
        return []


def _names(note: Path) -> list[str]:
    try:
        return note.read_text().split()
    except OSError:
        return []


def interfaces() -> list[str]:
    """The host's own, without loopback and the engine's."""
    return [name for _, name in socket.if_nameindex() if name != "lo" and not name.startswith(PREFIX)]


def _namespaces() -> set[str]:
    """Numbers of the network namespaces that some process is in or that have a name."""
    found = set()
    with os.scandir("/proc") as processes:
        paths = [f"{p.path}/ns/net" for p in processes if p.name.isdigit()]
    with contextlib.suppress(FileNotFoundError), os.scandir("/run/netns") as named:
        paths += [n.path for n in named]
    for path in paths:
        with contextlib.suppress(OSError):
            found.add(str(os.stat(path).st_ino))
    return found


def _abandoned(note: Path) -> bool:
    """Whether nobody holds the lock of a note."""
    try:
        fd = os.open(note, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _read(path: str) -> str:
    with open(path) as f:
        return f.read().strip()
