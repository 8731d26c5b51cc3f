"""Network interfaces, addresses and routes through raw rtnetlink, and the framing that nftables shares with it.

Messages are built by pure functions and sent in one batch: a round trip per interface, not per property. Everything here concerns the
network namespace in which the socket was opened. Errors are OSErrors whose text begins with the step.
Sources: rtnetlink(7), linux/if_link.h, linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

_HEADER = struct.Struct("=IHHII")
_ERROR, _DONE = 2, 3
REQUEST, _ACK, REPLACE, EXCLUSIVE, CREATE, DUMP = 1, 4, 0x100, 0x200, 0x400, 0x300
_SOL_NETLINK, _CAP_ACK = 270, 10
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _GETROUTE, _NEWNEIGH = 16, 17, 20, 21, 24, 26, 28
_UP, _NOARP = 1, 0x80
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 1, 3, 5, 18, 26, 28
_INET6_ADDR_GEN_MODE, _GEN_MODE_NONE = 8, 1
_INFO_KIND, _INFO_DATA, _VETH_PEER, _MACVLAN_MODE, _MACVLAN_PRIVATE = 1, 2, 1, 1, 1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST, _BLACKHOLE, _ONLINK = 254, 4, 0, 253, 1, 6, 4
_NUD_PERMANENT = 0x80
_NESTED = 0x8000
LOOPBACK = 1
# The kernel sends no more at once (NLMSG_GOODSIZE and what a dump asks for); a bigger buffer would be mapped and unmapped each time.
_ROOM = 65536


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = 4 + len(data)
    return struct.pack("=HH", size, kind) + data + b"\0" * (-size % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, data) of every attribute in ``data``."""
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[(size + 3) & ~3 :]


class Message:
    """A request whose sequence number is given when it is sent. ``step`` says what it does, for errors."""

    __slots__ = ("body", "flags", "kind", "step")

    def __init__(self, step: str, kind: int, flags: int, body: bytes) -> None:
        self.step = step
        self.kind = kind
        self.flags = flags
        self.body = body

    def encode(self, sequence: int) -> bytes:
        """The bytes to send."""
        return _HEADER.pack(16 + len(self.body), self.kind, self.flags, sequence, 0) + self.body

    def acknowledged(self) -> Message:
        """The same, to be answered also when all is well."""
        return Message(self.step, self.kind, self.flags | _ACK, self.body)


