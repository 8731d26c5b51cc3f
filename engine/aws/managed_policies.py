"""AWS's managed policies by name, as SAM's translator asks IAM for them."""

from __future__ import annotations

from typing import Any

_SERVICE_ROLE = (
    "AWSLambdaBasicExecutionRole", "AWSLambdaVPCAccessExecutionRole", "AWSLambdaSQSQueueExecutionRole", "AWSLambdaDynamoDBExecutionRole",
    "AWSLambdaKinesisExecutionRole", "AWSLambdaRole",
)  # fmt: skip
_PLAIN = (
    "AmazonS3FullAccess", "AmazonS3ReadOnlyAccess", "AmazonSQSFullAccess", "AmazonDynamoDBFullAccess", "AWSXrayWriteOnlyAccess",
    "AWSXRayDaemonWriteAccess", "AWSLambda_FullAccess", "AWSLambda_ReadOnlyAccess", "AmazonSNSFullAccess",
)  # fmt: skip


class AwsPolicies:
    """Answers like an IAM client's paginator of ListPolicies, without asking IAM: a name stands for the ARN it has in AWS."""

    def get_paginator(self, _operation: str) -> AwsPolicies:
        return self

    @staticmethod
    def paginate(**_arguments: Any) -> list[dict[str, Any]]:
        arns = {name: f"arn:aws:iam::aws:policy/service-role/{name}" for name in _SERVICE_ROLE}
        arns |= {name: f"arn:aws:iam::aws:policy/{name}" for name in _PLAIN}
        return [{"Policies": [{"PolicyName": name, "Arn": arn} for name, arn in arns.items()]}]
