"""Filter policies of subscriptions, as SNS's own documentation has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.core import topic_filters
from engine.core.patterns import InvalidPattern

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "store": {"Type": "String", "Value": "example_corp"},
    "price": {"Type": "Number", "Value": "210.750"},
    "interests": {"Type": "String.Array", "Value": '["rugby", "football", 7, null]'},
    "ip": {"Type": "String", "Value": "10.0.0.5"},
    "raw": {"Type": "Binary", "Value": b"x"},
    "broken": {"Type": "String.Array", "Value": "[rugby"},
    "count": {"Type": "Number.int", "Value": "10"},
}
BODY = {"store": "example_corp", "event": {"kind": "order_placed", "price": 1e2}, "items": [{"id": 1}, {"id": 2}], "nothing": None}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"store": ["example_corp"]}, True),
        ({"store": ["Example_Corp"]}, False),
        ({"store": [{"equals-ignore-case": "Example_Corp"}]}, True),
        ({"store": [{"anything-but": ["other"]}], "price": [{"numeric": [">", 200, "<=", 210.75]}]}, True),
        ({"store": [{"anything-but": {"prefix": "example"}}]}, False),
        ({"store": [{"anything-but": {"suffix": "ltd"}}]}, True),
        ({"price": [210.75]}, True),
        ({"price": ["210.75"]}, False),
        ({"count": [10.0]}, True),
        ({"count": [{"anything-but": [10]}]}, False),
        ({"interests": ["football"]}, True),
        ({"interests": [7]}, True),
        ({"interests": [None]}, True),
        ({"interests": [{"anything-but": ["rugby"]}]}, True),
        ({"interests": [{"prefix": "ten"}]}, False),
        ({"ip": [{"cidr": "10.0.0.0/24"}]}, True),
        ({"ip": [{"cidr": "10.0.1.0/24"}]}, False),
        ({"raw": [{"exists": True}]}, False),
        ({"broken": [{"exists": True}]}, False),
        ({"missing": ["x", {"exists": False}]}, True),
        ({"$or": [{"store": ["other"]}, {"price": [{"numeric": ["=", 210.75]}]}]}, True),
    ],
)
def test_attributes(policy: dict[str, Any], expected: bool) -> None:
    assert topic_filters.matches(topic_filters.read(policy), "MessageAttributes", ATTRIBUTES, "") is expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"event": {"kind": [{"prefix": "order"}], "price": [100]}}, True),
        ({"event": {"kind": ["order_cancelled"]}}, False),
        ({"items": {"id": [2]}}, True),
        ({"nothing": [None]}, True),
        ({"store": [None]}, False),
        ({"$or": [{"event": {"kind": ["x"]}}, {"items": {"id": [1]}}]}, True),
        ({"event": {"missing": [{"exists": False}]}}, True),
    ],
)
def test_bodies(policy: dict[str, Any], expected: bool) -> None:
    assert topic_filters.matches(topic_filters.read(policy), topic_filters.BODY, None, json.dumps(BODY)) is expected


@pytest.mark.parametrize("body", ["", "no json", "[]", "5", "NaN", "[" * 100_000])
def test_a_body_that_is_no_object_matches_nothing(body: str) -> None:
    assert not topic_filters.matches(topic_filters.read({"a": [{"exists": False}]}), topic_filters.BODY, {}, body)


def test_a_number_that_is_none_compares_as_it_was_written() -> None:
    given = {"n": {"Type": "Number", "Value": "many"}}
    assert not topic_filters.matches(topic_filters.read({"n": [1]}), "MessageAttributes", given, "")


@pytest.mark.parametrize("policy", [{}, {"a": "x"}, {"a": []}, {"a": [{"unknown": 1}]}, {"a": [{"cidr": "everywhere"}]}])
def test_what_is_no_policy(policy: dict[str, Any]) -> None:
    with pytest.raises(InvalidPattern):
        topic_filters.read(policy)
