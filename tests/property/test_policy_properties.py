"""What must hold of policy evaluation whatever the policies are."""

from __future__ import annotations

import json
import re
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.auth.conditions import MalformedPolicy
from engine.auth.patterns import arn_matches, expand, folded, matches
from engine.auth.policy import Identity, Kind, Reason, Request, evaluate, parse

ACCOUNT = "111122223333"
ACTIONS = st.sampled_from(["lambda:InvokeFunction", "lambda:GetFunction", "s3:GetObject", "s3:PutObject"])
ACTION_PATTERNS = st.sampled_from(["*", "lambda:*", "s3:*", "lambda:Invoke*", "s3:?etObject", "lambda:GetFunction"])
RESOURCES = st.sampled_from(["arn:aws:s3:::b/x", "arn:aws:s3:::b/y", f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:f"])
RESOURCE_PATTERNS = st.sampled_from(["*", "arn:aws:s3:::b/*", "arn:aws:s3:::b/?", f"arn:aws:lambda:*:{ACCOUNT}:function:*", "arn:*"])
CONDITIONS = st.sampled_from(
    [
        {},
        {"StringEquals": {"aws:username": "ada"}},
        {"StringNotEquals": {"aws:username": ["ada", "bob"]}},
        {"Null": {"aws:username": "true"}},
        {"ForAnyValue:StringLike": {"aws:tagkeys": "a*"}},
    ]
)
STATEMENT = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Deny"]),
        "Action": ACTION_PATTERNS,
        "Resource": st.lists(RESOURCE_PATTERNS, min_size=1, max_size=3),
        "Condition": CONDITIONS,
    }
)
DOCUMENT = st.lists(STATEMENT, max_size=5).map(lambda s: {"Version": "2012-10-17", "Statement": s})
CONTEXT = st.fixed_dictionaries(
    {}, optional={"aws:username": st.sampled_from(["ada", "bob", "eve"]), "aws:tagkeys": st.lists(st.sampled_from(["a", "b"]))}
)
REQUEST = st.builds(lambda a, r, c: Request(a, r, ACCOUNT, c), ACTIONS, RESOURCES, CONTEXT)
DENY_ALL = parse({"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}})
ALLOW_ALL = parse({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})


def user(*policies, boundary=None):
    return Identity(Kind.USER, f"arn:aws:iam::{ACCOUNT}:user/ada", ACCOUNT, tuple(policies), boundary=boundary)


@given(DOCUMENT, REQUEST)
def test_a_deny_for_all_denies_and_no_policy_denies(document, request):
    one = parse(document)
    assert evaluate(request, user(one, DENY_ALL)).reason is Reason.EXPLICIT
    assert not evaluate(request, user()).allowed


@given(DOCUMENT, DOCUMENT, REQUEST)
def test_more_policies_never_turn_an_explicit_deny(first, second, request):
    if evaluate(request, user(parse(first))).reason is Reason.EXPLICIT:
        assert evaluate(request, user(parse(second), parse(first), ALLOW_ALL)).reason is Reason.EXPLICIT


@given(DOCUMENT, DOCUMENT, REQUEST)
def test_a_boundary_is_an_intersection(first, second, request):
    both = evaluate(request, user(parse(first), boundary=parse(second))).allowed
    assert both == (evaluate(request, user(parse(first))).allowed and evaluate(request, user(parse(second))).allowed)


@given(DOCUMENT, REQUEST, st.randoms())
def test_the_order_of_statements_does_not_matter(document, request, random):
    before = evaluate(request, user(parse(document)))
    random.shuffle(document["Statement"])
    assert evaluate(request, user(parse(json.dumps(document)))) == before


TEXT = st.text(st.sampled_from("ab:/\\.*?$"), max_size=12)


@given(TEXT, st.text(st.sampled_from("ab:/\\.$\n"), max_size=12))
def test_wildcards_are_those_of_a_regular_expression(pattern, value):
    expression = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    assert matches(pattern, value) == bool(re.fullmatch(expression, value, re.DOTALL))


@given(TEXT, TEXT)
def test_a_variable_brings_in_text_and_nothing_else(name, value):
    expanded = expand("x/${aws:username}/*", {"aws:username": name})
    assert expanded is not None
    assert matches(expanded, folded(f"x/{value}/y")) == f"{value}/".startswith(f"{name}/")


def test_a_hostile_pattern_costs_no_more_than_its_length():
    started = time.process_time()
    assert not matches("*a" * 200 + "b", "a" * 2000)
    assert not arn_matches("arn:aws:s3:::" + "*a" * 200 + "b", "arn:aws:s3:::" + "a" * 2000)
    assert time.process_time() - started < 5


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.sampled_from(["Allow", "Deny", "*", "2012-10-17"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["Version", "Statement", "Effect", "Action", "Resource", "Principal", "Condition", "AWS"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_refused(document):
    try:
        parse(json.dumps(document))
    except MalformedPolicy:
        pass
