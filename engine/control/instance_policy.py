"""How long a function's instances live and how many invocations each runs at once, where the function has its own opinion: three tags.

Lambda's API has no member for the first two, and the third belongs there to Managed Instances, which need a capacity provider.

A tag is what every client can set and what CloudFormation, Terraform and SAM carry through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidParameterValue

KEEP_ALIVE = "lambda-engine:keep-alive-s"
MAX_AGE = "lambda-engine:max-age-s"
MAX_CONCURRENCY = "lambda-engine:max-concurrency"
_KNOWN = (KEEP_ALIVE, MAX_AGE, MAX_CONCURRENCY)
# PerExecutionEnvironmentMaxConcurrency of the service model.
_MOST_AT_ONCE = 1600
_PREFIX = "lambda-engine:"
_LONGEST_S = 30 * 86400.0


def of_tags(tags: Mapping[str, str]) -> dict[str, float | None]:
    """``keep_alive_s`` (idle for that long: retired) and ``max_age_s`` (0: no age is too much); None leaves it to the setting.
    ``max_concurrency``: invocations that one instance runs at once; None is one.

    Raises InvalidParameterValue for a value that is no number of seconds, and for any other tag that looks like one of these.
    """
    for key in tags:
        if key.startswith(_PREFIX) and key not in _KNOWN:
            raise InvalidParameterValue(
                f"The tag {key} means nothing to Lambda Engine; it knows {', '.join(_KNOWN[:-1])} and {_KNOWN[-1]}."
            )
    return {
        "keep_alive_s": _seconds(tags, KEEP_ALIVE, 0.001),
        "max_age_s": _seconds(tags, MAX_AGE, 0.0),
        "max_concurrency": _places(tags),
    }


def shareable(config: Mapping[str, Any]) -> bool:
    """Whether instances of a version with this configuration can run several invocations at once."""
    runtime = str(config.get("Runtime") or "provided")
    return runtime.startswith(("python", "java", "provided")) and config["SnapStart"]["ApplyOn"] == "None"


def check(tags: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue when the tags ask for several invocations at once and the function's instances cannot run them."""
    if (_places(tags) or 1) > 1 and not shareable(config):
        raise InvalidParameterValue(
            f"The tag {MAX_CONCURRENCY} is for Python, Java and custom runtimes without SnapStart: "
            f"instances of {config.get('Runtime', 'images')} {'with SnapStart ' * (config['SnapStart']['ApplyOn'] != 'None')}run one invocation at a time."
        )


def _places(tags: Mapping[str, str]) -> int | None:
    text = tags.get(MAX_CONCURRENCY)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_AT_ONCE):
        raise InvalidParameterValue(f"The tag {MAX_CONCURRENCY} is a whole number from 1 to {_MOST_AT_ONCE}, not {text!r}.")
    return int(text)


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
