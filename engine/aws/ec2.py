"""VPCs, subnets and security groups as EC2 describes them. Blocks.

What boto3 raises passes through: ClientError when EC2 refuses (``InvalidSubnetID.NotFound`` …), BotoCoreError when it cannot be asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from engine.aws.clients import AwsClients


class Described(NamedTuple):
    """One VPC with everything in it that networking needs, as EC2's own shapes. ``lists``: blocks of the prefix lists that rules refer to."""

    vpc: dict[str, Any]
    subnets: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    lists: dict[str, list[str]]


_LAST_ENTRY = 32767
_EVERYWHERE = ("0.0.0.0/0", "::/0")
_log = logging.getLogger(__name__)


def subnets(aws: AwsClients, wanted: list[str]) -> list[dict[str, Any]]:
    """These subnets."""
    return list(aws.client("ec2").describe_subnets(SubnetIds=wanted)["Subnets"])


def groups(aws: AwsClients, wanted: list[str]) -> list[dict[str, Any]]:
    """These security groups."""
    return list(aws.client("ec2").describe_security_groups(GroupIds=wanted)["SecurityGroups"])


def vpc(aws: AwsClients, vpc_id: str) -> Described:
    """A VPC and all of its subnets and groups."""
    client = aws.client("ec2")
    found = client.describe_vpcs(VpcIds=[vpc_id])["Vpcs"][0]
    inside = [{"Name": "vpc-id", "Values": [vpc_id]}]
    found_groups = [g for page in client.get_paginator("describe_security_groups").paginate(Filters=inside) for g in page["SecurityGroups"]]
    return Described(
        found,
        [s for page in client.get_paginator("describe_subnets").paginate(Filters=inside) for s in page["Subnets"]],
        found_groups,
        {name: _blocks(client, name) for name in sorted(_lists_in(found_groups))},
    )


def _lists_in(groups: Iterable[dict[str, Any]]) -> set[str]:
    rules = [rule for group in groups for kind in ("IpPermissions", "IpPermissionsEgress") for rule in group.get(kind) or ()]
    return {entry["PrefixListId"] for rule in rules for entry in rule.get("PrefixListIds") or () if entry.get("PrefixListId")}


def _blocks(client: Any, prefix_list: str) -> list[str]:
    """None of a list that EC2 does not tell: a rule about it allows nothing, and the others are obeyed all the same."""
    try:
        pages = client.get_paginator("get_managed_prefix_list_entries").paginate(PrefixListId=prefix_list)
        return [str(entry["Cidr"]) for page in pages for entry in page["Entries"]]
    except ClientError as e:
        _log.warning("rules about prefix list %s allow nothing: %s", prefix_list, e)
        return []


def unheeded(aws: AwsClients, vpc_id: str) -> list[str]:
    """What EC2 has been told of a VPC that has no effect on functions here, in sentences: routes out of it, and network ACLs that are not all-allowing."""
    client = aws.client("ec2")
    inside = [{"Name": "vpc-id", "Values": [vpc_id]}]
    said = []
    for table in client.describe_route_tables(Filters=inside)["RouteTables"]:
        targets = sorted({target for target in map(_target, table.get("Routes") or ()) if target not in ("", "local")})
        if targets:
            said.append(f"routes of {table['RouteTableId']} to {', '.join(targets)} have no effect: functions reach nothing outside their VPC but the engine's endpoint")
    for acl in client.describe_network_acls(Filters=inside)["NetworkAcls"]:
        if not all(map(_allows_all, acl.get("Entries") or ())):
            said.append(f"entries of network ACL {acl['NetworkAclId']} have no effect: what security groups allow is let through")
    return said


def _target(route: dict[str, Any]) -> str:
    return next((str(value) for name, value in sorted(route.items()) if value and name.endswith(("GatewayId", "InterfaceId", "InstanceId", "ConnectionId"))), "")


def _allows_all(entry: dict[str, Any]) -> bool:
    """As the entries of a VPC's own ACL: everything is let through, and what is not is refused, by the last one."""
    if entry["RuleNumber"] == _LAST_ENTRY:
        return True
    return bool(entry["RuleAction"] == "allow" and str(entry["Protocol"]) == "-1" and (entry.get("CidrBlock") or entry.get("Ipv6CidrBlock")) in _EVERYWHERE)
