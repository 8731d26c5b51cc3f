"""The pattern language against an independent matcher, where the two languages agree, and against its own laws."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.patterns import InvalidPattern, load, parse

KEYS = st.sampled_from("abc")
SCALARS = st.one_of(st.none(), st.sampled_from(["", "x", "X", "xy", "yx"]), st.integers(2, 5))
RECORDS = st.recursive(
    st.dictionaries(KEYS, SCALARS, min_size=1), lambda inner: st.dictionaries(KEYS, st.one_of(SCALARS, inner), min_size=1), max_leaves=8
)
TEXTS = st.sampled_from(["", "x", "X", "xy"])
RULES = st.one_of(
    SCALARS,
    st.builds(lambda t: {"prefix": t}, TEXTS),
    st.builds(lambda t: {"suffix": t}, TEXTS),
    st.builds(lambda t: {"equals-ignore-case": t}, TEXTS),
    st.builds(lambda b: {"exists": b}, st.booleans()),
    st.builds(lambda refused: {"anything-but": refused}, st.lists(st.one_of(TEXTS, st.integers(2, 5)), min_size=1)),
    st.builds(lambda o, n: {"numeric": [o, n]}, st.sampled_from(["=", "<", "<=", ">", ">="]), st.integers(1, 6)),
    st.builds(lambda low, high: {"numeric": [">", low, "<=", high]}, st.integers(1, 6), st.integers(1, 6)),
)
LEAVES = st.lists(RULES, min_size=1, max_size=3)
PATTERNS = st.recursive(
    st.dictionaries(KEYS, LEAVES, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.dictionaries(KEYS, st.one_of(LEAVES, inner), min_size=1, max_size=3),
        st.builds(lambda choices: {"$or": choices}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


def matches(pattern: Any, record: Any) -> bool:
    loaded = load(json.dumps(record))
    assert isinstance(loaded, dict)
    return parse(json.dumps(pattern)).matches(loaded)


@settings(deadline=None)
@given(PATTERNS, RECORDS)
def test_it_agrees_with_the_matcher_of_rules(pattern: dict[str, Any], record: dict[str, Any]) -> None:
    models = pytest.importorskip("moto.events.models", reason="the extra `embedded` is not installed")
    assert matches(pattern, record) == models.EventPattern(None, pattern).matches_event(record)


@settings(deadline=None)
@given(RECORDS)
def test_a_record_matches_the_pattern_made_of_it(record: dict[str, Any]) -> None:
    def made(value: Any) -> Any:
        return {k: made(v) for k, v in value.items()} if isinstance(value, dict) else [value]

    assert matches(made(record), record)


@settings(deadline=None)
@given(PATTERNS, PATTERNS, RECORDS)
def test_or_is_one_or_the_other(one: dict[str, Any], other: dict[str, Any], record: dict[str, Any]) -> None:
    assert matches({"$or": [one, other]}, record) == (matches(one, record) or matches(other, record))


@settings(deadline=None)
@given(st.one_of(st.text(), st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner))).map(json.dumps)))
def test_any_text_is_a_pattern_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidPattern):
        parse(text).matches({"a": "x"})
