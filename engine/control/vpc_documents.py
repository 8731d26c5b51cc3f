"""What a VPC is to the sandbox's broker, from the settings or from what EC2 describes. Pure.

A document: ``cidrs``; ``subnets``, id to block; ``groups``, id to {"in", "out"}, lists of rules; ``servers``, attached ones by id; ``ports`` (see ``vpc_ports``). A rule:
``protocol`` (IANA's number, -1 all), ``from`` and ``to`` (ports, or ICMP type and code; -1 all), ``cidrs`` and ``groups`` it is about.
Source: docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpPermission.html.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.config import GroupRule, VpcSettings
from engine.control.vpc_ports import RESERVED_FIRST

PROTOCOLS = {"all": -1, "-1": -1, "tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_MOST_PROTOCOLS = 256
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MOST_NAME = 253
_WITH_PORTS = (PROTOCOLS["tcp"], PROTOCOLS["udp"])
# What stands for a port in rules of ICMP is one byte.
_MOST = {PROTOCOLS["icmp"]: 255, PROTOCOLS["icmpv6"]: 255}


def from_settings(vpc: VpcSettings) -> dict[str, Any]:
    """The document of a VPC that the engine's configuration describes."""
    return {
        "source": "settings",
        "cidrs": [vpc.cidr],
        "subnets": dict(vpc.subnets),
        "groups": {
            name: {"in": [_set_rule(r) for r in group.ingress], "out": [_set_rule(r) for r in group.egress]}
            for name, group in vpc.security_groups.items()
        },
        "servers": {},
        "ports": {},
    }


def _set_rule(rule: GroupRule) -> dict[str, Any]:
    low, high = rule.span()
    return {
        "protocol": PROTOCOLS[rule.protocol],
        "from": low,
        "to": high,
        "cidrs": [p for p in rule.peers if not p.startswith("sg-")],
        "groups": [p for p in rule.peers if p.startswith("sg-")],
    }


_Lists = Mapping[str, Iterable[str]]


def from_ec2(
    account: str, vpc: Mapping[str, Any], subnets: Iterable[Mapping[str, Any]], groups: Iterable[Mapping[str, Any]], lists: _Lists
) -> dict[str, Any]:
    """The document of a VPC that EC2 describes. ``lists``: the blocks of prefix lists. Addresses of version 6 are left out: they allow nothing here."""
    blocks = [a["CidrBlock"] for a in vpc.get("CidrBlockAssociationSet") or () if _associated(a)]
    return {
        "source": "ec2",
        "account": account,
        "cidrs": blocks or [vpc["CidrBlock"]],
        "subnets": {s["SubnetId"]: s["CidrBlock"] for s in subnets},
        "groups": {
            g["GroupId"]: {
                "in": _permissions(g.get("IpPermissions") or (), lists),
                "out": _permissions(g.get("IpPermissionsEgress") or (), lists),
            }
            for g in groups
        },
        "servers": {},
        "ports": {},
    }


def _associated(block: Mapping[str, Any]) -> bool:
    return bool((block.get("CidrBlockState") or {}).get("State", "associated") == "associated")


def _permissions(permissions: Iterable[Mapping[str, Any]], lists: _Lists) -> list[dict[str, Any]]:
    """A group's rules. Not every EC2 refuses what AWS's does: a rule that cannot be allows nothing, and must not keep the others from being
    obeyed.
    """
    return [rule for rule in (_permission(p, lists) for p in permissions) if rule is not None]


def _permission(permission: Mapping[str, Any], lists: _Lists) -> dict[str, Any] | None:
    name = str(permission.get("IpProtocol", "-1")).lower()
    protocol = PROTOCOLS.get(name, int(name) if name.isdecimal() else _MOST_PROTOCOLS)
    low, high = int(permission.get("FromPort", -1)), int(permission.get("ToPort", -1))
    if protocol >= _MOST_PROTOCOLS or not -1 <= min(low, high) <= max(low, high) <= _MOST.get(protocol, 65_535):
        return None
    if protocol in _WITH_PORTS and (low < 0) != (high < 0):
        return None
    blocks = [r["CidrIp"] for r in permission.get("IpRanges") or ()]
    blocks += [block for entry in permission.get("PrefixListIds") or () for block in lists.get(entry.get("PrefixListId", ""), ())]
    return {
        "protocol": protocol,
        "from": low,
        "to": high,
        "cidrs": [block for block in blocks if _is_block(block)],
        "groups": [p["GroupId"] for p in permission.get("UserIdGroupPairs") or () if p.get("GroupId")],
    }


def _is_block(cidr: str) -> bool:
    try:
        ipaddress.IPv4Network(cidr)
    except ValueError:
        return False
    return True


def network(vpc_config: Mapping[str, Any] | None) -> str:
    """How a sandbox's network is named: the same for the same subnets and groups in any order, empty outside a VPC."""
    if not vpc_config or not vpc_config.get("SubnetIds"):
        return ""
    subnets, groups = (",".join(sorted(set(vpc_config[k]))) for k in ("SubnetIds", "SecurityGroupIds"))
    return f"{vpc_config['VpcId']}/{subnets}/{groups}"


def bad_name(document: Mapping[str, Any], name: str) -> str:
    """Why a server cannot have this host name in this VPC, or an empty text. It need not have one."""
    if name and (len(name) > _MOST_NAME or not all(map(_LABEL.fullmatch, name.split(".")))):
        return f"{name!r} is not a host name"
    if name and any(s.get("name", "").lower() == name.lower() for s in document["servers"].values()):
        return f"{name} is the name of another attached server"
    return ""


def bad_address(document: Mapping[str, Any], subnet: str, ip: str) -> str:
    """Why a server cannot have this address in this subnet, or an empty text."""
    try:
        address = ipaddress.IPv4Address(ip)
    except ValueError:
        return f"{ip} is not an IPv4 address"
    block = ipaddress.IPv4Network(document["subnets"][subnet])
    if address not in block:
        return f"{ip} is not in {subnet}, which is {block}"
    offset = int(address) - int(block.network_address)
    if offset < RESERVED_FIRST or address == block.broadcast_address:
        return f"{ip} is reserved: the first {RESERVED_FIRST} addresses and the last one of a subnet are"
    if any(s["ip"] == ip for s in document["servers"].values()):
        return f"{ip} is taken by another attached server"
    if any(port["ip"] == ip for port in (document.get("ports") or {}).values()):
        return f"{ip} is the address under which functions appear in this subnet: choose another"
    return ""
