"""Every form of a function name that Lambda accepts, and each refusal with Lambda's text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.arn import FunctionRef, check_new_name, function_arn, parse_function_name
from engine.errors import InvalidParameterValue, ResourceNotFound, ValidationError

HOME = {"account": "000000000000", "region": "us-east-1"}
NAMES = st.text("abcXYZ019-_", min_size=1, max_size=64)
ACCOUNTS = st.from_regex(r"[0-9]{12}", fullmatch=True)
QUALIFIERS = st.one_of(st.just("$LATEST"), st.text("abcXYZ019-_", min_size=1, max_size=20))


@pytest.mark.parametrize(
    ("text", "account", "qualifier"),
    [
        ("f", "000000000000", None),
        ("f:1", "000000000000", "1"),
        ("f:live", "000000000000", "live"),
        ("f:$LATEST", "000000000000", "$LATEST"),
        ("function:f", "000000000000", None),
        ("123456789012:f", "123456789012", None),
        ("123456789012:function:f", "123456789012", None),
        ("123456789012:function:f:2", "123456789012", "2"),
        ("us-east-1:123456789012:function:f", "123456789012", None),
        ("arn:aws:lambda:us-east-1:123456789012:function:f", "123456789012", None),
        ("arn:aws:lambda:us-east-1:123456789012:function:f:live", "123456789012", "live"),
    ],
)
def test_form(text, account, qualifier):
    assert parse_function_name(text, **HOME) == FunctionRef(account, "us-east-1", "f", qualifier)


def test_separate_qualifier_is_taken():
    assert parse_function_name("f", qualifier="7", **HOME).qualifier == "7"


def test_same_qualifier_twice_is_one():
    assert parse_function_name("f:7", qualifier="7", **HOME).qualifier == "7"


def test_two_qualifiers_are_refused():
    with pytest.raises(InvalidParameterValue, match="derived qualifier from the function name does not match") as caught:
        parse_function_name("f:7", qualifier="8", **HOME)
    assert caught.value.code == "InvalidParameterValueException"


def test_other_region_is_not_reachable():
    with pytest.raises(ResourceNotFound, match="Functions from 'eu-west-1' are not reachable in this region \\('us-east-1'\\)"):
        parse_function_name("arn:aws:lambda:eu-west-1:123456789012:function:f", **HOME)


def test_another_partitions_function_is_not_the_one_of_that_name_here():
    arn = "arn:aws-cn:lambda:us-east-1:123456789012:function:f"
    with pytest.raises(ResourceNotFound, match=f"Function not found: {arn}"):
        parse_function_name(arn, **HOME)
    there = parse_function_name(arn.replace("us-east-1", "cn-north-1"), account="123456789012", region="cn-north-1")
    assert (there.region, there.name) == ("cn-north-1", "f")


@pytest.mark.parametrize("text", ["", "a b", "f:", ":f", "arn:aws:s3:::bucket", "f:1:2", "12345:function:f", "é", "a/b", "f\n"])
def test_malformed_name_names_the_pattern(text):
    with pytest.raises(ValidationError, match="at 'functionName' failed to satisfy constraint: Member must satisfy regular expression"):
        parse_function_name(text, **HOME)


def test_a_name_over_64_characters_can_be_asked_for_but_not_be_given():
    check_new_name("f" * 64)
    with pytest.raises(InvalidParameterValue, match="length less than or equal to 64"):
        check_new_name("f" * 65)
    assert parse_function_name("f" * 65, **HOME).name == "f" * 65


def test_over_256_characters_is_refused():
    with pytest.raises(ValidationError, match="length less than or equal to 256"):
        parse_function_name("f" * 257, **HOME)


@given(account=ACCOUNTS, name=NAMES, qualifier=st.none() | QUALIFIERS)
def test_arn_reads_back_as_what_it_was_made_of(account, name, qualifier):
    ref = parse_function_name(function_arn("us-east-1", account, name, qualifier), **HOME)
    assert ref == FunctionRef(account, "us-east-1", name, qualifier)
    assert ref.arn() == function_arn("us-east-1", account, name, qualifier)
    assert ref.unqualified_arn() == function_arn("us-east-1", account, name)


@given(st.text(max_size=300))
def test_any_text_gives_a_name_or_a_known_refusal(text):
    try:
        ref = parse_function_name(text, **HOME)
    except (ValidationError, InvalidParameterValue, ResourceNotFound):
        return
    assert ref.name in text
