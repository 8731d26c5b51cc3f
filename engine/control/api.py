"""What the resource modules need of the HTTP side, so that they never import it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from engine.auth.principals import Principal

Result = Mapping[str, Any] | None


class Caller(Protocol):
    """Who asked, beside the parsed members: the part of the HTTP side's request context that operations read.

    ``headers`` have lower-case names.
    """

    @property
    def operation(self) -> str: ...

    @property
    def request_id(self) -> str: ...

    @property
    def account(self) -> str: ...

    @property
    def region(self) -> str: ...

    @property
    def principal(self) -> Principal: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


class Registrar(Protocol):
    """Where operations are offered. A coroutine function runs on the loop, anything else in a thread and may block."""

    def add(self, operation: str, handler: Callable[[Caller, dict[str, Any]], Result | Awaitable[Result]]) -> None: ...


class Runtime(Protocol):
    """An interpreter installed on this host."""

    @property
    def interpreter(self) -> str: ...

    @property
    def version(self) -> str: ...
