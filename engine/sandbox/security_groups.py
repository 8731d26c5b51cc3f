"""Security groups as packet filter rules of their VPC's router. Pure.

Theory of operation. A group becomes two chains, *out* and *in*, that accept what its rules allow and otherwise fall through. A packet of a new
connection is accepted by the forward hook when a chain of one of its sender's groups accepts it, and by the last hook of the way, where
the source is already the one the receiver sees, when a chain of one of the receiver's groups does. Both hooks discard the rest; what belongs to
a connection let through before passes both. A reference to a group stands for the addresses of its members.

Functions send and never receive, as on AWS: they stand behind one address per subnet and set of groups (a *port*), and nothing is delivered
to it but answers. A server without groups is not filtered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.sandbox import nft
from engine.sandbox.nft import Table
from engine.sandbox.spaces import MOST_CONNECTIONS, RESOLVER

_SEEN_BY_RECEIVER = 200
_UDP, _TCP, _ICMP = nft.PROTOCOLS["udp"], nft.PROTOCOLS["tcp"], nft.PROTOCOLS["icmp"]


@dataclass(frozen=True)
class Member:
    """Who is in the VPC as ``ip``, behind the router's ``interface``."""

    interface: str
    ip: str
    groups: tuple[str, ...]


def table(groups: Mapping[str, Any], ports: Sequence[Member], servers: Sequence[Member], resolvers: Iterable[str]) -> Table:
    """The whole rule set of one VPC. ``groups``: id to {"in": [rule...], "out": [rule...]}; see ``Rule`` members in docs/network.md."""
    made = Table("lambda")
    _for_the_router(made, resolvers)
    made.base("forward", nft.FORWARD, policy_drop=True)
    made.base("address", nft.POSTROUTING, nft.SOURCE_NAT, kind="nat")
    made.base("deliver", nft.POSTROUTING, _SEEN_BY_RECEIVER, policy_drop=True)
    members = _members(ports, servers)
    for name, group in groups.items():
        _group(made, f"out-{name}", group["out"], members, nft.destination)
        _group(made, f"in-{name}", group["in"], members, nft.source)
    for chain in ("forward", "deliver"):
        made.rule(chain, nft.known(), nft.accept())
        made.rule(chain, nft.invalid(), nft.drop())
    made.meter("connections")
    for number, port in enumerate(ports, 1):
        # The router remembers each, and what one function fills is not there for the others.
        made.rule("forward", nft.incoming(port.interface), nft.source_over("connections", MOST_CONNECTIONS), nft.drop())
        made.rule("forward", nft.incoming(port.interface), nft.set_mark(number))
        made.rule("address", nft.marked(number), nft.source_nat(_packed(port.ip)))
        _enter(made, "forward", nft.incoming(port.interface), "out", port.groups)
    for server in servers:
        _enter(made, "forward", (*nft.incoming(server.interface), *nft.source(server.ip)), "out", server.groups)
        _enter(made, "deliver", (*nft.outgoing(server.interface), *nft.destination(server.ip)), "in", server.groups)
    return made


def _for_the_router(made: Table, resolvers: Iterable[str]) -> None:
    made.base("input", nft.INPUT, policy_drop=True)
    made.rule("input", nft.known(), nft.accept())
    for ip in (str(RESOLVER), *resolvers):
        for protocol in (_UDP, _TCP):
            made.rule("input", nft.destination(ip), nft.protocol(protocol), nft.ports(53, 53), nft.accept())


def _members(ports: Sequence[Member], servers: Sequence[Member]) -> dict[str, list[str]]:
    """Addresses by group."""
    found: dict[str, list[str]] = {}
    for member in (*ports, *servers):
        for group in member.groups:
            found.setdefault(group, []).append(member.ip)
    return found


def _enter(made: Table, chain: str, who: nft.Rule, direction: str, groups: Sequence[str]) -> None:
    """Have ``who`` judged by all of its groups, or by none."""
    if not groups:
        made.rule(chain, who, nft.accept())
    for group in groups:
        made.rule(chain, who, nft.jump(f"{direction}-{group}"))


def _group(
    made: Table,
    chain: str,
    rules: Sequence[Mapping[str, Any]],
    members: Mapping[str, Sequence[str]],
    peer: Callable[[str], tuple[bytes, ...]],
) -> None:
    made.chain(chain)
    for rule in rules:
        peers = [*rule["cidrs"], *(ip for group in rule["groups"] for ip in members.get(group, ()))]
        for network in peers:
            made.rule(chain, peer(network), _traffic(rule), nft.accept())


def _traffic(rule: Mapping[str, Any]) -> tuple[bytes, ...]:
    """What a rule is about: protocol (-1: all) and ports, or ICMP type and code."""
    number = int(rule["protocol"])
    if number < 0:
        return ()
    found = nft.protocol(number)
    low, high = int(rule["from"]), int(rule["to"])
    if number == _ICMP:
        return found + nft.icmp(low, high)
    if number in (_TCP, _UDP) and low >= 0 and (low, high) != (0, 65535):
        return found + nft.ports(low, high)
    return found


def _packed(ip: str) -> bytes:
    return bytes(int(part) for part in ip.split("."))
