"""Hypothesis strategies for the inputs and outputs of the service model's operations: right types, any content."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from engine.protocol.model import Operation, Shape

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
HEADER_TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
SECONDS = st.integers(0, 4_102_444_800)
_INTEGERS = {"integer": st.integers(-(2**31), 2**31 - 1), "long": st.integers(-(2**63), 2**63 - 1)}


def inputs(operation: Operation) -> st.SearchStrategy[dict[str, Any]]:
    """Members as a client passes them; those in the path are never empty."""
    return st.just({}) if operation.input is None else values(operation.input)


def outputs(operation: Operation) -> st.SearchStrategy[dict[str, Any]]:
    """Members as a handler returns them."""
    return st.just({}) if operation.output is None else values(operation.output)


def values(shape: Shape) -> st.SearchStrategy[Any]:
    """Values of a shape; optional members of structures come and go."""
    if shape.kind == "structure":
        return _structures(shape)
    if shape.kind == "list":
        return st.lists(values(shape.item), max_size=3)
    if shape.kind == "map":
        return st.dictionaries(TEXT, values(shape.value), max_size=3)
    return _scalars(shape)


def _structures(shape: Shape) -> st.SearchStrategy[dict[str, Any]]:
    always = {name for name, member in shape.members.items() if name in shape.required or member.location == "uri"}
    return st.fixed_dictionaries(
        {name: values(shape.members[name]) for name in sorted(always)},
        optional={name: values(member) for name, member in shape.members.items() if name not in always},
    )


def _scalars(shape: Shape) -> st.SearchStrategy[Any]:
    if shape.location == "statusCode":
        return st.sampled_from([200, 202])
    if shape.kind == "string":
        if shape.enum:
            return st.sampled_from(shape.enum)
        if shape.location == "header":
            return HEADER_TEXT
        return TEXT.filter(bool) if shape.location == "uri" else TEXT
    if shape.kind in _INTEGERS:
        return _INTEGERS[shape.kind]
    if shape.kind == "boolean":
        return st.booleans()
    if shape.kind == "blob":
        return st.binary(max_size=40)
    if shape.kind == "timestamp":
        return SECONDS.map(lambda s: datetime.fromtimestamp(s, UTC))
    return st.floats(allow_nan=False, allow_infinity=False)
