"""Wildcards and variables of policy documents. Pure.

Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html and reference_policies_elements_resource.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

# Context values by key in lower case: keys are compared without regard to case.
Context = Mapping[str, str | Sequence[str]]

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_DEFAULTED = re.compile(r"\s*([^,]+?)\s*,\s*'([^']*)'\s*")
_SPECIAL = frozenset("*?$")
_WILD = re.compile(r"[*?]")


@lru_cache(maxsize=4096)
def _pieces(pattern: str) -> tuple[tuple[re.Pattern[str], int], ...]:
    """What stands between the asterisks, with its length; a question mark is any one character."""
    pieces = pattern.split("*")
    return tuple((re.compile(re.escape(piece).replace(r"\?", "."), re.DOTALL), len(piece)) for piece in pieces)


def matches(pattern: str, value: str, *, ignore_case: bool = False) -> bool:
    """Whether ``*`` (any text) and ``?`` (one character) of ``pattern`` can be filled so that it is ``value``.

    Takes time in proportion to the product of the two lengths at worst: patterns come from strangers, and one regular expression
    for the whole could backtrack for ever.
    """
    if ignore_case:
        pattern, value = pattern.lower(), value.lower()
    if _WILD.search(pattern) is None:
        return pattern == value
    (start, _), *rest = _pieces(pattern)
    if not rest:
        return start.fullmatch(value) is not None
    *middle, (end, length) = rest
    found = start.match(value)
    for piece, _ in middle:
        if found is None:
            return False
        # The leftmost place leaves most room for the others.
        found = piece.search(value, found.end())
    at = len(value) - length
    return found is not None and at >= found.end() and end.fullmatch(value, at) is not None


def arn_matches(pattern: str, value: str) -> bool:
    """As ``matches``, for each of an ARN's six parts by itself: a wildcard does not reach over the first five colons."""
    if pattern == "*":
        return True
    wanted, given = pattern.split(":", 5), value.split(":", 5)
    return len(wanted) == len(given) == 6 and all(map(matches, wanted, given))


def first(context: Context, key: str) -> str | None:
    """The single value of a context key; None when it is absent or has several."""
    value = context.get(key.lower())
    if value is None or isinstance(value, str):
        return value
    return value[0] if len(value) == 1 else None


def expand(pattern: str, context: Context) -> str | None:
    """``pattern`` with its ``${...}`` replaced; None when a variable has neither a value nor a default.

    Wildcards that a variable brings in are characters, not wildcards: compare the result with ``folded`` text, or make it plain
    with ``unfolded``.
    """
    if "${" not in pattern:
        return pattern
    missing = False

    def value_of(match: re.Match[str]) -> str:
        nonlocal missing
        name = match[1]
        if name in _SPECIAL:
            return folded(name)
        defaulted = _DEFAULTED.fullmatch(name)
        found = first(context, defaulted[1] if defaulted else name.strip())
        if found is None and defaulted:
            found = defaulted[2]
        if found is None:
            missing = True
            return ""
        return folded(found)

    expanded = _VARIABLE.sub(value_of, pattern)
    return None if missing else expanded


# Stand for wildcards that are characters; from Unicode's private use area, so no policy or request means anything by them.
_STAR, _MARK = "\ue000", "\ue001"


def folded(text: str) -> str:
    """Text whose wildcards are characters."""
    return text.replace("*", _STAR).replace("?", _MARK)


def unfolded(text: str) -> str:
    """The plain text of what ``expand`` gave, for operators that know no wildcards."""
    return text.replace(_STAR, "*").replace(_MARK, "?")
