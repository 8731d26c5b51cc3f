"""Values of templates as an operation's members want them: CloudFormation takes ``"5"`` for 5 and 5 for ``"5"``, boto3 takes neither. Pure but for ``typed``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRUTHS = {"true": True, "false": False}


def typed(client: Any) -> Any:
    """Have a client turn the values of its requests into what the operations want. The client itself; once is enough, more does no harm."""
    client.meta.events.register_first("provide-client-params.*", _turned, unique_id="lambda-engine-template-values")
    return client


def _turned(params: dict[str, Any], model: Any, **_more: Any) -> dict[str, Any]:
    return dict(fitting(params, model.input_shape)) if model.input_shape is not None else params


def fitting(value: Any, shape: Any) -> Any:
    """The value in the shape's type where that says the same, else as it is."""
    kind = shape.type_name
    if kind == "structure":
        known = shape.members
        return {k: fitting(v, known[k]) if k in known else v for k, v in value.items()} if isinstance(value, Mapping) else value
    if kind == "map":
        return {str(k): fitting(v, shape.value) for k, v in value.items()} if isinstance(value, Mapping) else value
    if kind == "list":
        return [fitting(one, shape.member) for one in value] if isinstance(value, list) else value
    return _scalar(value, kind)


def _scalar(value: Any, kind: str) -> Any:
    if kind == "string" and isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        return value
    if kind == "boolean":
        return _TRUTHS.get(value.lower(), value)
    try:
        return int(value) if kind in ("integer", "long") else float(value) if kind in ("float", "double") else value
    except ValueError:
        return value
