"""Packet filter rules as nftables takes them, through raw netlink: no program and no library is needed on the host.

A table is built in memory and put in place in one transaction, which replaces a former table of that name whole: at no moment is there
half a rule set. Chains decide by rules, rules are lists of expressions on registers. Only IPv4 is written here.
Sources: linux/netfilter/nf_tables.h, nft(8).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence

from engine.sandbox.netlink import CREATE, DUMP, REQUEST, Message, Netlink, attribute, attributes, nested

NETFILTER = 12
_SUBSYSTEM = 10
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _GET_CHAIN, _NEW_RULE, _NEW_SET = 0, 2, 3, 4, 6, 9
_BATCH_BEGIN, _BATCH_END = 16, 17
_OWNER = 2
_APPEND = 0x800
INPUT, FORWARD, POSTROUTING = 1, 2, 4
SOURCE_NAT = 100
_DROP, _ACCEPT, _JUMP, _RETURN = 0, 1, -3, -5
_REGISTER = 1
_META_MARK, _META_IIFNAME, _META_OIFNAME, _META_L4 = 3, 6, 7, 16
_CT_STATE, _INVALID, _ESTABLISHED, _RELATED = 0, 1, 2, 4
_EQUAL, _NOT_EQUAL, _AT_MOST, _AT_LEAST = 0, 1, 3, 5
_NETWORK, _TRANSPORT = 1, 2
_ADMINISTRATIVELY_PROHIBITED = 13
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}

# A set whose members come and go with the packets that name them, each with a count of its own; so many at most.
_SET_DYNAMIC, _SET_SIZE, _IPV4_ADDRESS, _OVER = 0x20, 65536, 7, 1

Rule = Sequence[bytes]


def _be32(value: int) -> bytes:
    return struct.pack(">i" if value < 0 else ">I", value)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, _text(1, name), nested(2, *parts))


def _compare(value: bytes, how: int = _EQUAL) -> bytes:
    parts = attribute(1, _be32(_REGISTER)), attribute(2, _be32(how)), nested(3, attribute(1, value))
    return _expression("cmp", *parts)


def _meta(key: int) -> bytes:
    return _expression("meta", attribute(1, _be32(_REGISTER)), attribute(2, _be32(key)))


def _payload(base: int, offset: int, size: int) -> bytes:
    parts = (attribute(n, _be32(v)) for n, v in ((1, _REGISTER), (2, base), (3, offset), (4, size)))
    return _expression("payload", *parts)


def _mask(size: int, mask: bytes) -> bytes:
    parts = [attribute(n, _be32(v)) for n, v in ((1, _REGISTER), (2, _REGISTER), (3, size))]
    return _expression("bitwise", *parts, nested(4, attribute(1, mask)), nested(5, attribute(1, b"\0" * size)))


def _verdict(code: int, chain: str = "") -> bytes:
    target = _text(2, chain) if chain else b""
    return _expression("immediate", attribute(1, _be32(0)), nested(2, nested(2, attribute(1, _be32(code)), target)))


def accept() -> bytes:
    """Let the packet pass this hook's chain."""
    return _verdict(_ACCEPT)


def drop() -> bytes:
    """Discard without a word."""
    return _verdict(_DROP)


def back() -> bytes:
    """Go on in the chain that jumped here."""
    return _verdict(_RETURN)


def jump(chain: str) -> bytes:
    """Try another chain's rules, then the next one here."""
    return _verdict(_JUMP, chain)


def reject() -> bytes:
    """Discard and tell the sender that it is forbidden."""
    return _expression("reject", attribute(1, _be32(0)), attribute(2, bytes([_ADMINISTRATIVELY_PROHIBITED])))


def masquerade() -> bytes:
    """Take the address of the interface the packet leaves by."""
    return _expression("masq")


def source_nat(ip: bytes) -> tuple[bytes, ...]:
    """Take ``ip`` as the source."""
    load = _expression("immediate", attribute(1, _be32(_REGISTER)), nested(2, attribute(1, ip)))
    parts = [attribute(n, _be32(v)) for n, v in ((1, 0), (2, socket.AF_INET), (3, _REGISTER))]
    return load, _expression("nat", *parts)