class Netlink:
    """A socket of one netlink protocol in the network namespace of this moment. Blocks."""

    def __init__(self, protocol: int = 0) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._sock.bind((0, 0))
        self._sequence = 0

    def ask(self, messages: Sequence[Message], envelope: tuple[bytes, bytes] = (b"", b"")) -> None:
        """Send a batch and wait until the last one is done. ``envelope``: encoded messages around it.

        Raises OSError for the first one that was refused; what was accepted before and after it stays.
        """
        steps: dict[int, str] = {}
        pieces = [envelope[0]]
        for message in (*messages[:-1], messages[-1].acknowledged()):
            self._sequence += 1
            steps[self._sequence] = message.step
            pieces.append(message.encode(self._sequence))
        self._sock.send(b"".join((*pieces, envelope[1])))
        first: OSError | None = None
        done = False
        while not done:
            for kind, sequence, body in self._receive():
                if kind != _ERROR:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                # An error that answers none of them is about the batch as a whole and the only answer.
                done = done or sequence == self._sequence or sequence not in steps
                if code and first is None:
                    first = OSError(code, f"{steps.get(sequence, 'batch')}: {os.strerror(code)}")
        if first is not None:
            raise first

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of everything a dump request lists."""
        self._sequence += 1
        self._sock.send(message.encode(self._sequence))
        found: list[bytes] = []
        while True:
            for kind, _, body in self._receive():
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, f"{message.step}: {os.strerror(code)}")
                found.append(body)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._sock.recv(_ROOM)
        while len(data) >= 16:
            size, kind, _, sequence, _ = _HEADER.unpack_from(data)
            yield kind, sequence, data[16:size]
            data = data[(size + 3) & ~3 :]

    def close(self) -> None:
        self._sock.close()


def _link(index: int, flags: int) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _number(value: int) -> bytes:
    return struct.pack("=I", value)


def _new(step: str, kind: int, body: bytes, how: int = EXCLUSIVE) -> Message:
    return Message(step, kind, REQUEST | CREATE | how, body)


def veth(name: str, index: int, mac: bytes, peer: str, *, peer_index: int = 0, peer_mac: bytes = b"", peer_ns: int = -1) -> Message:
    """A pair; this end is up. ``peer_ns``: descriptor of the namespace the other end appears in, else here.

    With the same address on both ends neither needs ARP: both are then made without it.
    """
    arpless = _NOARP if mac == peer_mac else 0
    other = _link(peer_index, arpless) + _name(peer)
    if peer_mac:
        other += attribute(_IFLA_ADDRESS, peer_mac)
    if peer_ns >= 0:
        other += attribute(_IFLA_NET_NS_FD, _number(peer_ns))
    info = attribute(_INFO_KIND, b"veth") + attribute(_INFO_DATA, attribute(_VETH_PEER, other))
    body = _link(index, _UP | arpless) + _name(name) + attribute(_IFLA_ADDRESS, mac) + attribute(_IFLA_LINKINFO, info)
    return _new(f"veth {name}", _NEWLINK, body)


def macvlan(name: str, index: int, mac: bytes, lower: int, namespace: int) -> Message:
    """An interface on top of ``lower`` that appears in another namespace (descriptor); two of them on the same lower do not hear each other."""
    info = attribute(_INFO_KIND, b"macvlan") + attribute(_INFO_DATA, attribute(_MACVLAN_MODE, _number(_MACVLAN_PRIVATE)))
    body = (
        _link(index, 0)
        + _name(name)
        + attribute(_IFLA_ADDRESS, mac)
        + attribute(_IFLA_LINK, _number(lower))
        + attribute(_IFLA_NET_NS_FD, _number(namespace))
        + attribute(_IFLA_LINKINFO, info)
    )
    return _new("macvlan", _NEWLINK, body)


def up(index: int, *, arp: bool = True) -> Message:
    """Bring an interface up."""
    return Message("interface up", _NEWLINK, REQUEST, _link(index, _UP if arp else _UP | _NOARP))


def no_own_ipv6(index: int) -> Message:
    """Keep an interface from giving itself an IPv6 address when it comes up, which takes a probe for others that have it and a kernel thread."""
    family = attribute(socket.AF_INET6 | _NESTED, attribute(_INET6_ADDR_GEN_MODE, bytes([_GEN_MODE_NONE])))
    return Message("no IPv6 address", _NEWLINK, REQUEST, _link(index, 0) + nested(_IFLA_AF_SPEC, family))


def move(index: int, namespace: int) -> Message:
    """Move an interface into another network namespace."""
    body = _link(index, 0) + attribute(_IFLA_NET_NS_FD, _number(namespace))
    return Message("move the interface", _NEWLINK, REQUEST, body)


def delete(index: int) -> Message:
    """Remove an interface. Takes tens of milliseconds: only for what an operator asked for."""
    return Message("remove the interface", _DELLINK, REQUEST, _link(index, 0))


def address(index: int, ip: bytes, bits: int = 32) -> Message:
    """Give an interface an address."""
    body = struct.pack("=BBBBI", socket.AF_INET, bits, 0, 0, index) + attribute(2, ip) + attribute(1, ip)
    return _new(f"address {socket.inet_ntoa(ip)}", _NEWADDR, body, REPLACE)


def no_address(index: int, ip: bytes, bits: int = 32) -> Message:
    """Take an address from an interface."""
    body = struct.pack("=BBBBI", socket.AF_INET, bits, 0, 0, index) + attribute(2, ip) + attribute(1, ip)
    return Message(f"no address {socket.inet_ntoa(ip)}", _DELADDR, REQUEST, body)


def route(index: int, ip: bytes, bits: int, *, via: bytes = b"", exclusive: bool = False, metric: int = 0) -> Message:
    """Send ``ip/bits`` out of an interface, straight or to the neighbour ``via``. Of several routes that with the least metric counts."""
    scope, flags = (_SCOPE_UNIVERSE, _ONLINK) if via else (_SCOPE_LINK, 0)
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, bits, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _UNICAST, flags)
    body = head + (attribute(_RTA_DST, ip) if bits else b"") + (attribute(_RTA_GATEWAY, via) if via else b"")
    body += attribute(_RTA_OIF, _number(index)) + (attribute(_RTA_PRIORITY, _number(metric)) if metric else b"")
    return _new(f"route to {socket.inet_ntoa(ip)}/{bits}", _NEWROUTE, body, EXCLUSIVE if exclusive else REPLACE)


def has_route(netlink: Netlink, ip: bytes, bits: int) -> bool:
    """Whether just this block is sent somewhere already. Raises OSError."""
    listing = Message("routes", _GETROUTE, REQUEST | DUMP, struct.pack("=BBBBBBBBI", socket.AF_INET, *[0] * 8))
    for body in netlink.dump(listing):
        _, size, _, _, table, *_ = struct.unpack_from("=BBBBBBBBI", body)
        if size == bits and table == _TABLE_MAIN and dict(attributes(body[12:])).get(_RTA_DST) == ip:
            return True
    return False


def blackhole() -> Message:
    """Discard without a word whatever has no other route."""
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTO_STATIC, _SCOPE_UNIVERSE, _BLACKHOLE, 0)
    return _new("route to nowhere", _NEWROUTE, head, REPLACE)


def neighbour(index: int, ip: bytes, mac: bytes) -> Message:
    """Know a neighbour's hardware address for ever: the first packet need not ask, and nobody can answer falsely."""
    body = struct.pack("=BxxxiHBB", socket.AF_INET, index, _NUD_PERMANENT, 0, 0) + attribute(1, ip) + attribute(2, mac)
    return _new(f"neighbour {socket.inet_ntoa(ip)}", _NEWNEIGH, body, REPLACE)
