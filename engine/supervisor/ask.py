"""One small HTTP request to a server of our own, and its whole answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]
MAX_ANSWER = 16 * 1024 * 1024
_LENGTH = re.compile(rb"content-length: *(\d{1,9})", re.IGNORECASE)


async def ask(connect: Connect, method: bytes, path: bytes, token: str, body: bytes = b"") -> tuple[int, bytes]:
    """(status, body). ``token`` proves that it is the supervisor who asks. Raises OSError and EOFError when there is no whole answer."""
    reader = asyncio.StreamReader(limit=MAX_ANSWER)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await connect(lambda: protocol)
    try:
        transport.write(
            b"%b %b HTTP/1.1\r\nhost: localhost\r\nx-lambda-engine-token: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (method, path, token.encode(), len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None or not head[9:12].isdigit():
            raise EOFError(head.partition(b"\r\n")[0].decode("latin-1"))
        return int(head[9:12]), await reader.readexactly(min(int(length[1]), MAX_ANSWER))
    finally:
        transport.close()
