"""Whether a service may give something to a queue or a topic: by the policy of that, or by a role, as on AWS. Only where policies are enforced.

Functions are not decided about here: the engine does that, by their own policies (see ``courier``). Runs in the embedded AWS's process.
Source: docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-resource-based.html, docs.aws.amazon.com/sns/latest/dg/subscribe-sqs-queue-to-sns-topic.html
and docs.aws.amazon.com/AmazonS3/latest/userguide/grant-destinations-permissions-to-s3.html.
"""

from __future__ import annotations

import os
import time

from engine.auth.authorization import INVOKE, context_of
from engine.auth.identity import identity_of, service
from engine.auth.policy import MalformedPolicy, Request, evaluate, parse
from engine.aws import holdings, targets
from engine.aws.embedded import ENFORCE_VARIABLE
from engine.aws.identities import role_of, role_record

ACTIONS = {"lambda": INVOKE, "sqs": "sqs:SendMessage", "sns": "sns:Publish", "states": "states:StartExecution"}


def enforced() -> bool:
    """Whether policies decide."""
    return bool(os.environ.get(ENFORCE_VARIABLE))


class NotAllowed(Exception):
    """Nothing lets the service do it. The message says what is missing."""


def check(principal: str, arn: str, source_arn: str, account: str) -> None:
    """Raises NotAllowed unless the policy of a queue or topic lets a service send there for ``source_arn`` of ``account``."""
    kind = arn.split(":")[2] if arn.startswith("arn:") else ""
    if not enforced() or kind not in ("sqs", "sns"):
        return
    caller, region, owner = service(principal), targets.region_in(arn), targets.account_in(arn)
    context = context_of(caller, now_epoch_s=time.time(), region=region)
    context |= {"aws:sourcearn": source_arn, "aws:sourceaccount": account, "aws:securetransport": "true"}
    document = holdings.policy_of(kind, arn, owner, region)
    try:
        policy = parse(document) if document else None
    except MalformedPolicy:
        policy = None
    if not evaluate(Request(ACTIONS[kind], arn, owner, context), caller, policy).allowed:
        raise NotAllowed(f"the policy of {arn} does not let {principal} {ACTIONS[kind]} for {source_arn}")


def check_role(role_arn: str, principal: str, target_arn: str, region: str) -> None:
    """Raises NotAllowed unless the service may be in this role and the role may reach the target."""
    role = role_of(role_arn)
    record = None if role is None else role_record(role_arn)
    if role is None or record is None:
        raise NotAllowed(f"there is no role {role_arn}")
    owner, caller = role_arn.split(":")[4], service(principal)
    trust = parse(role.assume_role_policy_document)
    context = context_of(caller, now_epoch_s=time.time(), region=region)
    if not evaluate(Request("sts:AssumeRole", role_arn, owner, context), caller, trust).allowed:
        raise NotAllowed(f"{role_arn} does not trust {principal}")
    action = ACTIONS.get(target_arn.split(":")[2])
    if action is None:
        return
    identity = identity_of(record)
    asked = Request(action, target_arn, owner, context_of(identity, now_epoch_s=time.time(), region=region))
    if not evaluate(asked, identity).allowed:
        raise NotAllowed(f"{role_arn} does not allow {action} on {target_arn}")
