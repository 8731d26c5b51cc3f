"""Where an engine listens, as text: a path, ``unix:PATH``, ``host:port`` or ``[ipv6]:port``."""

from __future__ import annotations

import os
from typing import NamedTuple

from engine.client.errors import BadArgument

_PORTS = 65535


class Address(NamedTuple):
    """Either ``path`` of a Unix socket, or ``host`` and ``port``."""

    path: str | None
    host: str
    port: int

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(address: str | os.PathLike[str]) -> Address:
    """Raises BadArgument when it is neither a path nor a host with a port."""
    text = os.fspath(address)
    if text.startswith("unix:"):
        return Address(text.removeprefix("unix:"), "", 0)
    if os.sep in text or not isinstance(address, str):
        return Address(text, "", 0)
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and 0 < int(port) <= _PORTS):
        raise BadArgument(f"address {text!r}: give a socket's path (with a /), unix:PATH or host:port")
    return Address(None, host, int(port))


def key_for(address: Address, access_key: str | None, secret_key: str | None) -> tuple[str, str] | None:
    """The key to prove on this address; a Unix socket needs none. Raises BadArgument when half of one is given."""
    if (access_key is None) != (secret_key is None):
        raise BadArgument("access_key and secret_key go together")
    if access_key is None or secret_key is None or address.path is not None:
        return None
    return access_key, secret_key
