"""Under which addresses functions appear in their subnets. Pure.

A *port* is what AWS calls a Hyperplane network interface: one per subnet and set of security groups, shared by all functions that have both. Its key
is ``subnet/group,group``, groups in order. It keeps its address as long as a version uses it, over restarts too, and for a while after, as somebody
may still be running behind it.
Source: docs.aws.amazon.com/lambda/latest/dg/foundation-networking.html.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from typing import Any

# The network, its router, its name server, one for later; and the last one.
RESERVED_FIRST = 4


def keys(network: str) -> list[str]:
    """Those of a network as versions have it (``vpc/subnet,subnet/group,group``)."""
    _, subnets, groups = network.split("/")
    return [f"{subnet}/{groups}" for subnet in subnets.split(",")]


def allotted(
    document: Mapping[str, Any], wanted: Mapping[str, str], held: Collection[str], new_id: Callable[[], str]
) -> dict[str, dict[str, str]]:
    """The ports of a VPC, from those it has (``ports``), those that are ``wanted`` (with the name of a function that does) and those that are still
    ``held``, which are given up where there is no other address. Ports of subnets that are full are not among them.
    """
    blocks = {name: ipaddress.IPv4Network(block) for name, block in document["subnets"].items()}
    ports = {
        key: port
        for key, port in (document.get("ports") or {}).items()
        if (key in wanted or key in held)
        and (block := blocks.get(_subnet(key))) is not None
        and ipaddress.IPv4Address(port["ip"]) in block
    }
    for key in sorted(wanted.keys() - ports.keys()):
        block = blocks.get(_subnet(key))
        ip = "" if block is None else _free(block, document, ports) or _given_up(_subnet(key), wanted, ports)
        if ip:
            ports[key] = {"ip": ip, "id": new_id(), "function": wanted[key]}
    return ports


def _subnet(key: str) -> str:
    return key.partition("/")[0]


def _free(block: ipaddress.IPv4Network, document: Mapping[str, Any], ports: Mapping[str, Mapping[str, str]]) -> str:
    """From the end of the subnet: operators number their servers from its beginning."""
    taken = {port["ip"] for port in ports.values()} | {str(server["ip"]) for server in document["servers"].values()}
    for offset in range(block.num_addresses - 2, RESERVED_FIRST - 1, -1):
        if (ip := str(block[offset])) not in taken:
            return ip
    return ""


def _given_up(subnet: str, wanted: Collection[str], ports: dict[str, dict[str, str]]) -> str:
    """The address of a port that nobody wants any more, which is none from now on."""
    for key in ports:
        if key not in wanted and _subnet(key) == subnet:
            return ports.pop(key)["ip"]
    return ""
