"""Which stage and which route a request is for. Pure.

A literal segment goes before a parameter, a parameter before a greedy one. A REST API finds its resource first and then asks it for the
method; an HTTP API looks among the routes that know the method, and falls back to ``$default``.
Source: docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-routes.html and api-gateway-method-settings-method-request.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from engine.protocol.gateway.definition import DEFAULT_ROUTE, DEFAULT_STAGE, HTTP, Api, Route, Stage

_LITERAL, _PARAMETER, _GREEDY = range(3)


class Found(NamedTuple):
    """A route, and what its path's parameters stand for."""

    route: Route
    parameters: dict[str, str]


class _Pattern:
    """A path, segment by segment: (how special, literal or name of the parameter)."""

    __slots__ = ("order", "segments")

    def __init__(self, path: str) -> None:
        self.segments = tuple(map(_segment, path.strip("/").split("/"))) if path.strip("/") else ()
        self.order = tuple(kind for kind, _ in self.segments)

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """The values of the parameters; None when the path is another one."""
        found: dict[str, str] = {}
        for number, (kind, name) in enumerate(self.segments):
            if number >= len(parts):
                return None
            if kind == _GREEDY:
                found[name] = unquote("/".join(parts[number:]))
                return found if found[name] else None
            part = unquote(parts[number])
            if kind == _PARAMETER:
                if not part:
                    return None
                found[name] = part
            elif part != name:
                return None
        return found if len(parts) == len(self.segments) else None


def _segment(text: str) -> tuple[int, str]:
    if text.startswith("{") and text.endswith("+}"):
        return _GREEDY, text[1:-2]
    if text.startswith("{") and text.endswith("}"):
        return _PARAMETER, text[1:-1]
    return _LITERAL, unquote(text)


class Router:
    """The routes of one API."""

    def __init__(self, api: Api) -> None:
        self._http = api.kind == HTTP
        by_path: dict[str, dict[str, Route]] = {}
        self._default: Route | None = None
        for route in api.routes:
            if route.key == DEFAULT_ROUTE:
                self._default = route
            else:
                by_path.setdefault(route.path, {})[route.method] = route
        patterns = ((_Pattern(path), methods) for path, methods in by_path.items())
        self._resources = sorted(patterns, key=lambda item: item[0].order)

    def find(self, method: str, path: str) -> Found | None:
        """The route for a path below the stage, percent-encoded as it was sent; None when there is none."""
        parts = path[1:].split("/")
        if parts[-1] == "" and (not self._http or len(parts) == 1):
            # A REST API takes /pets/ for /pets.
            parts.pop()
        for pattern, methods in self._resources:
            found = pattern.match(parts)
            if found is None:
                continue
            route = methods.get(method) or methods.get("ANY")
            if route is not None:
                return Found(route, found)
            if not self._http:
                return None
        return None if self._default is None else Found(self._default, {})

    def methods(self) -> Iterable[Route]:
        return (route for _, methods in self._resources for route in methods.values())


def stage_of(api: Api, path: str) -> tuple[Stage, str] | None:
    """The stage that a path of the API's host begins with, and the path below it; None when there is no such stage."""
    first, slash, rest = path[1:].partition("/")
    stage = api.stages.get(unquote(first))
    if stage is not None and stage.name != DEFAULT_STAGE:
        return stage, slash + rest if slash else "/"
    default = api.stages.get(DEFAULT_STAGE)
    return None if default is None else (default, path)
