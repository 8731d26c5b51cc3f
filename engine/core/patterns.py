"""The pattern language of FilterCriteria and of EventBridge's rules: which records of an event source, or events of a bus, reach the function.

A pattern is a JSON object in the shape of the record: inner objects are entered, the arrays at its leaves hold alternatives. All fields of
a pattern must match, one pattern of several is enough. A leaf that meets an array matches when one element does. Strings compare
exactly; numbers compare by how they are written (300 is not 300.0) outside ``numeric``.
Rules have some operators more (``wildcard``, ``cidr``, lists and ``equals-ignore-case`` within others): ``BUS``.
Sources: docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html and
docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html. Pure.
"""

from __future__ import annotations

import ipaddress
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from engine.errors import EngineError, Fault

MAX_LENGTH = 4096
MAX_DEPTH = 64
Test: TypeAlias = Callable[[object], bool]
Operators: TypeAlias = Mapping[str, Callable[[object], Test]]
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
    """A pattern that was read; ``fields`` are the record's fields it speaks of, ``entered`` those it looks into, ``compared`` those it compares."""

    test: Test
    entered: frozenset[str]
    compared: frozenset[str]

    @property
    def fields(self) -> frozenset[str]:
        return self.entered | self.compared

    def matches(self, record: Mapping[str, object]) -> bool:
        """Whether all fields match. Numbers of the record are ``Number`` (see ``load``)."""
        return self.test(record)


def load(text: str | bytes) -> object:
    """JSON with its numbers as written. Raises ValueError for anything else, nesting beyond reason included."""
    try:
        return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse(text: str, operators: Operators | None = None) -> Pattern:
    """A pattern of FilterCriteria, or with ``BUS`` of a rule. Raises InvalidPattern."""
    if len(text) > MAX_LENGTH:
        raise InvalidPattern(f"a pattern has at most {MAX_LENGTH} characters")
    try:
        given = load(text)
    except ValueError as e:
        raise InvalidPattern(f"a pattern is JSON: {e}") from e
    return of(given, operators)


def of(given: object, operators: Operators | None = None) -> Pattern:
    """As ``parse``, of what ``load`` gave."""
    if not isinstance(given, dict) or not given:
        raise InvalidPattern("a pattern is an object with at least one field")
    test = _object(given, 1, FILTER if operators is None else operators)
    return Pattern(test, frozenset(_fields(given, dict)), frozenset(_fields(given, list)))


def _fields(given: Mapping[str, object], kind: type) -> Iterator[str]:
    """The names of a valid pattern's fields of a kind, those of alternatives included."""
    for name, wanted in given.items():
        if name == "$or" and isinstance(wanted, list):
            for one in wanted:
                yield from _fields(one, kind)
        elif isinstance(wanted, kind):
            yield name


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _object(given: Mapping[str, object], depth: int, operators: Operators) -> Test:
    if depth > MAX_DEPTH:
        raise InvalidPattern(f"a pattern is nested at most {MAX_DEPTH} deep")
    tests: list[Test] = []
    for name, wanted in given.items():
        if name == "$or":
            tests.append(_either(wanted, depth, operators))
        elif isinstance(wanted, dict) and wanted:
            tests.append(_at(name, _object(wanted, depth + 1, operators), leaf=False))
        elif isinstance(wanted, list) and wanted:
            tests.append(_at(name, _leaf([_rule(rule, operators) for rule in wanted]), leaf=True))
        else:
            raise InvalidPattern(f"{name} is neither an object with fields nor a list of rules")
    return lambda value: all(test(value) for test in tests)


def _either(wanted: object, depth: int, operators: Operators) -> Test:
    if not isinstance(wanted, list) or not wanted or not all(isinstance(one, dict) and one for one in wanted):
        raise InvalidPattern("$or is a list of patterns")
    choices = [_object(one, depth + 1, operators) for one in wanted]
    return lambda value: any(choice(value) for choice in choices)


