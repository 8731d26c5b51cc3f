"""What rules and schedules have done: a function of the engine invoked, a message sent, a topic published to, a state machine started.

Where a function cannot be invoked, the event goes to the target's dead-letter queue with the reason, as EventBridge has it.
Source: docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine import ids
from engine.aws.push import permissions
from engine.aws.push.courier import Courier
from engine.core.push import Verdict

REACHED = ("lambda", "sqs", "sns", "states")
_CODES = {"ResourceNotFoundException": "NO_RESOURCE", "AccessDeniedException": "NO_PERMISSIONS"}


class UnknownTarget(ValueError):
    """A target that nothing here can reach."""


def deliver(courier: Courier, target: Mapping[str, Any], payload: str, *, principal: str, source_arn: str, account: str) -> None:
    """Give a target its input (JSON text). Raises UnknownTarget, permissions.NotAllowed, and what the embedded service raises.

    ``principal``: whom the target's policy has to let in, empty where a role was looked at.
    """
    arn = str(target["Arn"])
    service, region, owner = arn.split(":")[2:5]
    if principal:
        _check(target, payload, principal, source_arn, account)
    if service == "lambda":
        courier.send(
            arn, payload, principal=principal, source_arn=source_arn, source_account=account, refused=_dead_letter(target, payload, source_arn)
        )
    elif service == "sqs":
        _send(arn, payload, (target.get("SqsParameters") or {}).get("MessageGroupId"))
    elif service == "sns":
        from moto.sns.models import sns_backends  # noqa: PLC0415 - moto is an extra

        sns_backends[owner][region].publish(message=payload, arn=arn)
    elif service == "states":
        from moto.stepfunctions.responses import get_backend  # noqa: PLC0415 - moto is an extra

        get_backend(owner, region).start_execution(arn, ids.request_id(), payload)
    else:
        raise UnknownTarget(f"{service} is no target here")


def _check(target: Mapping[str, Any], payload: str, principal: str, source_arn: str, account: str) -> None:
    """Raises NotAllowed unless a queue or topic lets the service in, after the event is where such events are kept."""
    try:
        arn, role = str(target["Arn"]), target.get("RoleArn")
        if role and permissions.enforced() and arn.split(":")[2] != "lambda":
            permissions.check_role(str(role), principal, arn, arn.split(":")[3])
        else:
            permissions.check(principal, arn, source_arn, account)
    except permissions.NotAllowed as e:
        keep = _dead_letter(target, payload, source_arn)
        if keep is not None:
            keep(Verdict("AccessDeniedException", str(e)))
        raise


def _dead_letter(target: Mapping[str, Any], payload: str, source_arn: str) -> Callable[[Verdict], None] | None:
    queue = (target.get("DeadLetterConfig") or {}).get("Arn")
    if not queue:
        return None

    def keep(verdict: Verdict) -> None:
        told = {
            "ERROR_CODE": _CODES.get(verdict.code, verdict.code),
            "ERROR_MESSAGE": verdict.message[:1024],
            "SCHEDULE_ARN" if source_arn.split(":")[2] == "scheduler" else "RULE_ARN": source_arn,
            "TARGET_ARN": str(target["Arn"]),
        }
        _send(queue, payload, None, {name: {"DataType": "String", "StringValue": text} for name, text in told.items()})

    return keep


def _send(arn: str, body: str, group: str | None, attributes: dict[str, Any] | None = None) -> None:
    from moto.sqs.models import sqs_backends  # noqa: PLC0415 - moto is an extra

    region, account, name = arn.split(":")[3:6]
    sqs_backends[account][region].send_message(
        queue_name=name, message_body=body, group_id=group, message_attributes=attributes, deduplication_id=ids.request_id() if group else None
    )
