"""The way out for functions without a VPC: their own router in a namespace, behind an interface and a rule set of the host's.

What the host lends: the pair ``le-nat-PID``, a route to one address of 198.18.0.0/24, forwarding, and the table ``lambda-engine-PID``.
The pair goes with the namespace behind it and the table with the socket that made it, so a killed engine leaves neither. Only
forwarding is a switch that nobody owns: where it was off, the engine's table keeps it off between the host's networks, a note in ``/run`` names who
asked, and the last to leave, or the next to start, turns it off again.

Functions reach what the host routes to, but nothing of the host itself (on any of its addresses), not each other, and no link-local
address: the credentials that clouds hand out at 169.254.169.254 are the host's, not theirs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from engine.sandbox import kernel, nft
from engine.sandbox.netlink import Netlink, address, route, up, veth
from engine.sandbox.nft import Table
from engine.sandbox.spaces import RESOLVER, Chunks, Gateway, Space

PREFIX = "le-nat-"
_NOTES = Path("/run/lambda-engine/forwarding")
_SWITCH = "/proc/sys/net/ipv4/ip_forward"
_MAC = bytes.fromhex("060000000002")
_UPLINK, _UPLINK_INDEX = "up", 2
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
        pair = veth(self._interface, 0, _MAC, _UPLINK, peer_index=_UPLINK_INDEX, peer_mac=_MAC, peer_ns=self.space.fd)
        self._host_routes.ask([pair])
        index = socket.if_nametoindex(self._interface)
        ip = self._claim(index)
        guarded = self._forwarding.enter()
        kernel.write_file(f"/proc/sys/net/ipv4/conf/{self._interface}/forwarding", b"1")
        with contextlib.suppress(FileNotFoundError):
            kernel.write_file(f"/proc/sys/net/ipv6/conf/{self._interface}/disable_ipv6", b"1")
        self._host_packets.put(self._host_rules(socket.inet_ntoa(ip), guarded=guarded))
        self.space.routes.ask([up(_UPLINK_INDEX, arp=False), address(_UPLINK_INDEX, ip), route(_UPLINK_INDEX, bytes(4), 0)])

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

    def _host_rules(self, ip: str, *, guarded: bool) -> Table:
        table = Table(f"lambda-engine-{os.getpid()}", owned=True)
        table.base("input", nft.INPUT)
        table.rule("input", nft.incoming(self._interface), nft.reject())
        table.base("postrouting", nft.POSTROUTING, nft.SOURCE_NAT, kind="nat")
        table.rule("postrouting", nft.source(ip), nft.outgoing(self._interface, but=True), nft.masquerade())
        table.base("forward", nft.FORWARD)
        table.rule("forward", nft.outgoing(self._interface), nft.known(), nft.accept())
        table.rule("forward", nft.outgoing(self._interface), nft.drop())
        if guarded:
            self._guard(table)
        return table

    @staticmethod
    def _guard(table: Table) -> None:
        """Between the interfaces that are there now nothing is forwarded, as before. What comes later, such as a container engine's or a
        hypervisor's networks, which want forwarding themselves, is none of our business.
        """
        present = interfaces()
        table.chain("between")
        for name in present:
            table.rule("forward", nft.incoming(name), nft.jump("between"))
            table.rule("between", nft.outgoing(name), nft.drop())

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
        self._host_packets.close()
        self._forwarding.leave()
        self._host_routes.close()
        self.space.close()


class Forwarding:
    """The host's switch for forwarding IPv4, shared by every engine on it: on while one of them wants it, unless it was on before."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes
        self._mark = f"{os.stat('/proc/self/ns/net').st_ino}."
        self._own = notes / f"{self._mark}{os.getpid()}"
        self._lock = -1

    def enter(self) -> bool:
        """Switch it on. Whether an engine, not the operator, has done so, and others' packets must go on being refused."""
        self._notes.mkdir(parents=True, exist_ok=True)
        self._sweep()
        if _read(_SWITCH) == "1" and not self._others():
            return False
        # Locked while we live: the kernel lets go of it when we die, however we do.
        self._lock = os.open(self._own, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        kernel.write_file(_SWITCH, b"1")
        return True

    def leave(self) -> None:
        """No longer wanted here. Idempotent."""
        if self._lock >= 0:
            self._own.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1
            if not self._others():
                kernel.write_file(_SWITCH, b"0")

    def _others(self) -> list[Path]:
        return [p for p in self._notes.glob(f"{self._mark}*") if p != self._own]

    def _sweep(self) -> None:
        """Forget who was killed; when nobody is left, forwarding is as it was before them."""
        found = self._others()
        for note in self._notes.iterdir():
            if note != self._own and _abandoned(note):
                note.unlink(missing_ok=True)
        if found and not self._others():
            kernel.write_file(_SWITCH, b"0")


def interfaces() -> list[str]:
    """The host's own, without loopback and the engine's."""
    return [name for _, name in socket.if_nameindex() if name != "lo" and not name.startswith(PREFIX)]


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
