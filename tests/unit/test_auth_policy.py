"""The policy evaluator against the examples and tables of AWS's documentation."""

from __future__ import annotations

import json

import pytest

from engine.auth.conditions import MalformedPolicy
from engine.auth.policy import Decision, Identity, Kind, Reason, Request, Source, evaluate, parse

ACCOUNT, OTHER = "111122223333", "444455556666"
FUNCTION = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:f"
ALL = parse({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})
NOTHING = parse({"Version": "2012-10-17", "Statement": []})
ROLE = f"arn:aws:iam::{ACCOUNT}:role/app"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/app/run"


def policy(*statements, version="2012-10-17"):
    return parse({"Version": version, "Statement": list(statements)})


def user(*policies, account=ACCOUNT, name="ada", **more):
    return Identity(Kind.USER, f"arn:aws:iam::{account}:user/{name}", account, tuple(policies), **more)


def session(*policies, **more):
    return Identity(Kind.SESSION, SESSION, ACCOUNT, tuple(policies), role_arn=ROLE, **more)


def ask(action="lambda:InvokeFunction", resource=FUNCTION, account=ACCOUNT, **context):
    return Request(action, resource, account, {k.lower(): v for k, v in context.items()})


def allow(action="*", resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action="*", resource="*", **more):
    return {"Effect": "Deny", "Action": action, "Resource": resource, **more}


def granted(principal, **more):
    return policy({"Effect": "Allow", "Principal": principal, "Action": "lambda:InvokeFunction", "Resource": FUNCTION, **more})


YES = Decision(Reason.ALLOWED)
NO_IDENTITY = Decision(Reason.IMPLICIT, Source.IDENTITY)


