"""A request on the HTTP port as its head shows it, and whoever may take it over from the connection that it came by."""

from __future__ import annotations

from typing import Protocol


class Passed(Protocol):
    """A request on its way through to another server."""

    def body(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def abort(self) -> None: ...

    def resume(self) -> None: ...

    def pause(self) -> None: ...


class Exchange(Protocol):
    """A request that becomes an invocation of its own kind, by function URL or API."""

    def serve(self, body: bytes, *, too_large: bool) -> None: ...


class Upgraded(Passed, Protocol):
    """What a client speaks to after a switch of protocols."""

    def received(self, data: bytes) -> None: ...

    def going_away(self) -> None: ...


class Head:
    """Request line and headers (names in lower case). ``names`` are the headers' names as they were spelled."""

    __slots__ = ("headers", "keep_alive", "method", "names", "peer", "url")

    def __init__(
        self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]], peer: str, names: list[bytes] | None = None
    ) -> None:
        self.names = names
        self.method = method
        self.url = url
        self.headers = headers
        self.peer = peer
        self.keep_alive = True

    def header(self, name: bytes) -> bytes | None:
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def spelled(self) -> list[tuple[bytes, bytes]]:
        """The headers with their names as they were sent."""
        if self.names is None:
            return self.headers
        return [(name, value) for name, (_, value) in zip(self.names, self.headers, strict=True)]

    @property
    def path(self) -> bytes:
        return self.url.partition(b"?")[0]
