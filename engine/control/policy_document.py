"""Resource policies as documents: what AddPermission's members become. Pure.

Tools read these documents literally (Terraform looks for ``AWS:SourceArn`` in just this spelling), so keys, their order and the plain
strings of conditions are AWS's. Source: recorded replies and docs.aws.amazon.com/lambda/latest/dg/access-control-resource-based.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import InvalidParameterValue, PolicyLengthExceeded

MAX_POLICY = 20_480
_ACCOUNT = re.compile(r"\d{12}")
_IDENTITY = re.compile(r"arn:aws[a-zA-Z-]*:(?:iam::\d{12}:(?:root|user/\S+|role/\S+)|sts::\d{12}:(?:assumed-role|federated-user)/\S+)")
_SERVICE = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:amazonaws\.com(?:\.cn)?|amazon\.com|aws\.internal)")
# Request member, operator and key of each condition, in the order in which they appear.
_CONDITIONS = (
    ("SourceAccount", "StringEquals", "AWS:SourceAccount"),
    ("EventSourceToken", "StringEquals", "lambda:EventSourceToken"),
    ("PrincipalOrgID", "StringEquals", "aws:PrincipalOrgID"),
    ("FunctionUrlAuthType", "StringEquals", "lambda:FunctionUrlAuthType"),
    ("SourceArn", "ArnLike", "AWS:SourceArn"),
    ("InvokedViaFunctionUrl", "Bool", "lambda:InvokedViaFunctionUrl"),
)
_ONLY_FOR = {"FunctionUrlAuthType": "lambda:InvokeFunctionUrl", "InvokedViaFunctionUrl": "lambda:InvokeFunction"}
Statement = Mapping[str, Any]


def statement(members: Mapping[str, Any], resource: str) -> dict[str, Any]:
    """The statement that members of an AddPermission request mean for ``resource``, an ARN as qualified as the request.

    Raises InvalidParameterValue for a principal that cannot be one and for conditions that the action does not have.
    """
    for member, action in _ONLY_FOR.items():
        if members.get(member) and members["Action"] != action:
            raise InvalidParameterValue(f"{member} is only supported for {action} action")
    made: dict[str, Any] = {
        "Sid": members["StatementId"],
        "Effect": "Allow",
        "Principal": principal(members["Principal"]),
        "Action": members["Action"],
        "Resource": resource,
    }
    conditions: dict[str, dict[str, str]] = {}
    for member, operator, key in _CONDITIONS:
        value = members.get(member)
        if value:
            conditions.setdefault(operator, {})[key] = "true" if value is True else value
    if conditions:
        made["Condition"] = conditions
    return made


def principal(text: str) -> str | dict[str, str]:
    """A Principal member as policies have it. Raises InvalidParameterValue for what is neither a service nor an identity."""
    if text == "*":
        return "*"
    if _ACCOUNT.fullmatch(text):
        return {"AWS": f"arn:aws:iam::{text}:root"}
    if _IDENTITY.fullmatch(text):
        return {"AWS": text}
    if _SERVICE.fullmatch(text):
        return {"Service": text}
    raise InvalidParameterValue("The provided principal was invalid. Please check the principal and try again.")


def document(statements: Iterable[Statement]) -> dict[str, Any]:
    """The policy that consists of these statements."""
    return {"Version": "2012-10-17", "Id": "default", "Statement": list(statements)}


def text(value: Mapping[str, Any]) -> str:
    """A statement or policy as AWS prints it: compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def check_size(policy: Mapping[str, Any]) -> None:
    """Raises PolicyLengthExceeded for more than 20 KB."""
    size = len(text(policy).encode())
    if size > MAX_POLICY:
        raise PolicyLengthExceeded(f"The final policy size ({size}) is bigger than the limit ({MAX_POLICY})")


def find(statements: Iterable[Statement], sid: str) -> Statement | None:
    """The statement with this id."""
    return next((s for s in statements if s.get("Sid") == sid), None)
