"""Which operation a request means, decided on the raw path.

Clients percent-encode whole ARNs into one path segment, some with encoded slashes, so the path is split on ``/`` first and
decoded afterwards. One trailing slash is accepted: an old Java SDK lists functions with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

from engine.errors import UnknownOperation
from engine.protocol.model import Model, load


@dataclass(frozen=True, slots=True)
class Match:
    """The operation's name and its decoded URI parameters, by the name they have in the template."""

    operation: str
    uri: dict[str, str]


@dataclass(slots=True)
class _Leaf:
    operation: str
    labels: tuple[str, ...]
    query: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Node:
    literal: dict[str, _Node] = field(default_factory=dict)
    label: _Node | None = None
    leaves: dict[str, list[_Leaf]] = field(default_factory=dict)


def query_pairs(raw_query: str) -> list[tuple[str, str]]:
    """Decoded (name, value) pairs in order; a name without ``=`` has an empty value."""
    if not raw_query:
        return []
    pairs = []
    for part in raw_query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((unquote_plus(name), unquote_plus(value)))
    return pairs


class Router:
    """Routes of every operation of a model, as a tree of path segments; a literal segment wins over a label."""

    def __init__(self, model: Model) -> None:
        self._root = _Node()
        for name in model.operation_names():
            method, path, query = model.route(name)
            self._add(name, method, path, query)

    def match(self, method: str, raw_path: str, raw_query: str = "") -> Match:
        """The operation that ``method`` and ``raw_path`` (still percent-encoded, without query) name.

        Raises UnknownOperation when the model has no such route.
        """
        segments = raw_path.split("/")
        if segments[0] == "":
            del segments[0]
        if len(segments) > 1 and segments[-1] == "":
            del segments[-1]
        values: list[str] = []
        node = self._walk(self._root, segments, 0, values)
        leaf = self._choose(node.leaves.get(method, ()), raw_query) if node else None
        if leaf is None:
            raise UnknownOperation(f"No operation of Lambda is reached by {method} {raw_path[:512]}")
        return Match(leaf.operation, dict(zip(leaf.labels, map(unquote, values), strict=True)))

    def _add(self, name: str, method: str, path: str, query: tuple[tuple[str, str], ...]) -> None:
        node, labels = self._root, []
        for segment in path.strip("/").split("/"):
            if segment.startswith("{"):
                labels.append(segment[1:-1])
                node.label = node.label or _Node()
                node = node.label
            else:
                node = node.literal.setdefault(segment, _Node())
        leaves = node.leaves.setdefault(method, [])
        leaves.append(_Leaf(name, tuple(labels), query))
        leaves.sort(key=lambda leaf: -len(leaf.query))

    def _walk(self, node: _Node, segments: list[str], at: int, values: list[str]) -> _Node | None:
        """The node at the end of ``segments``. A template has at most a dozen segments, so the recursion is shallow."""
        if at == len(segments):
            return node if node.leaves else None
        segment = segments[at]
        child = node.literal.get(segment)
        if child is not None:
            found = self._walk(child, segments, at + 1, values)
            if found is not None:
                return found
        if node.label is None or not segment:
            return None
        values.append(segment)
        found = self._walk(node.label, segments, at + 1, values)
        if found is None:
            values.pop()
        return found

    @staticmethod
    def _choose(leaves: list[_Leaf] | tuple[_Leaf, ...], raw_query: str) -> _Leaf | None:
        """Templates with constant query parameters come first and must find them all in the request."""
        pairs: list[tuple[str, str]] | None = None
        for leaf in leaves:
            if not leaf.query:
                return leaf
            if pairs is None:
                pairs = query_pairs(raw_query)
            if all(wanted in pairs for wanted in leaf.query):
                return leaf
        return None


@lru_cache(maxsize=1)
def default_router() -> Router:
    """The router of the installed Lambda model."""
    return Router(load())
