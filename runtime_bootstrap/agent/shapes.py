"""Requests that look like one before: a runtime's client sends the same head for ever, but for an id and a length."""

from __future__ import annotations

from typing import Optional


class Headers:
    """A request's header lines. Few are ever asked for: they are searched for, not taken apart, and each only once."""

    __slots__ = ("_found", "_lower", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._lower = raw.lower()
        self._found: "dict[bytes, Optional[bytes]]" = {}

    def value(self, name: bytes) -> Optional[bytes]:
        """One by its name in lower case; None when it is absent."""
        try:
            return self._found[name]
        except KeyError:
            value = self._found[name] = self._search(name)
            return value

    def _search(self, name: bytes) -> Optional[bytes]:
        at = self._lower.find(b"\r\n%b:" % name)
        if at < 0:
            return None
        start = at + len(name) + 3
        end = self._lower.find(b"\r\n", start)
        return self.raw[start : end if end >= 0 else None].strip()

    def length_at(self) -> int:
        """Where the digits of the length start, -1 without any."""
        at = self._lower.find(b"\r\ncontent-length: ")
        return -1 if at < 0 else at + 18


class Shape:
    """A request that a connection has had before, to recognise the next of its kind by comparing: method, path but for an invocation's id, and
    every header but the length's digits. ``headers`` are those of the first; nobody asks them for the length.
    """

    __slots__ = ("_after", "_before", "_head", "_id_at", "headers", "method")

    def __init__(self, head: bytes, line_end: int, method: bytes, path: bytes, headers: Headers) -> None:
        self.method = method
        self.headers = headers
        at = headers.length_at()
        # An id is 36 bytes, and the last but one part of its path.
        self._id_at = head.rfind(b"/", 0, len(method) + 1 + len(path)) - 36 if at >= 0 else 0
        self._head = head[: self._id_at] if at >= 0 else head
        self._before = head[self._id_at + 36 : line_end + at] if at >= 0 else b""
        end = head.find(b"\r\n", line_end + at) if at >= 0 else 0
        self._after = head[end:] if at >= 0 else b""

    @property
    def head(self) -> bytes:
        """The whole request, of one without a body."""
        return self._head

    @property
    def parts(self) -> "tuple[bytes, bytes, bytes]":
        """What stands before the id, between it and the length's digits, and after them."""
        return self._head, self._before, self._after

    def matches(self, data: bytes) -> "Optional[tuple[bytes, int, int]]":
        """(path, where the body starts, its length) of a request of this shape, else None."""
        id_at = self._id_at
        if not id_at:
            return (b"", len(data), 0) if data == self._head else None
        before, after = self._before, self._after
        at = id_at + 36
        if not data.startswith(self._head) or not data.startswith(before, at):
            return None
        at += len(before)
        end = data.find(b"\r", at, at + 9)
        if end < 0 or not data.startswith(after, end):
            return None
        digits = data[at:end]
        if not digits.isdigit():
            return None
        return data[len(self.method) + 1 : id_at + 36 + before.index(b" ")], end + len(after), int(digits)
