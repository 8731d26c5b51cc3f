"""The other AWS services as the front sees them: an embedded server started at the first use, a configured URL, or none.

Requests for the real AWS are not relayed: their signatures are for this host, and clients and functions reach it by themselves.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from engine.clock import Clock

START_TIMEOUT_S = 60.0
POLL_S = 0.05


class StartsEmbedded(Protocol):
    """Starts the embedded server on a port, once, and keeps it running there."""

    def __call__(self, port: int, /) -> None: ...


class AwsEndpoint:
    """Opens connections to whichever server plays AWS. Raises OSError with a sentence for the client when it cannot."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        where: str,
        unavailable: str | None,
        start: StartsEmbedded,
        *,
        scaled: Path | None = None,
    ) -> None:
        """``scaled``: the file that remembers what ``autoscaling`` says, for a server that remembers more than the embedded one does."""
        self._scaled = None if where in ("embedded", "aws") else scaled
        # Whether a client has ever spoken to Application Auto Scaling: the control plane then acts on what it was told.
        self.autoscaling = self._scaled is not None and self._scaled.exists()
        self._loop = loop
        self._clock = clock
        self._where = where
        self._unavailable = unavailable
        self._start = start
        self._port = 0
        self._up: asyncio.Task[None] | None = None

    @property
    def embedded_port(self) -> int | None:
        return self._port or None

    def scales(self) -> None:
        """A client speaks to Application Auto Scaling."""
        if not self.autoscaling:
            self.autoscaling = True
            if self._scaled is not None:
                self._scaled.touch(mode=0o600)

    def embedded(self) -> int | None:
        """The embedded server's port; 0 while it starts, which this begins; None when there is none to be."""
        if self._where != "embedded" or self._unavailable is not None:
            return None
        if self._up is None:
            self._up = self._loop.create_task(self._bring_up())
        return self._port if self._up.done() else 0

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> Any:
        if self._where == "embedded":
            return await self._connect_embedded(factory)
        if self._where == "aws":
            raise OSError(
                "this engine is configured to leave other services to the real AWS (aws_endpoint=aws); call AWS directly for them"
            )
        parts = urlsplit(self._where)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        context = ssl.create_default_context() if tls else None
        host = parts.hostname or ""
        return await self._loop.create_connection(
            factory, host, port, ssl=context, server_hostname=host if tls else None
        )

    async def _connect_embedded(self, factory: Callable[[], asyncio.Protocol]) -> Any:
        if self._unavailable is not None:
            raise OSError(self._unavailable)
        if self._up is None:
            self._up = self._loop.create_task(self._bring_up())
        await asyncio.shield(self._up)
        try:
            return await self._loop.create_connection(factory, "127.0.0.1", self._port)
        except OSError:
            self.ended()
            raise

    async def _bring_up(self) -> None:
        if not self._port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._port = probe.getsockname()[1]
            self._start(self._port)
        deadline_s = self._clock.monotonic() + START_TIMEOUT_S
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                if self._clock.monotonic() > deadline_s:
                    self._up = None
                    raise OSError(f"the embedded AWS did not start within {START_TIMEOUT_S:.0f} s") from None
                await asyncio.sleep(POLL_S)
            else:
                writer.close()
                return

    def ended(self) -> None:
        """The embedded server ended (and with it its state, which is in memory); the next request waits until it is back."""
        if self._up is not None and self._up.done():
            self._up = None
