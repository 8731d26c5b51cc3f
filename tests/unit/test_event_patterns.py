"""The pattern language of FilterCriteria: documented examples, and what is no pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.core.patterns import BUS, MAX_DEPTH, MAX_LENGTH, InvalidPattern, load, parse


def matches(pattern: Any, record: Any) -> bool:
    loaded = load(json.dumps(record))
    assert isinstance(loaded, dict)
    return parse(json.dumps(pattern)).matches(loaded)


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ([None], [None], ["null", 0, False, ""]),
        ([""], [""], [None, " "]),
        (["a"], ["a", ["b", "a"]], ["A", "ab", {"a": 1}, []]),
        (["a", "b"], ["a", "b"], ["c"]),
        ([300], [300], ["300", 300.0, 301]),
        ([True], [True], [1, "true", False]),
        ([{"equals-ignore-case": "Straße"}], ["STRASSE", "straße"], ["strase", 1]),
        ([{"anything-but": ["a", "b"]}], ["c", 1, None], ["a", "b", {"x": 1}]),
        ([{"anything-but": "a"}], ["b"], ["a"]),
        ([{"anything-but": [1]}], [2, "1"], [1]),
        ([{"numeric": [">", 10, "<=", 20]}], [10.5, 20], [10, 21, "15", None]),
        ([{"numeric": ["=", 300]}], [300, 300.0, 3e2], [301]),
        ([{"numeric": ["<", -1]}], [-1.5], [-1]),
        ([{"exists": True}], [None, "", 0, ["x"]], [{"x": 1}]),
        ([{"prefix": "us-"}], ["us-east-1"], ["eu-us-", 1]),
        ([{"suffix": ".png"}], ["a.png"], ["a.pngx", 1]),
    ],
)
def test_rules(rules: list[Any], good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert matches({"f": rules}, {"f": value}), value
    for value in bad:
        assert not matches({"f": rules}, {"f": value}), value


def test_fields_that_are_not_there() -> None:
    for rules in ([None], ["a"], [{"anything-but": ["a"]}], [{"exists": True}], [{"prefix": ""}]):
        assert not matches({"f": rules}, {"g": "a"})
    assert matches({"f": [{"exists": False}]}, {"g": "a"})
    assert matches({"f": {"g": [{"exists": False}]}}, {"f": "a"})
    assert matches({"f": [{"exists": False}, "a"]}, {"f": "a"})


def test_all_fields_must_match_and_one_of_or() -> None:
    pattern = {"body": {"a": ["x"], "$or": [{"b": [1]}, {"c": {"d": ["y"]}}]}}
    assert matches(pattern, {"body": {"a": "x", "b": 1}})
    assert matches(pattern, {"body": {"a": "x", "b": 2, "c": {"d": "y"}}})
    assert not matches(pattern, {"body": {"a": "x", "b": 2}})
    assert not matches(pattern, {"body": {"b": 1}})


def test_objects_in_a_list_are_entered_one_by_one() -> None:
    pattern = {"rows": {"a": [1], "b": [2]}}
    assert matches(pattern, {"rows": [{"a": 1}, {"a": 1, "b": 2}]})
    assert not matches(pattern, {"rows": [{"a": 1}, {"b": 2}]})


def test_the_last_of_two_equal_keys_counts() -> None:
    pattern = parse('{"f": ["a"], "f": ["b"]}')
    assert pattern.matches({"f": "b"})
    assert not pattern.matches({"f": "a"})


@pytest.mark.parametrize(
    "text",
    [
        "", "no JSON", "[]", "1", '"a"', "{}", '{"f": "a"}', '{"f": 1}', '{"f": null}', '{"f": []}', '{"f": {}}', '{"f": [["a"]]}',
        '{"f": [{}]}', '{"f": [{"wildcard": "*"}]}', '{"f": [{"prefix": 1}]}', '{"f": [{"suffix": null}]}', '{"f": [{"exists": 1}]}',
        '{"f": [{"numeric": []}]}', '{"f": [{"numeric": [">"]}]}', '{"f": [{"numeric": ["!", 1]}]}', '{"f": [{"numeric": [">", "1"]}]}',
        '{"f": [{"numeric": [[], 1]}]}', '{"f": [{"anything-but": []}]}', '{"f": [{"anything-but": {"prefix": "a"}}]}', '{"$or": []}',
        '{"$or": {}}', '{"$or": [1]}', '{"$or": [{}]}', '{"f": [{"prefix": "a", "suffix": "b"}]}', '{"f": [NaN]}', '{"f": [Infinity]}',
        '{"f": ["' + "a" * MAX_LENGTH + '"]}', '{"a":' * (MAX_DEPTH + 1) + "[1]" + "}" * (MAX_DEPTH + 1), "[" * 4000,
    ],
)  # fmt: skip
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(InvalidPattern):
        parse(text)


def test_nesting_beyond_reason_is_no_json() -> None:
    with pytest.raises(ValueError, match="nested"):
        load("[" * 100_000)


@pytest.mark.parametrize(
    ("rule", "value", "wanted"),
    [
        ({"wildcard": "a*c"}, "abbc", True), ({"wildcard": "a*c"}, "abbd", False), ({"wildcard": "a\\*"}, "a*", True),
        ({"wildcard": "a\\*"}, "ab", False), ({"wildcard": "a\\\\*"}, "a\\x", True), ({"wildcard": "*"}, 1, False),
        ({"cidr": "10.0.0.0/24"}, "10.0.0.255", True), ({"cidr": "10.0.0.0/24"}, "10.0.1.0", False), ({"cidr": "2001:db8::/32"}, "2001:db8::1", True),
        ({"cidr": "10.0.0.0/24"}, "elsewhere", False), ({"prefix": {"equals-ignore-case": "AB"}}, "abc", True),
        ({"suffix": {"equals-ignore-case": "BC"}}, "abc", True), ({"anything-but": {"prefix": "a"}}, "b", True),
        ({"anything-but": {"prefix": "a"}}, "ab", False), ({"anything-but": {"suffix": ["x", "y"]}}, "ay", False),
        ({"anything-but": {"equals-ignore-case": "A"}}, "a", False), ({"anything-but": {"wildcard": "a*"}}, "b", True), ({"anything-but": ["a"]}, "b", True),
    ],
)  # fmt: skip
def test_operators_of_rules_only(rule, value, wanted):
    text = json.dumps({"f": [rule]})
    record: Any = load(json.dumps({"f": value}))
    assert parse(text, BUS).matches(record) is wanted
    if rule != {"anything-but": ["a"]}:
        with pytest.raises(InvalidPattern):
            parse(text)


@pytest.mark.parametrize(
    "rule",
    [{"wildcard": "a**"}, {"wildcard": "a\\b"}, {"wildcard": 1}, {"cidr": "x"}, {"prefix": {"suffix": "a"}}, {"anything-but": {"numeric": [">", 1]}},
     {"anything-but": {}}, {"anything-but": {"prefix": []}}],
)  # fmt: skip
def test_what_rules_refuse(rule):
    with pytest.raises(InvalidPattern):
        parse(json.dumps({"f": [rule]}), BUS)


@pytest.mark.parametrize(
    ("pattern", "record", "expected"),
    [
        ({"a": [{"exists": False}]}, {"a": []}, True),
        ({"a": [{"exists": True}]}, {"a": []}, False),
        ({"a": {"b": [{"exists": False}]}}, {"a": []}, True),
        ({"a": ["x"]}, {"a": [["y"], [["x"]]]}, True),
        ({"a": {"b": ["x"]}}, {"a": [[{"b": "x"}]]}, True),
    ],
)
def test_arrays_are_what_is_in_them(pattern: dict[str, object], record: dict[str, object], expected: bool) -> None:
    found = load(json.dumps(record))
    assert isinstance(found, dict)
    assert parse(json.dumps(pattern)).matches(found) is expected
