"""VPCs, subnets and security groups as EC2 describes them. Blocks.

What boto3 raises passes through: ClientError when EC2 refuses (``InvalidSubnetID.NotFound`` …), BotoCoreError when it cannot be asked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from engine.aws.clients import AwsClients


class Described(NamedTuple):
    """One VPC with everything in it that networking needs, as EC2's own shapes."""

    vpc: dict[str, Any]
    subnets: list[dict[str, Any]]
    groups: list[dict[str, Any]]


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
    return Described(
        found,
        [s for page in client.get_paginator("describe_subnets").paginate(Filters=inside) for s in page["Subnets"]],
        [g for page in client.get_paginator("describe_security_groups").paginate(Filters=inside) for g in page["SecurityGroups"]],
    )
