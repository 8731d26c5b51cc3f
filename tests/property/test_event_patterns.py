"""The pattern language against an independent matcher, where the two languages agree, and against its own laws."""

from __future__ import annotations

import contextlib
import fnmatch
import ipaddress
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.patterns import BUS, InvalidPattern, Operators, load, parse

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


def matches(pattern: Any, record: Any, operators: Operators | None = None) -> bool:
    loaded = load(json.dumps(record))
    assert isinstance(loaded, dict)
    return parse(json.dumps(pattern), operators).matches(loaded)


# The second formulation, by the way of a table: a record is all the flat records that come of taking one element of each array, a pattern all the
# conjunctions of (path, rules) that come of its alternatives; it matches when one of these holds in one of those.
Flat = Mapping[tuple[str, ...], list[Any]]
Terms = list[tuple[tuple[str, ...], list[Any]]]


def flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[dict[tuple[str, ...], list[Any]]]:
    if isinstance(value, list):
        elements = list(unnested(value))
        simple = [e for e in elements if not isinstance(e, dict)]
        for one in [e for e in elements if isinstance(e, dict)]:
            for found in flat(one, path):
                yield {**({path: simple} if simple else {}), **found}
        if simple or not elements:
            yield {path: simple} if simple else {}
    elif isinstance(value, dict):
        for parts in itertools.product(*(list(flat(inner, (*path, name))) for name, inner in value.items())):
            yield {k: v for part in parts for k, v in part.items()}
    else:
        yield {path: [value]}


def unnested(value: list[Any]) -> Iterator[Any]:
    for one in value:
        yield from unnested(one) if isinstance(one, list) else [one]


def conjunctions(pattern: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[Terms]:
    choices: list[list[Terms]] = []
    for name, wanted in pattern.items():
        if name == "$or":
            choices.append([terms for one in wanted for terms in conjunctions(one, path)])
        elif isinstance(wanted, dict):
            choices.append(list(conjunctions(wanted, (*path, name))))
        else:
            choices.append([[((*path, name), wanted)]])
    for chosen in itertools.product(*choices):
        yield [term for terms in chosen for term in terms]


def same(value: Any, wanted: Any) -> bool:
    return json.dumps(value) == json.dumps(wanted)


def in_network(value: Any, block: str) -> bool:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(block, strict=False)
    except ValueError:
        return False


def holds(value: Any, rule: Any) -> bool:
    if not isinstance(rule, dict):
        return same(value, rule)
    ((name, operand),) = rule.items()
    text = value if isinstance(value, str) else None
    if name == "anything-but" and isinstance(operand, dict):
        ((inner, given_),) = operand.items()
        return not any(holds(value, {inner: one}) for one in (given_ if isinstance(given_, list) else [given_]))
    if name == "anything-but":
        return not any(same(value, one) for one in (operand if isinstance(operand, list) else [operand]))
    if name == "numeric":
        number = isinstance(value, int) and not isinstance(value, bool)
        signs = {"=": "==", **{sign: sign for sign in ("<", "<=", ">", ">=")}}
        return number and all(eval(f"{value} {signs[sign]} {bound}") for sign, bound in zip(operand[::2], operand[1::2], strict=True))
    if text is None:
        return False
    if name in ("prefix", "suffix") and isinstance(operand, dict):
        text, operand = text.lower(), operand["equals-ignore-case"].lower()
    found: dict[str, Any] = {
        "prefix": lambda: text[: len(operand)] == operand,
        "suffix": lambda: text[len(text) - len(operand) :] == operand if len(operand) <= len(text) else False,
        "equals-ignore-case": lambda: text.upper() == operand.upper(),
        "wildcard": lambda: fnmatch.fnmatchcase(text, operand),
        "cidr": lambda: in_network(text, operand),
    }
    return bool(found[name]())


def term_holds(found: Flat, path: tuple[str, ...], rules: list[Any]) -> bool:
    values = found.get(path, [])
    exists = [rule["exists"] for rule in rules if isinstance(rule, dict) and "exists" in rule]
    others = [rule for rule in rules if not (isinstance(rule, dict) and "exists" in rule)]
    return bool(values) in exists or any(holds(value, rule) for value in values for rule in others)


def by_table(pattern: dict[str, Any], record: dict[str, Any]) -> bool:
    return any(
        all(term_holds(found, path, rules) for path, rules in terms) for terms in conjunctions(pattern) for found in flat(record)
    )


RICH = st.one_of(SCALARS, st.booleans(), st.sampled_from(["10.0.0.1", "10.1.0.1", "fe80::1"]))
BUS_RULES = st.one_of(
    RULES,
    st.booleans(),
    st.builds(lambda t: {"wildcard": t}, st.sampled_from(["*", "x*", "*y", "x*x", "*x*", "xy"])),
    st.builds(lambda t: {"cidr": t}, st.sampled_from(["10.0.0.0/24", "10.0.0.0/8", "fe80::/10"])),
    st.builds(lambda k, t: {k: {"equals-ignore-case": t}}, st.sampled_from(["prefix", "suffix"]), TEXTS),
    st.builds(lambda k, t: {"anything-but": {k: t}}, st.sampled_from(["prefix", "suffix", "equals-ignore-case"]), TEXTS),
    st.builds(lambda k, t: {"anything-but": {k: t}}, st.sampled_from(["prefix", "suffix", "wildcard"]), st.lists(TEXTS.filter(bool), min_size=1)),
)
BUS_LEAVES = st.lists(BUS_RULES, min_size=1, max_size=3)
BUS_PATTERNS = st.recursive(
    st.dictionaries(KEYS, BUS_LEAVES, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.dictionaries(KEYS, st.one_of(BUS_LEAVES, inner), min_size=1, max_size=2),
        st.builds(lambda choices: {"$or": choices}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=5,
)
# Of arrays either objects or what is none: with both, it is left open what ``exists`` means.
VALUES = st.recursive(
    RICH,
    lambda inner: st.one_of(
        st.lists(RICH, max_size=2), st.lists(st.lists(RICH, max_size=2), max_size=2), st.dictionaries(KEYS, inner, min_size=1, max_size=3),
        st.lists(st.dictionaries(KEYS, inner, min_size=1, max_size=2), min_size=1, max_size=2),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(BUS_PATTERNS, st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_it_agrees_with_a_table_of_flat_records(pattern: dict[str, Any], record: dict[str, Any]) -> None:
    assert matches(pattern, record, BUS) == by_table(pattern, record)


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
