"""The Condition element of policies. Pure.

All operators of a block, and all keys of an operator, must hold. Within a key the policy's values are alternatives (for the negated
operators: none of them may match). A key the request does not have makes a positive operator false and a negated one true.
Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html and
reference_policies_condition-single-vs-multi-valued-context-keys.html.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from engine.auth.patterns import Context, arn_matches, expand, folded, matches, unfolded
from engine.errors import EngineError, Fault

# (the policy's value after its variables are replaced, the request's value) -> whether they match.
_Test = Callable[[str, str], bool]


class MalformedPolicy(EngineError):
    """A policy document that the evaluator cannot read. The message names the element. Raised when a policy is parsed."""

    fault = Fault.CLIENT


def _number(compare: Callable[[Decimal, Decimal], bool]) -> _Test:
    def test(wanted: str, given: str) -> bool:
        try:
            return compare(Decimal(given.strip()), Decimal(unfolded(wanted).strip()))
        except InvalidOperation:
            return False

    return test


def _date(compare: Callable[[float, float], bool]) -> _Test:
    def test(wanted: str, given: str) -> bool:
        left, right = _moment(given), _moment(unfolded(wanted))
        return left is not None and right is not None and compare(left, right)

    return test


def _moment(text: str) -> float | None:
    """Epoch seconds of an ISO 8601 date or of a number."""
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _bool(wanted: str, given: str) -> bool:
    return unfolded(wanted).strip().lower() == given.strip().lower() and given.strip().lower() in ("true", "false")


def _binary(wanted: str, given: str) -> bool:
    try:
        return base64.b64decode(unfolded(wanted), validate=True) == base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        return False


def _address(wanted: str, given: str) -> bool:
    try:
        return ipaddress.ip_address(given.strip()) in ipaddress.ip_network(unfolded(wanted).strip(), strict=False)
    except (ValueError, TypeError):
        return False


def _string_equals(wanted: str, given: str) -> bool:
    return unfolded(wanted) == given


def _string_equals_any_case(wanted: str, given: str) -> bool:
    return unfolded(wanted).lower() == given.lower()


def _string_like(wanted: str, given: str) -> bool:
    return matches(wanted, folded(given))


def _arn_like(wanted: str, given: str) -> bool:
    return arn_matches(wanted, folded(given))


# Operator in lower case -> (test, negated). ArnEquals is ArnLike by definition.
_OPERATORS: Mapping[str, tuple[_Test, bool]] = {
    "stringequals": (_string_equals, False),
    "stringnotequals": (_string_equals, True),
    "stringequalsignorecase": (_string_equals_any_case, False),
    "stringnotequalsignorecase": (_string_equals_any_case, True),
    "stringlike": (_string_like, False),
    "stringnotlike": (_string_like, True),
    "numericequals": (_number(lambda given, wanted: given == wanted), False),
    "numericnotequals": (_number(lambda given, wanted: given == wanted), True),
    "numericlessthan": (_number(lambda given, wanted: given < wanted), False),
    "numericlessthanequals": (_number(lambda given, wanted: given <= wanted), False),
    "numericgreaterthan": (_number(lambda given, wanted: given > wanted), False),
    "numericgreaterthanequals": (_number(lambda given, wanted: given >= wanted), False),
    "dateequals": (_date(lambda given, wanted: given == wanted), False),
    "datenotequals": (_date(lambda given, wanted: given == wanted), True),
    "datelessthan": (_date(lambda given, wanted: given < wanted), False),
    "datelessthanequals": (_date(lambda given, wanted: given <= wanted), False),
    "dategreaterthan": (_date(lambda given, wanted: given > wanted), False),
    "dategreaterthanequals": (_date(lambda given, wanted: given >= wanted), False),
    "bool": (_bool, False),
    "binaryequals": (_binary, False),
    "ipaddress": (_address, False),
    "notipaddress": (_address, True),
    "arnequals": (_arn_like, False),
    "arnnotequals": (_arn_like, True),
    "arnlike": (_arn_like, False),
    "arnnotlike": (_arn_like, True),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One key of one operator. ``quantifier`` is ``any``, ``all`` or None; ``test`` None is the operator Null."""

    key: str
    values: tuple[str, ...]
    test: _Test | None
    negated: bool
    if_exists: bool
    quantifier: str | None
    variables: bool

    def holds(self, context: Context) -> bool:
        """Whether the request's context satisfies it."""
        found = context.get(self.key)
        given: Sequence[str] = () if found is None else (found,) if isinstance(found, str) else found
        if self.test is None:
            return any((value.lower() == "true") == (not given) for value in self.values)
        if not given:
            if self.quantifier == "any":
                return False
            return self.quantifier == "all" or self.if_exists or self.negated
        test = self.test
        wanted = [w for w in (expand(v, context) if self.variables else v for v in self.values) if w is not None]
        outcomes = [any(test(w, value) for w in wanted) != self.negated for value in given]
        # Several values without a quantifier: one match is enough for a positive operator, one is too many for a negated one.
        every = self.quantifier == "all" or (self.quantifier is None and self.negated)
        return all(outcomes) if every else any(outcomes)


def parse_conditions(block: Any, *, variables: bool) -> tuple[Condition, ...]:
    """The conditions of a statement. ``variables`` says whether the document's version knows policy variables.

    Raises MalformedPolicy naming the operator or key at fault.
    """
    if not isinstance(block, Mapping):
        raise MalformedPolicy("Condition must be an object of operators")
    found = []
    for operator, keys in block.items():
        test, negated, if_exists, quantifier = _operator(operator)
        if not isinstance(keys, Mapping):
            raise MalformedPolicy(f"Condition {operator} must be an object of keys")
        for key, values in keys.items():
            listed = values if isinstance(values, list) else [values]
            texts = tuple(str(v).lower() if isinstance(v, bool) else str(v) for v in listed)
            found.append(Condition(str(key).lower(), texts, test, negated, if_exists, quantifier, variables))
    return tuple(found)


def _operator(name: str) -> tuple[_Test | None, bool, bool, str | None]:
    quantifier, rest = None, name.lower()
    for prefix, word in (("forallvalues:", "all"), ("foranyvalue:", "any")):
        if rest.startswith(prefix):
            quantifier, rest = word, rest.removeprefix(prefix)
    if rest == "null":
        return None, False, False, quantifier
    if_exists = rest.endswith("ifexists")
    known = _OPERATORS.get(rest.removesuffix("ifexists"))
    if known is None:
        raise MalformedPolicy(f"unknown condition operator {name}")
    return known[0], known[1], if_exists, quantifier
