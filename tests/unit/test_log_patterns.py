"""Filter patterns of log groups."""

from __future__ import annotations

import json

import pytest

from engine.core.log_patterns import InvalidLogPattern, parse


@pytest.mark.parametrize(
    ("pattern", "message", "wanted"),
    [
        ("", "anything", True), ("  ", "", True), ("ERROR", "an ERROR here", True), ("ERROR", "an error here", False),
        ("ERROR bad", "bad ERROR", True), ("ERROR bad", "ERROR", False), ('"two words"', "has two words", True), ('"two words"', "words two", False),
        ("?a ?b", "xbx", True), ("?a ?b", "xyz", False), ("ERROR -exit", "ERROR exit", False), ("ERROR -exit", "ERROR", True),
        ('-"no way"', "no way", False), ('-"no way"', "way no", True), ("ERROR ?b", "ERROR", True), (r'"say \"hi\""', 'they say "hi"', True),
    ],
)  # fmt: skip
def test_words(pattern, message, wanted):
    assert parse(pattern)(message) is wanted


EVENT = {"level": "error", "ms": 12.5, "user": {"name": "ada", "gone": None}, "tags": ["x", "y"], "ok": True}


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ('{ $.level = "error" }', True), ('{$.level="warn"}', False), ('{ $.level != "warn" }', True), ("{ $.level = err* }", True),
        ("{ $.ms > 12 }", True), ("{ $.ms <= 12 }", False), ("{ $.ms = 12.5 && $.user.name = ada }", True), ("{ $.ms = 1 || $.user.name = ada }", True),
        ("{ $.ms = 1 || $.user.name = bob }", False), ('{ ($.ms = 12.5) && ($.tags[1] = "y") }', True), ("{ $.user.gone IS NULL }", True),
        ("{ $.user.name IS NULL }", False), ("{ $.no NOT EXISTS }", True), ("{ $.user.gone NOT EXISTS }", False), ("{ $.ok IS TRUE }", True),
        ("{ $.ok IS FALSE }", False), ("{ $.ok = 1 }", False), ('{ $.level = "a || b" || $.ms = 12.5 }', True),
    ],
)  # fmt: skip
def test_members(pattern, wanted):
    test = parse(pattern)
    assert test(json.dumps(EVENT)) is wanted
    assert test("no JSON") is False
    assert test('"a text"') is False


@pytest.mark.parametrize("pattern", ["[a, b]", "%x%", '"open', "{ level = 1 }", "{ $.a > x }", "{ $.a }", "{}"])
def test_what_is_not_understood(pattern):
    with pytest.raises(InvalidLogPattern):
        parse(pattern)
