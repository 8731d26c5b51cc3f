"""Requests drawn from the service model: valid ones, and ones that break just one constraint, with the text that must name it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from engine.protocol.model import Operation, Shape
from engine.protocol.patterns import compile_pattern

_FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:nobody"
# The first that fits is a shape's valid value. A new pattern that none fits fails the test that needs it: add one then.
CANDIDATES = (
    "nobody", "1", "live", "*", "000000000000", "x86_64", "lambda:InvokeFunction", "lambda:GetLayerVersion", "o-abcdefghij", "all",
    "us-east-1", "subnet-1", "sg-1", "/mnt/x", "01234567-89ab-cdef-0123-456789abcdef", _FUNCTION,
    "arn:aws:iam::000000000000:role/r", "arn:aws:s3:::bucket", "arn:aws:lambda:us-east-1:000000000000:layer:nobody:1",
    "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0123456789abcdefg",
    "arn:aws:lambda:us-east-1:000000000000:capacity-provider:nobody",
    "arn:aws:lambda:us-east-1:000000000000:runtime/nobody",
    "arn:aws:lambda:us-east-1::runtime:" + "0" * 64,
    "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef0",
    "arn:aws:signer:us-east-1:000000000000:/signing-profiles/x/0123456789",
    "arn:aws:signer:us-east-1:000000000000:/signing-profiles/nobody",
    "arn:aws:lambda:us-east-1:000000000000:event-source-mapping:01234567-89ab-cdef-0123-456789abcdef",
    "arn:aws:secretsmanager:us-east-1:000000000000:secret:s", "host:9092",
)  # fmt: skip
_BREAKERS = ("!", " ", "", "\n", "a b", "é", "no:such:thing", "x")


class Breakage(NamedTuple):
    """A request in which one constraint is broken. ``path`` and ``text`` are what the answer must say of it."""

    path: str
    text: str
    params: dict[str, Any]


def fits(shape: Shape, text: str) -> bool:
    """Whether a string satisfies a shape."""
    return (
        (shape.maximum is None or len(text) <= shape.maximum)
        and (shape.minimum is None or len(text) >= shape.minimum)
        and (shape.pattern is None or compile_pattern(shape.pattern).fullmatch(text) is not None)
    )


def minimal(shape: Shape) -> Any:
    """A small valid value: what is required and no more."""
    if shape.kind == "structure":
        return {name: minimal(shape.members[name]) for name in shape.required}
    if shape.kind == "list":
        # An empty list leaves no trace in a query.
        size = 1 if shape.location == "querystring" else 0
        return [minimal(shape.item) for _ in range(int(shape.minimum or size))]
    if shape.kind == "map":
        return {minimal(shape.key): minimal(shape.value) for _ in range(int(shape.minimum or 0))}
    if shape.kind == "string":
        return shape.enum[0] if shape.enum else next(text for text in CANDIDATES if fits(shape, text))
    if shape.kind == "boolean":
        return False
    if shape.kind == "blob":
        return b"{}"
    if shape.kind == "timestamp":
        return 1_700_000_000
    return float(shape.minimum or 0) if shape.kind in ("double", "float") else int(shape.minimum or 1)


def baseline(operation: Operation) -> dict[str, Any]:
    """The smallest request of an operation."""
    given = operation.input
    if given is None:
        return {}
    in_path = [name for name, member in given.members.items() if member.location == "uri"]
    return {name: minimal(given.members[name]) for name in dict.fromkeys([*given.required, *in_path])}


def breakages(operation: Operation) -> Iterator[Breakage]:
    """Every constraint of every member, broken in a request that is the baseline otherwise."""
    given = operation.input
    if given is None:
        return
    base = baseline(operation)
    for name, member in given.members.items():
        path = lower_camel(name)
        if name in given.required and member.location != "uri":
            yield Breakage(path, "Member must not be null", {k: v for k, v in base.items() if k != name})

        def place(value: Any, name: str = name) -> dict[str, Any]:
            return {**copy.deepcopy(base), name: value}

        yield from _of_member(member, path, place, ())


Place = Callable[[Any], dict[str, Any]]


def _of_member(shape: Shape, path: str, place: Place, inside: tuple[str, ...]) -> Iterator[Breakage]:
    for value, text in _broken(shape):
        yield Breakage(path, text, place(value))
    if shape.kind == "structure" and shape.name not in inside:
        base = minimal(shape)
        for name, member in shape.members.items():
            inner = f"{path}.{lower_camel(name)}"
            if name in shape.required:
                yield Breakage(inner, "Member must not be null", place({k: v for k, v in base.items() if k != name}))
            yield from _of_member(
                member, inner, lambda value, name=name: place({**copy.deepcopy(base), name: value}), (*inside, shape.name)  # type: ignore[misc]
            )
    elif shape.kind == "list" and shape.item is not None:
        for value, text in _broken(shape.item):
            yield Breakage(path, f"Member must satisfy constraint: [...{text}...]", place([value]))
        yield from _inside(shape.item, f"{path}.1.member", lambda value: place([value]), inside)
    elif shape.kind == "map" and shape.key is not None and shape.value is not None:
        for value, text in _broken(shape.key):
            yield Breakage(path, f"Map keys must satisfy constraint: [...{text}...]", place({value: minimal(shape.value)}))
        for value, text in _broken(shape.value):
            yield Breakage(path, f"Map value must satisfy constraint: [...{text}...]", place({minimal(shape.key): value}))


def _inside(item: Shape, path: str, place: Place, inside: tuple[str, ...]) -> Iterator[Breakage]:
    """What an element's own members can break; its own constraints are told with its list."""
    if item.kind == "structure" and item.name not in inside:
        for breakage in _of_member(item, path, place, inside):
            if breakage.path != path:
                yield breakage


