"""Whether this machine's resolver leads names below ``localhost`` back to it, as RFC 6761 asks of it.

systemd's resolver does, and nss-myhostname; the C library by itself asks the DNS, which knows of none. curl and browsers never ask. An address
that only some clients can call is no address: whoever makes one asks here first.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable

# What a resolver that waits for a server that is not there may take. Its answer is not waited for at the end either.
PATIENCE_S = 2.0
_NAME = "names-below.localhost"

Resolve = Callable[[str], list[str]]


def _resolve(name: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


class LocalNames:
    """Asked once, when it is first needed. ``resolve`` may block, and raises OSError for a name that leads nowhere."""

    def __init__(self, resolve: Resolve = _resolve, patience_s: float = PATIENCE_S) -> None:
        self._resolve = resolve
        self._patience_s = patience_s
        self._asked: asyncio.Future[bool] | None = None

    async def lead_here(self) -> bool:
        """Whether a client with the system's resolver gets to this machine by such a name. A resolver that is slow to say knows of none."""
        if self._asked is None:
            loop = asyncio.get_running_loop()
            self._asked = loop.create_future()
            # Not one of the loop's own threads: those are waited for at the end.
            threading.Thread(target=self._ask, args=(loop, self._asked), name="local-names", daemon=True).start()
            loop.call_later(self._patience_s, _settle, self._asked, False)
        return await asyncio.shield(self._asked)

    def _ask(self, loop: asyncio.AbstractEventLoop, asked: asyncio.Future[bool]) -> None:
        try:
            found = self._resolve(_NAME)
        except OSError:
            found = []
        here = bool(found) and all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
        try:
            loop.call_soon_threadsafe(_settle, asked, here)
        except RuntimeError:
            # The loop is closed: nobody wants to know any more.
            return


def _settle(asked: asyncio.Future[bool], here: bool) -> None:
    if not asked.done():
        asked.set_result(here)
