"""Addresses on the engine's port that whoever is given them can call: by a name below ``localhost`` where such names lead here, else by a path.

RFC 6761 asks of a resolver to lead every name below ``localhost`` to its own machine. systemd's does, and nss-myhostname; the C library by itself asks
the DNS, which knows of none. curl and browsers never ask. An address that only some clients can call is no address.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import threading
from collections.abc import Callable

# What a resolver that waits for a server that is not there may take.
PATIENCE_S = 2.0
_NAME = "names-below.localhost"

Resolve = Callable[[str], list[str]]


def _resolve(name: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


class LocalNames:
    """Asked once, when it is first needed. ``resolve`` may block, and raises OSError for a name that leads nowhere. For any thread."""

    def __init__(self, resolve: Resolve = _resolve, patience_s: float = PATIENCE_S) -> None:
        self._resolve = resolve
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self.known: bool | None = None

    def lead_here(self) -> bool:
        """Whether a client with the system's resolver gets to this machine by such a name. A resolver that is slow to say knows of none: so long
        this may block, the first time.
        """
        with self._lock:
            if self.known is None:
                found: list[str] = []
                # The thread may outlast this, and is not waited for at the end of the process.
                asking = threading.Thread(target=self._ask, args=(found,), name="local-names", daemon=True)
                asking.start()
                asking.join(self._patience_s)
                addresses = list(found)
                self.known = bool(addresses) and all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in addresses)
            return self.known

    def _ask(self, found: list[str]) -> None:
        try:
            found.extend(self._resolve(_NAME))
        except OSError:
            return


@functools.cache
def system() -> LocalNames:
    """Those of the system's resolver, for the life of the process."""
    return LocalNames()


def address(host: str, label: str, kind: str, region: str, path: str, *, names: bool) -> str:
    """Where a client that reached the engine as ``host`` finds ``label`` of a ``kind`` (``lambda-url``), without scheme and without a slash at the end.

    It is a name below that host, or below localhost when that is this machine and such ``names`` lead here. Where no name can lead back, which none below
    an IP address does, it is below ``path``.
    """
    name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    name = name or "localhost"
    port = f":{port}" if port else ""
    try:
        local = ipaddress.ip_address(name.strip("[]")).is_loopback
        below = "localhost" if local and names else ""
    except ValueError:
        below = "" if name == "localhost" and not names else name
    return f"{label}.{kind}.{region}.{below}{port}" if below else f"{name}{port}{path}{label}"
