"""The least HTTP/1.1 a load generator needs: requests as bytes, answers found in a buffer."""

from __future__ import annotations

import re
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Reply(NamedTuple):
    """``size`` is the whole answer, head included; ``body_at`` where its body begins."""

    size: int
    status: int
    body_at: int


def request(host: str, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> bytes:
    """A keep-alive request with a body."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


def find(buffer: bytes | bytearray, at: int) -> Reply | None:
    """The answer that begins at ``at``; None when it is not there completely. Raises ValueError for an answer without length."""
    head_end = buffer.find(b"\r\n\r\n", at)
    if head_end < 0:
        return None
    length = _LENGTH.search(buffer, at, head_end + 2)
    if length is None:
        if buffer[at + 9 : at + 12] == b"204":
            return Reply(head_end + 4 - at, 204, head_end + 4)
        raise ValueError(f"an answer without Content-Length: {bytes(buffer[at:head_end])!r}")
    body_at = head_end + 4
    size = body_at - at + int(length[1])
    if len(buffer) - at < size:
        return None
    return Reply(size, int(buffer[at + 9 : at + 12]), body_at)