def _broken(shape: Shape) -> Iterator[tuple[Any, str]]:
    """Values that break one of a shape's own constraints, each with the constraint's text."""
    if shape.enum:
        yield "no-such-value", f"Member must satisfy enum value set: [{'|'.join(sorted(shape.enum))}]"
        return
    if shape.kind in ("string", "list", "map", "blob"):
        yield from _broken_length(shape)
    elif shape.kind in ("integer", "long", "double", "float"):
        number = float if shape.kind in ("double", "float") else int
        if shape.maximum is not None:
            yield number(shape.maximum + 1), f"Member must have value less than or equal to {number(shape.maximum)}"
        if shape.minimum is not None:
            yield number(shape.minimum - 1), f"Member must have value greater than or equal to {number(shape.minimum)}"
    if shape.pattern is not None:
        low, high = shape.minimum or 0, shape.maximum if shape.maximum is not None else 1 << 20
        pattern = compile_pattern(shape.pattern)
        padded = (text * int(max(1, low)) for text in _BREAKERS)
        breaker = next((text for text in padded if low <= len(text) <= high and not pattern.fullmatch(text)), None)
        if breaker is not None:
            yield breaker, f"Member must satisfy regular expression pattern: {shape.pattern}"


def _broken_length(shape: Shape) -> Iterator[tuple[Any, str]]:
    def of(size: int) -> Any:
        if shape.kind == "string":
            return "a" * size
        if shape.kind == "blob":
            return b"a" * size
        if shape.kind == "list":
            return [minimal(shape.item)] * size
        return {f"k{n}": minimal(shape.value) for n in range(size)}

    # The protocol has no empty members in a path, and a body has a limit of its own.
    if shape.maximum is not None and shape.maximum < 1 << 20:
        yield of(int(shape.maximum) + 1), f"Member must have length less than or equal to {int(shape.maximum)}"
    if shape.minimum and not (shape.location == "uri" and shape.minimum == 1):
        yield of(int(shape.minimum) - 1), f"Member must have length greater than or equal to {int(shape.minimum)}"


def lower_camel(name: str) -> str:
    """``KMSKeyArn`` is ``kmsKeyArn``, ``UUID`` is ``uuid``."""
    return re.sub(r"^(?:[A-Z]+$|[A-Z]+(?=[A-Z][a-z0-9])|[A-Z])", lambda found: found[0].lower(), name)
