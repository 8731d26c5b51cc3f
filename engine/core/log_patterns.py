"""Filter patterns of CloudWatch Logs: which log events a subscription gets. Pure.

Words: all of them (``ERROR "two words"``), one of some (``?a ?b``), none of some (``-x``); ``%[0-9]+ ms%`` is a regular expression. Members of JSON
events: ``{ $.level = "error" && $.ms > 10 }`` with ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``IS NULL``, ``IS TRUE``, ``IS FALSE``, ``NOT EXISTS``, ``&&``
and ``||``; ``*`` stands for anything in a text. Fields between spaces: ``[time, id, level = ERROR, ...]``, see ``engine.core.log_columns``.
Source: docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from engine.core import log_columns
from engine.core.log_terms import SIGNS, VALUE, InvalidLogPattern, expression, matcher, number_of, regex, unquoted
from engine.core.rule_input import at

__all__ = ["InvalidLogPattern", "Test", "parse"]

Test: TypeAlias = Callable[[str], bool]
_Member: TypeAlias = Callable[[Any], bool]
_TERM = re.compile(r'([?-]?)(?:"((?:[^"\\]|\\.)*)"|%((?:[^%\\]|\\.)+)%|([^\s"]+))(?:\s+|$)')
_CLAUSE = re.compile(
    r"\s*(?P<path>\$[^\s=!<>&|()]*)\s*(?:(?P<word>IS\s+NULL|IS\s+TRUE|IS\s+FALSE|NOT\s+EXISTS)|(?P<sign>!=|<=|>=|=|<|>)\s*" + VALUE + r")\s*",
    re.IGNORECASE,
)


def parse(pattern: str) -> Test:
    """The test of a message. Raises InvalidLogPattern."""
    text = pattern.strip()
    if not text:
        return lambda _message: True
    if text.startswith("{") and text.endswith("}"):
        return _json(text[1:-1])
    if text.startswith("[") and text.endswith("]"):
        return log_columns.parse(text[1:-1])
    if text[0] in "[{":
        raise InvalidLogPattern(f"{pattern!r}: a bracket is not closed")
    return _words(text)


def _words(text: str) -> Test:
    wanted: list[Test] = []
    some: list[Test] = []
    refused: list[Test] = []
    position = 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise InvalidLogPattern(f"{text!r}: a quote is not closed")
        position = term.end()
        test = _found(term[3]) if term[3] is not None else _has(unquoted(term[2]) if term[2] is not None else term[4])
        {"": wanted, "?": some, "-": refused}[term[1]].append(test)
    if wanted:
        # Beside words that must be there, those that may be there say nothing.
        some = []
    return lambda message: (
        all(test(message) for test in wanted)
        and (not some or any(test(message) for test in some))
        and not any(test(message) for test in refused)
    )


def _has(word: str) -> Test:
    return lambda message: word in message


def _found(text: str) -> Test:
    search = regex(text).search
    return lambda message: search(message) is not None


def _json(text: str) -> Test:
    wanted: _Member = expression(text, _clause)

    def test(message: str) -> bool:
        try:
            event = json.loads(message)
        except (ValueError, RecursionError):
            return False
        return isinstance(event, dict | list) and wanted(event)

    return test


def _clause(text: str) -> _Member:
    found = _CLAUSE.fullmatch(text)
    if found is None:
        raise InvalidLogPattern(f"{text!r} is not $.member, a comparison and a value")
    path = found["path"]
    if found["word"]:
        return _state(path, re.sub(r"\s+", " ", found["word"].upper()))
    sign, number = found["sign"], number_of(found["bare"])
    if number is not None:
        return _number(path, sign, number)
    if sign not in ("=", "!="):
        raise InvalidLogPattern(f"{text!r}: {sign} compares numbers")
    same = matcher(found)

    def matches(event: Any) -> bool:
        value = at(event, path)
        return isinstance(value, str) and same(value) == (sign == "=")

    return matches


def _state(path: str, word: str) -> _Member:
    if word == "NOT EXISTS":
        return lambda event: not _there(event, path)
    wanted = {"IS NULL": None, "IS TRUE": True, "IS FALSE": False}[word]
    return lambda event: _there(event, path) and at(event, path) is wanted


def _there(event: Any, path: str) -> bool:
    """Whether the member is there, if only as null."""
    if at(event, path) is not None:
        return True
    holder, _, name = path.rpartition(".")
    found = at(event, holder or "$")
    return isinstance(found, Mapping) and name in found


def _number(path: str, sign: str, wanted: float) -> _Member:
    compare = SIGNS[sign]

    def matches(event: Any) -> bool:
        value = at(event, path)
        return isinstance(value, int | float) and not isinstance(value, bool) and compare(value, wanted)

    return matches
