"""The constraints of the service model, in the service's own words.

Every violation is collected, then raised as one ValidationError:
``2 validation errors detected: Value 'x' at 'functionName' failed to satisfy constraint: ...; Value null at 'role' ...``.
Wording as recorded from the real service; texts of values marked sensitive are left out, as it does elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from engine.errors import ValidationError
from engine.protocol.model import Operation, Shape
from engine.protocol.patterns import compile_pattern

NOT_NULL = "Member must not be null"
# Enumerations whose order in live messages differs from the model's.
LIVE_ENUM_ORDER = {
    "RecursiveLoop": ("Terminate", "Allow"),
    "InvokeMode": ("RESPONSE_STREAM", "BUFFERED"),
    "EventSourcePosition": ("LATEST", "AT_TIMESTAMP", "TRIM_HORIZON"),
    "SnapStartApplyOn": ("PublishedVersions", "None"),
}
# A later layer of the service judges these and answers InvalidParameterValueException in its own words, so the operation must.
JUDGED_LATER = frozenset({("CreateFunction", "Runtime"), ("UpdateFunctionConfiguration", "Runtime")})
_LENGTH_KINDS = frozenset({"string", "blob", "list", "map"})


def validate(operation: Operation, params: Mapping[str, Any]) -> None:
    """Check parsed ``params`` against the model; raises ValidationError listing every violation."""
    if operation.input is None:
        return
    found: list[str] = []
    _structure(operation.input, params, "", found, operation.name)
    if found:
        noun = "error" if len(found) == 1 else "errors"
        raise ValidationError(f"{len(found)} validation {noun} detected: {'; '.join(found)}")


def _structure(shape: Shape, value: Mapping[str, Any], path: str, found: list[str], operation: str = "") -> None:
    for name in shape.required:
        if value.get(name) is None:
            found.append(_violation(None, _join(path, name), NOT_NULL))
    for name, member in value.items():
        if member is None or (operation, name) in JUDGED_LATER:
            continue
        _value(shape.members[name], member, _join(path, name), found)


def _value(shape: Shape, value: Any, path: str, found: list[str]) -> None:
    for text in _broken(shape, value):
        found.append(_violation(value, path, text, sensitive=shape.sensitive))
    if shape.kind == "structure":
        _structure(shape, value, path, found)
    elif shape.kind == "list":
        _list(shape, value, path, found)
    elif shape.kind == "map":
        _map(shape, value, path, found)


def _list(shape: Shape, value: list[Any], path: str, found: list[str]) -> None:
    assert shape.item is not None  # noqa: S101 - lists have an item shape
    if any(item is None or any(_broken(shape.item, item)) for item in value):
        text = f"Member must satisfy constraint: {_all(shape.item)}"
        found.append(_violation(value, path, text, sensitive=shape.sensitive or shape.item.sensitive))
    for index, item in enumerate(value, 1):
        if item is not None:
            _descend(shape.item, item, f"{path}.{index}.member", found)


def _map(shape: Shape, value: dict[str, Any], path: str, found: list[str]) -> None:
    assert shape.key is not None  # noqa: S101 - maps have a key shape
    assert shape.value is not None  # noqa: S101 - and a value shape
    hidden = shape.sensitive or shape.key.sensitive or shape.value.sensitive
    if any(any(_broken(shape.key, key)) for key in value):
        text = f"Map keys must satisfy constraint: {_all(shape.key, nullable=True)}"
        found.append(_violation(value, path, text, sensitive=hidden))
    if any(item is None or any(_broken(shape.value, item)) for item in value.values()):
        found.append(_violation(value, path, f"Map value must satisfy constraint: {_all(shape.value)}", sensitive=hidden))
    for key, item in value.items():
        if item is not None:
            _descend(shape.value, item, f"{path}.{key}.member", found)


def _descend(shape: Shape, item: Any, path: str, found: list[str]) -> None:
    """Members of an element; the element's own constraints were reported with its list or map."""
    if shape.kind == "structure":
        _structure(shape, item, path, found)
    elif shape.kind == "list":
        _list(shape, item, path, found)
    elif shape.kind == "map":
        _map(shape, item, path, found)


def _broken(shape: Shape, value: Any) -> list[str]:
    """Texts of the constraints that ``value`` itself breaks."""
    broken = []
    minimum, maximum = shape.minimum, shape.maximum
    if maximum is not None or minimum is not None:
        size = len(value) if shape.kind in _LENGTH_KINDS else value
        if maximum is not None and size > maximum:
            broken.append(_bound(shape, "less", maximum))
        if minimum is not None and size < minimum:
            broken.append(_bound(shape, "greater", minimum))
    if shape.pattern is not None and compile_pattern(shape.pattern).fullmatch(value) is None:
        broken.append(_pattern(shape.pattern))
    if shape.enum and value not in shape.enum:
        broken.append(_enum(shape))
    return broken


def _all(shape: Shape, *, nullable: bool = False) -> str:
    """Every constraint of an element, broken or not: the service prints the whole list."""
    texts = []
    if shape.maximum is not None:
        texts.append(_bound(shape, "less", shape.maximum))
    if shape.minimum is not None:
        texts.append(_bound(shape, "greater", shape.minimum))
    if shape.pattern is not None:
        texts.append(_pattern(shape.pattern))
    if shape.enum:
        texts.append(_enum(shape))
    if not nullable:
        texts.append(NOT_NULL)
    return f"[{', '.join(texts)}]"


def _bound(shape: Shape, direction: str, limit: float) -> str:
    what = "length" if shape.kind in _LENGTH_KINDS else "value"
    number = float(limit) if shape.kind in ("double", "float") else int(limit)
    return f"Member must have {what} {direction} than or equal to {number}"


def _pattern(pattern: str) -> str:
    return f"Member must satisfy regular expression pattern: {pattern}"


def _enum(shape: Shape) -> str:
    return f"Member must satisfy enum value set: [{', '.join(LIVE_ENUM_ORDER.get(shape.name, shape.enum))}]"


def _violation(value: Any, path: str, text: str, *, sensitive: bool = False) -> str:
    if value is None:
        shown = "Value null"
    elif sensitive:
        shown = "Value"
    else:
        shown = f"Value '{_print(value)}'"
    return f"{shown} at '{path}' failed to satisfy constraint: {text}"


def _print(value: Any) -> str:
    """A value as the service's Java prints it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_print, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}={_print(v)}' for k, v in value.items())}}}"
    if isinstance(value, bytes):
        return f"java.nio.HeapByteBuffer[pos=0 lim={len(value)} cap={len(value)}]"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _join(path: str, name: str) -> str:
    """Dotted path with the member in lowerCamel: ``vpcConfig.subnetIds``, ``kmsKeyArn``, ``uuid``."""
    return f"{path}.{_lower_camel(name)}" if path else _lower_camel(name)


def _lower_camel(name: str) -> str:
    """A leading run of capitals is one word: all of it is lowered but the capital that begins the next word."""
    run = 0
    while run < len(name) and name[run].isupper():
        run += 1
    if run <= 1:
        return name[:1].lower() + name[1:]
    if run == len(name):
        return name.lower()
    return name[: run - 1].lower() + name[run - 1 :]
