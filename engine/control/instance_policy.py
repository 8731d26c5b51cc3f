"""How long a function's instances live, where the function has its own opinion: two tags, since Lambda's API has no member for it.

A tag is what every client can set and what CloudFormation, Terraform and SAM carry through.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import InvalidParameterValue

KEEP_ALIVE = "lambda-engine:keep-alive-s"
MAX_AGE = "lambda-engine:max-age-s"
_PREFIX = "lambda-engine:"
_LONGEST_S = 30 * 86400.0


def of_tags(tags: Mapping[str, str]) -> dict[str, float | None]:
    """``keep_alive_s`` (idle for that long: retired) and ``max_age_s`` (0: no age is too much); None leaves it to the setting.

    Raises InvalidParameterValue for a value that is no number of seconds, and for any other tag that looks like one of these.
    """
    for key in tags:
        if key.startswith(_PREFIX) and key not in (KEEP_ALIVE, MAX_AGE):
            raise InvalidParameterValue(f"The tag {key} means nothing to Lambda Engine; it knows {KEEP_ALIVE} and {MAX_AGE}.")
    return {"keep_alive_s": _seconds(tags, KEEP_ALIVE, 0.001), "max_age_s": _seconds(tags, MAX_AGE, 0.0)}


def _seconds(tags: Mapping[str, str], key: str, least: float) -> float | None:
    text = tags.get(key)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= _LONGEST_S:
        raise InvalidParameterValue(f"The tag {key} is a number of seconds from {least:g} to {_LONGEST_S:g}, not {text!r}.")
    return value
