"""Filter patterns of CloudWatch Logs for events whose fields have spaces between them: ``[ip, user, status = 4*, bytes > 100]``. Pure.

A field is a word, or what is between quotes or square brackets. The last column takes all that is left of an event, which is how
``[time, id, text]`` tells apart what functions log. ``...`` stands for any number of fields.
Source: docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html (space-delimited log events).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from engine.core.log_terms import VALUE, InvalidLogPattern, expression, parts, text_test

REST = "..."
_FIELD = re.compile(r'"([^"]*)"|\[([^\]]*)\]|(\S+)')
_CONDITION = re.compile(r"\s*(?P<name>[^\s=!<>\"%()]+)\s*(?P<sign>!=|<=|>=|=|<|>)\s*" + VALUE + r"\s*")


class _Column(NamedTuple):
    name: str
    test: Callable[[str], bool]


def parse(text: str) -> Callable[[str], bool]:
    """The test of a message for what is between the pattern's brackets. Raises InvalidLogPattern."""
    given = [part.strip() for part in parts(text, ",")]
    if given.count(REST) > 1 or not all(given):
        raise InvalidLogPattern(f"[{text}]: a column has no name, or there is more than one {REST}")
    at = given.index(REST) if REST in given else None
    if at is None:
        columns = [_column(part) for part in given]
        return lambda message: _holds(columns, _fields(message, len(columns)))
    first, last = [_column(part) for part in given[:at]], [_column(part) for part in given[at + 1 :]]

    def test(message: str) -> bool:
        fields = _fields(message, None)
        if len(fields) < len(first) + len(last):
            return False
        return _holds(first, fields[: len(first)]) and _holds(last, fields[len(fields) - len(last) :])

    return test


def _holds(columns: list[_Column], fields: list[str]) -> bool:
    return len(fields) == len(columns) and all(column.test(field) for column, field in zip(columns, fields, strict=True))


def _fields(message: str, most: int | None) -> list[str]:
    """The fields of an event; of more than ``most`` the last has the rest."""
    text = message.strip()
    found = list(_FIELD.finditer(text))
    fields = [next(group for group in field.groups() if group is not None) for field in found[:most]]
    return fields if len(found) == len(fields) else [*fields[:-1], text[found[len(fields) - 1].start() :]]


def _column(text: str) -> _Column:
    """A name, or conditions of one name."""
    names: set[str] = set()

    def condition(clause: str) -> Callable[[str], bool]:
        found = _CONDITION.fullmatch(clause)
        if found is None:
            raise InvalidLogPattern(f"{clause!r} is not a column, a comparison and a value")
        names.add(found["name"])
        return text_test(found)

    if not re.search(r"[=<>]", text):
        if not re.fullmatch(r"\S+", text):
            raise InvalidLogPattern(f"{text!r} is not the name of a column")
        return _Column(text, lambda _field: True)
    test = expression(text, condition)
    if len(names) != 1:
        raise InvalidLogPattern(f"{text!r} compares more than one column")
    return _Column(names.pop(), test)
