"""The Lambda service model, compiled once into small shapes that parse, validate and serialise can walk quickly.

The shapes, paths, limits and enumerations are read at run time from the model botocore ships, so they are as new as the
installed botocore. botocore's own shape objects build their members anew on access; ``Shape`` keeps what this package
asks for in slots.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import botocore

SERVICE = "lambda"
_SCALARS = frozenset({"string", "integer", "long", "double", "float", "boolean", "timestamp", "blob"})
_LOCATIONS = frozenset({None, "uri", "querystring", "header", "statusCode"})


@dataclass(slots=True)
class Shape:
    """A shape as seen from the member that refers to it (``location`` and ``wire_name`` belong to that member).

    ``kind`` is the model's type name. ``minimum`` and ``maximum`` bound the length of strings, blobs, lists and maps and
    the value of numbers. ``members`` is filled for structures, ``item`` for lists, ``key`` and ``value`` for maps.
    """

    name: str
    kind: str
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    enum: tuple[str, ...] = ()
    sensitive: bool = False
    location: str | None = None
    wire_name: str = ""
    required: tuple[str, ...] = ()
    members: dict[str, Shape] = field(default_factory=dict)
    item: Shape | None = None
    key: Shape | None = None
    value: Shape | None = None
    event_stream: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: how it is reached, what goes in and what comes out.

    ``path`` is the model's URI template without its query; ``query`` the constant query parameters that template carries.
    ``payload_in`` and ``payload_out`` name the member that is the whole body, if there is one.
    """

    name: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    status: int
    input: Shape | None
    output: Shape | None
    payload_in: str | None
    payload_out: str | None


class Model:
    """The compiled service model. Operations are compiled when first asked for."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._shapes: dict[str, Any] = document["shapes"]
        self._operations: dict[str, Any] = document["operations"]
        self._compiled: dict[str, Operation] = {}

    def operation_names(self) -> list[str]:
        """Names of every operation, sorted."""
        return sorted(self._operations)

    def operation(self, name: str) -> Operation:
        """The operation called ``name``; raises KeyError when the model has none."""
        found = self._compiled.get(name)
        if found is None:
            found = self._compiled[name] = self._compile_operation(name)
        return found

    def error_names(self) -> list[str]:
        """Names of the modelled exceptions, sorted."""
        return sorted(name for name, raw in self._shapes.items() if raw.get("exception"))

    def error_status(self, name: str) -> int:
        """HTTP status of a modelled exception; raises KeyError when ``name`` is not one."""
        return int(self._shapes[name]["error"]["httpStatusCode"])

    def error_members(self, name: str) -> tuple[str, ...]:
        """Member names of a modelled exception (they tell ``message`` from ``Message``)."""
        return tuple(self._shapes[name]["members"])

    def route(self, name: str) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """(method, path template, constant query parameters) without compiling the operation's shapes."""
        http = self._operations[name]["http"]
        path, _, query = http["requestUri"].partition("?")
        pairs = tuple((key, value) for key, _, value in (p.partition("=") for p in query.split("&") if p))
        return http["method"], path, pairs

    def _compile_operation(self, name: str) -> Operation:
        raw = self._operations[name]
        method, path, query = self.route(name)
        given, returned = raw.get("input"), raw.get("output")
        return Operation(
            name=name,
            method=method,
            path=path,
            query=query,
            status=int(raw["http"].get("responseCode", 200)),
            input=self._compile(given, {}) if given else None,
            output=self._compile(returned, {}) if returned else None,
            payload_in=self._shapes[given["shape"]].get("payload") if given else None,
            payload_out=self._shapes[returned["shape"]].get("payload") if returned else None,
        )

    def _compile(self, ref: dict[str, Any], open_: dict[str, Shape], member: str = "") -> Shape:
        """The shape behind a reference. ``open_`` holds the structures being compiled: a recursive reference becomes a copy that
        shares the outer one's members, which are filled in place.
        """
        name = ref["shape"]
        if name in open_:
            return replace(open_[name], location=ref.get("location"), wire_name=ref.get("locationName", member))
        raw = self._shapes[name]
        kind = raw["type"]
        location = ref.get("location")
        if location not in _LOCATIONS:
            raise ValueError(f"shape {name}: location {location!r} of member {member} is not supported")
        shape = Shape(
            name=name,
            kind=kind,
            minimum=raw.get("min"),
            maximum=raw.get("max"),
            pattern=raw.get("pattern"),
            enum=tuple(raw.get("enum", ())),
            sensitive=bool(raw.get("sensitive")),
            location=location,
            wire_name=ref.get("locationName", member),
            event_stream=bool(raw.get("eventstream")),
        )
        if kind == "structure":
            shape.required = tuple(raw.get("required", ()))
            inner = {**open_, name: shape}
            shape.members.update({m: self._compile(r, inner, m) for m, r in raw["members"].items()})
        elif kind == "list":
            shape.item = self._compile(raw["member"], open_)
        elif kind == "map":
            shape.key = self._compile(raw["key"], open_)
            shape.value = self._compile(raw["value"], open_)
        elif kind not in _SCALARS:
            raise ValueError(f"shape {name}: type {kind!r} is not supported")
        return shape


@lru_cache(maxsize=1)
def load() -> Model:
    """The model of the newest Lambda API version botocore carries.

    The file is read directly because ``botocore.loaders`` costs more to import than the file takes to read. Raises
    RuntimeError when the installed botocore has no Lambda model.
    """
    root = Path(botocore.__file__).parent / "data" / SERVICE
    versions = sorted(p for p in root.glob("*") if re.fullmatch(r"\d{4}-\d{2}-\d{2}", p.name))
    if not versions:
        raise RuntimeError(f"botocore {botocore.__version__} carries no model of {SERVICE}")
    packed, plain = versions[-1] / "service-2.json.gz", versions[-1] / "service-2.json"
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    return Model(json.loads(data))
