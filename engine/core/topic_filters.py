"""Filter policies of SNS subscriptions: the pattern language of rules, over a message's attributes or over its body. Pure.

Numbers compare by value here, to six decimal places; attributes of type Binary are not looked at.
Sources: docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html and attribute-key-matching.html.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Mapping
from typing import Any

from engine.core import patterns
from engine.core.patterns import Number, Pattern

BODY = "MessageBody"
_PLACES = decimal.Decimal("0.000001")


def read(policy: Mapping[str, Any]) -> Pattern:
    """Raises InvalidPattern."""
    return patterns.of(_one_form(patterns.load(json.dumps(policy))), patterns.BUS)


def matches(pattern: Pattern, scope: str, attributes: Mapping[str, Mapping[str, Any]] | None, message: str) -> bool:
    """Whether a subscription with this policy gets the message."""
    if scope != BODY:
        return pattern.matches(_of_attributes(attributes or {}))
    record = _loaded(message)
    return isinstance(record, dict) and pattern.matches(record)


def _of_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    record: dict[str, object] = {}
    for name, given in attributes.items():
        kind, value = str(given["Type"]), given["Value"]
        if kind == "String.Array":
            elements = _loaded(str(value))
            if isinstance(elements, list):
                record[name] = elements
        elif kind.startswith("String"):
            record[name] = str(value)
        elif kind.startswith("Number"):
            record[name] = _number(str(value))
    return record


def _loaded(text: str) -> object:
    """JSON with its numbers in one form; None for anything else."""
    try:
        return _one_form(patterns.load(text))
    except ValueError:
        return None


def _one_form(value: object) -> object:
    if isinstance(value, Number):
        return _number(value.text)
    if isinstance(value, dict):
        return {name: _one_form(each) for name, each in value.items()}
    return [_one_form(each) for each in value] if isinstance(value, list) else value


def _number(text: str) -> Number:
    try:
        return Number(str(decimal.Decimal(text).quantize(_PLACES, rounding=decimal.ROUND_DOWN).normalize()))
    except decimal.InvalidOperation:
        return Number(text)
