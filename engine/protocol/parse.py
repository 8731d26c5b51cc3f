"""An HTTP request as the input members of its operation (rest-json).

Only types are judged here; lengths, patterns and the like are ``engine.protocol.validate``'s. JSON null reads as absent, unknown
members are ignored, as the real service does.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from engine.errors import SerializationError
from engine.protocol.model import Operation, Shape
from engine.protocol.router import query_pairs

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Deep nesting is cut by the JSON decoder's own recursion guard; this bounds the epoch seconds a datetime can hold.
_MAX_EPOCH_S = 253_402_300_799
_WORDS = {"string": "String", "boolean": "Boolean", "integer": "Integer", "long": "Long", "double": "Double", "blob": "Blob"}
_INT_RANGE = {"integer": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
_TRUTH = {"true": True, "false": False}


def parse_request(operation: Operation, uri: Mapping[str, str], raw_query: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Input members of ``operation`` by name.

    ``uri`` holds the decoded path parameters, ``headers`` lower-case names. Timestamps become aware datetimes, blobs
    bytes. Raises SerializationError when the body is not a JSON object or a value cannot be read as its member's type.
    """
    shape = operation.input
    if shape is None:
        return {}
    params: dict[str, Any] = {}
    pairs = query_pairs(raw_query) if raw_query else []
    in_body = False
    for name, member in shape.members.items():
        location = member.location
        if location is None:
            in_body = in_body or name != operation.payload_in
            continue
        value = _located(member, location, uri, pairs, headers)
        if value is not None:
            params[name] = value
    if operation.payload_in is not None:
        _read_payload(operation.payload_in, shape, body, params)
    elif in_body:
        document = _decode(body)
        for name, member in shape.members.items():
            if member.location is None:
                value = document.get(member.wire_name)
                if value is not None:
                    params[name] = _convert(member, value)
    return params


def _read_payload(name: str, shape: Shape, body: bytes, params: dict[str, Any]) -> None:
    member = shape.members[name]
    if member.kind == "blob":
        if body:
            params[name] = bytes(body)
    elif body:
        params[name] = _convert(member, _decode(body))


def _decode(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``; an empty body is an empty object."""
    if not body or body.isspace():
        return {}
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise SerializationError(f"Could not parse request body into json: {e}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SerializationError(_not_expected(document))
    return document


def _located(member: Shape, location: str, uri: Mapping[str, str], pairs: list[tuple[str, str]], headers: Mapping[str, str]) -> Any:
    name = member.wire_name
    if location == "uri":
        text = uri.get(name)
    elif location == "header":
        text = headers.get(name.lower())
    elif member.kind == "list":
        assert member.item is not None  # noqa: S101 - lists have an item shape
        found = [_from_text(member.item, value) for key, value in pairs if key == name]
        return found or None
    else:
        text = next((value for key, value in pairs if key == name), None)
    return None if text is None else _from_text(member, text)


def _from_text(shape: Shape, text: str) -> Any:
    """A path, query or header value. Raises SerializationError when it is not the member's type."""
    kind = shape.kind
    if kind == "string":
        return text
    if kind == "boolean":
        found = _TRUTH.get(text.lower())
        if found is not None:
            return found
    elif kind in _INT_RANGE:
        digits = text[1:] if text[:1] in ("-", "+") else text
        if digits.isascii() and digits.isdigit() and len(digits) <= 19:
            return _in_range(kind, int(text))
    elif kind == "timestamp":
        return _timestamp_text(text)
    raise SerializationError(f"STRING_VALUE can not be converted to {_article(kind)}")


def _convert(shape: Shape, value: Any) -> Any:
    """A JSON value as its member's type; null inside a list or map stays None for validation to name."""
    if value is None:
        return None
    kind = shape.kind
    if kind == "structure":
        if not isinstance(value, dict):
            raise SerializationError(_not_expected(value))
        members = shape.members.items()
        return {n: _convert(m, value[m.wire_name]) for n, m in members if value.get(m.wire_name) is not None}
    if kind == "list":
        if not isinstance(value, list):
            raise SerializationError("Expected list or null" if not isinstance(value, dict) else _not_expected(value))
        assert shape.item is not None  # noqa: S101 - lists have an item shape
        return [_convert(shape.item, item) for item in value]
    if kind == "map":
        if not isinstance(value, dict):
            raise SerializationError("Expected map or null" if not isinstance(value, list) else _not_expected(value))
        assert shape.value is not None  # noqa: S101 - maps have a value shape
        return {key: _convert(shape.value, item) for key, item in value.items()}
    return _scalar(kind, value)


def _scalar(kind: str, value: Any) -> Any:
    if isinstance(value, list | dict):
        raise SerializationError(_not_expected(value))
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "blob" and isinstance(value, str):
        return _blob(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "timestamp" and not isinstance(value, bool):
        return _timestamp_text(value) if isinstance(value, str) else _timestamp(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if kind in ("double", "float"):
            return float(value)
        if kind in _INT_RANGE and float(value).is_integer():
            return _in_range(kind, int(value))
    raise SerializationError(f"{_token(value)} can not be converted to {_article(kind)}")


def _blob(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SerializationError("Unable to decode a blob: it is not base64") from None


def _in_range(kind: str, value: int) -> int:
    low, high = _INT_RANGE[kind]
    if not low <= value <= high:
        raise SerializationError(f"NUMBER_VALUE can not be converted to {_article(kind)}")
    return value


def _timestamp_text(text: str) -> datetime:
    """ISO 8601 (zone optional, UTC assumed) or epoch seconds."""
    try:
        return _timestamp(float(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SerializationError("STRING_VALUE can not be converted to a Timestamp") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _timestamp(seconds: float) -> datetime:
    if not -_MAX_EPOCH_S < seconds < _MAX_EPOCH_S:
        raise SerializationError("NUMBER_VALUE can not be converted to a Timestamp")
    try:
        return _EPOCH + timedelta(microseconds=round(seconds * 1_000_000))
    except OverflowError:
        raise SerializationError("NUMBER_VALUE can not be converted to a Timestamp") from None


def _not_expected(value: Any) -> str:
    if isinstance(value, dict):
        return "Start of structure or map found where not expected."
    if isinstance(value, list):
        return "Start of list found where not expected."
    return f"{_token(value)} found where a structure or map was expected."


def _token(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE_VALUE" if value else "FALSE_VALUE"
    return "STRING_VALUE" if isinstance(value, str) else "NUMBER_VALUE"


def _article(kind: str) -> str:
    word = _WORDS.get(kind, kind.capitalize())
    return f"{'an' if word[0] in 'AEIOU' else 'a'} {word}"
