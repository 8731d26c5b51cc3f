"""What an execution role may do, asked before something is kept that would need it: dead-letter targets and destinations.

What is read is what decides later: the role's policies in the configured IAM, its boundary, and the policy of the queue or topic. Blocks.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html and recorded refusals.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.auth.authorization import INVOKE, context_of, owner_of
from engine.auth.identity import identity_of
from engine.auth.policy import MalformedPolicy, Policy, Request, evaluate, parse

if TYPE_CHECKING:
    from engine.aws.clients import AwsClients

# Service of a target -> (action, the name of what is called in refusals, the service's).
NEEDED = {
    "sqs": ("sqs:SendMessage", "SendMessage", "SQS"),
    "sns": ("sns:Publish", "Publish", "SNS"),
    "events": ("events:PutEvents", "PutEvents", "EventBridge"),
    "lambda": (INVOKE, "InvokeFunction", "Lambda"),
}


def may_reach(aws: AwsClients, role_arn: str, target: str, now_epoch_s: float) -> bool:
    """Whether the role lets Lambda send to a target of one of the services in NEEDED; what another service is for is not known here.

    Raises botocore's errors where IAM cannot be asked.
    """
    service, region = target.split(":")[2:4] if target.count(":") > 4 else ("", "")
    if service not in NEEDED:
        return True
    identity = identity_of(_record(aws.client("iam"), role_arn))
    context = context_of(identity, now_epoch_s=now_epoch_s, region=region)
    request = Request(NEEDED[service][0], target, owner_of(target, identity.account), context)
    return evaluate(request, identity, _policy(aws, service, target)).allowed


def _record(iam: Any, role_arn: str) -> dict[str, Any]:
    """As ``engine.auth.identity`` has it, of a session of the role."""
    name, account = role_arn.rpartition("/")[2], role_arn.split(":")[4]
    role = iam.get_role(RoleName=name)["Role"]
    boundary = (role.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn")
    return {
        "kind": "session",
        "arn": role_arn,
        "account": account,
        "user_id": role["RoleId"],
        "role_arn": role_arn,
        "policies": list(_documents(iam, name)),
        "boundary": None if boundary is None else _managed(iam, boundary),
        "session": None,
        "tags": {tag["Key"]: tag["Value"] for tag in role.get("Tags") or []},
    }


def _documents(iam: Any, role: str) -> Iterator[Any]:
    for page in iam.get_paginator("list_role_policies").paginate(RoleName=role):
        for name in page["PolicyNames"]:
            yield iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    for page in iam.get_paginator("list_attached_role_policies").paginate(RoleName=role):
        for policy in page["AttachedPolicies"]:
            yield _managed(iam, policy["PolicyArn"])


def _managed(iam: Any, arn: str) -> Any:
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    return iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]


def _policy(aws: AwsClients, service: str, target: str) -> Policy | None:
    """The policy of a queue or topic; None where it has none, cannot be read or is not there."""
    from botocore.exceptions import ClientError  # noqa: PLC0415 - a third of a second that few starts need

    _, _, _, _, account, name = target.split(":", 5)
    try:
        if service == "sqs":
            queue = aws.client("sqs")
            url = queue.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
            text = queue.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"]).get("Attributes", {}).get("Policy")
        elif service == "sns":
            text = aws.client("sns").get_topic_attributes(TopicArn=target)["Attributes"].get("Policy")
        else:
            text = None
        return parse(text) if text else None
    except (ClientError, MalformedPolicy):
        return None
