"""The pattern language of FilterCriteria: which records of an event source reach the function.

A pattern is a JSON object in the shape of the record: inner objects are entered, the arrays at its leaves hold alternatives. All fields of
a pattern must match, one pattern of several is enough. A leaf that meets an array matches when one element does. Strings compare
exactly; numbers compare by how they are written (300 is not 300.0) outside ``numeric``.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html. Pure.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from engine.errors import EngineError, Fault

MAX_LENGTH = 4096
MAX_DEPTH = 64
Test: TypeAlias = Callable[[object], bool]
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Number(NamedTuple):
    """A number as it was written."""

    text: str


class _Absent:
    """What a field that is not there is compared as."""


ABSENT = _Absent()


class InvalidPattern(EngineError):
    """A pattern outside the language; the message says where. Whoever answers the API puts AWS's words in its place."""

    fault = Fault.CLIENT


class Pattern(NamedTuple):
    """A pattern that was read; ``fields`` are the record's fields it speaks of."""

    test: Test
    fields: frozenset[str]

    def matches(self, record: Mapping[str, object]) -> bool:
        """Whether all fields match. Numbers of the record are ``Number`` (see ``load``)."""
        return self.test(record)


def load(text: str | bytes) -> object:
    """JSON with its numbers as written. Raises ValueError for anything else, nesting beyond reason included."""
    try:
        return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse(text: str) -> Pattern:
    """Raises InvalidPattern."""
    if len(text) > MAX_LENGTH:
        raise InvalidPattern(f"a pattern has at most {MAX_LENGTH} characters")
    try:
        given = load(text)
    except ValueError as e:
        raise InvalidPattern(f"a pattern is JSON: {e}") from e
    if not isinstance(given, dict) or not given:
        raise InvalidPattern("a pattern is an object with at least one field")
    return Pattern(_object(given, 1), frozenset(given))


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _object(given: Mapping[str, object], depth: int) -> Test:
    if depth > MAX_DEPTH:
        raise InvalidPattern(f"a pattern is nested at most {MAX_DEPTH} deep")
    tests: list[Test] = []
    for name, wanted in given.items():
        if name == "$or":
            tests.append(_either(wanted, depth))
        elif isinstance(wanted, dict) and wanted:
            tests.append(_at(name, _object(wanted, depth + 1), leaf=False))
        elif isinstance(wanted, list) and wanted:
            tests.append(_at(name, _leaf([_rule(rule) for rule in wanted]), leaf=True))
        else:
            raise InvalidPattern(f"{name} is neither an object with fields nor a list of rules")
    return lambda value: all(test(value) for test in tests)


def _either(wanted: object, depth: int) -> Test:
    if not isinstance(wanted, list) or not wanted or not all(isinstance(one, dict) and one for one in wanted):
        raise InvalidPattern("$or is a list of patterns")
    choices = [_object(one, depth + 1) for one in wanted]
    return lambda value: any(choice(value) for choice in choices)


def _at(name: str, test: Test, *, leaf: bool) -> Test:
    """The test of one field. Objects in an array are entered one by one."""

    def enter(value: object) -> bool:
        found = value.get(name, ABSENT) if isinstance(value, dict) else ABSENT
        if not leaf and isinstance(found, list):
            return any(test(one) for one in found)
        return test(found)

    return enter


def _leaf(rules: Sequence[Test]) -> Test:
    def test(value: object) -> bool:
        if isinstance(value, list):
            return any(rule(one) for one in value for rule in rules)
        return any(rule(value) for rule in rules)

    return test


def _rule(rule: object) -> Test:
    """The test of one element of a leaf's list."""
    if not isinstance(rule, dict):
        return _equal(rule)
    if len(rule) != 1:
        raise InvalidPattern("a rule is one operator with its operand")
    ((name, operand),) = rule.items()
    make = _OPERATORS.get(name)
    if make is None:
        raise InvalidPattern(f"there is no operator {name}")
    return make(operand)


def _equal(wanted: object) -> Test:
    if isinstance(wanted, list):
        raise InvalidPattern("a list within a list")
    # By type too: true is not 1, and a number's text is not a string.
    return lambda value: type(value) is type(wanted) and value == wanted


def _text(operand: object, name: str) -> str:
    if not isinstance(operand, str):
        raise InvalidPattern(f"{name} takes a string")
    return operand


def _prefix(operand: object) -> Test:
    wanted = _text(operand, "prefix")
    return lambda value: isinstance(value, str) and value.startswith(wanted)


def _suffix(operand: object) -> Test:
    wanted = _text(operand, "suffix")
    return lambda value: isinstance(value, str) and value.endswith(wanted)


def _ignoring_case(operand: object) -> Test:
    wanted = _text(operand, "equals-ignore-case").casefold()
    return lambda value: isinstance(value, str) and value.casefold() == wanted


def _exists(operand: object) -> Test:
    """Of leaves only: an object there is no leaf."""
    if not isinstance(operand, bool):
        raise InvalidPattern("exists takes true or false")
    return lambda value: (value is not ABSENT and not isinstance(value, dict)) is operand


def _anything_but(operand: object) -> Test:
    refused = operand if isinstance(operand, list) else [operand]
    if not refused or not all(isinstance(one, str | Number) for one in refused):
        raise InvalidPattern("anything-but takes strings or numbers")
    equal = [_equal(one) for one in refused]
    return lambda value: value is not ABSENT and not isinstance(value, dict) and not any(test(value) for test in equal)


def _numeric(operand: object) -> Test:
    if not isinstance(operand, list) or len(operand) not in (2, 4):
        raise InvalidPattern("numeric takes one comparison or two")
    bounds: list[tuple[Callable[[float, float], bool], float]] = []
    for sign, bound in zip(operand[::2], operand[1::2], strict=True):
        compare = _COMPARISONS.get(sign) if isinstance(sign, str) else None
        if compare is None or not isinstance(bound, Number):
            raise InvalidPattern("numeric compares by =, <, <=, > or >= with a number")
        bounds.append((compare, float(bound.text)))
    return lambda value: isinstance(value, Number) and all(compare(float(value.text), bound) for compare, bound in bounds)


_OPERATORS: Mapping[str, Callable[[object], Test]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _ignoring_case,
    "exists": _exists,
    "anything-but": _anything_but,
    "numeric": _numeric,
}