def set_mark(mark: int) -> tuple[bytes, ...]:
    """Mark the packet for the chains that follow in this namespace."""
    load = _expression("immediate", attribute(1, _be32(_REGISTER)), nested(2, attribute(1, struct.pack("=I", mark))))
    return load, _expression("meta", attribute(2, _be32(_META_MARK)), attribute(3, _be32(_REGISTER)))


def marked(mark: int) -> tuple[bytes, ...]:
    """Matches a packet with this mark."""
    return _meta(_META_MARK), _compare(struct.pack("=I", mark))


def incoming(interface: str, *, but: bool = False) -> tuple[bytes, ...]:
    """Matches the interface a packet came by; a name that ends in ``*`` stands for all that begin so. ``but``: any other."""
    return _meta(_META_IIFNAME), _compare(_interface(interface), _NOT_EQUAL if but else _EQUAL)


def outgoing(interface: str, *, but: bool = False) -> tuple[bytes, ...]:
    """Matches the interface a packet leaves by."""
    return _meta(_META_OIFNAME), _compare(_interface(interface), _NOT_EQUAL if but else _EQUAL)


def _interface(name: str) -> bytes:
    return name[:-1].encode() if name.endswith("*") else name.encode().ljust(16, b"\0")


def _state(bits: int) -> tuple[bytes, ...]:
    load = _expression("ct", attribute(1, _be32(_REGISTER)), attribute(2, _be32(_CT_STATE)))
    return load, _mask(4, struct.pack("=I", bits)), _compare(b"\0" * 4, _NOT_EQUAL)


def known() -> tuple[bytes, ...]:
    """Matches packets of connections that were let through before, and errors about them."""
    return _state(_ESTABLISHED | _RELATED)


def invalid() -> tuple[bytes, ...]:
    """Matches packets that belong to nothing."""
    return _state(_INVALID)


def source(network: str) -> tuple[bytes, ...]:
    """Matches packets from a CIDR block."""
    return _address(12, network)


def destination(network: str) -> tuple[bytes, ...]:
    """Matches packets to a CIDR block."""
    return _address(16, network)


def _address(offset: int, network: str) -> tuple[bytes, ...]:
    block = ipaddress.IPv4Network(network, strict=False)
    if block.prefixlen == 0:
        return ()
    load = _payload(_NETWORK, offset, 4)
    if block.prefixlen == 32:
        return load, _compare(block.network_address.packed)
    return load, _mask(4, block.netmask.packed), _compare(block.network_address.packed)


def source_over(meter: str, most: int) -> tuple[bytes, ...]:
    """Matches when the packet's source has more than ``most`` connections, by ``Table.meter``'s count."""
    count = _text(1, "connlimit") + nested(2, attribute(1, _be32(most)), attribute(2, _be32(_OVER)))
    parts = _text(1, meter), attribute(2, _be32(1)), attribute(3, _be32(0)), attribute(4, _be32(_REGISTER)), nested(7, count)
    return _payload(_NETWORK, 12, 4), _expression("dynset", *parts)


def protocol(number: int) -> tuple[bytes, ...]:
    """Matches the protocol above IP."""
    return _meta(_META_L4), _compare(bytes([number]))


def ports(low: int, high: int) -> tuple[bytes, ...]:
    """Matches destination ports ``low`` to ``high`` of TCP or UDP; match the protocol first."""
    load = _payload(_TRANSPORT, 2, 2)
    if low == high:
        return load, _compare(struct.pack(">H", low))
    return load, _compare(struct.pack(">H", low), _AT_LEAST), _compare(struct.pack(">H", high), _AT_MOST)


def icmp(kind: int, code: int) -> tuple[bytes, ...]:
    """Matches an ICMP type and code; -1 any."""
    found: tuple[bytes, ...] = ()
    if kind >= 0:
        found += _payload(_TRANSPORT, 0, 1), _compare(bytes([kind]))
    if code >= 0:
        found += _payload(_TRANSPORT, 1, 1), _compare(bytes([code]))
    return found


