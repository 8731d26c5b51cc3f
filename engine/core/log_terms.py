"""What all filter patterns of CloudWatch Logs are made of: values, regular expressions, and conditions joined by ``&&`` and ``||``. Pure.

Source: docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from engine.errors import EngineError, Fault

Subject = TypeVar("Subject")
# A value as it is written: in quotes, between percent signs a regular expression, or bare.
VALUE = r'(?:"(?P<text>(?:[^"\\]|\\.)*)"|%(?P<regex>(?:[^%\\]|\\.)+)%|(?P<bare>[^\s&|()"%]+))'
SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
MAX_NESTED = 16
# An escaped character, or a set of characters.
_SET = re.compile(r"(\\.)|(\[\^?+(?:\]|(?!\])))((?:[^\]\\]|\\.)*)\]", re.DOTALL)
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|%(?:[^%\\]|\\.)+%|\|\||&&|.', re.DOTALL)


class InvalidLogPattern(EngineError):
    """A pattern that is not understood; the message says why."""

    fault = Fault.CLIENT


def regex(text: str) -> re.Pattern[str]:
    """What stands between percent signs. Groups are not part of the syntax. Raises InvalidLogPattern."""
    beside = _SET.sub("", text)
    if "[" in beside:
        raise InvalidLogPattern(f"%{text}%: a set is not closed")
    if re.search(r"[()]", beside):
        raise InvalidLogPattern(f"%{text}%: regular expressions of filter patterns have no groups")
    try:
        return re.compile(_SET.sub(_plain_set, text))
    except (re.error, OverflowError) as e:
        raise InvalidLogPattern(f"%{text}%: {e}") from None


def _plain_set(found: re.Match[str]) -> str:
    """A set of characters without what Python warns that it may read otherwise one day."""
    if found[1]:
        return found[0]
    return found[2] + re.sub(r"(\\.)|([\[&|~])|(?<=-)-", lambda one: one[1] or "\\" + (one[2] or "-"), found[3]) + "]"


def unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def matcher(found: re.Match[str]) -> Callable[[str], bool]:
    """Whether a text is the value of a match of ``VALUE``; ``*`` stands for anything. Raises InvalidLogPattern."""
    if found["regex"] is not None:
        search = regex(found["regex"]).search
        return lambda text: search(text) is not None
    wanted = found["bare"] if found["bare"] is not None else unquoted(found["text"])
    glob = re.compile(".*".join(re.escape(piece) for piece in wanted.split("*")), re.DOTALL)
    return lambda text: glob.fullmatch(text) is not None


def number_of(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def text_test(found: re.Match[str]) -> Callable[[str], bool]:
    """The test of a text by a comparison: ``sign`` and ``VALUE``. Raises InvalidLogPattern."""
    sign, number = found["sign"], number_of(found["bare"])
    if number is None and sign not in ("=", "!="):
        raise InvalidLogPattern(f"{found[0].strip()!r}: {sign} compares numbers")
    same = matcher(found)

    def test(text: str) -> bool:
        value = None if number is None else number_of(text)
        if number is not None and value is not None:
            return SIGNS[sign](value, number)
        return sign in ("=", "!=") and same(text) == (sign == "=")

    return test


def parts(text: str, sign: str) -> list[str]:
    """What is between signs outside of quotes, regular expressions and brackets. Raises InvalidLogPattern for brackets that do not match."""
    found, depth = [""], 0
    for piece in _PIECE.findall(text):
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if depth < 0:
            break
        if piece == sign and depth == 0:
            found.append("")
        else:
            found[-1] += piece
    if depth:
        raise InvalidLogPattern(f"{text.strip()!r}: brackets do not match")
    return found


def expression(text: str, clause: Callable[[str], Callable[[Subject], bool]], nested: int = 0) -> Callable[[Subject], bool]:
    """Clauses joined by ``||`` and ``&&``, which binds more, and brackets. Raises InvalidLogPattern and what ``clause`` does."""
    if nested > MAX_NESTED:
        raise InvalidLogPattern(f"{text.strip()!r}: brackets within more than {MAX_NESTED} others")
    for sign, judge in (("||", any), ("&&", all)):
        several = parts(text, sign)
        if len(several) > 1:
            tests = [expression(part, clause, nested) for part in several]
            return _joined(judge, tests)
    inner = text.strip()
    if inner.startswith("("):
        return expression(inner[1:-1], clause, nested + 1)
    return clause(inner)


def _joined(judge: Callable[..., bool], tests: list[Callable[[Subject], bool]]) -> Callable[[Subject], bool]:
    return lambda subject: judge(test(subject) for test in tests)