def _at(name: str, test: Test, *, leaf: bool) -> Test:
    """The test of one field. Objects in an array are entered one by one."""

    def enter(value: object) -> bool:
        found = value.get(name, ABSENT) if isinstance(value, dict) else ABSENT
        if not leaf and isinstance(found, list):
            return any(test(one) for one in _elements(found))
        return test(found)

    return enter


def _elements(given: list[object]) -> list[object]:
    """What is in an array, and in the arrays in it; an empty one is as good as none."""
    found: list[object] = []
    left = list(reversed(given))
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(reversed(one))
        else:
            found.append(one)
    return found or [ABSENT]


def _leaf(rules: Sequence[Test]) -> Test:
    def test(value: object) -> bool:
        if isinstance(value, list):
            return any(rule(one) for one in _elements(value) for rule in rules)
        return any(rule(value) for rule in rules)

    return test


def _rule(rule: object, operators: Operators) -> Test:
    """The test of one element of a leaf's list."""
    if not isinstance(rule, dict):
        return _equal(rule)
    if len(rule) != 1:
        raise InvalidPattern("a rule is one operator with its operand")
    ((name, operand),) = rule.items()
    make = operators.get(name)
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


FILTER: Operators = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _ignoring_case,
    "exists": _exists,
    "anything-but": _anything_but,
    "numeric": _numeric,
}


def _cidr(operand: object) -> Test:
    try:
        network = ipaddress.ip_network(_text(operand, "cidr"), strict=False)
    except ValueError as e:
        raise InvalidPattern(f"cidr takes a block of addresses: {e}") from e

    def test(value: object) -> bool:
        try:
            return isinstance(value, str) and ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return test


def _wildcard(operand: object) -> Test:
    """``*`` stands for anything; a backslash takes the meaning from it, and from itself."""
    text = _text(operand, "wildcard")
    if "**" in text:
        raise InvalidPattern("wildcard has no two * in a row")
    pieces = re.findall(r"\\[*\\]|[^\\]|\\", text)
    if "\\" in pieces:
        raise InvalidPattern("wildcard has a backslash before * and \\ only")
    wanted = re.compile("".join(".*" if piece == "*" else re.escape(piece[-1]) for piece in pieces), re.DOTALL)
    return lambda value: isinstance(value, str) and wanted.fullmatch(value) is not None


def _several(one: Callable[[object], Test]) -> Callable[[object], Test]:
    """The operator with a list of operands, any of which will do."""

    def make(operand: object) -> Test:
        if not isinstance(operand, list):
            return one(operand)
        if not operand:
            raise InvalidPattern("an operator's list has at least one operand")
        tests = [one(each) for each in operand]
        return lambda value: any(test(value) for test in tests)

    return make


def _either_case(one: Callable[[object], Test]) -> Callable[[object], Test]:
    """The operator with ``{"equals-ignore-case": text}`` for its operand."""

    def make(operand: object) -> Test:
        if not isinstance(operand, dict):
            return one(operand)
        if operand.keys() != {"equals-ignore-case"}:
            raise InvalidPattern("an operator within another is equals-ignore-case")
        test = one(_text(operand["equals-ignore-case"], "equals-ignore-case").casefold())
        return lambda value: isinstance(value, str) and test(value.casefold())

    return make


def _anything_but_these(operand: object) -> Test:
    """Also with an operator in place of values: what that does not match."""
    if not isinstance(operand, dict):
        return _anything_but(operand)
    make = _NEGATED.get(next(iter(operand), "")) if len(operand) == 1 else None
    if make is None:
        raise InvalidPattern(f"anything-but takes one of {', '.join(sorted(_NEGATED))}")
    test = make(next(iter(operand.values())))
    return lambda value: value is not ABSENT and not isinstance(value, dict) and not test(value)


_NEGATED: Operators = {
    "prefix": _several(_prefix),
    "suffix": _several(_suffix),
    "equals-ignore-case": _several(_ignoring_case),
    "wildcard": _several(_wildcard),
}
BUS: Operators = {
    **FILTER,
    "prefix": _either_case(_prefix),
    "suffix": _either_case(_suffix),
    "cidr": _cidr,
    "wildcard": _wildcard,
    "anything-but": _anything_but_these,
}