class Table:
    """One table of family ip. ``owned``: it goes when the socket that made it does, so nothing is left by a killed process."""

    def __init__(self, name: str, *, owned: bool = False) -> None:
        self.name = name
        self._owned = owned
        self._meters: list[Message] = []
        self._chains: list[Message] = []
        self._rules: list[Message] = []

    def _message(self, step: str, kind: int, body: bytes, flags: int = CREATE) -> Message:
        return Message(f"nftables {step}", _SUBSYSTEM << 8 | kind, REQUEST | flags, _family() + body)

    def base(self, name: str, hook: int, priority: int = 0, *, kind: str = "filter", policy_drop: bool = False) -> None:
        """A chain that the kernel calls."""
        where = nested(4, attribute(1, _be32(hook)), attribute(2, struct.pack(">i", priority)))
        policy = attribute(5, _be32(_DROP if policy_drop else _ACCEPT))
        body = _text(1, self.name) + _text(3, name) + where + policy + _text(7, kind)
        self._chains.append(self._message(f"chain {name}", _NEW_CHAIN, body))

    def chain(self, name: str) -> None:
        """A chain that other chains jump to."""
        self._chains.append(self._message(f"chain {name}", _NEW_CHAIN, _text(1, self.name) + _text(3, name)))

    def meter(self, name: str) -> None:
        """What ``source_over`` counts with; one per table."""
        parts = ((3, _SET_DYNAMIC), (4, _IPV4_ADDRESS), (5, 4), (10, 1))
        size = nested(9, attribute(1, _be32(_SET_SIZE)))
        body = _text(1, self.name) + _text(2, name) + b"".join(attribute(n, _be32(v)) for n, v in parts) + size
        self._meters.append(self._message(f"set {name}", _NEW_SET, body))

    def rule(self, chain: str, *parts: bytes | Rule) -> None:
        """Append a rule: all its matches must hold for its statements to happen."""
        expressions: list[bytes] = []
        for part in parts:
            expressions += [part] if isinstance(part, bytes) else part
        body = _text(1, self.name) + _text(2, chain) + nested(4, *expressions)
        self._rules.append(self._message(f"rule of {chain}", _NEW_RULE, body, CREATE | _APPEND))

    def messages(self, *, replacing: bool) -> list[Message]:
        """The transaction that puts this table in place, of a former one with ``replacing``."""
        flags = attribute(2, _be32(_OWNER)) if self._owned else b""
        create = self._message(f"table {self.name}", _NEW_TABLE, _text(1, self.name) + flags)
        former = [self._message(f"table {self.name}", _DELETE_TABLE, _text(1, self.name), 0)] if replacing else []
        return [*former, create, *self._meters, *self._chains, *self._rules]


def _family(number: int = socket.AF_INET) -> bytes:
    return struct.pack(">BBH", number, 0, 0)


class Filter:
    """The packet filter of one network namespace: the one in which it was made."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETFILTER)
        self._placed: set[str] = set()

    def put(self, table: Table) -> None:
        """Put a table in place or replace it, at once. Raises OSError naming the part that was refused; nothing has changed then."""
        body = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
        begin, end = (Message("batch", kind, REQUEST, body).encode(0) for kind in (_BATCH_BEGIN, _BATCH_END))
        self._netlink.ask(table.messages(replacing=table.name in self._placed), (begin, end))
        self._placed.add(table.name)

    def dropping_chains(self) -> Iterable[str]:
        """Names of others' chains that discard forwarded IPv4 packets unless a rule of theirs says otherwise."""
        request = Message("nftables chains", _SUBSYSTEM << 8 | _GET_CHAIN, REQUEST | DUMP, _family(0))
        for body in self._netlink.dump(request):
            found = dict(attributes(body[4:]))
            hook = dict(attributes(found.get(4, b"")))
            hooked = hook.get(1) == _be32(FORWARD) and found.get(5) == _be32(_DROP)
            if hooked and body[0] in (1, socket.AF_INET):
                yield f"{found[1][:-1].decode()}/{found[3][:-1].decode()}"

    def close(self) -> None:
        """Owned tables go with this."""
        self._netlink.close()
