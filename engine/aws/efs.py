"""Access points as EFS describes them. Blocks.

What boto3 raises passes through: BotoCoreError when EFS cannot be asked, ClientError when it refuses for another reason than that there is none.
"""

from __future__ import annotations

from typing import Any

from engine.aws.clients import AwsClients


def access_point(aws: AwsClients, arn: str) -> dict[str, Any] | None:
    """An access point's description; None when there is none of this ARN."""
    client = aws.client("efs")
    try:
        found = client.describe_access_points(AccessPointId=arn.rpartition("/")[2])["AccessPoints"]
    except client.exceptions.AccessPointNotFound:
        return None
    return next((dict(one) for one in found if one["AccessPointArn"] == arn), None)