@pytest.mark.parametrize(
    ("statement", "action", "resource", "expected"),
    [
        (allow("lambda:InvokeFunction"), "lambda:InvokeFunction", FUNCTION, True),
        (allow("lambda:invoke*"), "lambda:InvokeFunction", FUNCTION, True),
        (allow("LAMBDA:INVOKEFUNCTION"), "lambda:InvokeFunction", FUNCTION, True),
        (allow("lambda:Get*"), "lambda:InvokeFunction", FUNCTION, False),
        (allow("lambda:*Function?"), "lambda:ListFunctions", "*", True),
        (allow(["s3:GetObject", "lambda:InvokeFunction"]), "lambda:InvokeFunction", FUNCTION, True),
        (allow("*", FUNCTION), "lambda:InvokeFunction", f"{FUNCTION}:live", False),
        (allow("*", f"{FUNCTION}:*"), "lambda:InvokeFunction", f"{FUNCTION}:live", True),
        (allow("*", f"{FUNCTION}:*"), "lambda:InvokeFunction", FUNCTION, False),
        (allow("*", "arn:aws:lambda:*:111122223333:function:?"), "lambda:InvokeFunction", FUNCTION, True),
        (allow("*", "arn:aws:s3:::bucket/*"), "s3:GetObject", "arn:aws:s3:::bucket/a/b", True),
        (allow("*", "arn:aws:s3:::bucket/a*b"), "s3:GetObject", "arn:aws:s3:::bucket/ab", True),
        (allow("*", "arn:aws:s3:::bucket/ab*ba"), "s3:GetObject", "arn:aws:s3:::bucket/aba", False),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, "lambda:InvokeFunction", FUNCTION, True),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, "iam:CreateUser", "*", False),
        ({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::hr/*"}, "s3:GetObject", "arn:aws:s3:::it/a", True),
        ({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::hr/*"}, "s3:GetObject", "arn:aws:s3:::hr/a", False),
    ],
)
def test_actions_and_resources(statement, action, resource, expected):
    assert evaluate(ask(action, resource), user(policy(statement))).allowed is expected


# IAM user guide, reference_policies_examples_*: (document, requests with their outcome).
EXAMPLES = {
    "s3_home-directory-console": (
        [allow("s3:*", ["arn:aws:s3:::b/home/${aws:username}", "arn:aws:s3:::b/home/${aws:username}/*"])],
        [
            (ask("s3:PutObject", "arn:aws:s3:::b/home/ada/x", **{"aws:username": "ada"}), True),
            (ask("s3:PutObject", "arn:aws:s3:::b/home/bob/x", **{"aws:username": "ada"}), False),
            # A name with wildcards in it opens nobody else's directory.
            (ask("s3:PutObject", "arn:aws:s3:::b/home/bob/x", **{"aws:username": "*"}), False),
            # Without a value the element matches nothing.
            (ask("s3:PutObject", "arn:aws:s3:::b/home//x"), False),
        ],
    ),
    "s3_list-prefix": (
        [allow("s3:ListBucket", "arn:aws:s3:::b", Condition={"StringLike": {"s3:prefix": ["", "home/", "home/${aws:username}/*"]}})],
        [
            (ask("s3:ListBucket", "arn:aws:s3:::b", **{"s3:prefix": "home/ada/x", "aws:username": "ada"}), True),
            (ask("s3:ListBucket", "arn:aws:s3:::b", **{"s3:prefix": "home/", "aws:username": "ada"}), True),
            (ask("s3:ListBucket", "arn:aws:s3:::b", **{"s3:prefix": "home/bob/", "aws:username": "ada"}), False),
            (ask("s3:ListBucket", "arn:aws:s3:::b", **{"aws:username": "ada"}), False),
        ],
    ),
    "deny-ip": (
        [
            allow(),
            deny(
                Condition={
                    "NotIpAddress": {"aws:SourceIp": ["192.0.2.0/24", "203.0.113.0/24"]},
                    "Bool": {"aws:ViaAWSService": "false"},
                }
            ),
        ],
        [
            (ask(**{"aws:SourceIp": "192.0.2.7", "aws:ViaAWSService": "false"}), True),
            (ask(**{"aws:SourceIp": "198.51.100.1", "aws:ViaAWSService": "false"}), False),
            (ask(**{"aws:SourceIp": "198.51.100.1", "aws:ViaAWSService": "true"}), True),
        ],
    ),
    "aws-dates": (
        [
            allow(
                Condition={
                    "DateGreaterThan": {"aws:CurrentTime": "2020-04-01T00:00:00Z"},
                    "DateLessThan": {"aws:CurrentTime": "2020-06-30T23:59:59Z"},
                }
            )
        ],
        [
            (ask(**{"aws:CurrentTime": "2020-05-01T00:00:00Z"}), True),
            (ask(**{"aws:CurrentTime": "2020-07-01T00:00:00Z"}), False),
            (ask(**{"aws:CurrentTime": "1588291200"}), True),
        ],
    ),
    "deny-requested-region": (
        [
            allow(),
            {
                "Effect": "Deny",
                "NotAction": ["iam:*", "sts:*"],
                "Resource": "*",
                "Condition": {"StringNotEquals": {"aws:RequestedRegion": ["eu-central-1", "eu-west-1"]}},
            },
        ],
        [
            (ask(**{"aws:RequestedRegion": "eu-west-1"}), True),
            (ask(**{"aws:RequestedRegion": "us-east-1"}), False),
            (ask("iam:GetUser", "*", **{"aws:RequestedRegion": "us-east-1"}), True),
        ],
    ),
    "tag-keys-allowed": (
        [allow("ec2:*", Condition={"ForAllValues:StringEquals": {"aws:TagKeys": ["environment", "cost-center"]}})],
        [
            (ask("ec2:CreateTags", "*", **{"aws:TagKeys": ["environment"]}), True),
            (ask("ec2:CreateTags", "*", **{"aws:TagKeys": ["environment", "owner"]}), False),
            (ask("ec2:CreateTags", "*"), True),
        ],
    ),
    "tag-keys-any": (
        [allow("ec2:*", Condition={"ForAnyValue:StringEquals": {"aws:TagKeys": ["environment", "cost-center"]}})],
        [
            (ask("ec2:CreateTags", "*", **{"aws:TagKeys": ["environment", "owner"]}), True),
            (ask("ec2:CreateTags", "*", **{"aws:TagKeys": ["owner"]}), False),
            (ask("ec2:CreateTags", "*"), False),
        ],
    ),
    "instance-type-if-exists": (
        [allow("ec2:RunInstances", Condition={"StringLikeIfExists": {"ec2:InstanceType": ["t1.*", "t2.*", "m3.*"]}})],
        [
            (ask("ec2:RunInstances", "*", **{"ec2:InstanceType": "t2.micro"}), True),
            (ask("ec2:RunInstances", "*", **{"ec2:InstanceType": "x1.huge"}), False),
            (ask("ec2:RunInstances", "*"), True),
        ],
    ),
    "mfa": (
        [
            allow(),
            deny(Condition={"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}),
        ],
        [
            (ask(**{"aws:MultiFactorAuthPresent": "true"}), True),
            (ask(**{"aws:MultiFactorAuthPresent": "false"}), False),
            (ask(), False),
        ],
    ),
    "function-condition": (
        [
            allow(
                ["lambda:CreateEventSourceMapping", "lambda:UpdateEventSourceMapping"],
                Condition={"ArnLike": {"lambda:FunctionArn": f"arn:aws:lambda:*:{ACCOUNT}:function:test*"}},
            )
        ],
        [
            (ask("lambda:CreateEventSourceMapping", "*", **{"lambda:FunctionArn": f"{FUNCTION[:-1]}test-1"}), True),
            (ask("lambda:CreateEventSourceMapping", "*", **{"lambda:FunctionArn": FUNCTION}), False),
        ],
    ),
    "default-of-a-variable": (
        [allow("s3:*", "arn:aws:s3:::b/${aws:PrincipalTag/team, 'company-wide'}/*")],
        [
            (ask("s3:GetObject", "arn:aws:s3:::b/yellow/x", **{"aws:PrincipalTag/team": "yellow"}), True),
            (ask("s3:GetObject", "arn:aws:s3:::b/company-wide/x"), True),
            (ask("s3:GetObject", "arn:aws:s3:::b/yellow/x"), False),
        ],
    ),
    "special-characters": (
        [allow("s3:GetObject", "arn:aws:s3:::b/${*}/${?}${$}")],
        [
            (ask("s3:GetObject", "arn:aws:s3:::b/*/?$"), True),
            (ask("s3:GetObject", "arn:aws:s3:::b/x/y$"), False),
        ],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_examples(name):
    statements, requests = EXAMPLES[name]
    for request, expected in requests:
        assert evaluate(request, user(policy(*statements))).allowed is expected, request


@pytest.mark.parametrize(
    ("operator", "wanted", "given", "holds"),
    [
        ("StringEquals", "a", "A", False),
        ("StringEqualsIgnoreCase", "a", "A", True),
        ("StringNotEqualsIgnoreCase", "a", "A", False),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringNotEquals", ["a", "b"], "c", True),
        ("StringNotEquals", "a", None, True),
        ("StringEquals", "a", None, False),
        ("StringEqualsIfExists", "a", None, True),
        ("StringNotLike", "a*", "abc", False),
        ("StringLike", "a?c", "abc", True),
        ("NumericEquals", "10", "10.0", True),
        ("NumericNotEquals", 10, "11", True),
        ("NumericLessThan", "10", "9.5", True),
        ("NumericLessThanEquals", "10", "10", True),
        ("NumericGreaterThan", "10", "9", False),
        ("NumericGreaterThanEquals", "10", "many", False),
        ("DateEquals", "2020-01-01T00:00:00Z", "1577836800", True),
        ("DateNotEquals", "2020-01-01T00:00:00Z", "2020-01-01T01:00:00+01:00", False),
        ("DateLessThanEquals", "2020-01-01", "2019-12-31T23:59:59Z", True),
        ("DateGreaterThanEquals", "2020-01-01", "yesterday", False),
        ("Bool", True, "true", True),
        ("Bool", "true", "1", False),
        ("BinaryEquals", "QmluYXJ5", "QmluYXJ5", True),
        ("BinaryEquals", "QmluYXJ5", "!", False),
        ("IpAddress", "2001:db8::/32", "2001:db8:85a3::1", True),
        ("IpAddress", "192.0.2.1", "192.0.2.1", True),
        ("IpAddress", "192.0.2.0/24", "2001:db8::1", False),
        ("NotIpAddress", "192.0.2.0/24", "192.0.3.1", True),
        ("ArnEquals", "arn:aws:sns:*:111122223333:t", "arn:aws:sns:us-east-1:111122223333:t", True),
        # A wildcard does not reach over a colon of the first five.
        ("ArnLike", "arn:aws:sns:*:t", "arn:aws:sns:us-east-1:111122223333:t", False),
        ("ArnNotLike", "arn:aws:s3:::*", "arn:aws:s3:::b", False),
        ("ArnNotEquals", "arn:aws:s3:::a", "arn:aws:s3:::b", True),
        ("Null", "true", None, True),
        ("Null", "false", "x", True),
        ("Null", "true", "x", False),
        ("ForAnyValue:StringLike", "a*", ["b", "ab"], True),
        ("ForAnyValue:StringNotEquals", "a", ["a", "b"], True),
        ("ForAnyValue:StringNotEquals", "a", ["a"], False),
        ("ForAnyValue:StringEqualsIfExists", "a", None, False),
        ("ForAllValues:StringNotEquals", "a", ["a", "b"], False),
        ("ForAllValues:StringEquals", "a", None, True),
        ("ForAllValues:StringLike", ["a*", "b*"], ["ax", "bx"], True),
    ],
)
def test_condition_operators(operator, wanted, given, holds):
    context = {} if given is None else {"aws:key": given}
    statement = allow(Condition={operator: {"AWS:Key": wanted}})
    assert evaluate(ask(**context), user(policy(statement))).allowed is holds


def test_variables_belong_to_the_newer_version_of_the_language():
    statement = allow("s3:*", "arn:aws:s3:::b/${aws:username}")
    request = ask("s3:GetObject", "arn:aws:s3:::b/ada", **{"aws:username": "ada"})
    assert evaluate(request, user(policy(statement))).allowed
    assert not evaluate(request, user(policy(statement, version="2008-10-17"))).allowed


@pytest.mark.parametrize(
    "excluding",
    [
        {"NotResource": f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:${{aws:PrincipalTag/team}}-*"},
        {"Resource": "*", "Condition": {"StringNotEquals": {"aws:RequestTag/team": "${aws:PrincipalTag/team}"}}},
        {"Resource": "*", "Condition": {"StringNotLikeIfExists": {"aws:RequestTag/team": ["x", "${aws:PrincipalTag/team}"]}}},
    ],
    ids=["resource", "condition", "one of several"],
)
def test_an_exclusion_that_nobody_knows_allows_nothing_and_still_denies(excluding):
    everybody = {"Effect": "Allow", "Action": "*", **excluding}
    known = {"aws:PrincipalTag/team": "blue"}
    assert evaluate(ask(**known), user(policy(everybody))) == YES
    assert evaluate(ask(), user(policy(everybody))) == NO_IDENTITY
    assert evaluate(ask(), user(ALL, policy({**everybody, "Effect": "Deny"}))) == Decision(Reason.EXPLICIT, Source.IDENTITY)


def test_explicit_deny_wins_wherever_it_stands():
    denying = policy(deny())
    for identity, source in (
        (user(ALL, denying), Source.IDENTITY),
        (user(ALL, boundary=policy(allow(), deny())), Source.BOUNDARY),
        (session(ALL, session=(ALL, denying)), Source.SESSION),
    ):
        assert evaluate(ask(), identity, granted({"AWS": identity.arn})) == Decision(Reason.EXPLICIT, source)
    refusing = policy({"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"})
    assert evaluate(ask(), user(ALL), refusing) == Decision(Reason.EXPLICIT, Source.RESOURCE)


def test_nothing_said_is_a_denial():
    assert evaluate(ask(), user()) == NO_IDENTITY


def test_root_needs_no_policy_and_obeys_a_deny_of_the_resource():
    root = Identity(Kind.ROOT, f"arn:aws:iam::{ACCOUNT}:root", ACCOUNT)
    assert evaluate(ask(), root) == YES
    refusing = policy({"Effect": "Deny", "Principal": {"AWS": ACCOUNT}, "Action": "*", "Resource": "*"})
    assert evaluate(ask(), root, refusing) == Decision(Reason.EXPLICIT, Source.RESOURCE)


# Table "effective permissions" of the guide: which limits cut which grants, in one account.
@pytest.mark.parametrize(
    ("identity", "principal", "expected"),
    [
        (user(ALL, boundary=NOTHING), None, Decision(Reason.IMPLICIT, Source.BOUNDARY)),
        (user(ALL, boundary=ALL), None, YES),
        (user(boundary=NOTHING), {"AWS": f"arn:aws:iam::{ACCOUNT}:user/ada"}, YES),
        (user(), {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, NO_IDENTITY),
        (user(), {"AWS": ACCOUNT}, NO_IDENTITY),
        (user(), "*", YES),
        (user(), {"AWS": "*"}, YES),
        (session(), {"AWS": ROLE}, YES),
        (session(boundary=NOTHING), {"AWS": ROLE}, Decision(Reason.IMPLICIT, Source.BOUNDARY)),
        (session(session=(NOTHING,)), {"AWS": ROLE}, Decision(Reason.IMPLICIT, Source.SESSION)),
        (session(session=(NOTHING,), boundary=NOTHING), {"AWS": SESSION}, YES),
        (session(ALL, session=(NOTHING,)), None, Decision(Reason.IMPLICIT, Source.SESSION)),
        (session(ALL, session=(ALL,)), None, YES),
    ],
)
def test_limits_and_grants_in_one_account(identity, principal, expected):
    assert evaluate(ask(), identity, None if principal is None else granted(principal)) == expected


@pytest.mark.parametrize(
    ("principal", "own", "expected"),
    [
        ({"AWS": OTHER}, (ALL,), YES),
        ({"AWS": f"arn:aws:iam::{OTHER}:root"}, (ALL,), YES),
        ({"AWS": f"arn:aws:iam::{OTHER}:user/bob"}, (ALL,), YES),
        ({"AWS": f"arn:aws:iam::{OTHER}:user/bob"}, (), NO_IDENTITY),
        ({"AWS": f"arn:aws:iam::{OTHER}:user/eve"}, (ALL,), Decision(Reason.IMPLICIT, Source.RESOURCE)),
        (None, (ALL,), Decision(Reason.IMPLICIT, Source.RESOURCE)),
    ],
)
def test_across_accounts_both_sides_must_allow(principal, own, expected):
    bob = user(*own, account=OTHER, name="bob")
    assert evaluate(ask(), bob, None if principal is None else granted(principal)) == expected


BUCKET = "arn:aws:s3:::photos"


@pytest.mark.parametrize(
    ("context", "allowed"),
    [
        ({"aws:SourceArn": BUCKET, "aws:SourceAccount": ACCOUNT}, True),
        ({"aws:SourceArn": BUCKET, "aws:SourceAccount": OTHER}, False),
        ({"aws:SourceArn": "arn:aws:s3:::other", "aws:SourceAccount": ACCOUNT}, False),
        ({}, False),
    ],
)
def test_services_need_the_resources_policy_and_their_source(context, allowed):
    resource = granted(
        {"Service": "s3.amazonaws.com"},
        Condition={"StringEquals": {"AWS:SourceAccount": ACCOUNT}, "ArnLike": {"AWS:SourceArn": BUCKET}},
    )
    service = Identity(Kind.SERVICE, "s3.amazonaws.com", "")
    assert evaluate(ask(**context), service, resource).allowed is allowed
    sns = Identity(Kind.SERVICE, "sns.amazonaws.com", "")
    assert evaluate(ask(**context), sns, resource) == Decision(Reason.IMPLICIT, Source.RESOURCE)


def test_anonymous_callers_are_everybody_only():
    nobody = Identity(Kind.ANONYMOUS, "anonymous", "")
    assert evaluate(ask(), nobody, granted("*")) == YES
    assert not evaluate(ask(), nobody, granted({"AWS": ACCOUNT})).allowed
    assert not evaluate(ask(), nobody).allowed


def test_not_principal_spares_only_who_is_listed_with_account_and_role():
    account = f"arn:aws:iam::{ACCOUNT}:root"

    def refusing(*arns):
        return policy({"Effect": "Deny", "NotPrincipal": {"AWS": list(arns)}, "Action": "*", "Resource": "*"})

    assert evaluate(ask(), session(ALL), refusing(SESSION, ROLE, account)) == YES
    assert evaluate(ask(), session(ALL), refusing(SESSION, ROLE)).source is Source.RESOURCE
    assert evaluate(ask(), user(ALL), refusing(f"arn:aws:iam::{ACCOUNT}:user/ada", ACCOUNT)) == YES
    assert evaluate(ask(), user(ALL, name="eve"), refusing(f"arn:aws:iam::{ACCOUNT}:user/ada", ACCOUNT)).source is Source.RESOURCE


def test_unknown_resource_takes_any_allow_and_only_general_denials():
    narrow = policy(allow("dynamodb:*", "arn:aws:dynamodb:*:*:table/t"))
    assert evaluate(ask("dynamodb:ListTables", None), user(narrow)).allowed
    assert evaluate(ask("dynamodb:ListTables", None), user(narrow, policy(deny(resource="arn:x")))).allowed
    assert not evaluate(ask("dynamodb:ListTables", None), user(narrow, policy(deny()))).allowed


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not JSON"),
        ("[]", "a policy is an object"),
        ({"Statement": 1}, "Statement must be"),
        ({"Statement": [1]}, "a statement must be an object"),
        ({"Statement": {"Effect": "Maybe", "Action": "*"}}, "Effect must be Allow or Deny"),
        ({"Statement": {"Effect": "Allow", "Resource": "*"}}, "either Action or NotAction"),
        ({"Statement": {"Effect": "Allow", "Action": 1}}, "Action must be a string"),
        ({"Statement": allow(NotResource="*")}, "both Resource and NotResource"),
        ({"Statement": allow(Principal="*", NotPrincipal="*")}, "both Principal and NotPrincipal"),
        ({"Statement": allow(Principal="ada")}, 'Principal must be "*"'),
        ({"Statement": allow(Condition=[1])}, "Condition must be an object"),
        ({"Statement": allow(Condition={"Nearly": {}})}, "unknown condition operator Nearly"),
        ({"Statement": allow(Condition={"Bool": 1})}, "Condition Bool must be an object"),
    ],
)
def test_malformed_documents_are_named(document, words):
    with pytest.raises(MalformedPolicy, match=words):
        parse(document if isinstance(document, str) else json.dumps(document))
