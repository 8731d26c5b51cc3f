"""What a target of a rule is given: the event, or what ``Input``, ``InputPath`` or ``InputTransformer`` make of it. Pure.

Sources: docs.aws.amazon.com/eventbridge/latest/userguide/eb-transform-target-input.html and eb-transform-input-examples.html. In a template, ``<name>`` outside
quotes becomes a JSON value, within quotes its text. A path that leads nowhere gives an empty text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Event = Mapping[str, Any]
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\*)\]|\['([^']*)'\]")
_VARIABLE = re.compile(r"<([A-Za-z0-9_.-]+)>")


class InvalidInput(ValueError):
    """The target's input cannot be made: its template gives no JSON."""


def payload(target: Mapping[str, Any], event: Event, rule_arn: str, rule_name: str, ingested: str) -> str:
    """JSON text. ``ingested``: when the event came, as text. Raises InvalidInput."""
    if target.get("Input") is not None:
        return _proven(str(target["Input"]))
    if target.get("InputPath"):
        return compact(at(event, str(target["InputPath"])))
    transformer = target.get("InputTransformer")
    if not transformer:
        return compact(event)
    without_detail = {name: value for name, value in event.items() if name != "detail"}
    values = {name: at(event, path) for name, path in (transformer.get("InputPathsMap") or {}).items()}
    values |= {
        "aws.events.rule-arn": rule_arn,
        "aws.events.rule-name": rule_name,
        "aws.events.event.ingestion-time": ingested,
        "aws.events.event": without_detail,
        "aws.events.event.json": event,
    }
    return _proven(_filled(str(transformer.get("InputTemplate") or ""), values))


def compact(value: Any) -> str:
    """JSON as AWS writes it: no blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def at(event: Any, path: str) -> Any:
    """The value a path (``$.detail.items[0].name``) leads to; None when there is none. With ``*`` in it, the list of all it leads to."""
    if not path.startswith("$"):
        return None
    return _followed(event, path, 1)


def _followed(value: Any, path: str, position: int) -> Any:
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            return None
        position = step.end()
        name = step[1] if step[1] is not None else step[3]
        if "*" in (step[1], step[2]):
            return _each(value, path, position)
        if name is not None:
            if not isinstance(value, Mapping) or name not in value:
                return None
            value = value[name]
        elif isinstance(value, list) and int(step[2]) < len(value):
            value = value[int(step[2])]
        else:
            return None
    return value


def _each(value: Any, path: str, position: int) -> list[Any] | None:
    if not isinstance(value, list | Mapping):
        return None
    found = [_followed(one, path, position) for one in (value if isinstance(value, list) else value.values())]
    return [one for one in found if one is not None] or None


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """The template with its variables, each as where it stands asks."""
    out: list[str] = []
    quoted = escaped = False
    position = 0
    while position < len(template):
        variable = _VARIABLE.match(template, position)
        if variable is not None and variable[1] in values:
            out.append(_inside(values[variable[1]]) if quoted else _alone(values[variable[1]]))
            position = variable.end()
            continue
        character = template[position]
        if character == '"' and not escaped:
            quoted = not quoted
        escaped = character == "\\" and not escaped
        out.append(character)
        position += 1
    return "".join(out)


def _alone(value: Any) -> str:
    return '""' if value is None else compact(value)


def _inside(value: Any) -> str:
    """Within quotes: a text's characters, of anything else its JSON."""
    if value is None:
        return ""
    return compact(value if isinstance(value, str) else compact(value))[1:-1]


def _proven(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as e:
        raise InvalidInput(f"{text[:200]!r} is not JSON: {e}") from e
    return text
