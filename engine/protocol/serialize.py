"""What an operation returns, as an HTTP answer (rest-json).

Members that are None or absent are left out. Timestamps become epoch seconds with fraction, blobs base64; a payload member is the
body as it is. A member the model does not know is a programming error and raises ValueError.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from engine.protocol.model import Operation, Shape

JSON = "application/json"
NO_BODY = frozenset({204, 304})
# The model says 200, the real service answers 204 without a body.
STATUS_OVERRIDES = {"DeleteFunction": 204}


@dataclass(frozen=True, slots=True)
class Response:
    """Status, headers in order, and body bytes."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def serialize_response(operation: Operation, result: Mapping[str, Any] | None) -> Response:
    """The answer for ``result``, the operation's output members by name.

    A member bound to the status code sets the status. Raises ValueError for a member the output does not have or a value
    that does not fit (TypeError where a structure is due), and for event streams, which are not one answer.
    """
    result = result or {}
    status = STATUS_OVERRIDES.get(operation.name, operation.status)
    headers: list[tuple[str, str]] = []
    output = operation.output
    if output is None:
        if result:
            raise ValueError(f"{operation.name} returns nothing, got {sorted(result)}")
        return _finish(status, headers, b"" if status in NO_BODY else b"{}", JSON)
    unknown = result.keys() - output.members.keys()
    if unknown:
        raise ValueError(f"{operation.name} has no output member {sorted(unknown)}")
    members: dict[str, Any] = {}
    for name, shape in output.members.items():
        value = result.get(name)
        if value is None or name == operation.payload_out:
            continue
        if shape.location == "statusCode":
            status = int(value)
        elif shape.location == "header":
            headers.append((shape.wire_name, _text(shape, value)))
        else:
            members[shape.wire_name] = _encode(shape, value, name)
    if operation.payload_out is None:
        return _finish(status, headers, msgspec.json.encode(members), JSON)
    return _finish(status, headers, _payload(operation, output, result), JSON)


def encoded(shape: Shape, value: Mapping[str, Any]) -> msgspec.Raw:
    """A structure to be put into answers as it is, in place of the members it has: for what is in many answers and seldom changes.

    Raises as ``serialize_response``.
    """
    return msgspec.Raw(msgspec.json.encode(_encode(shape, value, shape.name)))


def _finish(status: int, headers: list[tuple[str, str]], body: bytes, content_type: str) -> Response:
    if status in NO_BODY:
        return Response(status, headers, b"")
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", content_type))
    return Response(status, headers, body)


def _payload(operation: Operation, output: Shape, result: Mapping[str, Any]) -> bytes:
    assert operation.payload_out is not None  # noqa: S101 - the caller checked; this tells the type checker
    shape = output.members[operation.payload_out]
    value = result.get(operation.payload_out)
    if shape.event_stream:
        raise ValueError(f"{operation.name} answers with an event stream")
    if shape.kind == "blob":
        return b"" if value is None else bytes(value)
    return b"{}" if value is None else msgspec.json.encode(_encode(shape, value, operation.payload_out))


def _text(shape: Shape, value: Any) -> str:
    if shape.kind == "boolean":
        return "true" if value else "false"
    if shape.kind in ("string", "integer", "long"):
        return str(value)
    raise ValueError(f"{shape.name}: a {shape.kind} cannot be put into a header")


def _encode(shape: Shape, value: Any, path: str) -> Any:
    """``value`` as msgspec can encode it."""
    kind = shape.kind
    if kind == "structure":
        return value if type(value) is msgspec.Raw else _encode_structure(shape, value, path)
    if kind == "list":
        assert shape.item is not None  # noqa: S101 - lists have an item shape
        return [_encode(shape.item, item, f"{path}[]") for item in value]
    if kind == "map":
        assert shape.value is not None  # noqa: S101 - maps have a value shape
        return {str(key): _encode(shape.value, item, f"{path}.{key}") for key, item in value.items()}
    if kind == "timestamp":
        return epoch_seconds(value)
    if kind == "blob":
        return base64.b64encode(bytes(value)).decode("ascii")
    return _encode_scalar(kind, value, path)


def _encode_structure(shape: Shape, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{path}: expected members of {shape.name}, got {type(value).__name__}")
    members = shape.members
    encoded: dict[str, Any] = {}
    # By what is there, not by what may be: a configuration has a third of the members it could have, and lists hold many.
    for name, item in value.items():
        member = members.get(name)
        if member is None:
            raise ValueError(f"{path}: {shape.name} has no member {sorted(value.keys() - members.keys())}")
        if item is None:
            continue
        if type(item) is str and member.kind == "string":
            encoded[member.wire_name] = item
        else:
            encoded[member.wire_name] = _encode(member, item, f"{path}.{name}")
    return encoded


def _encode_scalar(kind: str, value: Any, path: str) -> Any:
    if kind == "string":
        if isinstance(value, str):
            return str(value)
    elif kind == "boolean":
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and (kind in ("double", "float") or value == int(value)):
        return value if kind in ("double", "float") else int(value)
    raise ValueError(f"{path}: {value!r} is not a {kind}")


def epoch_seconds(value: datetime | float) -> float:
    """Epoch seconds with fraction (milliseconds are kept); a datetime without zone is taken as UTC."""
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(aware.timestamp(), 3)
    return value
