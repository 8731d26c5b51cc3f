"""Statements exactly as AWS prints them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.control import policy_document
from engine.errors import InvalidParameterValue, PolicyLengthExceeded

ARN = "arn:aws:lambda:us-east-1:000000000000:function:f"
BASE = {"StatementId": "s", "Action": "lambda:InvokeFunction"}


def test_a_statement_has_the_keys_of_aws_in_their_order() -> None:
    members = {**BASE, "Principal": "s3.amazonaws.com", "SourceArn": "arn:aws:s3:::bucket", "SourceAccount": "111111111111"}
    assert policy_document.text(policy_document.statement(members, ARN)) == (
        '{"Sid":"s","Effect":"Allow","Principal":{"Service":"s3.amazonaws.com"},"Action":"lambda:InvokeFunction",'
        f'"Resource":"{ARN}","Condition":{{"StringEquals":{{"AWS:SourceAccount":"111111111111"}},'
        '"ArnLike":{"AWS:SourceArn":"arn:aws:s3:::bucket"}}}'
    )
    assert list(policy_document.statement({**BASE, "Principal": "*"}, ARN)) == ["Sid", "Effect", "Principal", "Action", "Resource"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("*", "*"),
        ("123456789012", {"AWS": "arn:aws:iam::123456789012:root"}),
        ("arn:aws:iam::123456789012:role/path/r", {"AWS": "arn:aws:iam::123456789012:role/path/r"}),
        ("arn:aws:iam::123456789012:root", {"AWS": "arn:aws:iam::123456789012:root"}),
        ("arn:aws-cn:iam::123456789012:user/u", {"AWS": "arn:aws-cn:iam::123456789012:user/u"}),
        ("arn:aws:sts::123456789012:assumed-role/r/s", {"AWS": "arn:aws:sts::123456789012:assumed-role/r/s"}),
        ("elasticloadbalancing.amazonaws.com", {"Service": "elasticloadbalancing.amazonaws.com"}),
        ("logs.eu-west-1.amazonaws.com", {"Service": "logs.eu-west-1.amazonaws.com"}),
        ("alexa-appkit.amazon.com", {"Service": "alexa-appkit.amazon.com"}),
    ],
)
def test_a_principal_is_a_service_an_identity_or_everybody(given: str, shown: Any) -> None:
    assert policy_document.principal(given) == shown


@pytest.mark.parametrize("given", ["invalid.nonaws.com", "12345", "someone", "arn:aws:s3:::bucket", "arn:aws:iam::1:role/r", ".amazonaws.com"])
def test_other_principals_are_refused(given: str) -> None:
    with pytest.raises(InvalidParameterValue, match=r"^The provided principal was invalid\. Please check the principal and try again\.$"):
        policy_document.principal(given)


@pytest.mark.parametrize(
    ("members", "condition"),
    [
        ({"EventSourceToken": "amzn1.x"}, {"StringEquals": {"lambda:EventSourceToken": "amzn1.x"}}),
        ({"PrincipalOrgID": "o-1234567890"}, {"StringEquals": {"aws:PrincipalOrgID": "o-1234567890"}}),
        ({"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE"}, {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}}),
        ({"InvokedViaFunctionUrl": True}, {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}),
        ({"InvokedViaFunctionUrl": False}, None),
        (
            {"SourceAccount": "1" * 12, "PrincipalOrgID": "o-1234567890"},
            {"StringEquals": {"AWS:SourceAccount": "1" * 12, "aws:PrincipalOrgID": "o-1234567890"}},
        ),
    ],
)
def test_conditions_are_plain_strings_under_the_keys_tools_look_for(members: dict[str, Any], condition: Any) -> None:
    assert policy_document.statement({**BASE, "Principal": "*", **members}, ARN).get("Condition") == condition


def test_conditions_on_function_urls_belong_to_one_action_each() -> None:
    for action, member, value in (("lambda:InvokeFunctionUrl", "FunctionUrlAuthType", "NONE"), ("lambda:InvokeFunction", "InvokedViaFunctionUrl", True)):
        members = {**BASE, "Principal": "*", member: value}
        policy_document.statement({**members, "Action": action}, ARN)
        with pytest.raises(InvalidParameterValue, match=f"^{member} is only supported for {action} action$"):
            policy_document.statement({**members, "Action": "lambda:*"}, ARN)


def test_a_policy_may_have_20480_bytes() -> None:
    empty = len(policy_document.text(policy_document.document([{"Sid": ""}])))
    assert json.loads(policy_document.text(policy_document.document([]))) == {"Version": "2012-10-17", "Id": "default", "Statement": []}
    policy_document.check_size(policy_document.document([{"Sid": "x" * (20480 - empty)}]))
    with pytest.raises(PolicyLengthExceeded, match=r"^The final policy size \(20481\) is bigger than the limit \(20480\)$"):
        policy_document.check_size(policy_document.document([{"Sid": "x" * (20481 - empty)}]))
