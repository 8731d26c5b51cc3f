"""Filter patterns of CloudWatch Logs: which log events a subscription gets. Pure.

Words: all of them (``ERROR "two words"``), one of some (``?a ?b``), none of some (``-x``). Members of JSON events: ``{ $.level = "error" && $.ms > 10 }``
with ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``IS NULL``, ``IS TRUE``, ``IS FALSE``, ``NOT EXISTS``, ``&&`` and ``||``; ``*`` stands for anything in a text. Columns
(``[a, b]``) and regular expressions (``%...%``) are not understood.
Source: docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from engine.core.rule_input import at
from engine.errors import EngineError, Fault

Test: TypeAlias = Callable[[str], bool]
_Member: TypeAlias = Callable[[Any], bool]
_TERM = re.compile(r'([?-]?)(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?:\s+|$)')
_CLAUSE = re.compile(
    r"\s*(?P<path>\$[^\s=!<>&|()]*)\s*(?:(?P<word>IS\s+NULL|IS\s+TRUE|IS\s+FALSE|NOT\s+EXISTS)|"
    r'(?P<sign>!=|<=|>=|=|<|>)\s*(?:"(?P<text>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s&|()"]+)))\s*',
    re.IGNORECASE,
)
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class InvalidLogPattern(EngineError):
    """A pattern that is not understood; the message says why."""

    fault = Fault.CLIENT


def parse(pattern: str) -> Test:
    """The test of a message. Raises InvalidLogPattern."""
    text = pattern.strip()
    if not text:
        return lambda _message: True
    if text.startswith("{") and text.endswith("}"):
        return _json(text[1:-1])
    if text[0] in "[{%":
        raise InvalidLogPattern(f"{pattern!r}: this engine understands words and {{ $.member = value }}, not columns or expressions")
    return _words(text)


def _words(text: str) -> Test:
    wanted: list[str] = []
    some: list[str] = []
    refused: list[str] = []
    position = 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise InvalidLogPattern(f"{text!r}: a quote is not closed")
        position = term.end()
        word = re.sub(r"\\(.)", r"\1", term[2]) if term[2] is not None else term[3]
        {"": wanted, "?": some, "-": refused}[term[1]].append(word)
    if wanted:
        # Beside words that must be there, those that may be there say nothing.
        some = []
    return lambda message: (
        all(word in message for word in wanted)
        and (not some or any(word in message for word in some))
        and not any(word in message for word in refused)
    )


def _json(text: str) -> Test:
    either = [_all(part) for part in _split(text, "||")]

    def test(message: str) -> bool:
        try:
            event = json.loads(message)
        except (ValueError, RecursionError):
            return False
        return isinstance(event, dict | list) and any(member(event) for member in either)

    return test


def _split(text: str, sign: str) -> list[str]:
    """Parts between signs outside quotes."""
    return re.split(re.escape(sign) + r'(?=(?:[^"]*"[^"]*")*[^"]*$)', text)


def _all(text: str) -> _Member:
    tests = [_clause(part) for part in _split(text, "&&")]
    return lambda event: all(test(event) for test in tests)


def _clause(text: str) -> _Member:
    inner = text.strip()
    if inner.startswith("(") and inner.endswith(")"):
        inner = inner[1:-1]
    found = _CLAUSE.fullmatch(inner)
    if found is None:
        raise InvalidLogPattern(f"{text.strip()!r} is not $.member, a comparison and a value")
    path = found["path"]
    if found["word"]:
        return _state(path, re.sub(r"\s+", " ", found["word"].upper()))
    sign, bare = found["sign"], found["bare"]
    if bare is not None:
        try:
            return _number(path, sign, float(bare))
        except ValueError:
            pass
    if sign not in ("=", "!="):
        raise InvalidLogPattern(f"{text.strip()!r}: {sign} compares numbers")
    wanted = bare if bare is not None else re.sub(r"\\(.)", r"\1", found["text"])
    glob = re.compile(".*".join(re.escape(piece) for piece in wanted.split("*")), re.DOTALL)

    def matches(event: Any) -> bool:
        value = at(event, path)
        return isinstance(value, str) and (glob.fullmatch(value) is not None) == (sign == "=")

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
    compare = _SIGNS[sign]

    def matches(event: Any) -> bool:
        value = at(event, path)
        return isinstance(value, int | float) and not isinstance(value, bool) and compare(value, wanted)

    return matches
